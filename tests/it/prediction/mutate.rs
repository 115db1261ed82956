//! Changes a project in one place, as people do.

use super::generate::{BASES, Generator, usable};
use super::scenario::{BaseName, Entry, EntryKind, Instruction, Line, Scenario};

/// Changes something, and says what.
pub(super) fn mutate(scenario: &mut Scenario, generator: &mut Generator) -> String {
    loop {
        let before = scenario.clone();
        let kinds: [fn(&mut Scenario, &mut Generator) -> Option<String>; 6] =
            [file, file, instruction, instruction, surroundings, writing];
        let change = *generator.random.pick(&kinds);
        match change(scenario, generator) {
            Some(what) if *scenario != before => return what,
            _ => *scenario = before,
        }
    }
}

/// A change to a file, seen or not.
fn file(scenario: &mut Scenario, generator: &mut Generator) -> Option<String> {
    let is_file = |e: &&Entry| matches!(e.kind, EntryKind::File(_));
    let paths: Vec<String> = scenario
        .files
        .iter()
        .filter(|(_, entry)| is_file(entry))
        .map(|(path, _)| path.clone())
        .collect();
    let path = generator.random.pick(&paths).clone();
    // Something must be left for every source.
    let is_keeper = path.contains("keep") || !path.contains('/') || path == "src/main.c";
    match generator.random.below(8) {
        0 | 1 => {
            let word = generator.word();
            scenario.files.get_mut(&path)?.kind = EntryKind::File(word);
            Some(format!("edit {path}"))
        }
        2 => {
            scenario.files.get_mut(&path)?.age = 1000 + generator.fresh();
            Some(format!("touch {path}"))
        }
        3 => {
            scenario.files.get_mut(&path)?.mode =
                *generator.random.pick(&[0o644, 0o755, 0o600, 0o4755]);
            Some(format!("chmod {path}"))
        }
        4 => {
            let directory = *generator.random.pick(&["", "src/", "src/deep/", "docs/", "logs/"]);
            let suffix = *generator.random.pick(&["txt", "c", "log", "md"]);
            let new = format!("{directory}new{}.{suffix}", generator.random.below(3));
            let content = generator.common_word();
            scenario.files.insert(new.clone(), Entry::file(content));
            Some(format!("add {new}"))
        }
        5 if !is_keeper => {
            scenario.files.remove(&path);
            Some(format!("delete {path}"))
        }
        6 if !is_keeper => {
            let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
            let suffix = path.rsplit_once('.').map_or("", |(_, suffix)| suffix);
            let new = format!("{directory}/renamed{}.{suffix}", generator.random.below(3));
            let entry = scenario.files.remove(&path)?;
            scenario.files.insert(new.clone(), entry);
            Some(format!("rename {path} to {new}"))
        }
        7 if scenario.files.contains_key("src/link") && generator.random.once_in(2) => {
            let target = generator.link_target();
            scenario.files.insert("src/link".to_owned(), Entry::link(target));
            Some(format!("point src/link to {target}"))
        }
        7 => {
            let directory =
                *generator.random.pick(&["src", "src/deep", "docs", "logs", "node_modules"]);
            scenario.files.get_mut(directory)?.mode =
                *generator.random.pick(&[0o755, 0o750, 0o777]);
            // See `known::an_engine_that_has_the_context_misses_a_directory_s_mode`.
            scenario.place = generator.fresh();
            Some(format!("chmod {directory}, and move the context"))
        }
        _ => None,
    }
}

/// A change to what an instruction does.
fn instruction(scenario: &mut Scenario, generator: &mut Generator) -> Option<String> {
    let index = generator.random.below(scenario.stages.len());
    let usable = usable(scenario, index);
    let count = scenario.stages[index].lines.len();
    let at = generator.random.below(count.max(1));
    match generator.random.below(7) {
        0 => {
            let line = generator.line(scenario, &scenario.stages[index], &usable);
            let at = generator.random.below(count + 1);
            scenario.stages[index].lines.insert(at, line);
            Some(format!("insert line {at} of stage {index}"))
        }
        1 if count > 1 => {
            let last = count == 1 || scenario.stages[index].base == BaseName::Scratch;
            if last && at + 1 == count {
                return None;
            }
            scenario.stages[index].lines.remove(at);
            Some(format!("remove line {at} of stage {index}"))
        }
        2 if at + 1 < count => {
            scenario.stages[index].lines.swap(at, at + 1);
            Some(format!("swap lines {at} and {} of stage {index}", at + 1))
        }
        3 => {
            // Another image, or the other of the two.
            let base = &mut scenario.stages[index].base;
            let BaseName::Image(image) = base else { return None };
            *base = if generator.random.once_in(3) {
                BaseName::Argument("BASE".to_owned())
            } else {
                let other = BASES.iter().find(|other| *other != image)?;
                BaseName::Image((*other).to_owned())
            };
            Some(format!("change the base of stage {index}"))
        }
        _ => edit(&mut scenario.stages[index].lines.get_mut(at)?.instruction, generator)
            .map(|what| format!("{what} in line {at} of stage {index}")),
    }
}

fn edit(instruction: &mut Instruction, generator: &mut Generator) -> Option<String> {
    match instruction {
        Instruction::Run { flags, script, command, .. } => match generator.random.below(3) {
            0 if !flags.is_empty() => {
                flags.remove(0);
                Some("drop a flag of RUN".to_owned())
            }
            1 if script.is_some() => {
                script.as_mut()?.push_str(" more");
                Some("edit a script".to_owned())
            }
            _ if command.starts_with('[') || script.is_some() => None,
            _ => {
                command.push_str(" more");
                Some("edit a command".to_owned())
            }
        },
        Instruction::Copy { flags, from, sources, destination, verb } => {
            match generator.random.below(5) {
                0 => {
                    *flags = vec![generator.copy_flag(from.is_none())];
                    Some(format!("give {verb} {}", flags[0]))
                }
                1 if !flags.is_empty() => {
                    flags.clear();
                    Some("drop a flag of COPY".to_owned())
                }
                2 if from.is_none() => {
                    *sources = generator.sources();
                    Some("copy something else".to_owned())
                }
                3 => {
                    *destination = format!("/moved{}/", generator.fresh());
                    Some("copy to another place".to_owned())
                }
                4 if from.is_none() => {
                    *verb = if *verb == "ADD" { "COPY" } else { "ADD" };
                    Some(format!("use {verb}"))
                }
                _ => None,
            }
        }
        Instruction::Inline { body, quoted, .. } => {
            if generator.random.once_in(2) {
                *quoted = !*quoted;
            } else {
                body.push_str(" more");
            }
            Some("edit an inline file".to_owned())
        }
        Instruction::Plain(keyword, arguments) => {
            let word = generator.common_word();
            *arguments = match *keyword {
                "ENV" => format!("COLOUR={word}"),
                "ARG" => format!("DEPTH={word}"),
                "LABEL" => format!("label={word}"),
                "CMD" => format!("[\"{word}\"]"),
                "WORKDIR" => format!("/w/{word}"),
                "USER" => (*generator.random.pick(&["root", "0", "65534"])).to_owned(),
                _ => return None,
            };
            Some(format!("edit {keyword}"))
        }
    }
}

/// A change to arguments, target, or ignore file.
fn surroundings(scenario: &mut Scenario, generator: &mut Generator) -> Option<String> {
    let ignored = scenario.ignore.clone();
    let what = surrounding(scenario, generator)?;
    if scenario.ignore == ignored {
        return Some(what);
    }
    // See `known::an_engine_that_has_the_context_misses_what_another_ignore_file_means`.
    scenario.place = generator.fresh();
    Some(format!("{what}, and move the context"))
}

fn surrounding(scenario: &mut Scenario, generator: &mut Generator) -> Option<String> {
    match generator.random.below(8) {
        0 | 1 => {
            let (name, value) = generator.build_arg();
            scenario.build_args.insert(name.clone(), value.clone());
            Some(format!("--build-arg {name}={value}"))
        }
        2 => {
            let name =
                generator.random.maybe_pick(&scenario.build_args.keys().collect::<Vec<_>>())?;
            let name = name.clone();
            scenario.build_args.remove(&name);
            Some(format!("no --build-arg {name}"))
        }
        3 => {
            scenario.target = generator.target(scenario);
            Some(format!("--target {:?}", scenario.target))
        }
        4 => {
            let line = generator.ignore_line();
            scenario.ignore.push(line.clone());
            Some(format!("ignore {line}"))
        }
        5 if scenario.ignore.len() > 1 => {
            let at = generator.random.below(scenario.ignore.len() - 1);
            scenario.ignore.swap(at, at + 1);
            Some("reorder .dockerignore".to_owned())
        }
        6 => {
            let at = generator.random.below(scenario.ignore.len().max(1));
            (at < scenario.ignore.len()).then(|| scenario.ignore.remove(at))?;
            Some("shorten .dockerignore".to_owned())
        }
        7 => {
            let (name, value) = if generator.random.once_in(2) {
                ("BASE", *generator.random.pick(&BASES))
            } else {
                ("SHARED", generator.common_word())
            };
            scenario.globals.iter_mut().find(|(n, _)| n == name)?.1 = value.to_owned();
            Some(format!("the default of {name} is {value}"))
        }
        _ => None,
    }
}

/// A change to how the Dockerfile is written, and not to what it says.
fn writing(scenario: &mut Scenario, generator: &mut Generator) -> Option<String> {
    let index = generator.random.below(scenario.stages.len());
    let count = scenario.stages[index].lines.len();
    let at = generator.random.below(count.max(1));
    let word = generator.word();
    let needs_name = scenario.stages.iter().any(|stage| {
        stage.base == BaseName::Stage(index)
            || stage.lines.iter().any(|line| {
                matches!(&line.instruction, Instruction::Run { mount_from: Some(from), .. } if *from == index)
            })
    });
    match generator.random.below(6) {
        0 => {
            scenario.stages[index].name = Some(word);
            Some(format!("rename stage {index}"))
        }
        1 if !needs_name => {
            scenario.stages[index].name = None;
            Some(format!("stage {index} has no name"))
        }
        2 => {
            scenario.stages[index].lines.get_mut(at)?.comment = Some(word);
            Some("a comment".to_owned())
        }
        3 => {
            let line = scenario.stages[index].lines.get_mut(at)?;
            line.lower_case = !line.lower_case;
            Some("the case of a keyword".to_owned())
        }
        4 => {
            let line: &mut Line = scenario.stages[index].lines.get_mut(at)?;
            line.broken = !line.broken;
            Some("a continuation".to_owned())
        }
        _ => {
            scenario.crlf = !scenario.crlf;
            Some("line ends".to_owned())
        }
    }
}
