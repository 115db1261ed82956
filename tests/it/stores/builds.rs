//! Builds whose cache lives in a store: job after job on empty engines with empty directories.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::faults::{Fault, Proxy};
use crate::harness::{AzureServer, GoogleServer, PASSWORD, RegistryServer, RegistrySettings};
use crate::harness::{BUILD, Builder, Carried, Engine, Generation, Machine, Run};
use crate::harness::{S3Server, S3Settings, Server, USER, servers};
use crate::words::{FILES, OUTPUT};

/// The step whose layer has 5 MB.
const LARGE: usize = 5_000_000;

#[test]
fn a_registry_is_read_by_the_builder_itself() {
    let store = Store::registry();
    let read = job_after_job(Builder::Buildkit(Generation::V28_5), &store);
    assert!(read < LARGE / 10, "{read} bytes were fetched");
}

#[test]
fn a_builder_that_exports_by_itself_exports_to_the_registry() {
    let store = Store::registry();
    let read = job_after_job(Builder::Buildkit(Generation::V28_5Containerd), &store);
    assert!(read < LARGE / 10, "{read} bytes were fetched");
}

#[test]
fn an_old_builder_gets_what_it_needs_of_a_registry() {
    let store = Store::registry();
    let read = job_after_job(Builder::Buildkit(Generation::V20_10), &store);
    assert!(read < LARGE, "{read} bytes were fetched");
}

#[test]
fn of_a_bucket_only_what_the_build_needs_is_fetched() {
    let store = Store::s3();
    let read = job_after_job(Builder::Buildkit(Generation::V28_5), &store);
    assert!(read < LARGE, "{read} bytes were fetched");
}

#[test]
fn a_bucket_of_google_s_serves_job_after_job() {
    let store = Store::new(Box::new(GoogleServer::start()));
    job_after_job(Builder::Buildkit(Generation::V28_5), &store);
}

#[test]
fn a_container_of_azure_s_serves_job_after_job() {
    let store = Store::new(Box::new(AzureServer::start()));
    job_after_job(Builder::Buildkit(Generation::V28_5), &store);
}

#[test]
fn a_builder_that_exports_by_itself_has_its_cache_in_a_bucket() {
    let store = Store::s3();
    job_after_job(Builder::Buildkit(Generation::V28_5Containerd), &store);
}

#[test]
fn the_classic_builder_has_its_images_in_a_bucket() {
    let store = Store::s3();
    job_after_job(Builder::Classic(Generation::V28_5), &store);
}

/// A job that only reads; one that trusts signed caches only; one whose store is down.
#[test]
fn trust_and_trouble_never_fail_a_build() {
    let store = Store::s3();
    let machine = Machine::new(Builder::Buildkit(Generation::V28_5), FILES);
    let run = |words: &[&str], more: &[(&str, &str)]| store.run(&machine, words, more);
    // The same machine with an empty directory.
    let run_in = |empty: &Carried, words: &[&str], more: &[(&str, &str)]| {
        let dir = empty.archive();
        run(words, &[&[("DOCKERCACHE_DIR", dir.to_str().expect("UTF-8"))], more].concat())
    };
    let restore =
        |more: &[(&str, &str)]| run_in(&Carried::nothing(), &["restore", "-t", "app", "."], more);

    let read_only = [("DOCKERCACHE_READ_ONLY", "1")];
    run(&BUILD, &read_only).success();
    assert!(run(&["save"], &read_only).success().stderr.contains("nothing is written"));
    let empty = restore(&[]);
    assert!(empty.success().stderr.contains("no cache of this project"), "{}", empty.stderr);

    // A cache without a signature is for those who don't ask for one.
    run(&["save", "-t", "app", "."], &[]).success();
    let refused = restore(&[("DOCKERCACHE_VERIFY_KEY", FOREIGN_KEY)]);
    assert!(refused.success().stderr.contains("it is not signed"), "{}", refused.stderr);
    // Who signs builds upon nothing else.
    let signing = [("DOCKERCACHE_SIGNING_KEY", SIGNING_KEY)];
    machine.project.edit("run.sh", "words", "WORDS");
    run(&BUILD, &signing).success();
    let signed = run(&["save"], &signing);
    assert!(!signed.success().stderr.contains(SIGNING_KEY));
    let key = signed.stderr.split_once("DOCKERCACHE_VERIFY_KEY=").map(|(_, key)| key.trim());
    let key = key.and_then(|rest| rest.lines().next()).expect("the public key");
    let trusted = restore(&[("DOCKERCACHE_VERIFY_KEY", key)]);
    assert!(trusted.success().stderr.contains("exact cache in"), "{}", trusted.stderr);
    let foreign = restore(&[("DOCKERCACHE_VERIFY_KEY", FOREIGN_KEY)]);
    assert!(foreign.success().stderr.contains("not trusted"), "{}", foreign.stderr);

    let gone = [("AWS_ENDPOINT_URL", "http://127.0.0.1:1")];
    let alone = Carried::nothing();
    let ran = run_in(&alone, &BUILD, &gone);
    assert!(ran.success().stderr.contains("the store is left out"), "{}", ran.stderr);
    let kept = run_in(&alone, &["save", "--strict"], &gone);
    assert!(kept.code(1).stderr.contains("the cache is not in the store"), "{}", kept.stderr);
    // One wait is enough for a job.
    assert!(kept.stderr.contains("was not available a short while ago"), "{}", kept.stderr);
    let wrong = [("AWS_SECRET_ACCESS_KEY", "hunter2")];
    let denied = run_in(&Carried::nothing(), &BUILD, &wrong);
    assert!(denied.success().stderr.contains("denies access"), "{}", denied.stderr);
    assert!(!denied.stderr.contains("hunter2") && !denied.stderr.contains(PASSWORD));
}

/// The build is as good as without a store, and so is the cache that was there before.
#[test]
fn credentials_that_expire_in_a_save_cost_the_cache_of_one_build() {
    let store = Store::s3();
    let machine = Machine::new(Builder::Buildkit(Generation::V28_5), FILES);
    store.run(&machine, &BUILD, &[]).success();
    store.run(&machine, &["save"], &[]).success();
    let image = machine.job.engine.image_id("app");

    machine.project.edit("src/a", "of", "OF");
    store.run(&machine, &BUILD, &[]).success();
    let expired = Fault::Refused {
        code: 403,
        words: "<Error><Code>ExpiredToken</Code><Message>It has expired.</Message></Error>",
    };
    let is_upload = |line: &str| line.starts_with("PUT") && line.contains("blobs");
    let plan = move |_, line: &str| is_upload(line).then_some(expired);
    let proxy = Proxy::start(store.server.address(), plan);
    let endpoint = format!("http://{}", proxy.address());
    let saved = store.run(&machine, &["save"], &[("AWS_ENDPOINT_URL", &endpoint)]);
    let said = "denies access: HTTP status 403: ExpiredToken It has expired, with \
                AWS_ACCESS_KEY_ID from the environment, accepted before";
    assert!(saved.success().stderr.contains(said), "{}", saved.stderr);

    machine.project.edit("src/a", "OF", "of");
    machine.replace_without_cache();
    store.run(&machine, &BUILD, &[]).success().build_report().assert_all_cached();
    assert_eq!(machine.job.engine.image_id("app"), image);
}

#[test]
fn a_store_that_has_lost_layers_costs_time_only() {
    for store in servers().into_iter().map(Store::new) {
        let machine = Machine::new(Builder::Buildkit(Generation::V28_5), FILES);
        store.run(&machine, &BUILD, &[]).success();
        store.run(&machine, &["save"], &[]).success();
        store.server.lose_layers();
        machine.replace_without_cache();
        let built = store.run(&machine, &BUILD, &[]);
        built.success();
        let told = ["layers: they are left out", "is left out: "];
        assert!(told.iter().any(|words| built.stderr.contains(words)), "{}", built.stderr);
        store.run(&machine, &["save"], &[]).success();
        assert_eq!(machine.output(), OUTPUT);
        // The save has brought them back.
        machine.replace_without_cache();
        store.run(&machine, &BUILD, &[]).success().build_report().assert_all_cached();
    }
}

/// What is too old goes by its names; what no name reaches goes when it is older than the grace.
#[test]
fn what_is_too_old_is_collected() {
    for store in servers().into_iter().map(Store::new) {
        let machine = Machine::new(Builder::Buildkit(Generation::V28_5), FILES);
        let run = |words: &[&str]| store.run(&machine, words, &[]);
        run(&BUILD).success();
        run(&["save"]).success();
        let gc = |words: &[&str]| run(&[&["gc", "--format", "json"], words].concat());
        gc(&["--grace", "10s"]).code(2);
        let kept: Value = gc(&[]).json();
        assert_eq!(kept["deleted_refs"], json!([]), "{kept}");
        let planned: Value = gc(&["--max-age", "0s", "--dry-run"]).json();
        assert!(planned["deleted_refs"].as_array().is_some_and(|refs| refs.len() > 2), "{planned}");
        assert_eq!(
            gc(&["--max-age", "0s"]).json::<Value>()["deleted_refs"],
            planned["deleted_refs"]
        );
        let found = run(&["restore", "-t", "app", "."]);
        assert!(found.success().stderr.contains("no cache of this project"), "{}", found.stderr);
    }
}

/// 32 bytes in base64.
const SIGNING_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const FOREIGN_KEY: &str = "HxwdGhscGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=";

/// A first build, one without change, one with an edit, and one more: gives how many bytes lay in
/// the directory after the second.
fn job_after_job(builder: Builder, store: &Store) -> usize {
    let machine = Machine::new(builder, FILES);
    let build = || store.run(&machine, &BUILD, &[]);
    let save = || store.run(&machine, &["save"], &[]);
    let image_id = || machine.job.engine.image_id("app");
    assert_eq!(build().success().build_report().cached(), [""; 0]);
    let image = image_id();
    assert!(save().success().stderr.contains(" pushed to "));

    machine.replace_without_cache();
    let hit = build();
    hit.success().build_report().assert_all_cached();
    assert!(hit.stderr.contains("store: exact cache in "), "{}", hit.stderr);
    // Elsewhere the ID covers the attestation, which says when the image was built.
    if builder.generation() != Generation::V28_5Containerd {
        assert_eq!(image_id(), image);
    }
    let fetched = machine.carried.contents().values().map(Vec::len).sum();
    let saved = save();
    assert!(!saved.success().stderr.contains(" pushed to "), "{}", saved.stderr);

    machine.project.edit("src/a", "of", "OF");
    machine.replace_without_cache();
    let edited = build().success().build_report();
    assert!(edited.ran().contains(&"COPY src src"), "{edited:?}");
    assert!(!edited.ran().iter().any(|step| step.contains("urandom")), "{edited:?}");
    save().success();

    machine.replace_without_cache();
    build().success().build_report().assert_all_cached();
    assert_eq!(machine.output(), OUTPUT.replace("of", "OF"));
    fetched
}

/// A store, and what a job must know of it.
struct Store {
    server: Box<dyn Server>,
    home: TempDir,
}

impl Store {
    fn new(server: Box<dyn Server>) -> Self {
        Self { server, home: tempfile::tempdir().expect("a directory") }
    }

    fn registry() -> Self {
        Self::new(Box::new(RegistryServer::start(RegistrySettings::default())))
    }

    fn s3() -> Self {
        Self::new(Box::new(S3Server::start(S3Settings::default())))
    }

    /// Runs the program on a machine that knows the store, and more.
    fn run(&self, machine: &Machine, words: &[&str], more: &[(&str, &str)]) -> Run {
        let run = machine.dockercache(words.iter().copied());
        run.envs(self.environment(&machine.job.engine)).envs(more.iter().copied()).run()
    }

    fn environment(&self, engine: &Engine) -> Vec<(&'static str, String)> {
        let address = self.server.address();
        let mut variables = vec![
            ("DOCKERCACHE_STORE", self.server.url(address)),
            ("DOCKERCACHE_PROJECT", "words".to_owned()),
        ];
        for (name, value) in self.server.variables(address, PASSWORD) {
            // The client has a configuration already.
            let value = match name {
                "DOCKER_CONFIG" => self.logged_in(engine.docker_config()).display().to_string(),
                _ => value,
            };
            variables.push((name, value));
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
