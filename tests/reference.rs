//! What documents say of the program is so: `docs/cli.md` is its help, every verb, every option, and
//! the tests that the threat model names are there.
//!
//! To update the help, run with `UPDATE_DOCS=1`, and read the difference.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use clap::{Command, CommandFactory as _};
use dockercache::cli::Cli;

#[test]
fn the_reference_is_the_help() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md");
    let rendered = reference();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &rendered).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == rendered,
        "docs/cli.md is stale: run `UPDATE_DOCS=1 cargo test --test reference`"
    );
}

#[test]
fn each_promise_of_the_threat_model_names_its_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/threat-model.md")).unwrap();
    let rows = text.lines().skip_while(|line| *line != "| promise | test |").skip(2);
    let mut count = 0;
    for row in rows.take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [promise, tests] = cells[..] else { panic!("no two cells: {row}") };
        if promise.starts_with("**") {
            continue;
        }
        let (names, file) = match tests.split_once(" in `") {
            Some((names, file)) => (names, Some(file.trim_end_matches('`'))),
            None => (tests, None),
        };
        let mut source = String::new();
        for name in names.split(", ").map(|name| name.trim_matches('`')) {
            let mut path: Vec<&str> = name.split("::").collect();
            let function = path.pop().unwrap();
            // One without a module is in that of the one before.
            if let Some(file) = file {
                source = fs::read_to_string(root.join(file)).unwrap_or_default();
            } else if !path.is_empty() {
                let module = root.join("tests/it").join(path.join("/"));
                let of_file = fs::read_to_string(module.with_extension("rs"));
                let read = of_file.or_else(|_| fs::read_to_string(module.join("mod.rs")));
                source = read.unwrap_or_default();
            }
            let is_there = source.contains(&format!("fn {function}("));
            assert!(is_there, "there is no test `{name}`, which guards: {promise}");
            count += 1;
        }
    }
    assert!(count > 50, "only {count} tests are named");
}

fn reference() -> String {
    let mut command = Cli::command();
    command.build();
    let mut text = "# Command line\n\nThe program's own help. `UPDATE_DOCS=1 cargo test --test \
                    reference` writes this file.\n"
        .to_owned();
    section(&mut text, "dockercache", &command);
    for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
        section(&mut text, &format!("dockercache {}", verb.get_name()), verb);
    }
    text
}

fn section(text: &mut String, title: &str, command: &Command) {
    // Neither the terminal nor the environment of whoever runs the test shall count.
    let mut command =
        command.clone().term_width(96).mut_args(|argument| argument.hide_env_values(true));
    let help = command.render_long_help().to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    write!(text, "\n## `{title}`\n\n```text\n{}\n```\n", lines.join("\n").trim_end()).unwrap();
}
