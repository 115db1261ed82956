//! `docs/cli.md` is the help of the program: every verb, every option.
//!
//! To write it anew, run with `UPDATE_DOCS=1`, and read the difference.

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
