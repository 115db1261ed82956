//! `dockercache prune` on directories that buildx wrote: it never deletes a blob by itself.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use crate::harness::{
    BuildReport, Builder, Carried, Generation, Job, OciDirectory, Project, noise,
};

const DOCKERFILE: &str = "\
FROM busybox:1 AS build
WORKDIR /src
COPY deps.txt .
RUN tac deps.txt > table
COPY main.txt .
RUN cat table main.txt > program

FROM busybox:1
COPY --from=build /src/program /program
";

#[test]
fn after_ten_exports_what_buildx_left_behind_goes_and_the_rest_still_hits() {
    let carried = Carried::nothing();
    let dirs = ["manifest", "index", "tags"];
    let project = Project::new(&[("Dockerfile", DOCKERFILE)]);
    let job = Job::new(Builder::Buildkit(Generation::V28_5Containerd));
    for round in 0..10 {
        project.write("main.txt", format!("round {round}\n"));
        project.write("deps.txt", noise(round / 3, 40));
        let tag = ["main", "feature"][usize::try_from(round % 2).unwrap()];
        let options = [",image-manifest=true", ",image-manifest=false", &format!(",tag={tag}")];
        // One by one: buildx notes one and the same manifest for all exports of a build.
        for (dir, option) in dirs.iter().zip(options) {
            let dir = carried.file(dir);
            let export = format!("--cache-to=type=local,mode=max,dest={}{option}", dir.display());
            buildx(&job, &project, [export.as_str()]);
        }
    }

    for dir in dirs {
        let cache = OciDirectory::at(carried.file(dir));
        let (all, live) = (cache.blobs(), cache.reachable());
        assert!(all.len() > live.len(), "buildx deleted by itself what it no longer needs");
        let pruned = prune(&job, &carried, cache.path());
        assert_eq!(pruned["live_blobs"], live.len());
        assert_eq!(pruned["live_bytes"], live.values().sum::<u64>());
        assert_eq!(pruned["dropped_blobs"], all.len() - live.len());
        assert_eq!(cache.reachable(), live, "something else is live now");
        cache.assert_exact();

        let before = files(cache.path());
        assert_eq!(prune(&job, &carried, cache.path())["dropped_blobs"], 0);
        assert_eq!(files(cache.path()), before, "a second prune changed something");
    }

    for (dir, option) in [("manifest", ""), ("index", ""), ("tags", ",tag=feature")] {
        job.replace();
        let import = format!("--cache-from=type=local,src={}{option}", carried.file(dir).display());
        buildx(&job, &project, [import.as_str()]).assert_all_cached();
    }
    project.write("main.txt", "round 8\n");
    project.write("deps.txt", noise(8 / 3, 40));
    job.replace();
    let import = format!("--cache-from=type=local,src={},tag=main", carried.file("tags").display());
    buildx(&job, &project, [import.as_str()]).assert_all_cached();
}

#[test]
fn nothing_is_deleted_while_a_document_is_unreadable() {
    let carried = Carried::nothing();
    let project = Project::new(&[("Dockerfile", DOCKERFILE), ("main.txt", "one\n")]);
    project.write("deps.txt", noise(1, 4));
    let job = Job::new(Builder::Buildkit(Generation::V28_5Containerd));
    let dir = carried.file("cache");
    let export = format!("--cache-to=type=local,mode=max,dest={}", dir.display());
    buildx(&job, &project, [export.as_str()]);
    project.write("main.txt", "two\n");
    buildx(&job, &project, [export.as_str()]);

    let cache = OciDirectory::at(dir.clone());
    let latest = cache.tags()["latest"]["digest"].as_str().unwrap().replace("sha256:", "");
    let manifest = dir.join("blobs/sha256").join(latest);
    let whole = fs::read(&manifest).unwrap();
    let index = fs::read(dir.join("index.json")).unwrap();
    for (path, damage) in [
        (&manifest, Some(&whole[..whole.len() / 2])),
        (&manifest, Some(b"".as_slice())),
        (&manifest, None),
        (&dir.join("index.json"), Some(&index[..index.len() / 2])),
    ] {
        match damage {
            Some(bytes) => fs::write(path, bytes).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
        let before = files(&dir);
        let prune = job.dockercache(&carried, ["prune", dir.to_str().unwrap()]).run();
        assert!(prune.code(3).stderr.contains("error: "), "{prune:?}");
        assert_eq!(files(&dir), before, "something was deleted");
        fs::write(&manifest, &whole).unwrap();
        fs::write(dir.join("index.json"), &index).unwrap();
    }
    prune(&job, &carried, &dir);
    cache.assert_exact();
}

fn buildx<'a>(
    job: &Job,
    project: &Project,
    flags: impl IntoIterator<Item = &'a str>,
) -> BuildReport {
    let words = ["buildx", "build", "--provenance=false", "--output=type=cacheonly"];
    let run = job.docker(words.into_iter().chain(flags).chain(["."])).in_dir(project.path());
    run.run().success().build_report()
}

fn prune(job: &Job, carried: &Carried, dir: &Path) -> serde_json::Value {
    let words = ["prune", "--format", "json", dir.to_str().unwrap()];
    job.dockercache(carried, words).run().json()
}

/// The files of a layout, their sizes and times; lock files are no content.
fn files(dir: &Path) -> Vec<(String, u64, SystemTime)> {
    let mut files = Vec::new();
    for dir in [dir.to_owned(), dir.join("blobs/sha256")] {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            let is_lock = entry.path().extension().is_some_and(|e| e == "lock");
            if meta.is_file() && !is_lock {
                let name = entry.file_name().into_string().unwrap();
                files.push((name, meta.len(), meta.modified().unwrap()));
            }
        }
    }
    files.sort();
    files
}
