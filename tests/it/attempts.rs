//! A build that fails in the cache runs again, whichever command runs it and wherever its input comes
//! from.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use crate::harness::{BUILD, Builder, Generation, Image, Machine, Run};

const DOCKERFILE: &str = "\
FROM busybox:1
RUN head -c 100000 /dev/urandom > /random
COPY input /input
";
const BAKE: &str =
    "group \"default\" {\n  targets = [\"app\"]\n}\ntarget \"app\" {\n  tags = [\"app\"]\n}\n";
const COMPOSE: &str = "services:\n  app:\n    image: app\n    build: .\n";

/// What a builder says whose threads were in each other's way, and of a layer that has vanished.
const FAULTS: [(&str, &str); 2] = [
    (
        "failed to open writer: ref moby/1/jmzv782fbi01 locked for 9.7ms: unavailable",
        "the builder got in its own way as it used the cache; it runs again",
    ),
    (
        "failed to compute cache key: NotFound: rpc error: code = NotFound desc = content \
         sha256:3ef1c39b836b: not found",
        "the build failed while it read the cache; it runs again without",
    ),
];

/// The commands that build, each with its standard input.
const COMMANDS: [(&[&str], &str); 7] = [
    (&BUILD, ""),
    (&["build", "--tag", "app", "--file", "-", "."], DOCKERFILE),
    (&["buildx", "build", "--load", "--tag", "app", "."], ""),
    (&["buildx", "bake"], ""),
    (&["buildx", "bake", "-f", "-"], BAKE),
    (&["compose", "build"], ""),
    (&["compose", "-f", "-", "build"], COMPOSE),
];

fn machine(generation: Generation) -> Machine {
    let files = [
        ("Dockerfile", DOCKERFILE),
        ("input", "text"),
        ("docker-bake.hcl", BAKE),
        ("compose.yaml", COMPOSE),
    ];
    let machine = Machine::new(Builder::Buildkit(generation), &files);
    machine.run(BUILD).success();
    machine.run(["save"]).success();
    machine
}

/// A directory with a `docker` that says `fault` in the place of its first build, which has read its
/// input by then.
fn failing_once(machine: &Machine, fault: &str) -> PathBuf {
    let directory = machine.carried.file("failing");
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir(&directory).expect("a directory");
    let script = format!(
        "#!/bin/sh\n\
         case \" $* \" in\n\
         *' --print '* | *' --progress=rawjson '*) ;;\n\
         *' bake '* | *' build '*)\n\
           if mkdir \"{directory}/failed\" 2>/dev/null; then\n\
             cat >/dev/null\n\
             echo 'ERROR: failed to build: failed to solve: {fault}' >&2\n\
             exit 1\n\
           fi ;;\n\
         esac\n\
         exec \"{docker}\" \"$@\"\n",
        directory = directory.display(),
        docker = machine.job.engine.bin().join("docker").display(),
    );
    let program = directory.join("docker");
    fs::write(&program, script).expect("a script");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a mode");
    directory
}

fn run(machine: &Machine, words: &[&str], input: &str, fault: &str) -> Run {
    let path = failing_once(machine, fault);
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", path.display());
    machine.dockercache(words.iter().copied()).stdin(input).env("PATH", path).run()
}

#[test]
fn every_command_repeats_a_build_that_fails_in_the_cache() {
    let machine = machine(Generation::V28_5);
    let built = machine.image().layers();
    for (fault, told) in FAULTS {
        for (words, input) in COMMANDS {
            machine.replace();
            machine.run(["restore"]).success();
            let run = run(&machine, words, input, fault);
            assert!(run.success().stderr.contains(told), "{}", run.stderr);
            // With the cache if that was not to blame. What bake and compose were given of it is in
            // the builder, and stays there.
            if told.ends_with("it runs again") || words[1] == "bake" || words[0] == "compose" {
                assert_eq!(machine.image().layers(), built, "{words:?}");
            }
        }
    }
}

#[test]
fn a_build_that_was_offered_nothing_fails_by_itself() {
    let machine = machine(Generation::V28_5);
    machine.carried.forget();
    machine.replace();
    for (words, input) in COMMANDS {
        for (fault, _) in FAULTS {
            let run = run(&machine, words, input, fault);
            assert!(!run.code(1).stderr.contains("runs again"), "{}", run.stderr);
        }
    }
}

/// As if another job's `save` came after the check: before the archive is brought into the builder, or
/// after that.
#[test]
fn layers_that_vanish_fail_no_bake() {
    for (generation, moment) in [
        (Generation::V28_5Containerd, "--progress=rawjson"),
        (Generation::V28_5Containerd, "bake"),
        (Generation::V28_5, "bake"),
    ] {
        let machine = machine(generation);
        machine.replace();
        machine.run(["restore"]).success();
        let layer = machine.carried.blob(|size, _| (100_000..120_000).contains(&size));
        let hidden = machine.carried.file("hidden");
        let directory = machine.carried.file("late");
        fs::create_dir(&directory).expect("a directory");
        let script = format!(
            "#!/bin/sh\n\
             case \" $* \" in\n\
             *' --print '*) ;;\n\
             *' {moment} '*) mv -n '{}' '{}' 2>/dev/null ;;\n\
             esac\n\
             exec '{}' \"$@\"\n",
            layer.display(),
            hidden.display(),
            machine.job.engine.bin().join("docker").display(),
        );
        let program = directory.join("docker");
        fs::write(&program, script).expect("a script");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a mode");
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", directory.display());
        machine.dockercache(["buildx", "bake"]).env("PATH", path).run().success();
        assert!(hidden.exists(), "nothing has vanished");
        assert_eq!(Image::of(&machine.job.engine, "app").layers().len(), 3);
        machine.run(["save"]).success();
    }
}
