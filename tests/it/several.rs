//! Several images of one job in one archive: what they share is there once, and what a job no
//! longer builds goes.

use crate::harness::{BuildReport, Builder, Generation, Machine, on_every_builder};

on_every_builder! {
    two_images_have_one_archive,
    an_edit_of_one_image_leaves_the_other_as_it_is,
    an_image_that_is_no_longer_built_goes,
    other_images_stay_if_the_user_says_so,
}

/// What a layer of each kind weighs at least: it can't be compressed.
const SHARED: u64 = 300_000;
const OF_APP: u64 = 200_000;
const OF_WORKER: u64 = 100_000;

const APP: &str = "\
FROM busybox:1 AS base
COPY deps /deps
RUN head -c 300000 /dev/urandom > /toolchain

FROM base AS build
COPY source /source
RUN cat /deps /source > /app && head -c 200000 /dev/urandom > /of-app

FROM busybox:1
COPY --from=build /app /app
";
const WORKER: &str = "\
FROM busybox:1 AS base
COPY deps /deps
RUN head -c 300000 /dev/urandom > /toolchain

FROM base AS build
COPY job /job
RUN cat /deps /job > /worker && head -c 100000 /dev/urandom > /of-worker

FROM busybox:1
COPY --from=build /worker /worker
";

/// Each build starts from the same base, and reads a cache in which other builds do, too.
#[test]
fn builds_with_nothing_in_common_but_their_base_all_hit() {
    let app = "FROM busybox:1 AS build\nCOPY app /input\nRUN tr a-z A-Z < /input > /output\n\
               FROM busybox:1\nCOPY --from=build /output /output\n";
    let worker = app.replace("app", "worker");
    let files = [("Dockerfile", app), ("Worker", &worker), ("app", "text"), ("worker", "other")];
    let machine = Machine::new(Builder::Buildkit(Generation::V28_5), &files);
    let builds =
        [&["build", "-t", "app", "."][..], &["build", "-t", "worker", "-f", "Worker", "."]];
    for build in builds {
        machine.run(build.iter().copied()).success();
    }
    machine.save();
    // A builder that finds them by chance finds them now and then.
    for build in builds.iter().cycle().take(6) {
        machine.replace();
        machine.run(build.iter().copied()).success().build_report().assert_all_cached();
    }
}

fn machine(builder: Builder) -> Machine {
    Machine::new(
        builder,
        &[
            ("app/Dockerfile", APP),
            ("app/deps", "shared\n"),
            ("app/source", "source\n"),
            ("worker/Dockerfile", WORKER),
            ("worker/deps", "shared\n"),
            ("worker/job", "job\n"),
        ],
    )
}

fn build(machine: &Machine, name: &str) -> BuildReport {
    let image = format!("acme/{name}:1");
    machine.run(["build", "--tag", &image, name]).success().build_report()
}

/// How many blobs weigh this much, and less than what is heavier by a half.
fn blobs_of(machine: &Machine, size: u64) -> usize {
    let reader = machine.carried.reader();
    reader.assert_exact();
    reader.blobs().values().filter(|bytes| (size..size + size / 10).contains(bytes)).count()
}

/// A job in which both images are built and saved; the next machine is there.
fn after_both(builder: Builder) -> Machine {
    let machine = machine(builder);
    assert_eq!(build(&machine, "app").cached(), [""; 0]);
    assert!(!build(&machine, "worker").ran().is_empty());
    let saved = machine.save();
    assert!(saved.changed);
    let all = ["acme/app/base", "acme/app/build", "acme/app/stage-2"];
    let mut of_app: Vec<_> = saved.taken.iter().filter(|s| s.contains("app")).collect();
    of_app.sort();
    assert_eq!(of_app, all);
    for size in [SHARED, OF_APP, OF_WORKER] {
        assert_eq!(blobs_of(&machine, size), 1, "{size}");
    }
    machine.replace();
    machine
}

fn two_images_have_one_archive(builder: Builder) {
    let machine = after_both(builder);
    let files = machine.carried.files();
    machine.restore();
    build(&machine, "app").assert_all_cached();
    build(&machine, "worker").assert_all_cached();
    let saved = machine.save();
    assert!(!saved.changed, "{saved:?}");
    assert_eq!(saved.taken, [""; 0]);
    assert_eq!(saved.kept.len(), 6);
    assert_eq!(machine.carried.files(), files, "a job without changes writes nothing");
    if builder.is_buildkit() {
        machine.assert_nowhere("toolchain");
    }
}

fn an_edit_of_one_image_leaves_the_other_as_it_is(builder: Builder) {
    let machine = after_both(builder);
    machine.restore();
    machine.project.write("worker/job", "another\n");
    build(&machine, "app").assert_all_cached();
    let report = build(&machine, "worker");
    assert_eq!(
        report.cached(),
        ["COPY deps /deps", "RUN head -c 300000 /dev/urandom > /toolchain"]
    );
    let saved = machine.save();
    assert!(saved.taken.iter().all(|stage| stage.starts_with("acme/worker/")), "{saved:?}");
    for size in [SHARED, OF_APP, OF_WORKER] {
        assert_eq!(blobs_of(&machine, size), 1, "{size}");
    }
    machine.replace();
    machine.restore();
    build(&machine, "worker").assert_all_cached();
    build(&machine, "app").assert_all_cached();
}

fn an_image_that_is_no_longer_built_goes(builder: Builder) {
    let machine = after_both(builder);
    machine.restore();
    build(&machine, "app").assert_all_cached();
    let run = machine.run(["save"]);
    let told = "removed build `acme/worker`";
    assert!(run.success().stderr.contains(told), "{}", run.stderr);
    assert_eq!([SHARED, OF_APP, OF_WORKER].map(|size| blobs_of(&machine, size)), [1, 1, 0]);
    machine.replace();
    machine.restore();
    build(&machine, "app").assert_all_cached();
}

fn other_images_stay_if_the_user_says_so(builder: Builder) {
    let machine = after_both(builder);
    machine.restore();
    machine.project.write("worker/job", "another\n");
    build(&machine, "worker");
    let saved = machine.save_build(&["--keep-others"]);
    assert!(saved.kept.iter().any(|stage| stage == "acme/app/build"), "{saved:?}");
    assert_eq!([SHARED, OF_APP, OF_WORKER].map(|size| blobs_of(&machine, size)), [1; 3]);
    machine.replace();
    machine.restore();
    build(&machine, "app").assert_all_cached();
    build(&machine, "worker").assert_all_cached();
}

/// Plain builds that are named to `save` together, and an archive in one file.
fn plain_builds_go_through_one_file(builder: Builder) {
    let machine = machine(builder);
    let named = ["-t", "acme/app:1", "app", "--and", "-t", "acme/worker:1", "worker"];
    for image in ["app", "worker"] {
        machine.docker(["build", "-t", &format!("acme/{image}:1"), image]).run().success();
    }
    let file = machine.project.path().join("cache.tar.zst").display().to_string();
    let saved = machine.save_build(&[&["--archive", &file][..], &named[..]].concat());
    assert_eq!(saved.taken.len() + saved.kept.len(), 6, "{saved:?}");
    assert_eq!([SHARED, OF_APP, OF_WORKER].map(|size| blobs_of(&machine, size)), [1; 3]);

    let text = |verb: &str| {
        let words = [&[verb][..], if verb == "inspect" { &[] } else { &named[..] }].concat();
        machine.run(words).success().stdout.clone()
    };
    for verb in ["explain", "inspect"] {
        for stage in ["base of acme/app", "build of acme/worker"] {
            assert!(text(verb).contains(&format!("stage {stage}")), "{}", text(verb));
        }
    }
    let key = text("key");
    machine.project.write("worker/job", "another\n");
    assert!(!text("explain").contains("miss  line 2"), "{}", text("explain"));
    assert!(text("explain").contains("`job`"), "{}", text("explain"));
    assert_ne!(key.lines().next(), text("key").lines().next());
    // Base, build and last stage of app, the base of which worker shares.
    assert_eq!(key.lines().rev().take(4).collect::<Vec<_>>(), {
        let new = text("key");
        new.lines().rev().take(4).map(str::to_owned).collect::<Vec<_>>()
    });
    machine.project.write("worker/job", "job\n");

    machine.replace_without_cache();
    machine.run(["restore", "--strict", "--archive", &file]).success();
    for image in ["app", "worker"] {
        build(&machine, image).assert_all_cached();
    }
    machine.save();
}

#[test]
fn plain_builds_go_through_one_file_28_5() {
    plain_builds_go_through_one_file(Builder::Buildkit(Generation::V28_5));
}

#[test]
fn plain_builds_go_through_one_file_28_5_containerd() {
    plain_builds_go_through_one_file(Builder::Buildkit(Generation::V28_5Containerd));
}
