//! Tells our options from the arguments of the build among which they may stand.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{Arg, Command, CommandFactory as _, Parser as _};

use super::Cli;

/// Parses the program's arguments.
///
/// Our own options may stand anywhere among the build arguments: they are moved to the front,
/// since after the first build argument the parser would take all for the build's.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let words: Vec<OsString> = words.into_iter().collect();
    Cli::try_parse_from(own_options_first(words)?)
}

fn own_options_first(words: Vec<OsString>) -> Result<Vec<OsString>, clap::Error> {
    let mut command = Cli::command();
    // Only then it has --help.
    command.build();
    let with_build_arguments = ["save", "restore", "key", "packs", "explain"];
    let verb = words.get(1).and_then(|w| w.to_str()).filter(|v| with_build_arguments.contains(v));
    let Some(verb) = verb.and_then(|v| command.find_subcommand(v)) else { return Ok(words) };
    // Whether one of our options takes a value; `None` if it is not ours.
    let takes_value = |word: &str| {
        let argument = verb.get_arguments().find(|argument| match word.strip_prefix("--") {
            Some(long) => argument.get_long() == Some(long.split('=').next().unwrap_or(long)),
            None => argument.get_short().is_some_and(|short| word == format!("-{short}")),
        })?;
        Some(argument.get_action().takes_values())
    };
    let mut own = words[..2].to_vec();
    let mut rest = Vec::new();
    let mut remaining = words.into_iter().skip(2);
    while let Some(word) = remaining.next() {
        if word == "--" {
            rest.extend(remaining.by_ref());
            break;
        }
        let text = word.to_string_lossy().into_owned();
        if let Some(with_value) = takes_value(&text) {
            own.push(word);
            if with_value && !text.contains('=') {
                own.extend(remaining.next());
            }
        } else {
            if let Some(meant) = mistyped(verb, &text) {
                return Err(verb.clone().error(
                    ErrorKind::UnknownArgument,
                    format!("unknown option `{text}`; did you mean `--{meant}`?"),
                ));
            }
            rest.push(word);
        }
    }
    // A separator makes even the first build argument the build's.
    if !rest.is_empty() {
        own.push("--".into());
        own.extend(rest);
    }
    Ok(own)
}

/// Which of our options a word is all but equal to. The builder would refuse it in any case, but
/// only when it is asked.
fn mistyped<'a>(verb: &'a Command, word: &str) -> Option<&'a str> {
    let name = word.strip_prefix("--")?.split('=').next()?;
    let is_meant = |own: &&str| {
        let distance = strsim::damerau_levenshtein(own, name);
        distance == 1 && own.len() > 4 || distance == 2 && own.len() > 8
    };
    verb.get_arguments().filter_map(Arg::get_long).find(is_meant)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Format, Verb};

    #[test]
    fn own_options_may_stand_among_the_builds() {
        for line in [
            "dockercache key --format json -t app -f Other .",
            "dockercache key -t app --format json -f Other .",
            "dockercache key -t app -f Other . --format=json",
        ] {
            let cli = parse(line.split(' ').map(OsString::from)).unwrap();
            let Verb::Key(args) = cli.verb else { panic!("{line}") };
            assert_eq!(args.speech.format, Format::Json, "{line}");
            assert_eq!(args.builds.arguments, ["-t", "app", "-f", "Other", "."], "{line}");
        }
    }

    #[test]
    fn an_option_that_is_mistyped_is_not_taken_for_the_builds() {
        for (line, meant) in [
            ("dockercache restore --cachedir x", "--cache-dir"),
            ("dockercache restore --arhive=x.tar -t app .", "--archive"),
            ("dockercache save -t app . --keep-other", "--keep-others"),
        ] {
            let error = parse(line.split(' ').map(OsString::from)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnknownArgument, "{line}");
            assert!(error.to_string().contains(meant), "{error}");
        }
        for flag in
            ["--cache-from=x", "--tag=x", "--file=x", "--progress=plain", "--pull", "--load"]
        {
            parse(["dockercache", "save", flag, "."].map(OsString::from)).unwrap();
        }
    }

    #[test]
    fn help_and_short_options_are_ours() {
        for line in ["dockercache save --help", "dockercache key -h", "dockercache key -t a . -h"] {
            let error = parse(line.split(' ').map(OsString::from)).unwrap_err();
            assert_eq!(error.kind(), clap::error::ErrorKind::DisplayHelp, "{line}");
        }
        let cli = parse(["dockercache", "save", "-q"].map(OsString::from)).unwrap();
        let Verb::Save(args) = cli.verb else { panic!() };
        assert!(args.speech.quiet && args.builds.arguments.is_empty());
    }

    #[test]
    fn build_passes_everything_on() {
        let line = "dockercache build --quiet -t app --format x .";
        let cli = parse(line.split(' ').map(OsString::from)).unwrap();
        let Verb::Build(args) = cli.verb else { panic!() };
        assert_eq!(args.arguments, ["--quiet", "-t", "app", "--format", "x", "."]);
    }
}
