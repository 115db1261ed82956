//! `buildx` and `compose`: commands of the user's own that build several images, with the cache.
//! Whatever is wrong with the cache, they run.

use std::ffi::OsString;

use super::build::{self, Words};
use super::exit::{Exit, Failure};
use crate::build::bake::Planner;
use crate::cli::BuildArgs;
use crate::engine::client::Client;
use crate::engine::client::process;
use crate::engine::client::run::{self, Echo, Input};
use crate::job::attempts::{self, With};
use crate::job::deadline::Deadline;
use crate::job::group::Group;
use crate::job::input::StandardInput;
use crate::job::journal::Journal;
use crate::job::variable;
use crate::report::Reporter;
use crate::settings;

/// Flags of `docker compose` before its command that take a value in the next word.
const COMPOSE_VALUES: &[&str] = &[
    "--ansi",
    "--env-file",
    "--file",
    "--parallel",
    "--profile",
    "--progress",
    "--project-directory",
    "--project-name",
    "-f",
    "-p",
];

pub(super) fn buildx(args: &BuildArgs) -> Result<Exit, Failure> {
    let words = args.arguments.as_slice();
    match words.split_first() {
        Some((first, rest)) if first == "build" || first == "b" => {
            build::build(&Words { words: rest, of_buildx: true })
        }
        Some((first, rest)) if first == "bake" || first == "f" => {
            let own = [&["buildx".into(), "bake".into()], rest].concat();
            run(Planner::Bake, rest, &own)
        }
        _ => Err(Failure::usage("expected `buildx build` or `buildx bake`")),
    }
}

pub(super) fn compose(args: &BuildArgs) -> Result<Exit, Failure> {
    let words = args.arguments.as_slice();
    let own = [&["compose".into()], words].concat();
    match building(words) {
        Some(planned) => run(Planner::Compose, &planned, &own),
        None => as_it_is(&Client::from_path(), &own, Input::Inherited),
    }
}

/// The words of `docker compose build` that build what these words of `docker compose` build.
fn building(words: &[OsString]) -> Option<Vec<OsString>> {
    let mut at = 0;
    while words.get(at)?.as_encoded_bytes().starts_with(b"-") {
        at += if COMPOSE_VALUES.iter().any(|flag| words[at] == *flag) { 2 } else { 1 };
    }
    let (global, rest) = (&words[..at], &words[at + 1..]);
    if words[at] == "build" {
        return Some(words.to_vec());
    }
    let builds = words[at] == "up" && rest.iter().any(|word| word == "--build");
    let services = || rest.iter().filter(|word| !word.as_encoded_bytes().starts_with(b"-"));
    builds.then(|| {
        let command = ["build", "--with-dependencies"].map(OsString::from);
        global.iter().cloned().chain(command).chain(services().cloned()).collect()
    })
}

/// Runs `own`, which builds what the planner makes of `words`, with the cache.
fn run(planner: Planner, words: &[OsString], own: &[OsString]) -> Result<Exit, Failure> {
    let reporter = Reporter::new(false);
    let deadline = Deadline::of_environment(reporter);
    let client = Client::from_path();
    let uncached = |why: &str, input: Input| {
        reporter.warn(format!("the build runs without cache: {why}"));
        as_it_is(&client, own, input)
    };
    let begun = Journal::open(&settings::directory());
    let begun = begun.and_then(|journal| Ok((journal.begin_scratch()?, journal)));
    let (scratch, journal) = match begun {
        Ok(begun) => begun,
        Err(error) => return uncached(&error.to_string(), Input::Inherited),
    };
    let mut input = StandardInput::keep(reads_stdin(words), Some(&scratch), reporter);
    if !input.is_repeatable() {
        return uncached("its input can't be kept", input.next());
    }
    let prepared = deadline.before(reporter, {
        let (client, words, scratch) =
            (client.clone(), words.to_vec(), scratch.scratch().to_path_buf());
        let input = input.path().cloned();
        let directory = settings::directory();
        move |reporter| {
            let place = (directory.as_path(), journal);
            Group::prepare(&client, planner, &words, place, &scratch, input, reporter)
        }
    });
    let prepared = prepared.map_err(|late| late.to_string());
    let mut group = match prepared.and_then(|group| group.map_err(|error| error.to_string())) {
        Ok(group) => group,
        Err(why) => return uncached(&why, input.next()),
    };
    // What draws on a terminal can't be read.
    let echo = match variable("BUILDKIT_PROGRESS").as_deref() {
        Some("tty") => Echo::Terminal,
        _ => Echo::Shown,
    };
    let is_offered = !group.offer.cache_from.is_empty();
    let builder = group.choice.builder.clone();
    // With or without the cache the command is the same: what the archive has was brought into the
    // builder before, and what the builder could not read of it, it has dropped.
    let mut attempt = |_: With, input: Input| {
        let mut command = client.command(own);
        command.envs(builder.iter().map(|builder| ("BUILDX_BUILDER", builder)));
        run::own_command(&client, command, echo, input)
    };
    let finished = attempts::run(is_offered, &mut input, &mut group.state, reporter, &mut attempt)?;
    let status = finished.status;
    let kept = deadline.after(reporter, move |reporter| {
        group.state.keep(reporter);
        if !process::is_told_to_end() {
            group.capture(&finished.steps, finished.status.success(), reporter);
        }
    });
    if let Err(late) = kept {
        reporter.warn(format!("not all builds are saved: {late}"));
    }
    Ok(Exit::of(status))
}

fn as_it_is(client: &Client, own: &[OsString], input: Input) -> Result<Exit, Failure> {
    Ok(Exit::of(run::plain(client, client.command(own), input)?))
}

/// Whether bake or compose reads one of its files from standard input.
fn reads_stdin(words: &[OsString]) -> bool {
    let is_stdin =
        |word: &OsString| ["-", "-f-", "-f=-", "--file=-"].iter().any(|stdin| word == stdin);
    words.iter().any(is_stdin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(words: &[&str]) -> Option<Vec<String>> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let text = |word: &OsString| word.to_string_lossy().into_owned();
        building(&words).map(|words| words.iter().map(text).collect())
    }

    #[test]
    fn what_compose_builds_is_told_from_what_it_only_runs() {
        assert_eq!(built(&["build", "app"]).unwrap(), ["build", "app"]);
        let with_file = ["-f", "up.yml", "--profile=x", "build"];
        assert_eq!(built(&with_file).unwrap(), with_file);
        assert_eq!(
            built(&["-p", "x", "up", "-d", "--build", "app"]).unwrap(),
            ["-p", "x", "build", "--with-dependencies", "app"]
        );
        for other in [&["up", "-d"][..], &["logs", "build"], &["--help"], &[]] {
            assert_eq!(built(other), None, "{other:?}");
        }
    }
}
