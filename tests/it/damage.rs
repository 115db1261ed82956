//! A cache directory in which something is broken: what is bad is left out and reported, the
//! rest hits, and the user's build never fails.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::harness::{BUILD, Builder, Engine, Generation, Job, Machine};

const DOCKERFILE: &str = "\
FROM busybox:1 AS build
RUN head -c 3000000 /dev/urandom > /big
COPY input /input
RUN tr a-z A-Z < /input > /output

FROM busybox:1
RUN head -c 2000000 /dev/urandom > /final
COPY --from=build /output /output
RUN wc -c < /output > /size
";

/// The steps of the last stage: they need its first layer.
const LAST_STAGE: [&str; 3] = [
    "COPY --from=build /output /output",
    "RUN head -c 2000000 /dev/urandom > /final",
    "RUN wc -c < /output > /size",
];

#[test]
fn graph_driver() {
    let machine = saved(Job::new(Builder::Buildkit(Generation::V28_5)));
    let carried = &machine.carried;
    let good = carried.file("good");
    carried.copy_to(&good);

    // Each is left out, and said so; with --strict that is a failure.
    let manifest = |_: u64, text: &[u8]| contains(text, b"image.config.v1") && starts(text);
    let config = |_: u64, text: &[u8]| contains(text, b"\"rootfs\"") && starts(text);
    for is_it in [&final_layer as &dyn Fn(u64, &[u8]) -> bool, &big_layer, &manifest, &config] {
        for damage in [flip, truncate, remove] {
            carried.copy_from(&good);
            damage(&carried.blob(is_it));
            let run = machine.run(["restore", "--strict"]);
            assert!(run.code(1).stderr.contains("is left out"), "{}", run.stderr);
            machine.run(["restore"]).success();
            carried.assert_clean();
        }
    }
    // The cache's own records are made again from the images: everything hits.
    carried.copy_from(&good);
    flip(&carried.blob(records));
    assert!(machine.run(["restore"]).success().stderr.contains("is left out"));
    machine.replace();
    machine.run(BUILD).success().build_report().assert_all_cached();

    partial_hits(&machine, &good);

    broken_indexes(&machine, &good);
}

/// Such an engine makes the steps anew by itself, after it has tried to read the layer for minutes:
/// hence an engine of this test's own, beside which others go on.
#[test]
fn altered_after_the_check_on_a_graph_driver() {
    let own = Box::new(Engine::start(Generation::V28_5));
    let machine = saved(Job::on(own, Builder::Buildkit(Generation::V28_5)));
    machine.replace();
    machine.run(["restore"]).success();
    flip_unseen(&machine.carried.blob(final_layer));
    machine.run(BUILD).success();
}

#[test]
fn containerd_store() {
    let machine = saved(Job::new(Builder::Buildkit(Generation::V28_5Containerd)));
    let carried = &machine.carried;
    let good = carried.file("good");
    carried.copy_to(&good);

    // The merged records are made again from those of the stages: everything hits.
    flip(&carried.blob(records));
    let run = machine.run(["restore", "--strict"]);
    assert!(run.code(1).stderr.contains("is left out"));
    machine.replace();
    machine.run(BUILD).success().build_report().assert_all_cached();

    partial_hits(&machine, &good);

    // This builder fails on a layer that was altered behind our back, so it is run once more.
    carried.copy_from(&good);
    machine.replace();
    machine.run(["restore"]).success();
    flip_unseen(&carried.blob(final_layer));
    let run = machine.run(BUILD);
    assert!(run.success().stderr.contains("it runs again without"), "{}", run.stderr);

    // An instruction that fails is the user's own affair, whatever it prints.
    let failing = "RUN echo ERROR: failed to copy: blob sha256:0 content store; exit 3\n";
    machine.project.write("Dockerfile", format!("{DOCKERFILE}{failing}"));
    let run = machine.run(BUILD);
    assert!(!run.code(1).stderr.contains("it runs again without"), "{}", run.stderr);
}

/// A bad layer of the last stage costs that stage; one that only the first stage has costs
/// nothing, since nobody needs it. `build` finds out by itself, without `restore`.
fn partial_hits(machine: &Machine, good: &Path) {
    let carried = &machine.carried;
    carried.copy_from(good);
    truncate(&carried.blob(final_layer));
    machine.replace();
    let run = machine.run(BUILD);
    assert!(run.success().stderr.contains("is left out"), "{}", run.stderr);
    assert_eq!(run.build_report().ran(), LAST_STAGE);
    assert_eq!(run.build_report().cached().len(), 3, "{:?}", run.build_report());

    carried.copy_from(good);
    remove(&carried.blob(big_layer));
    machine.replace();
    machine.run(BUILD).success().build_report().assert_all_cached();
}

fn broken_indexes(machine: &Machine, good: &Path) {
    let carried = &machine.carried;
    let deep = [b"[".repeat(1 << 20), b"]".repeat(1 << 20)].concat();
    let whole = fs::read(good.join("index.json")).expect("an index");
    let half = whole[..whole.len() / 2].to_vec();
    for bytes in [b"".to_vec(), b"no JSON".to_vec(), b"{\"manifests\":7}".to_vec(), deep, half] {
        carried.copy_from(good);
        fs::write(carried.archive().join("index.json"), &bytes).expect("a broken index");
        let run = machine.run(["restore"]);
        assert!(run.code(3).stderr.contains("index.json is not an OCI index"), "{}", run.stderr);
    }
    let run = machine.run(BUILD);
    assert!(run.success().stderr.contains("the build runs without cache"), "{}", run.stderr);

    // A file of 1 GiB is refused without being read.
    let index = fs::File::create(carried.archive().join("index.json")).expect("an index");
    index.set_len(1 << 30).expect("a sparse file");
    let run = machine.run(["restore"]);
    assert!(run.code(3).stderr.contains("larger than"), "{}", run.stderr);

    // A later version's archive is none of ours to judge.
    carried.copy_from(good);
    let index = String::from_utf8(whole).expect("UTF-8");
    assert!(index.contains(r#"\"format\":1"#), "{index}");
    let newer = index.replace(r#"\"format\":1"#, r#"\"format\":99"#);
    fs::write(carried.archive().join("index.json"), newer).expect("an index");
    assert!(machine.run(["restore"]).success().stderr.contains("newer dockercache"));
    machine.run(["restore", "--strict"]).code(1);
}

fn saved(job: Job) -> Machine {
    let machine = Machine::with(job, &[("Dockerfile", DOCKERFILE), ("input", "text")]);
    machine.run(BUILD).success();
    machine.run(["save"]).success();
    machine.carried.assert_clean();
    machine
}

fn final_layer(size: u64, _: &[u8]) -> bool {
    (2_000_000..2_050_000).contains(&size)
}

fn big_layer(size: u64, _: &[u8]) -> bool {
    (3_000_000..3_050_000).contains(&size)
}

fn records(_: u64, text: &[u8]) -> bool {
    text.starts_with(b"{\"layers\"")
}

fn starts(text: &[u8]) -> bool {
    text.starts_with(b"{")
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn flip(blob: &Path) {
    let file = fs::File::options().read(true).write(true).open(blob).expect("a blob");
    let middle = file.metadata().expect("a blob").len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, middle).expect("a byte");
    file.write_all_at(&[byte[0] ^ 1], middle).expect("a byte");
}

/// Flips a bit and leaves the times as they were.
fn flip_unseen(blob: &Path) {
    let modified = fs::metadata(blob).expect("a blob").modified().expect("a time");
    flip(blob);
    let file = fs::File::options().write(true).open(blob).expect("a blob");
    file.set_modified(modified).expect("a time");
}

fn truncate(blob: &Path) {
    let file = fs::File::options().write(true).open(blob).expect("a blob");
    file.set_len(file.metadata().expect("a blob").len() / 2).expect("a shorter file");
}

fn remove(blob: &Path) {
    fs::remove_file(blob).expect("no blob");
}
