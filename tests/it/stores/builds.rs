//! Builds whose cache lives in a store: job after job on empty engines with empty directories.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Carried, DockerBuild, Engine, Generation, Invocation, Job, Project, Run};
use crate::harness::{PASSWORD, RegistryServer, RegistrySettings, S3Server, Server, USER};
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
    let here = Machine::fresh(&engine, DockerBuild::Buildkit, &store);
    let run = |machine: &Machine<'_>, words: &[&str], more: &[(&str, &str)]| {
        machine.prepare(words, more).in_dir(project.path()).run()
    };
    let restore =
        |more: &[(&str, &str)]| run(&Machine::on(&here), &["restore", "-t", "app", "."], more);
    let build = ["build", "-t", "app", "."];

    let read_only = [("DOCKERCACHE_READ_ONLY", "1")];
    run(&here, &build, &read_only).success();
    assert!(run(&here, &["save"], &read_only).success().stderr.contains("read only"));
    let empty = restore(&[]);
    assert!(empty.success().stderr.contains("no cache of this project"), "{}", empty.stderr);

    // A cache without a signature is for those who don't ask for one.
    run(&here, &["save", "-t", "app", "."], &[]).success();
    let refused = restore(&[("DOCKERCACHE_VERIFY_KEY", FOREIGN_KEY)]);
    assert!(
        refused.success().stderr.contains("is not used: it is not signed"),
        "{}",
        refused.stderr
    );
    run(&here, &build, &[]).success();
    project.edit("run.sh", "words", "WORDS");
    run(&here, &build, &[]).success();
    let signed = run(&here, &["save"], &[("DOCKERCACHE_SIGNING_KEY", SIGNING_KEY)]);
    assert!(!signed.success().stderr.contains(SIGNING_KEY));
    let key = signed.stderr.split_once("DOCKERCACHE_VERIFY_KEY=").map(|(_, key)| key.trim());
    let key = key.and_then(|rest| rest.lines().next()).expect("the public key");
    let trusted = restore(&[("DOCKERCACHE_VERIFY_KEY", key)]);
    assert!(trusted.success().stderr.contains("exact cache in"), "{}", trusted.stderr);
    let foreign = restore(&[("DOCKERCACHE_VERIFY_KEY", FOREIGN_KEY)]);
    assert!(foreign.success().stderr.contains("not trusted"), "{}", foreign.stderr);

    let gone = [("AWS_ENDPOINT_URL", "http://127.0.0.1:1")];
    let alone = Machine::on(&here);
    let ran = run(&alone, &build, &gone);
    assert!(ran.success().stderr.contains("the store is left out"), "{}", ran.stderr);
    let kept = run(&alone, &["save", "--strict"], &gone);
    assert!(kept.code(1).stderr.contains("the cache is not in the store"), "{}", kept.stderr);
    let wrong = [("AWS_SECRET_ACCESS_KEY", "hunter2")];
    let denied = run(&Machine::on(&here), &build, &wrong);
    assert!(denied.success().stderr.contains("denies access"), "{}", denied.stderr);
    assert!(!denied.stderr.contains("hunter2") && !denied.stderr.contains(PASSWORD));
}

#[test]
fn a_store_that_has_lost_layers_costs_time_only() {
    let engine = Engine::shared(Generation::V28_5);
    for store in [Store::registry(), Store::s3()] {
        let project = Project::new(FILES);
        let first = Machine::fresh(&engine, DockerBuild::Buildkit, &store);
        first.build(&project).success();
        first.save().success();
        store.server.lose_layers();
        let second = Machine::fresh(&engine, DockerBuild::Buildkit, &store);
        let built = second.build(&project);
        let told = ["layers: they are left out", "is left out: "];
        assert!(told.iter().any(|words| built.stderr.contains(words)), "{}", built.stderr);
        second.save().success();
        let output = second.job.docker(["run", "--rm", "app"]).run();
        assert_eq!(output.success().stdout, OUTPUT);
        // The save has brought them back.
        let third = Machine::fresh(&engine, DockerBuild::Buildkit, &store);
        third.build(&project).build_report().assert_all_cached();
    }
}

/// What is too old goes by its names; what no name reaches goes when it is older than the grace.
#[test]
fn what_is_too_old_is_collected() {
    let engine = Engine::shared(Generation::V28_5);
    for store in [Store::registry(), Store::s3()] {
        let project = Project::new(FILES);
        let machine = Machine::fresh(&engine, DockerBuild::Buildkit, &store);
        machine.build(&project).success();
        machine.save().success();
        let gc = |words: &[&str]| machine.run(&[&["gc", "--format", "json"], words].concat(), None);
        let report =
            |run: &Run| -> Value { serde_json::from_str(&run.success().stdout).expect("JSON") };
        gc(&["--grace", "10s"]).code(2);
        let kept = report(&gc(&[]));
        assert_eq!(kept["deleted_refs"], json!([]), "{kept}");
        let planned = report(&gc(&["--max-age", "0s", "--dry-run"]));
        assert!(planned["deleted_refs"].as_array().is_some_and(|refs| refs.len() > 2), "{planned}");
        assert_eq!(report(&gc(&["--max-age", "0s"]))["deleted_refs"], planned["deleted_refs"]);
        let found = machine.run(&["restore", "-t", "app", "."], Some(project.path()));
        assert!(found.success().stderr.contains("no cache of this project"), "{}", found.stderr);
    }
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

    /// The same machine with an empty directory.
    fn on(other: &Self) -> Self {
        let job = Job::beside(&other.job);
        Self { job, store: other.store, carried: Carried::nothing() }
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
        let run = self.prepare(words, &[]);
        match dir {
            Some(dir) => run.in_dir(dir).run(),
            None => run.run(),
        }
    }

    /// Prepares a run that knows the store, and more.
    fn prepare(&self, words: &[&str], more: &[(&str, &str)]) -> Invocation {
        let known = self.store.environment(self.job.engine());
        let known = known.iter().map(|(name, value)| (*name, value.as_str()));
        let run = self.job.dockercache(&self.carried, words.iter().copied());
        known.chain(more.iter().copied()).fold(run, |run, (name, value)| run.env(name, value))
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
