//! What is printed on standard output, without an engine.

use std::fs::{self, File};
use std::process::{Command, Stdio};

use crate::harness::Carried;

fn program(carried: &Carried) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dockercache"));
    command.env_clear().env("DOCKERCACHE_DIR", carried.archive());
    command
}

#[test]
fn inspect_of_nothing_is_valid_json() {
    let carried = Carried::nothing();
    let output = program(&carried).args(["inspect", "--format", "json"]).output().unwrap();
    assert!(output.status.success());
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["schema"], "dockercache.inspect.v1");
    assert_eq!(json["stages"], serde_json::json!([]));
    assert!(!carried.archive().exists(), "inspect made a directory");
}

#[test]
fn a_result_that_can_t_be_written_is_an_error() {
    let carried = Carried::nothing();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let inspect = program(&carried)
        .args(["inspect", "--format", "json"])
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(inspect.status.code(), Some(5));
    let message = String::from_utf8_lossy(&inspect.stderr).into_owned();
    assert!(message.contains("error: the result is not complete"), "{message}");
}

#[test]
fn a_name_in_an_archive_gives_no_command_to_a_ci_system() {
    let carried = Carried::nothing();
    let stage = serde_json::json!({
        "name": "a\n::add-mask::b\u{1b}[2J", "digest": "", "build": "##[set-env]x",
    });
    let about = serde_json::json!({
        "format": 1, "engine": "1\n::stop-commands::x", "strategy": "\r::debug::x",
        "platform": "", "created": "", "stages": [stage],
    });
    let index = serde_json::json!({
        "schemaVersion": 2, "manifests": [],
        "annotations": { "dev.dockercache.about": about.to_string() },
    });
    fs::create_dir_all(carried.archive()).unwrap();
    fs::write(carried.archive().join("index.json"), index.to_string()).unwrap();
    let output = program(&carried).arg("inspect").output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("add-mask"), "{text}");
    assert!(text.lines().all(|line| !line.trim_start().starts_with("::")), "{text}");
    assert!(!text.contains(['\u{1b}', '\r']) && !text.contains("##["), "{text}");
}
