//! Builds whose cache lives in a store: job after job on empty engines with empty directories.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::servers::{PASSWORD, RegistryServer, RegistrySettings, S3Server, Server, USER};
use crate::harness::{Carried, DockerBuild, Engine, Generation, Job, Project, Run};
use crate::words::{FILES, OUTPUT};

/// The step whose layer has 5 MB.
const LARGE: u64 = 5_000_000;

#[test]
fn a_registry_is_read_by_the_builder_itself() {
    let store = Store::registry();
    let engine = Engine::shared(Generation::V28_5);
    let read = job_after_job(&engine, DockerBuild::Buildkit, &store);
    assert!(read < LARGE / 10, "{read} bytes were fetched");
}

#[test]
fn a_builder_that_exports_by_itself_exports_to_the_registry() {
    let store = Store::registry();
    let engine = Engine::shared(Generation::V28_5Containerd);
    let read = job_after_job(&engine, DockerBuild::Buildkit, &store);
    assert!(read < LARGE / 10, "{read} bytes were fetched");
}

#[test]
fn an_old_builder_gets_what_it_needs_of_a_registry() {
    let store = Store::registry();
    let engine = Engine::shared(Generation::V20_10);
    let read = job_after_job(&engine, DockerBuild::Buildkit, &store);
    assert!(read < LARGE, "{read} bytes were fetched");
}

#[test]
fn of_a_bucket_only_what_the_build_needs_is_fetched() {
    let store = Store::s3();
    let engine = Engine::shared(Generation::V28_5);
    let read = job_after_job(&engine, DockerBuild::Buildkit, &store);
    assert!(read < LARGE, "{read} bytes were fetched");
}

#[test]
fn a_builder_that_exports_by_itself_has_its_cache_in_a_bucket() {
    let store = Store::s3();
    let engine = Engine::shared(Generation::V28_5Containerd);
    job_after_job(&engine, DockerBuild::Buildkit, &store);
}

#[test]
fn the_classic_builder_has_its_images_in_a_bucket() {
    let store = Store::s3();
    let engine = Engine::shared(Generation::V28_5);
    job_after_job(&engine, DockerBuild::Classic, &store);
}

/// A job that only reads; one that trusts signed caches only; one whose store is down.
#[test]
fn trust_and_trouble_never_fail_a_build() {
    let store = Store::s3();
    let engine = Engine::shared(Generation::V28_5);
    let project = Project::new(FILES);
    let job = Job::fresh(&engine, DockerBuild::Buildkit);
    let carried = Carried::nothing();
    let run = |carried: &Carried, words: &[&str], more: &[(&str, &str)]| {
        let mut run = job.dockercache(carried, words.iter().copied());
        for (name, value) in store
            .environment(&engine)
            .iter()
            .map(|(n, v)| (*n, v.as_str()))
            .chain(more.iter().copied())
        {
            run = run.env(name, value);
        }
        run.in_dir(project.path()).run()
    };
    let build = ["build", "-t", "app", "."];

    let read_only = [("DOCKERCACHE_READ_ONLY", "1")];
    run(&carried, &build, &read_only).success();
    assert!(run(&carried, &["save"], &read_only).success().stderr.contains("read only"));
    let found = run(&Carried::nothing(), &["restore", "-t", "app", "."], &[]);
    assert!(found.success().stderr.contains("no cache of this project"), "nothing was written");

    // A cache without a signature is for those who don't ask for one.
    run(&carried, &["save", "-t", "app", "."], &[]).success();
    let key =
        run(&carried, &["save", "-t", "app", "."], &[("DOCKERCACHE_SIGNING_KEY", SIGNING_KEY)]);
    assert!(!key.success().stderr.contains(SIGNING_KEY));
    let trusting = [("DOCKERCACHE_VERIFY_KEY", FOREIGN_KEY)];
    let refused = run(&Carried::nothing(), &["restore", "-t", "app", "."], &trusting);
    assert!(
        refused.success().stderr.contains("is not used: it is not signed"),
        "{}",
        refused.stderr
    );

    let gone = [("AWS_ENDPOINT_URL", "http://127.0.0.1:1")];
    let carried = Carried::nothing();
    let built = run(&carried, &build, &gone);
    assert!(built.success().stderr.contains("the store is left out"));
    let saved = run(&carried, &["save"], &gone);
    assert!(saved.success().stderr.contains("the cache is not in the store"));
    run(&carried, &["save", "--strict"], &gone).code(1);
    let wrong = [("AWS_SECRET_ACCESS_KEY", "hunter2")];
    let denied = run(&Carried::nothing(), &build, &wrong);
    assert!(denied.success().stderr.contains("denies access"), "{}", denied.stderr);
    assert!(!denied.stderr.contains("hunter2") && !denied.stderr.contains(PASSWORD));
}

/// 32 bytes in base64.
const SIGNING_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const FOREIGN_KEY: &str = "HxwdGhscGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=";

/// A first build, one without change, one with an edit, and one more: gives how many bytes lay in
/// the directory after the second.
fn job_after_job(engine: &Engine, builder: DockerBuild, store: &Store) -> u64 {
    let project = Project::new(FILES);
    let first = Machine::fresh(engine, builder, store);
    assert_eq!(first.build(&project).build_report().cached(), [""; 0]);
    let image = engine.image_id("app");
    assert!(first.save().success().stderr.contains(" pushed to "));

    let second = Machine::fresh(engine, builder, store);
    let built = second.build(&project);
    built.build_report().assert_all_cached();
    assert!(built.stderr.contains("store: exact cache in "), "{}", built.stderr);
    // Elsewhere the ID covers the attestation, which says when the image was built.
    if engine.generation() != Generation::V28_5Containerd {
        assert_eq!(engine.image_id("app"), image);
    }
    let fetched = second.carried_bytes();
    let saved = second.save();
    assert!(!saved.success().stderr.contains(" pushed to "), "{}", saved.stderr);

    project.edit("src/a", "of", "OF");
    let third = Machine::fresh(engine, builder, store);
    let built = third.build(&project).build_report();
    assert!(built.ran().contains(&"COPY src src"), "{built:?}");
    assert!(!built.ran().iter().any(|step| step.contains("urandom")), "{built:?}");
    third.save().success();

    let fourth = Machine::fresh(engine, builder, store);
    fourth.build(&project).build_report().assert_all_cached();
    let output = fourth.job.docker(["run", "--rm", "app"]).run();
    assert_eq!(output.success().stdout, OUTPUT.replace("of", "OF"));
    fetched
}

/// A machine without anything, whose jobs know a store.
struct Machine<'a> {
    job: Job<'a>,
    store: &'a Store,
    carried: Carried,
}

impl<'a> Machine<'a> {
    fn fresh(engine: &'a Engine, builder: DockerBuild, store: &'a Store) -> Self {
        Self { job: Job::fresh(engine, builder), store, carried: Carried::nothing() }
    }

    fn build(&self, project: &Project) -> Run {
        let run = self.run(&["build", "-t", "app", "."], Some(project.path()));
        run.success();
        run
    }

    fn save(&self) -> Run {
        self.run(&["save"], None)
    }

    fn run(&self, words: &[&str], dir: Option<&Path>) -> Run {
        let mut run = self.job.dockercache(&self.carried, words.iter().copied());
        for (name, value) in self.store.environment(self.job.engine()) {
            run = run.env(name, value);
        }
        match dir {
            Some(dir) => run.in_dir(dir).run(),
            None => run.run(),
        }
    }

    /// What lies in the directory.
    fn carried_bytes(&self) -> u64 {
        let files = walkdir::WalkDir::new(self.carried.archive()).into_iter();
        files.map(|f| f.expect("a file").metadata().expect("its size").len()).sum()
    }
}

/// A real store, and what a job must know of it.
struct Store {
    server: Box<dyn Server>,
    url: String,
    home: TempDir,
}

impl Store {
    fn registry() -> Self {
        let server = RegistryServer::start(RegistrySettings::default());
        let url = format!("registry://{}/team/app-cache", server.address());
        Self { server: Box::new(server), url, home: tempfile::tempdir().expect("a directory") }
    }

    fn s3() -> Self {
        let server = S3Server::start();
        let url = "s3://cache-bucket/team/app".to_owned();
        Self { server: Box::new(server), url, home: tempfile::tempdir().expect("a directory") }
    }

    fn environment(&self, engine: &Engine) -> Vec<(&'static str, String)> {
        let mut variables = vec![
            ("DOCKERCACHE_STORE", self.url.clone()),
            ("DOCKERCACHE_PROJECT", "words".to_owned()),
        ];
        if self.url.starts_with("s3") {
            variables.extend([
                ("AWS_ACCESS_KEY_ID", USER.to_owned()),
                ("AWS_SECRET_ACCESS_KEY", PASSWORD.to_owned()),
                ("AWS_ENDPOINT_URL", format!("http://{}", self.server.address())),
            ]);
        } else {
            let config = self.logged_in(engine.docker_config());
            variables.push(("DOCKER_CONFIG", config.display().to_string()));
        }
        variables
    }

    /// The client's configuration after `docker login`.
    fn logged_in(&self, config: &Path) -> PathBuf {
        use base64::Engine as _;
        let own = self.home.path().join("docker");
        let status = Command::new("cp").arg("-aT").arg(config).arg(&own).status();
        assert!(status.expect("cp runs").success());
        let file = own.join("config.json");
        let known = fs::read(&file).ok().and_then(|json| serde_json::from_slice(&json).ok());
        let mut settings: Value = known.unwrap_or_else(|| json!({}));
        let auth = base64::prelude::BASE64_STANDARD.encode(format!("{USER}:{PASSWORD}"));
        settings["auths"] = json!({ self.server.address(): { "auth": auth } });
        fs::write(&file, settings.to_string()).expect("a written file");
        own
    }
}
