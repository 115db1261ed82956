//! Twenty generations of edits, each saved and restored on a machine that starts empty: the
//! archive is always what a first save of the last build would have written, and no more.

use std::collections::BTreeSet;

use crate::harness::{Builder, Carried, Generation, Job, Project, noise};

const DOCKERFILE: &str = "\
FROM busybox:1 AS deps
WORKDIR /deps
COPY deps.txt .
RUN tac deps.txt > table

FROM busybox:1 AS build
WORKDIR /src
COPY --from=deps /deps/table .
COPY main.txt .
RUN cat table main.txt > program

FROM busybox:1
COPY --from=build /src/program /program
RUN wc -c < /program > /size
";
const CHECK: &str = "\
FROM busybox:1 AS check
COPY main.txt /main
RUN wc -l < /main > /lines

";
const FINAL: &str = "FROM busybox:1\nCOPY --from";
const MEASURE: &str = "RUN wc -c < /program > /size";
const COPY_LINES: &str = "COPY --from=check /lines /lines\n";

/// What a developer does, and the instructions that it touches directly.
type Edit = (&'static str, fn(&Project), &'static [&'static str]);

const EDITS: [Edit; 20] = [
    ("a source edit", |p| source(p, 2), &["COPY main.txt ."]),
    ("a dependency edit", |p| dependency(p, 2), &["COPY deps.txt ."]),
    (
        "an instruction changed",
        |p| p.edit("Dockerfile", "cat table main.txt", "cat main.txt table"),
        &["RUN cat main.txt table > program"],
    ),
    (
        "an instruction inserted",
        |p| p.edit("Dockerfile", "COPY main.txt .", "RUN echo more >> table\nCOPY main.txt ."),
        &["RUN echo more >> table"],
    ),
    ("a stage added", add_check, &["COPY main.txt /main", "COPY --from=check /lines /lines"]),
    ("a source edit of two stages", |p| source(p, 3), &["COPY main.txt .", "COPY main.txt /main"]),
    ("a stage renamed", |p| rename(p, "build", "compile"), &[]),
    ("back to the source before", |p| source(p, 2), &["COPY main.txt .", "COPY main.txt /main"]),
    ("back to the first dependency", |p| dependency(p, 1), &["COPY deps.txt ."]),
    ("a stage removed", remove_check, &[MEASURE]),
    (
        "an instruction removed",
        |p| p.edit("Dockerfile", "RUN echo more >> table\n", ""),
        &["COPY main.txt ."],
    ),
    ("the stage again", add_check, &["COPY main.txt /main", "COPY --from=check /lines /lines"]),
    (
        "the instruction as it was",
        |p| p.edit("Dockerfile", "cat main.txt table", "cat table main.txt"),
        &["RUN cat table main.txt > program"],
    ),
    ("a source edit", |p| source(p, 4), &["COPY main.txt .", "COPY main.txt /main"]),
    (
        "the last instruction changed",
        |p| p.edit("Dockerfile", MEASURE, "RUN wc -l < /program > /size"),
        &["RUN wc -l < /program > /size"],
    ),
    ("a dependency edit", |p| dependency(p, 3), &["COPY deps.txt ."]),
    (
        "a stage put on another",
        |p| p.edit("Dockerfile", FINAL, "FROM check\nCOPY --from"),
        &["COPY --from=compile /src/program /program"],
    ),
    ("back to an old source", |p| source(p, 3), &["COPY main.txt .", "COPY main.txt /main"]),
    (
        "a name for the last stage",
        |p| p.edit("Dockerfile", "FROM check\n", "FROM check AS app\n"),
        &[],
    ),
    ("a stage renamed back", |p| rename(p, "compile", "build"), &[]),
];

#[test]
fn buildkit_on_docker_28_5() {
    live_through_them(Builder::Buildkit(Generation::V28_5));
}

#[test]
fn buildkit_on_docker_28_5_containerd() {
    live_through_them(Builder::Buildkit(Generation::V28_5Containerd));
}

#[test]
fn classic_on_docker_28_5() {
    live_through_them(Builder::Classic(Generation::V28_5));
}

#[test]
fn classic_on_docker_20_10() {
    live_through_them(Builder::Classic(Generation::V20_10));
}

fn live_through_them(builder: Builder) {
    let carried = Carried::nothing();
    let project = Project::new(&[("Dockerfile", DOCKERFILE)]);
    source(&project, 1);
    dependency(&project, 1);
    let job = Job::new(builder);
    assert_eq!(job.build(&carried, &project).cached(), [""; 0]);
    job.save(&carried);

    for (number, (what, edit, touched)) in (1..).zip(EDITS) {
        eprintln!("generation {number}: {what}");
        edit(&project);
        job.replace();
        job.restore(&carried);
        let report = job.build(&carried, &project);
        let dockerfile = project.read("Dockerfile");
        assert_eq!(report.ran(), dependents(&dockerfile, touched), "generation {number}: {what}");
        job.save(&carried);
        carried.reader().assert_exact();
    }

    let archive = carried.reader();
    archive.assert_exact_for_skopeo();
    job.replace();
    job.restore(&carried);
    job.build(&carried, &project).assert_all_cached();
    assert!(!job.save(&carried).changed, "there was nothing to save");

    let first = Carried::nothing();
    job.replace();
    job.build(&first, &project);
    job.save(&first);
    let first = first.reader();
    assert_eq!(archive.stages(), first.stages());
    assert_eq!(archive.blobs().len(), first.blobs().len());
    let (aged, fresh) = (archive.bytes(), first.bytes());
    assert!(aged.abs_diff(fresh) * 50 <= fresh, "{aged} bytes, a first save has {fresh}");
    if builder.is_buildkit() {
        assert_eq!(archive.cache_records(), first.cache_records());
    }
}

fn source(project: &Project, version: u64) {
    project.write("main.txt", format!("version {version}\n"));
}

fn dependency(project: &Project, version: u64) {
    project.write("deps.txt", noise(version, 40));
}

fn add_check(project: &Project) {
    project.edit("Dockerfile", FINAL, &format!("{CHECK}{FINAL}"));
    project.edit("Dockerfile", MEASURE, &format!("{COPY_LINES}{MEASURE}"));
}

fn remove_check(project: &Project) {
    project.edit("Dockerfile", CHECK, "");
    project.edit("Dockerfile", COPY_LINES, "");
}

fn rename(project: &Project, from: &str, to: &str) {
    project.edit("Dockerfile", &format!("AS {from}\n"), &format!("AS {to}\n"));
    project.edit("Dockerfile", &format!("--from={from} "), &format!("--from={to} "));
}

/// The instructions that are touched, and all that follow from them, sorted.
fn dependents<'d>(dockerfile: &'d str, touched: &[&str]) -> Vec<&'d str> {
    let mut ran = Vec::new();
    let mut changed_stages = BTreeSet::new();
    let (mut stage, mut changed) = ("", false);
    for line in dockerfile.lines() {
        let words: Vec<_> = line.split(' ').collect();
        if words[0] == "FROM" {
            changed = changed_stages.contains(words[1]);
            stage = words.get(3).copied().unwrap_or_default();
            continue;
        }
        let source = words.get(1).and_then(|word| word.strip_prefix("--from="));
        changed |= touched.contains(&line) || source.is_some_and(|s| changed_stages.contains(s));
        if changed && !line.is_empty() {
            ran.push(line);
            changed_stages.insert(stage);
        }
    }
    ran.sort_unstable();
    ran
}
