//! The recipes of 2018, for the classic builder: save a tagged image with its history, or what a
//! build's log names.

use crate::harness::{Builder, Carried, Engine, Generation, Job, Project};

const DOCKERFILE: &str = "\
FROM busybox:1 AS build
WORKDIR /src
COPY main.txt .
RUN tr a-z A-Z < main.txt > program

FROM busybox:1
COPY --from=build /src/program /program
RUN wc -c < /program > /size
";
const LAST_STAGE: [&str; 2] =
    ["COPY --from=build /src/program /program", "RUN wc -c < /program > /size"];

#[test]
fn a_tagged_image_comes_back_with_its_history_on_20_10() {
    a_tagged_image_comes_back(Generation::V20_10);
}

#[test]
fn a_tagged_image_comes_back_with_its_history_on_28_5() {
    a_tagged_image_comes_back(Generation::V28_5);
}

fn a_tagged_image_comes_back(generation: Generation) {
    let carried = Carried::nothing();
    let project = project();
    let job = Job::new(Builder::Classic(generation));
    job.docker(["build", "-t", "app:1", "-t", "other", "."]).in_dir(project.path()).run().success();
    let id = job.engine.image_id("app:1");
    job.dockercache(&carried, ["save", "--image", "app:1"]).run().success();
    carried.reader().assert_exact();

    job.replace();
    job.restore(&carried);
    assert!(job.engine.image_ids().contains(&id));
    assert_eq!(tags(&job.engine), ["busybox:1"], "an archive names nothing on an engine");
    // Only this image's stage was saved: the stage before it runs again, with the same outcome.
    let report = job.build(&carried, &project);
    assert_eq!(report.cached(), LAST_STAGE);

    // The next generation goes by the same recipe.
    let file = carried.file("cache.tar");
    let words = ["save", "--image", "app", "--archive", file.to_str().unwrap()];
    job.dockercache(&carried, words).run().success();
    job.replace();
    job.restore(&carried);
    job.build(&carried, &project);
    // The user who loads the file himself has the tag.
    job.engine.wipe();
    job.engine.docker(["load", "--input", file.to_str().unwrap()]).run().success();
    assert!(tags(&job.engine).contains(&"app:latest".to_owned()));
}

#[test]
fn what_a_log_names_comes_back_with_every_stage_on_20_10() {
    what_a_log_names_comes_back(Generation::V20_10);
}

#[test]
fn what_a_log_names_comes_back_with_every_stage_on_28_5() {
    what_a_log_names_comes_back(Generation::V28_5);
}

fn what_a_log_names_comes_back(generation: Generation) {
    let project = project();
    for from_stdin in [false, true] {
        let carried = Carried::nothing();
        let job = Job::new(Builder::Classic(generation));
        let log = job.docker(["build", "-t", "app", "."]).in_dir(project.path()).run();
        let log = log.success().stdout.clone();
        let id = job.engine.image_id("app");
        if from_stdin {
            job.dockercache(&carried, ["save", "--from-log", "-"]).stdin(log).run().success();
        } else {
            std::fs::write(carried.file("log"), log).unwrap();
            let path = carried.file("log");
            let words = ["save", "--from-log", path.to_str().unwrap()];
            job.dockercache(&carried, words).run().success();
        }
        carried.reader().assert_exact();
        let (noted, _) = carried.reader().stages();
        assert_eq!(noted.into_iter().collect::<Vec<_>>(), ["build", "stage-1"]);

        job.replace();
        job.restore(&carried);
        assert_eq!(tags(&job.engine), ["busybox:1"]);
        job.build(&carried, &project).assert_all_cached();
        assert_eq!(job.engine.image_id("app"), id);
    }
}

#[test]
fn on_buildkit_they_say_why_they_cant_and_what_to_use() {
    for generation in [Generation::V20_10, Generation::V28_5, Generation::V28_5Containerd] {
        let carried = Carried::nothing();
        let project = project();
        let job = Job::new(Builder::Buildkit(generation));
        let build = job.docker(["build", "-t", "app", "."]).in_dir(project.path());
        let log = build.run().success().stderr.clone();
        for run in [
            job.dockercache(&carried, ["save", "--image", "app"]).run(),
            job.dockercache(&carried, ["save", "--from-log", "-"]).stdin(log).run(),
        ] {
            let said = &run.code(0).stderr;
            assert!(said.contains("BuildKit"), "{said}");
            assert!(said.contains("`dockercache build` and `dockercache save`"), "{said}");
        }
        assert!(!carried.archive().join("index.json").exists(), "an archive of nothing");
    }
}

#[test]
fn an_image_that_is_not_there_is_named() {
    let carried = Carried::nothing();
    let job = Job::new(Builder::Classic(Generation::V28_5));
    let run = job.dockercache(&carried, ["save", "--image", "absent:1"]).run();
    assert!(run.code(2).stderr.contains("`absent:1`"), "{run:?}");
}

fn project() -> Project {
    Project::new(&[("Dockerfile", DOCKERFILE), ("main.txt", "text\n")])
}

/// The tags of all images, sorted.
fn tags(engine: &Engine) -> Vec<String> {
    let format = "{{.Repository}}:{{.Tag}}";
    let run = engine.docker(["images", "--all", "--format", format]).run();
    let lines = run.success().stdout.lines().filter(|tag| !tag.contains("<none>"));
    let mut tags: Vec<_> = lines.map(str::to_owned).collect();
    tags.sort();
    tags
}
