//! A cache directory in which something is broken: what is bad is left out and reported, the
//! rest hits, and the user's build never fails.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::harness::{Cache, Engine, Generation, Project};

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
    let engine = Engine::shared(Generation::V28_5);
    let (cache, project) = saved(&engine);
    let good = cache.beside("good");
    cache.copy_to(&good);

    // Each is left out, and said so; with --strict that is a failure.
    let manifest = |_: u64, text: &[u8]| contains(text, b"image.config.v1") && starts(text);
    let config = |_: u64, text: &[u8]| contains(text, b"\"rootfs\"") && starts(text);
    for is_it in [&final_layer as &dyn Fn(u64, &[u8]) -> bool, &big_layer, &manifest, &config] {
        for damage in [flip, truncate, remove] {
            cache.copy_from(&good);
            damage(&cache.blob(is_it));
            let run = cache.command(&engine, ["restore", "--strict"]).run();
            assert!(run.code(1).stderr.contains("is left out"), "{}", run.stderr);
            cache.restore(&engine).success();
            cache.assert_clean();
        }
    }
    // The cache's own records are made again from the images: everything hits.
    cache.copy_from(&good);
    flip(&cache.blob(records));
    assert!(cache.restore(&engine).success().stderr.contains("is left out"));
    fresh(&engine);
    cache.build(&engine, &project).success().build_report().assert_all_cached();

    partial_hits(&engine, &cache, &project, &good);

    broken_indexes(&engine, &cache, &project, &good);
}

/// Such an engine makes the steps anew by itself, after it has tried to read the layer for minutes:
/// hence an engine of this test's own, beside which others go on.
#[test]
fn altered_after_the_check_on_a_graph_driver() {
    let engine = Engine::start(Generation::V28_5);
    let (cache, project) = saved(&engine);
    fresh(&engine);
    cache.restore(&engine).success();
    flip_unseen(&cache.blob(final_layer));
    cache.build(&engine, &project).success();
}

#[test]
fn containerd_store() {
    let engine = Engine::shared(Generation::V28_5Containerd);
    let (cache, project) = saved(&engine);
    let good = cache.beside("good");
    cache.copy_to(&good);

    // Here the records can't be made again: a miss, but no more than that.
    flip(&cache.blob(records));
    let run = cache.command(&engine, ["restore", "--strict"]).run();
    assert!(run.code(1).stderr.contains("is left out"));
    assert!(cache.restore(&engine).success().stderr.contains("miss"));

    partial_hits(&engine, &cache, &project, &good);

    // This builder fails on a layer that was altered behind our back, so it is run once more.
    cache.copy_from(&good);
    fresh(&engine);
    cache.restore(&engine).success();
    flip_unseen(&cache.blob(final_layer));
    let run = cache.build(&engine, &project);
    assert!(run.success().stderr.contains("it runs again without"), "{}", run.stderr);

    // An instruction that fails is the user's own affair, whatever it prints.
    let failing = "RUN echo ERROR: failed to copy: blob sha256:0 content store; exit 3\n";
    project.write("Dockerfile", format!("{DOCKERFILE}{failing}"));
    let run = cache.build(&engine, &project);
    assert!(!run.code(1).stderr.contains("it runs again without"), "{}", run.stderr);
}

/// A bad layer of the last stage costs that stage; one that only the first stage has costs
/// nothing, since nobody needs it. `build` finds out by itself, without `restore`.
fn partial_hits(engine: &Engine, cache: &Cache, project: &Project, good: &Path) {
    cache.copy_from(good);
    truncate(&cache.blob(final_layer));
    fresh(engine);
    let run = cache.build(engine, project);
    assert!(run.success().stderr.contains("is left out"), "{}", run.stderr);
    assert_eq!(run.build_report().ran(), LAST_STAGE);
    assert_eq!(run.build_report().cached().len(), 3, "{:?}", run.build_report());

    cache.copy_from(good);
    remove(&cache.blob(big_layer));
    fresh(engine);
    cache.build(engine, project).success().build_report().assert_all_cached();
}

fn broken_indexes(engine: &Engine, cache: &Cache, project: &Project, good: &Path) {
    let deep = [b"[".repeat(1 << 20), b"]".repeat(1 << 20)].concat();
    let whole = fs::read(good.join("index.json")).expect("an index");
    let half = whole[..whole.len() / 2].to_vec();
    for bytes in [b"".to_vec(), b"no JSON".to_vec(), b"{\"manifests\":7}".to_vec(), deep, half] {
        cache.copy_from(good);
        fs::write(cache.path().join("index.json"), &bytes).expect("a broken index");
        let run = cache.restore(engine);
        assert!(run.code(3).stderr.contains("index.json is not an OCI index"), "{}", run.stderr);
    }
    let run = cache.build(engine, project);
    assert!(run.success().stderr.contains("the build runs without cache"), "{}", run.stderr);

    // A file of 1 GiB is refused without being read.
    let index = fs::File::create(cache.path().join("index.json")).expect("an index");
    index.set_len(1 << 30).expect("a sparse file");
    let run = cache.restore(engine);
    assert!(run.code(3).stderr.contains("larger than"), "{}", run.stderr);

    // A later version's archive is none of ours to judge.
    cache.copy_from(good);
    let index = String::from_utf8(whole).expect("UTF-8");
    assert!(index.contains(r#"\"format\":1"#), "{index}");
    let newer = index.replace(r#"\"format\":1"#, r#"\"format\":99"#);
    fs::write(cache.path().join("index.json"), newer).expect("an index");
    assert!(cache.restore(engine).success().stderr.contains("newer dockercache"));
    cache.command(engine, ["restore", "--strict"]).run().code(1);
}

fn saved(engine: &Engine) -> (Cache, Project) {
    engine.base_image(&["busybox:1"]);
    let cache = Cache::new();
    let project = Project::new(&[("Dockerfile", DOCKERFILE), ("input", "text")]);
    cache.build(engine, &project).success();
    cache.save(engine).success();
    cache.assert_clean();
    (cache, project)
}

fn fresh(engine: &Engine) {
    engine.wipe();
    engine.base_image(&["busybox:1"]);
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
