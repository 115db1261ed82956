//! `dockercache.yml` says what the environment does not, and an option wins over both.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn run(directory: &Path, words: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dockercache"));
    command.args(words).current_dir(directory).env_clear();
    command.envs(environment.iter().copied()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn setting(output: &Output, name: &str) -> (String, String) {
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let settings = report["settings"].as_array().unwrap();
    let found = settings.iter().find(|one| one["name"] == name).unwrap();
    let word = |field: &str| found[field].as_str().unwrap().to_owned();
    (word("value"), word("source"))
}

#[test]
fn the_environment_wins_over_the_file_and_the_file_over_the_default() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("dockercache.yml"), "project: app\nsalt: file\n").unwrap();
    let config = ["config", "--format", "json"];
    let output = run(dir.path(), &config, &[("DOCKERCACHE_SALT", "environment")]);
    let of = |value: &str, source: &str| (value.to_owned(), source.to_owned());
    assert_eq!(setting(&output, "project"), of("app", "dockercache.yml"));
    assert_eq!(setting(&output, "salt"), of("environment", "environment"));
    assert_eq!(setting(&output, "cache_dir"), of("/tmp/dockercache", "default"));
}

#[test]
fn an_option_wins_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("dockercache.yml"), "cache_dir: from-file\n").unwrap();
    for (words, read) in [
        (&["inspect"][..], "from-file"),
        (&["inspect", "--cache-dir", "from-option"][..], "from-option"),
    ] {
        let said = run(dir.path(), words, &[]);
        let said = text(&said.stdout) + &text(&said.stderr);
        assert!(said.contains(read), "{said}");
    }
}

#[test]
fn a_mistake_in_the_file_is_one_of_the_command_but_never_of_a_build() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("dockercache.yml"), "stroe: x\n").unwrap();
    let said = run(dir.path(), &["inspect"], &[]);
    assert_eq!(said.status.code(), Some(2));
    let meant = "`dockercache.yml`: unknown key `stroe`; did you mean `store`?";
    assert!(text(&said.stderr).contains(meant), "{}", text(&said.stderr));

    // Any program will do as a client: what counts is that it is called.
    let client = dir.path().join("docker");
    fs::write(&client, "#!/bin/sh\necho \"built: $*\"\n").unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&client, executable).unwrap();
    let path = format!("{}:/usr/bin:/bin", dir.path().display());
    let said = run(dir.path(), &["compose", "version"], &[("PATH", &path)]);
    assert!(text(&said.stdout).contains("built: compose version"), "{}", text(&said.stderr));
    assert!(text(&said.stderr).contains(meant), "{}", text(&said.stderr));
}

#[test]
fn credentials_are_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let store = [("DOCKERCACHE_STORE", "registry://user:hunter2@host/app")];
    for format in ["text", "json", "env", "github"] {
        let said = run(dir.path(), &["config", "--format", format], &store);
        assert!(said.status.success() && !text(&said.stdout).contains("hunter2"), "{format}");
    }
}
