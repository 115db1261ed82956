//! With a graph driver, an engine of this machine pushes what is new to `save`, and nothing else:
//! `docker save` would write all that lies below it as well. Where that can't be, `save` takes images
//! whole.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::harness::{
    Access, Builder, Generation, Machine, RegistryServer, RegistrySettings, Server as _,
};
use crate::words::FILES;

/// With more below the change than an engine may push in vain.
const HEAVY: &str = "\
FROM busybox:1 AS build
RUN head -c 100000000 /dev/urandom > /toolchain
COPY source /source

FROM busybox:1
COPY --from=build /source /program
";

#[test]
fn of_docker_20_10() {
    what_is_new_is_pushed(Generation::V20_10);
}

#[test]
fn of_docker_26_1() {
    what_is_new_is_pushed(Generation::V26_1);
}

#[test]
fn of_docker_28_5() {
    what_is_new_is_pushed(Generation::V28_5);
}

fn what_is_new_is_pushed(generation: Generation) {
    let (machine, _) = Machine::after_first_build(Builder::Buildkit(generation), FILES);
    machine.restore();
    machine.project.edit("src/a", "of", "OF");
    machine.build();
    assert_eq!(machine.save().taken, ["build", "stage-3"]);
    assert_eq!(events(&machine, "push"), 2);
    assert_eq!(events(&machine, "save"), 0);
    assert_all_is_well(&machine);
}

/// As where the engine's socket is mounted into a container.
#[test]
fn an_engine_that_does_not_reach_us_exports() {
    let (machine, _) = Machine::after_first_build(Builder::Buildkit(Generation::V28_5), FILES);
    machine.restore();
    machine.project.edit("src/a", "of", "OF");
    machine.build();
    let program = env!("CARGO_BIN_EXE_dockercache");
    machine.unshared(["--net", program, "save", "--strict"]).run().success();
    assert_eq!(events(&machine, "push"), 0);
    assert_eq!(events(&machine, "save"), 2);
    assert_all_is_well(&machine);
}

/// It does not know that what it has built itself is in the archive.
#[test]
fn an_engine_that_would_push_all_exports() {
    let machine = heavy();
    machine.build();
    machine.save();
    let exported = events(&machine, "save");
    machine.project.edit("source", "one", "two");
    machine.plain_build(&["build"]);
    machine.save_build(&machine.arguments());
    assert_eq!(events(&machine, "save"), exported + 2);
    assert_all_is_well(&machine);
}

/// The engine is told at first that we have it, as all else that it got from somewhere.
#[test]
fn a_base_that_is_not_in_the_archive_is_pushed() {
    let registry =
        RegistryServer::start(RegistrySettings { access: Access::Public, ..Default::default() });
    let base = format!("{}/base:1", registry.address());
    let machine = heavy();
    machine
        .project
        .write("base.Dockerfile", "FROM busybox:1\nRUN head -c 20000000 /dev/urandom > /base\n");
    machine.docker(["build", "--file=base.Dockerfile", "--tag", &base, "."]).run().success();
    machine.docker(["push", &base]).run().success();
    machine.build();
    machine.save();
    machine.replace();
    machine.restore();
    machine.project.edit("Dockerfile", "FROM busybox:1\nCOPY", &format!("FROM {base}\nCOPY"));
    machine.project.edit("source", "one", "two");
    machine.build();
    assert_eq!(machine.save().taken, ["build", "stage-1"]);
    assert_eq!(events(&machine, "push"), 4, "both twice, then with the base");
    assert_eq!(events(&machine, "save"), 0);
    assert_all_is_well(&machine);
}

fn heavy() -> Machine {
    let files = [("Dockerfile", HEAVY), ("source", "one\n")];
    Machine::new(Builder::Buildkit(Generation::V28_5), &files)
}

/// How many of the engine's images something has become of since it started.
fn events(machine: &Machine, action: &str) -> usize {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_secs();
    let (until, filter) = (format!("--until={}", now + 1), format!("--filter=event={action}"));
    let words = ["events", "--since=1h", &until, "--filter=type=image", &filter];
    machine.docker(words).run().success().stdout.lines().count()
}

/// No name of ours is left, and the next machine has it all.
fn assert_all_is_well(machine: &Machine) {
    let names = machine.docker(["images", "--format={{.Repository}}"]).run();
    assert!(!names.success().stdout.contains("dockercache"), "{}", names.stdout);
    let built = machine.image();
    machine.replace();
    machine.restore();
    machine.build().assert_all_cached();
    assert_eq!(machine.image(), built);
}
