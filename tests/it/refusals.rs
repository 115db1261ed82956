//! What `save` can't take costs nothing that was there.

use crate::harness::{Builder, Generation, Machine};

const DOCKERFILE: &str = "\
FROM busybox:1 AS build
COPY input /input
RUN tr a-z A-Z < /input > /output

FROM busybox:1
COPY --from=build /output /output
";

/// Engines on which `save` works differently.
const GENERATIONS: [Generation; 2] = [Generation::V28_5, Generation::V28_5Containerd];

/// A machine with an archive.
fn saved(generation: Generation) -> Machine {
    let files = [("Dockerfile", DOCKERFILE), ("input", "text")];
    let machine = Machine::new(Builder::Buildkit(generation), &files);
    machine.build();
    machine.save();
    machine
}

#[test]
fn a_build_that_is_not_there_is_wrong_usage() {
    let machine = saved(Generation::V28_5);
    let before = machine.carried.files();
    for (args, words) in [
        (&["save", "-t", "app", "./typo"][..], "`./typo` is no directory"),
        (&["save", "-t", "app"], "no build context is named"),
        (&["save", "-f", "Nope", "."], "there is no Dockerfile `Nope`"),
        (
            &["save", "-t", "app", ".", "--and", "-t", "worker", "worker"],
            "`worker` is no directory",
        ),
    ] {
        let run = machine.run(args.iter().copied());
        assert!(run.code(2).stderr.contains(words), "{}", run.stderr);
        assert_eq!(machine.carried.files(), before, "{args:?}");
    }
    // Nothing of it is remembered.
    assert!(machine.run(["save"]).success().stderr.contains("nothing has changed"));
}

#[test]
fn a_build_for_several_platforms_is_not_saved() {
    for generation in GENERATIONS {
        let machine = saved(generation);
        let before = machine.carried.files();
        let run =
            machine.run(["save", "--platform", "linux/amd64,linux/arm64", "-t", "other", "."]);
        assert!(run.success().stderr.contains("an archive is for one platform"), "{}", run.stderr);
        assert_eq!(machine.carried.files(), before);
    }
}

#[test]
fn a_build_that_can_t_be_repeated_leaves_the_archive_as_it_is() {
    for generation in GENERATIONS {
        let machine = saved(generation);
        machine.run(["restore"]).success();
        machine.project.edit("input", "text", "changed");
        let before = machine.carried.files();
        let run = machine.run(["save", "--frobnicate", "-t", "app", "."]);
        assert!(run.success().stderr.contains("unknown flag: --frobnicate"), "{}", run.stderr);
        assert_eq!(machine.carried.files(), before);
    }
}

#[test]
fn of_several_builds_the_one_that_can_t_be_repeated_stays_as_it_was() {
    for generation in GENERATIONS {
        let files = [("Dockerfile", DOCKERFILE), ("input", "text"), ("other", "text")];
        let machine = Machine::new(Builder::Buildkit(generation), &files);
        let worker = DOCKERFILE.replace("input", "other");
        std::fs::write(machine.project.path().join("Worker"), worker).expect("a written file");
        let builds = [&["-t", "app", "."][..], &["-f", "Worker", "-t", "worker", "."]];
        for build in builds {
            machine.run([&["build"], build].concat()).success();
        }
        machine.run(["save"]).success();

        machine.project.edit("other", "text", "changed");
        machine.project.edit("input", "text", "changed");
        machine.run(["restore"]).success();
        machine.run([&["build"], builds[1]].concat()).success();
        let args = ["save", "--frobnicate", "-t", "app", ".", "--and"].iter();
        let run = machine.run(args.chain(builds[1]).copied());
        assert!(run.success().stderr.contains("stage `build` is not saved"), "{}", run.stderr);

        machine.project.edit("input", "changed", "text");
        machine.replace();
        machine.run(["restore"]).success();
        for build in builds {
            machine.run([&["build"], build].concat()).success().build_report().assert_all_cached();
        }
    }
}
