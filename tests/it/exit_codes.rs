//! What stops the program has an exit code of its own, and a message that says what to do.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::harness::{BUILD, Builder, Generation, Invocation, Machine, Run};

const DOCKERFILE: &str = "\
FROM busybox:1
RUN head -c 3000000 /dev/urandom > /big
COPY input /input
";

#[test]
fn wrong_usage_is_2() {
    let alone = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dockercache"));
        command.env_clear();
        Invocation::new(command).args(args.iter().copied()).run()
    };
    alone(&["frobnicate"]).code(2);
    alone(&["restore", "--format", "yaml"]).code(2);
    alone(&["save", "--archive", "cache.zip"]).code(2);
    alone(&["save", "--image", "a", "--from-log", "b"]).code(2);
    alone(&["--help"]).code(0);
}

#[test]
fn without_an_engine_it_is_4() {
    let machine = machine(Generation::V28_5);
    for args in [&["restore"][..], &["save", "-t", "app", "."], &["save"], &["build", "."]] {
        let command = || machine.dockercache(args.iter().copied());
        let run = command().env("DOCKER_HOST", "unix:///nowhere/docker.sock").run();
        assert!(run.code(4).stderr.contains("engine is not reachable"), "{}", run.stderr);
        assert!(run.stderr.contains("hint: check `docker version`"), "{}", run.stderr);
        let run = command().env("PATH", "/nowhere").run();
        assert!(run.code(4).stderr.contains("hint: install the docker client"), "{}", run.stderr);
    }
}

#[test]
fn a_directory_that_refuses_is_5() {
    let machine = machine(Generation::V28_5);
    let carried = &machine.carried;
    machine.run(BUILD).success();
    let file = carried.file("good.tar.zst");
    machine.run(["save", "--archive", file.to_str().expect("UTF-8")]).success();
    let before = carried.files();
    let dir = carried.archive();
    let dir = dir.to_str().expect("UTF-8");

    // Another user's directory. Root may read everything, so an ordinary user must try.
    let as_nobody = |args: &[&str]| {
        let program = carried.file("dockercache");
        fs::copy(env!("CARGO_BIN_EXE_dockercache"), &program).expect("a program for everyone");
        let mode = |mode| fs::Permissions::from_mode(mode);
        fs::set_permissions(program.parent().expect("a directory"), mode(0o755)).expect("a mode");
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
        command.env_clear().env("DOCKERCACHE_DIR", dir);
        Invocation::new(command).args(args.iter().copied()).run()
    };
    let run = as_nobody(&["restore", "--archive", file.to_str().expect("UTF-8")]);
    assert!(run.code(5).stderr.contains("hint: choose another directory"), "{}", run.stderr);
    as_nobody(&["prune"]).code(5);
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).expect("a mode");
    let run = as_nobody(&["inspect"]);
    assert!(run.code(5).stderr.contains("Permission denied"), "{}", run.stderr);
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("a mode");

    // A read-only directory: nothing can be saved, but builds hit.
    machine.replace();
    let read_only = format!("mount --bind {dir} {dir} && mount -o remount,bind,ro {dir}");
    let run = mounted(&machine, &read_only, &BUILD);
    run.success().build_report().assert_all_cached();
    let run = mounted(&machine, &read_only, &["restore"]);
    run.success();
    machine.project.edit("input", "text", "other text");
    machine.run(BUILD).success();
    let run = mounted(&machine, &read_only, &["save"]);
    assert!(run.code(5).stderr.contains("hint: choose another directory"), "{}", run.stderr);
    assert_eq!(carried.files(), before);
}

#[test]
fn no_space_is_5_and_the_old_archive_stays() {
    for generation in [Generation::V28_5, Generation::V28_5Containerd] {
        let machine = machine(generation);
        let carried = &machine.carried;
        machine.run(BUILD).success();
        machine.run(["save"]).success();
        let old = carried.file("old");
        carried.copy_to(&old);
        let old_index = fs::read(old.join("index.json")).expect("an index");
        machine.project.edit("Dockerfile", "3000000", "3000001");
        // A builder that exports by itself fills the disk at the build, which goes on all the same.
        let exports = generation == Generation::V28_5Containerd;
        if !exports {
            machine.run(BUILD).success();
        }

        // What was there and half of what is to come fit.
        let size: u64 = carried.blobs().iter().map(|(size, _)| size).sum();
        let (dir, after) = (carried.archive(), carried.file("after"));
        let small = format!(
            "mount -t tmpfs -o size={} none {dir} && cp -a {old}/. {dir}/",
            size + 1_500_000,
            dir = dir.display(),
            old = old.display()
        );
        let program = env!("CARGO_BIN_EXE_dockercache");
        let build = if exports { format!("{program} build --tag app . &&") } else { String::new() };
        let run = shell(
            &machine,
            &format!(
                "{small}\n{build} {program} save\ncode=$?\ncp -a {} {}\nexit $code",
                dir.display(),
                after.display()
            ),
        );
        let (code, told) =
            if exports { (0, "no space left on device") } else { (5, "hint: free some space") };
        assert!(run.code(code).stderr.contains(told), "{}", run.stderr);
        carried.copy_from(&after);
        carried.assert_clean();
        assert_eq!(fs::read(after.join("index.json")).expect("an index"), old_index);
        assert!(machine.run(["restore"]).success().stderr.contains("hit"));

        // A journal without space is no reason not to build.
        let full = "for journal in /tmp/dockercache-journal-*; do
            mount -t tmpfs -o size=8k,mode=700 none $journal
            head -c 100000 /dev/zero > $journal/full || true
        done 2>/dev/null";
        let run = shell(&machine, &format!("{full}\n{program} build --tag app ."));
        assert!(run.success().stderr.contains("is not saved"), "{}", run.stderr);
        machine.run(["save"]).success();
        carried.assert_clean();
    }
}

#[test]
fn podman_builds_without_cache_and_is_told_so() {
    let machine = machine(Generation::V28_5);
    // As `docker` is where the package podman-docker is installed; the answers are podman's.
    let bin = machine.carried.file("bin");
    fs::create_dir(&bin).expect("a directory");
    let docker = bin.join("docker");
    let script = r#"#!/bin/sh
echo 'Emulate Docker CLI using podman.' >&2
case "$1" in
  --version) echo 'podman version 4.3.1' ;;
  version) echo '{"Client":{"APIVersion":"4.3.1","Version":"4.3.1","GoVersion":"go1.19.8","GitCommit":"","BuiltTime":"Thu Jan  1 00:00:00 1970","Built":0,"OsArch":"linux/amd64","Os":"linux"}}' ;;
  build) echo "STEP 1/3: built with $*" ;;
  *) exit 125 ;;
esac
"#;
    fs::write(&docker, script).expect("a program");
    fs::set_permissions(&docker, fs::Permissions::from_mode(0o755)).expect("a mode");
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let command =
        |args: &[&str]| machine.dockercache(args.iter().copied()).env("PATH", &path).run();
    let run = command(&BUILD);
    assert!(run.success().stderr.contains("warning: the build runs without cache"));
    assert!(run.stderr.contains("podman"), "{}", run.stderr);
    assert!(run.stdout.contains("built with build --tag app ."), "{}", run.stdout);
    // No one has typed anything wrong.
    assert!(command(&["restore"]).code(0).stderr.contains("podman"));
    assert!(command(&["restore", "--strict"]).code(1).stderr.contains("podman"));
    assert!(command(&["key", "."]).code(0).stdout.contains("dockercache-v1--unknown--"));
    machine.run(["--version"]).success();
}

fn machine(generation: Generation) -> Machine {
    let files = [("Dockerfile", DOCKERFILE), ("input", "text")];
    Machine::new(Builder::Buildkit(generation), &files)
}

/// Runs the program after `mount` in a mount namespace of its own.
fn mounted(machine: &Machine, mount: &str, args: &[&str]) -> Run {
    let program = env!("CARGO_BIN_EXE_dockercache");
    shell(machine, &format!("{mount}\nexec {program} {}", args.join(" ")))
}

fn shell(machine: &Machine, script: &str) -> Run {
    machine.unshared(["--mount", "sh", "-c", script]).run()
}
