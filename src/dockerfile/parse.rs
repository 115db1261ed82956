//! Turns the text of one instruction into a typed one.

use super::error::{Problem, suggest};
use super::flags::{FlagKind, Flags};
use super::heredoc::Heredoc;
use super::instruction::{
    Argument, CommandLine, Instruction, InstructionKind, Run, Stage, Transfer,
};
use super::lines::{LineRange, LogicalLine};
use super::words::{Command, json_list, pairs, split_at_blanks, split_command, split_words};

const NAMES: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// A logical line, parsed.
pub(crate) enum Parsed {
    From(Stage),
    Other(Instruction),
}

/// Parses one logical line.
pub(crate) fn instruction(line: &LogicalLine, escape: char) -> Result<Parsed, Problem> {
    if line.command.name.eq_ignore_ascii_case("from") {
        return from(line).map(Parsed::From);
    }
    let kind = kind(line, escape)?;
    Ok(Parsed::Other(Instruction { lines: line.lines, text: line.text.trim().to_owned(), kind }))
}

/// Parses the trigger of an `ONBUILD`, which stands for the given lines.
pub(crate) fn trigger(text: &str, lines: LineRange) -> Result<Instruction, Problem> {
    // Triggers are kept in image configs, so they know no directive of this file.
    let (_, mut logical) = super::lines::read(text.as_bytes()).map_err(|(_, problem)| problem)?;
    let (Some(line), true) = (logical.pop(), logical.is_empty()) else {
        return Err(Problem::OnbuildNotSingle);
    };
    match instruction(&line, '\\')? {
        Parsed::From(_) => Err(Problem::OnbuildForbidden { instruction: "FROM".to_owned() }),
        Parsed::Other(instruction) => Ok(Instruction { lines, ..instruction }),
    }
}

fn kind(line: &LogicalLine, escape: char) -> Result<InstructionKind, Problem> {
    let Command { name, flags, arguments } = &line.command;
    let no_flags = |kind| Flags::parse(flags, &[]).map(|_| kind);
    Ok(match name.to_ascii_uppercase().as_str() {
        "ADD" => InstructionKind::Add(add(line)?),
        "ARG" => InstructionKind::Arg(arg(arguments, escape)?),
        "CMD" => no_flags(InstructionKind::Cmd(command_line(arguments, &line.heredocs)?))?,
        "COPY" => InstructionKind::Copy(copy(line)?),
        "ENTRYPOINT" => {
            no_flags(InstructionKind::Entrypoint(command_line(arguments, &line.heredocs)?))?
        }
        "ENV" => no_flags(InstructionKind::Env(pairs(arguments, "ENV", escape)?))?,
        "EXPOSE" => {
            no_flags(InstructionKind::Expose(at_least_one(split_at_blanks(arguments), "EXPOSE")?))?
        }
        "HEALTHCHECK" => InstructionKind::Healthcheck(healthcheck(arguments, flags)?),
        "LABEL" => no_flags(InstructionKind::Label(pairs(arguments, "LABEL", escape)?))?,
        "MAINTAINER" => {
            no_flags(InstructionKind::Maintainer(exactly_one(arguments, "MAINTAINER")?))?
        }
        "ONBUILD" => no_flags(InstructionKind::Onbuild(onbuild(line)?))?,
        "RUN" => InstructionKind::Run(run(line)?),
        "SHELL" => match json_list(arguments)? {
            Some(words) => no_flags(InstructionKind::Shell(at_least_one(words, "SHELL")?))?,
            None if arguments.is_empty() => {
                return Err(Problem::AtLeastOneArgument { instruction: "SHELL" });
            }
            None => {
                return Err(Problem::NotJson { instruction: "SHELL" });
            }
        },
        "STOPSIGNAL" => InstructionKind::StopSignal(exactly_one(arguments, "STOPSIGNAL")?),
        "USER" => no_flags(InstructionKind::User(exactly_one(arguments, "USER")?))?,
        "VOLUME" => no_flags(InstructionKind::Volume(volume(arguments)?))?,
        "WORKDIR" => no_flags(InstructionKind::Workdir(exactly_one(arguments, "WORKDIR")?))?,
        _ => {
            let suggestion = suggest(name, NAMES);
            return Err(Problem::UnknownInstruction { name: name.clone(), suggestion });
        }
    })
}

fn from(line: &LogicalLine) -> Result<Stage, Problem> {
    let words = split_at_blanks(&line.command.arguments);
    let (base, name) = match words.as_slice() {
        [base] => (base.clone(), None),
        [base, as_word, name] if as_word.eq_ignore_ascii_case("as") => {
            (base.clone(), Some(stage_name(name)?))
        }
        _ => return Err(Problem::FromArguments),
    };
    let mut flags = Flags::parse(&line.command.flags, &[("platform", FlagKind::Value)])?;
    Ok(Stage {
        base,
        name,
        platform: flags.value("platform"),
        lines: line.lines,
        text: line.text.trim().to_owned(),
        instructions: Vec::new(),
        end_of_from: line.end_of_text,
    })
}

fn stage_name(name: &str) -> Result<String, Problem> {
    let lower = name.to_lowercase();
    let valid = lower.starts_with(|first: char| first.is_ascii_lowercase())
        && lower.chars().all(|character| {
            character.is_ascii_lowercase()
                || character.is_ascii_digit()
                || matches!(character, '-' | '_' | '.')
        });
    if valid { Ok(lower) } else { Err(Problem::StageName { name: name.to_owned() }) }
}

fn arg(arguments: &str, escape: char) -> Result<Vec<Argument>, Problem> {
    at_least_one(split_words(arguments, escape), "ARG")?
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some(("", _)) => Err(Problem::BlankName { instruction: "ARG" }),
            Some((name, default)) => {
                Ok(Argument { name: name.to_owned(), default: Some(default.to_owned()) })
            }
            None => Ok(Argument { name: word, default: None }),
        })
        .collect()
}

fn command_line(arguments: &str, heredocs: &[Heredoc]) -> Result<CommandLine, Problem> {
    Ok(match json_list(arguments)? {
        Some(words) => CommandLine { words, shell_form: false, heredocs: Vec::new() },
        None => CommandLine {
            words: if arguments.is_empty() { Vec::new() } else { vec![arguments.to_owned()] },
            shell_form: true,
            heredocs: heredocs.to_vec(),
        },
    })
}

fn run(line: &LogicalLine) -> Result<Run, Problem> {
    let known = [
        ("mount", FlagKind::List),
        ("network", FlagKind::Value),
        ("security", FlagKind::Value),
        ("device", FlagKind::List),
    ];
    let mut flags = Flags::parse(&line.command.flags, &known)?;
    let mounts = flags.list("mount");
    for mount in &mounts {
        super::mount::check(mount)?;
    }
    Ok(Run {
        command: command_line(&line.command.arguments, &line.heredocs)?,
        mounts,
        network: choice(flags.value("network"), "--network", "default, none, host")?,
        security: choice(flags.value("security"), "--security", "sandbox, insecure")?,
        devices: flags.list("device"),
    })
}

fn choice(
    value: Option<String>,
    flag: &'static str,
    expected: &'static str,
) -> Result<Option<String>, Problem> {
    match value {
        Some(value) if !expected.split(", ").any(|choice| choice == value) => {
            Err(Problem::FlagChoice { flag, value, expected })
        }
        value => Ok(value),
    }
}

fn copy(line: &LogicalLine) -> Result<Transfer, Problem> {
    let known = [
        ("chown", FlagKind::Value),
        ("from", FlagKind::Value),
        ("chmod", FlagKind::Value),
        ("link", FlagKind::Switch),
        ("parents", FlagKind::Switch),
        ("exclude", FlagKind::List),
    ];
    let transfer = sources_and_destination(line, "COPY")?;
    let mut flags = Flags::parse(&line.command.flags, &known)?;
    Ok(Transfer {
        from: flags.value("from"),
        owner: flags.value("chown"),
        mode: flags.value("chmod"),
        link: flags.switch("link").unwrap_or(false),
        parents: flags.switch("parents").unwrap_or(false),
        exclude: flags.list("exclude"),
        ..transfer
    })
}

fn add(line: &LogicalLine) -> Result<Transfer, Problem> {
    let known = [
        ("chown", FlagKind::Value),
        ("chmod", FlagKind::Value),
        ("link", FlagKind::Switch),
        ("keep-git-dir", FlagKind::Switch),
        ("checksum", FlagKind::Value),
        ("unpack", FlagKind::Switch),
        ("exclude", FlagKind::List),
    ];
    let transfer = sources_and_destination(line, "ADD")?;
    let mut flags = Flags::parse(&line.command.flags, &known)?;
    Ok(Transfer {
        owner: flags.value("chown"),
        mode: flags.value("chmod"),
        link: flags.switch("link").unwrap_or(false),
        exclude: flags.list("exclude"),
        checksum: flags.value("checksum"),
        keep_git_directory: flags.switch("keep-git-dir"),
        unpack: flags.switch("unpack"),
        ..transfer
    })
}

fn sources_and_destination(
    line: &LogicalLine,
    instruction: &'static str,
) -> Result<Transfer, Problem> {
    let arguments = &line.command.arguments;
    let mut words = match json_list(arguments)? {
        Some(words) => words,
        None => split_at_blanks(arguments),
    };
    let (Some(destination), false) = (words.pop(), words.is_empty()) else {
        return Err(Problem::NoDestination { instruction });
    };
    if is_heredoc(&destination) {
        return Err(Problem::HeredocDestination { instruction });
    }
    let mut transfer = Transfer { destination, ..Transfer::default() };
    for word in words {
        match Heredoc::from_word(&word) {
            Ok(Some(opened)) => {
                // Of two heredocs with one name the builder takes the last for both.
                let body = line.heredocs.iter().rfind(|heredoc| heredoc.name == opened.name);
                let content = body.map(|body| body.content.clone()).unwrap_or_default();
                transfer.heredocs.push(Heredoc { content, ..opened });
            }
            _ => transfer.sources.push(word),
        }
    }
    Ok(transfer)
}

/// Returns whether a word opens a heredoc.
pub(crate) fn is_heredoc(word: &str) -> bool {
    matches!(Heredoc::from_word(word), Ok(Some(_)))
}

fn onbuild(line: &LogicalLine) -> Result<String, Problem> {
    let trigger = split_command(&line.command.arguments).name.to_uppercase();
    match trigger.as_str() {
        "" => {
            return Err(Problem::AtLeastOneArgument { instruction: "ONBUILD" });
        }
        "ONBUILD" => return Err(Problem::OnbuildChain),
        "MAINTAINER" | "FROM" => {
            return Err(Problem::OnbuildForbidden { instruction: trigger });
        }
        _ => {}
    }
    let mut text = line.command.arguments.clone();
    for heredoc in &line.heredocs {
        text.push('\n');
        text.push_str(&heredoc.content);
        text.push_str(&heredoc.name);
    }
    Ok(text)
}

fn healthcheck(arguments: &str, flags: &[String]) -> Result<Option<CommandLine>, Problem> {
    let problem = |reason: String| Err(Problem::Healthcheck { reason });
    let kind = arguments.split(char::is_whitespace).next().unwrap_or_default();
    let rest = arguments[kind.len()..].trim_start();
    match kind.to_uppercase().as_str() {
        "" => Err(Problem::AtLeastOneArgument { instruction: "HEALTHCHECK" }),
        "NONE" if rest.is_empty() => Ok(None),
        "NONE" => problem("HEALTHCHECK NONE takes no arguments".to_owned()),
        "CMD" => {
            let known = ["interval", "timeout", "start-period", "start-interval", "retries"]
                .map(|name| (name, FlagKind::Value));
            let mut flags = Flags::parse(flags, &known)?;
            if let Some(retries) = flags.value("retries") {
                match retries.parse::<i32>() {
                    Ok(count) if count < 0 => {
                        return problem(format!("--retries cannot be negative ({count})"));
                    }
                    Ok(_) => {}
                    Err(_) => {
                        return problem(format!(
                            "invalid value {retries:?} for --retries (expected a number)"
                        ));
                    }
                }
            }
            let command = command_line(rest, &[])?;
            if command.words.is_empty() {
                return problem("Missing command after HEALTHCHECK CMD".to_owned());
            }
            Ok(Some(command))
        }
        _ => problem(format!("Unknown type {kind:?} in HEALTHCHECK (try CMD)")),
    }
}

fn volume(arguments: &str) -> Result<Vec<String>, Problem> {
    let words = match json_list(arguments)? {
        Some(words) => words,
        None => split_at_blanks(arguments),
    };
    let volumes = at_least_one(words, "VOLUME")?;
    if volumes.iter().any(|volume| volume.trim().is_empty()) {
        return Err(Problem::EmptyVolume);
    }
    Ok(volumes.iter().map(|volume| volume.trim().to_owned()).collect())
}

fn at_least_one<T>(list: Vec<T>, instruction: &'static str) -> Result<Vec<T>, Problem> {
    if list.is_empty() { Err(Problem::AtLeastOneArgument { instruction }) } else { Ok(list) }
}

fn exactly_one(arguments: &str, instruction: &'static str) -> Result<String, Problem> {
    if arguments.is_empty() {
        return Err(Problem::ExactlyOneArgument { instruction });
    }
    Ok(arguments.to_owned())
}
