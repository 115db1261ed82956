//! Other programs read what we write: `docker load` the one-file form, skopeo the directory.

use std::fs;
use std::path::Path;

use crate::harness::{Builder, Carried, Engine, Generation, Job, Project, skopeo};

const DOCKERFILE: &str = "\
FROM busybox:1 AS deps
COPY deps.txt /deps
RUN tr a-z A-Z < /deps > /table

FROM deps AS build
COPY main.txt /main
RUN cat /table /main > /program

FROM busybox:1
COPY --from=build /program /program
RUN wc -l < /program > /lines
";
/// A file of each stage's image, and what is in it.
const STAGES: [(&str, &str, &str); 3] = [
    ("deps", "/table", "DEPS\n"),
    ("build", "/program", "DEPS\nmain\n"),
    ("stage-2", "/lines", "2\n"),
];
const FILES: [&str; 3] = ["cache.tar", "cache.tar.gz", "cache.tar.zst"];

#[test]
fn docker_load_reads_the_file_of_buildkit_28_5() {
    every_engine_loads_what_is_made_on(Builder::Buildkit(Generation::V28_5));
}

#[test]
fn docker_load_reads_the_file_of_classic_28_5() {
    every_engine_loads_what_is_made_on(Builder::Classic(Generation::V28_5));
}

#[test]
fn docker_load_reads_the_file_of_buildkit_20_10() {
    every_engine_loads_what_is_made_on(Builder::Buildkit(Generation::V20_10));
}

#[test]
fn docker_load_reads_the_file_of_classic_20_10() {
    every_engine_loads_what_is_made_on(Builder::Classic(Generation::V20_10));
}

fn every_engine_loads_what_is_made_on(builder: Builder) {
    let carried = Carried::nothing();
    make_files(builder, &carried, &FILES);
    for loader in [Generation::V20_10, Generation::V28_5, Generation::V28_5Containerd] {
        let engine = Engine::shared(loader);
        for file in FILES {
            engine.wipe();
            load(&engine, &carried.file(file));
            for (stage, path, content) in STAGES {
                assert_runs(&engine, &format!("dockercache:{stage}"), path, content);
            }
        }
    }
}

#[test]
fn skopeo_reads_every_stage_of_the_directory_and_makes_an_image_to_load_of_it() {
    let carried = Carried::nothing();
    make_files(Builder::Buildkit(Generation::V28_5), &carried, &[]);
    carried.reader().assert_exact_for_skopeo();
    let engine = Engine::shared(Generation::V28_5);
    for (stage, path, content) in STAGES {
        let source = format!("oci:{}:{stage}", carried.archive().display());
        let inspected: serde_json::Value = skopeo(["inspect", &source]).run().json();
        assert_eq!(inspected["Os"], "linux");
        let file = carried.file("skopeo.tar");
        let image = format!("from-skopeo:{stage}");
        let target = format!("docker-archive:{}:{image}", file.display());
        skopeo(["copy", "--quiet", &source, &target]).run().success();
        load(&engine, &file);
        assert_runs(&engine, &image, path, content);
        fs::remove_file(file).unwrap();
    }
}

#[test]
fn a_file_brings_the_whole_cache_back_on_28_5() {
    one_file_is_enough(Builder::Buildkit(Generation::V28_5), &FILES);
}

#[test]
fn a_file_brings_the_whole_cache_back_on_28_5_containerd() {
    one_file_is_enough(Builder::Buildkit(Generation::V28_5Containerd), &FILES);
}

#[test]
fn a_file_brings_the_whole_cache_back_on_classic_28_5() {
    one_file_is_enough(Builder::Classic(Generation::V28_5), &["cache.tar.zst"]);
}

#[test]
fn a_file_brings_the_whole_cache_back_on_20_10() {
    one_file_is_enough(Builder::Classic(Generation::V20_10), &["cache.tar.gz"]);
    one_file_is_enough(Builder::Buildkit(Generation::V20_10), &["cache.tar.zst"]);
}

fn one_file_is_enough(builder: Builder, files: &[&str]) {
    let carried = Carried::nothing();
    let (job, project) = make_files(builder, &carried, files);
    for file in files {
        carried.forget();
        job.replace();
        let path = carried.file(file);
        let words = ["restore", "--strict", "--archive", path.to_str().unwrap()];
        job.dockercache(&carried, words).run().success();
        carried.reader().assert_exact();
        job.build(&carried, &project).assert_all_cached();
        assert!(!job.save(&carried).changed, "there was nothing to save");
    }
}

/// Builds and saves, the one-file forms too.
fn make_files(builder: Builder, carried: &Carried, files: &[&str]) -> (Job, Project) {
    let project =
        Project::new(&[("Dockerfile", DOCKERFILE), ("deps.txt", "deps\n"), ("main.txt", "main\n")]);
    let job = Job::new(builder);
    job.build(carried, &project);
    job.save(carried);
    for file in files {
        let path = carried.file(file);
        let save = job.dockercache(carried, ["save", "--archive", path.to_str().unwrap()]);
        save.run().success();
    }
    (job, project)
}

/// `docker load --input`. Docker 20.10 knows no zstd: there it is `zstd -dc FILE | docker load`.
fn load(engine: &Engine, file: &Path) {
    let words = ["load", "--input", file.to_str().unwrap()];
    let is_zstd = file.extension().is_some_and(|e| e == "zst");
    if is_zstd && engine.generation() == Generation::V20_10 {
        engine.docker(words).run().code(1);
        let tar = zstd::decode_all(fs::File::open(file).unwrap()).unwrap();
        engine.docker(["load"]).stdin(tar).run().success();
    } else {
        engine.docker(words).run().success();
    }
}

fn assert_runs(engine: &Engine, image: &str, path: &str, content: &str) {
    let run = engine.docker(["run", "--rm", image, "cat", path]).run();
    assert_eq!(run.success().stdout, content, "{image}");
}
