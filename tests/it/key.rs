//! `key`: what it prints, and what makes it print something else.

use std::fs;

use crate::harness::{
    Access, Builder, Engine, Generation, Project, RegistryServer, RegistrySettings, Server as _,
    dockercache,
};

const DOCKERFILE: &str =
    "FROM base:1 AS build\nCOPY src /src\nFROM base:1\nCOPY --from=build /src /app\n";

fn project() -> Project {
    let files = [("Dockerfile", DOCKERFILE), ("src/a", "a"), ("src/b", "b"), ("other", "")];
    Project::new(&files)
}

/// The lines that `key` prints, and its messages.
fn key(engine: &Engine, project: &Project, words: &[&str]) -> (Vec<String>, String) {
    let words = [&["key"], words, &["."]].concat();
    let run = dockercache(engine, words).in_dir(project.path()).run();
    (run.success().stdout.lines().map(str::to_owned).collect(), run.stderr)
}

/// Makes an image under a tag, with these lines on top of the same layers.
fn image(engine: &Engine, tag: &str, lines: &str) {
    let dockerfile = format!("FROM busybox:1\n{lines}\n");
    engine.docker(["build", "--tag", tag, "-"]).stdin(dockerfile).run().success();
}

#[test]
fn a_base_counts_by_its_name_or_by_what_it_is() {
    let engine = Engine::shared(Generation::V28_5);
    engine.base_image(&["busybox:1"]);
    let project = project();
    image(&engine, "base:1", "RUN echo 1 > /one");
    let named = key(&engine, &project, &[]).0;
    let resolved = key(&engine, &project, &["--resolve-base"]).0;
    assert_ne!(named[0], resolved[0]);

    // A label changes no layer: the builder hits, and the key stays.
    image(&engine, "base:1", "RUN echo 1 > /one\nLABEL a=b");
    assert_eq!(key(&engine, &project, &["--resolve-base"]).0, resolved);
    image(&engine, "base:1", "RUN echo 2 > /one");
    assert_ne!(key(&engine, &project, &["--resolve-base"]).0[0], resolved[0]);
    assert_eq!(key(&engine, &project, &[]).0, named);
}

#[test]
fn a_base_that_nobody_knows_counts_by_its_name() {
    let engine = Engine::shared(Generation::V28_5);
    let project = project();
    project.edit("Dockerfile", "FROM base:1 AS", "FROM localhost:1/none:1 AS");
    project.edit("Dockerfile", "FROM base:1\n", "FROM localhost:1/none:1\n");
    let (resolved, messages) = key(&engine, &project, &["--resolve-base"]);
    assert!(messages.contains("warning: `localhost:1/none:1` counts by its name"), "{messages}");
    assert_eq!(resolved, key(&engine, &project, &[]).0);
}

#[test]
fn the_triggers_of_a_base_count_by_what_it_is() {
    let engine = Engine::shared(Generation::V28_5);
    engine.base_image(&["busybox:1"]);
    image(&engine, "base:1", "ONBUILD COPY other /other");
    let project = project();
    let inputs = |words: &[&str]| key(&engine, &project, &[&["--list-inputs"], words].concat()).0;
    assert_eq!(inputs(&[]), ["src", "src/a", "src/b"]);
    assert_eq!(inputs(&["--resolve-base"]), ["other", "src", "src/a", "src/b"]);
}

/// A job asks for keys before its build, on an empty engine, and again when it saves. Between them
/// the build has pulled the base.
fn a_pull_changes_no_key(builder: Builder) {
    let engine = Engine::shared(builder.generation());
    let registry =
        RegistryServer::start(RegistrySettings { access: Access::Public, ..Default::default() });
    let base = format!("{}/base:1", registry.address());
    engine.base_image(&["busybox:1"]);
    image(
        &engine,
        &base,
        "ENV A=src\nWORKDIR /w\nSHELL [\"/bin/sh\",\"-e\"]\nUSER 1\nONBUILD COPY other /other",
    );
    engine.docker(["push", &base]).run().success();
    engine.wipe();

    let project = project();
    let dockerfile = DOCKERFILE.replace("base:1", &base).replace("COPY src", "RUN x\nCOPY $A");
    project.write("Dockerfile", &dockerfile);
    let keys = |words: &[&str]| {
        let words = [&["key"], words, &["."]].concat();
        let run = builder.choose(dockercache(&engine, words)).in_dir(project.path()).run();
        assert!(!run.success().stderr.contains("warning"), "{run:?}");
        run.stdout
    };
    let before = (keys(&[]), keys(&["--resolve-base"]));
    assert_ne!(before.0, before.1);
    let inputs = keys(&["--resolve-base", "--list-inputs"]);
    assert_eq!(inputs.lines().collect::<Vec<_>>(), ["other", "src", "src/a", "src/b"]);
    engine.docker(["pull", &base]).run().success();
    assert_eq!((keys(&[]), keys(&["--resolve-base"])), before);
}

#[test]
fn a_pull_changes_no_key_of_docker_28_5() {
    a_pull_changes_no_key(Builder::Buildkit(Generation::V28_5));
}

#[test]
fn a_pull_changes_no_key_of_docker_28_5_containerd() {
    a_pull_changes_no_key(Builder::Buildkit(Generation::V28_5Containerd));
}

#[test]
fn a_pull_changes_no_key_of_docker_28_5_classic() {
    a_pull_changes_no_key(Builder::Classic(Generation::V28_5));
}

#[test]
fn each_output_names_the_same_keys() {
    let engine = Engine::shared(Generation::V28_5);
    let project = project();
    let (keys, _) = key(&engine, &project, &["--project", "app"]);
    assert_eq!(keys.len(), 4, "{keys:?}");
    assert!(keys.windows(2).all(|pair| pair[0].starts_with(&pair[1])), "{keys:?}");
    let env = key(&engine, &project, &["--project", "app", "--format", "env"]).0;
    assert_eq!(env[0], format!("DOCKERCACHE_KEY='{}'", keys[0]));
    assert_eq!(env[1], format!("DOCKERCACHE_RESTORE_KEYS='{}'", keys[1..].join(" ")));
    let github = key(&engine, &project, &["--project", "app", "--format", "github"]).0;
    assert_eq!(github[0], format!("key={}", keys[0]));
    assert_eq!(github[2..5], keys[1..]);

    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_str().expect("a path in UTF-8");
    key(&engine, &project, &["--project", "app", "--write", path]);
    let level = |n: usize| fs::read_to_string(dir.path().join(format!("level-{n}"))).unwrap();
    assert_eq!((1..=4).map(level).collect::<Vec<_>>(), keys);
    assert!((5..=8).all(|n| level(n) == keys[3]), "every level's file exists");
}

#[test]
fn salt_and_age_change_every_level() {
    let engine = Engine::shared(Generation::V28_5);
    let project = project();
    let plain = key(&engine, &project, &[]).0;
    for option in [["--salt", "x"], ["--max-age", "7d"]] {
        let other = key(&engine, &project, &option).0;
        assert!(other.iter().all(|key| !plain.contains(key)), "{option:?}");
        assert_eq!(key(&engine, &project, &option).0, other);
    }
    let run = dockercache(&engine, ["key", "--max-age", "soon", "."]).in_dir(project.path()).run();
    assert!(run.code(2).stderr.contains("`soon` is no time"), "{run:?}");
}

#[test]
fn only_what_an_instruction_sees_counts() {
    let engine = Engine::shared(Generation::V28_5);
    let project = project();
    let before = key(&engine, &project, &[]).0;
    project.write("other", "something else");
    assert_eq!(key(&engine, &project, &[]).0, before);
    project.chmod("src/a", 0o755);
    let after = key(&engine, &project, &[]).0;
    assert_eq!(after.last(), before.last());
    assert_ne!(after[0], before[0]);
}

#[test]
fn a_context_that_is_not_on_this_machine_is_refused() {
    let engine = Engine::shared(Generation::V28_5);
    for (context, message) in [
        ("-", "the build context comes from standard input"),
        ("https://example.invalid/x.git", "is not on this machine"),
    ] {
        let run = dockercache(&engine, ["key", context]).run();
        assert!(run.code(2).stderr.contains(message), "{run:?}");
    }
    let project = project();
    project.write("Dockerfile", "FROM scratch\nCOPY --from=more a /a\n");
    project.write("more/a", "a");
    let before = key(&engine, &project, &["--build-context", "more=more"]).0;
    project.write("more/a", "b");
    assert_ne!(key(&engine, &project, &["--build-context", "more=more"]).0, before);
    let words = ["key", "--build-context", "more=docker-image://x", "."];
    let run = dockercache(&engine, words).in_dir(project.path()).run();
    assert!(run.success().stdout.contains("dockercache-v1"), "{run:?}");
}
