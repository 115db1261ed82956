//! An archive that was made on one engine is offered to another: it hits fully where that is
//! possible, and is otherwise a miss that says why. No build is ever broken by it.

use serde_json::Value;

use crate::harness::{Builder, Carried, Generation, Job, Project};

const DOCKERFILE: &str = "\
FROM busybox:1 AS build
WORKDIR /src
COPY main.txt .
RUN tr a-z A-Z < main.txt > program

FROM busybox:1
COPY --from=build /src/program /program
RUN wc -c < /program > /size
";

#[test]
fn from_28_5_to_26_1() {
    hits_fully(Generation::V28_5, Generation::V26_1);
}

#[test]
fn from_28_5_to_its_containerd_store() {
    hits_fully(Generation::V28_5, Generation::V28_5Containerd);
}

#[test]
fn from_26_1_to_28_5() {
    hits_fully(Generation::V26_1, Generation::V28_5);
}

#[test]
fn from_the_containerd_store_to_28_5() {
    hits_fully(Generation::V28_5Containerd, Generation::V28_5);
}

/// 20.10 makes other keys for some steps: the rest hits, and the save after is of the new engine.
#[test]
fn from_20_10_to_28_5() {
    let (carried, project) = made_on(Builder::Buildkit(Generation::V20_10));
    let job = Job::new(Builder::Buildkit(Generation::V28_5));
    job.restore(&carried);
    let report = job.build(&carried, &project);
    assert!(!report.cached().is_empty(), "{report:?}");
    save_and_hit(&job, &carried, &project);
}

#[test]
fn a_cache_that_20_10_would_fail_on_is_a_miss_there() {
    let (carried, project) = made_on(Builder::Buildkit(Generation::V28_5));
    misses(Builder::Buildkit(Generation::V20_10), &carried, &project, "zstd");
}

#[test]
fn what_the_containerd_store_exported_breaks_no_build_on_20_10() {
    let (carried, project) = made_on(Builder::Buildkit(Generation::V28_5Containerd));
    let job = Job::new(Builder::Buildkit(Generation::V20_10));
    job.dockercache(&carried, ["restore"]).run().success();
    job.build(&carried, &project);
    save_and_hit(&job, &carried, &project);
}

#[test]
fn the_cache_of_one_builder_is_a_miss_for_the_other() {
    let classic = Builder::Classic(Generation::V28_5);
    let buildkit = Builder::Buildkit(Generation::V28_5);
    let containerd = Builder::Buildkit(Generation::V28_5Containerd);
    for (from, to, reason) in [
        (classic, buildkit, "images of the classic builder"),
        (containerd, classic, "BuildKit's cache"),
        (buildkit, classic, "BuildKit's cache"),
    ] {
        let (carried, project) = made_on(from);
        misses(to, &carried, &project, reason);
    }
}

/// The two generations digest what `COPY` copies in different ways: the steps before it hit.
#[test]
fn images_of_the_classic_builder_break_no_build_of_another_generation() {
    for (from, to) in
        [(Generation::V20_10, Generation::V28_5), (Generation::V28_5, Generation::V20_10)]
    {
        let (carried, project) = made_on(Builder::Classic(from));
        let job = Job::new(Builder::Classic(to));
        job.replace();
        job.restore(&carried);
        let report = job.build(&carried, &project);
        assert!(report.cached().contains(&"WORKDIR /src"), "{report:?}");
        save_and_hit(&job, &carried, &project);
    }
}

fn hits_fully(from: Generation, to: Generation) {
    let (carried, project) = made_on(Builder::Buildkit(from));
    let job = Job::new(Builder::Buildkit(to));
    job.restore(&carried);
    job.build(&carried, &project).assert_all_cached();
    save_and_hit(&job, &carried, &project);
}

fn misses(builder: Builder, carried: &Carried, project: &Project, reason: &str) {
    let job = Job::new(builder);
    let restored: Value = job.dockercache(carried, ["restore", "--format", "json"]).run().json();
    assert_eq!(restored["hit"], false, "{restored}");
    assert!(restored["reason"].as_str().is_some_and(|r| r.contains(reason)), "{restored}");
    assert_eq!(job.build(carried, project).cached(), [""; 0]);
    save_and_hit(&job, carried, project);
}

/// The save after the move leaves an archive that is whole, and hits where it was made.
fn save_and_hit(job: &Job, carried: &Carried, project: &Project) {
    job.save(carried);
    carried.reader().assert_exact();
    job.replace();
    job.restore(carried);
    job.build(carried, project).assert_all_cached();
}

fn made_on(builder: Builder) -> (Carried, Project) {
    let carried = Carried::nothing();
    let project = Project::new(&[("Dockerfile", DOCKERFILE), ("main.txt", "text\n")]);
    let job = Job::new(builder);
    job.build(&carried, &project);
    job.save(&carried);
    (carried, project)
}
