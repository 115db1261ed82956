//! A job on a CI machine: an engine, and the builder that the user's environment asks for.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Mutex;

use serde::Deserialize;

use super::bases::digest;
use super::build_report::BuildReport;
use super::builder::Builder;
use super::carried::Carried;
use super::engine::Engine;
use super::invocation::{Invocation, Run, dockercache};
use super::project::Project;

/// The user's own build.
pub(crate) const BUILD: [&str; 4] = ["build", "--tag", "app", "."];
/// A save that fails if anything is lost on the way.
pub(super) const SAVE: [&str; 4] = ["save", "--strict", "--format", "json"];

/// A job. What it leaves outside of what is carried lies in the home of the engine's client and in
/// the journals of its archives, and goes with the machine.
pub(crate) struct Job {
    pub(crate) engine: Box<dyn Deref<Target = Engine>>,
    pub(crate) builder: Builder,
    archives: Mutex<BTreeSet<PathBuf>>,
}

impl Drop for Job {
    fn drop(&mut self) {
        self.forget_journals();
    }
}

impl Job {
    /// A job on a machine that has nothing but the base image `busybox:1`.
    pub(crate) fn new(builder: Builder) -> Self {
        Self::on(Engine::shared(builder.generation()), builder)
    }

    /// The same on an empty engine that the caller chose.
    pub(crate) fn on(engine: impl Deref<Target = Engine> + 'static, builder: Builder) -> Self {
        let job = Self::without_base(engine, builder);
        job.add_base();
        job
    }

    /// The same before anybody has put the base image there.
    pub(super) fn without_base(
        engine: impl Deref<Target = Engine> + 'static,
        builder: Builder,
    ) -> Self {
        Self { engine: Box::new(engine), builder, archives: Mutex::default() }
    }

    /// Goes on on another machine: an engine with the base image alone, and no trace of the last
    /// job.
    pub(crate) fn replace(&self) {
        self.engine.wipe();
        self.forget_journals();
        self.add_base();
    }

    /// Removes what our program keeps of archives outside of them.
    fn forget_journals(&self) {
        for archive in self.archives.lock().expect("the job's archives").iter() {
            let id = digest(archive.as_os_str().as_encoded_bytes());
            let journal = format!("/tmp/dockercache-journal-{}", &id["sha256:".len()..][..12]);
            // There is none if nothing was restored, built or saved.
            let _ = fs::remove_dir_all(journal);
        }
    }

    /// Puts the base image where a registry would be.
    pub(super) fn add_base(&self) {
        self.engine.base_image(&["busybox:1"]);
    }

    /// Prepares a run of our program with what is carried.
    pub(crate) fn dockercache<'w>(
        &self,
        carried: &Carried,
        words: impl IntoIterator<Item = &'w str>,
    ) -> Invocation {
        self.builder.choose(self.with(carried, dockercache(&self.engine, words)))
    }

    /// Prepares a run with what is carried, whatever it is that runs.
    pub(super) fn with(&self, carried: &Carried, run: Invocation) -> Invocation {
        self.archives.lock().expect("the job's archives").insert(carried.archive());
        run.env("DOCKERCACHE_DIR", carried.archive())
    }

    /// Prepares a run of the `docker` client.
    pub(crate) fn docker<'w>(&self, words: impl IntoIterator<Item = &'w str>) -> Invocation {
        self.builder.choose(self.engine.docker(words)).env("BUILDKIT_PROGRESS", "plain")
    }

    /// Restores, which must be a hit without damage; gives the flags for a plain build.
    #[track_caller]
    pub(crate) fn restore(&self, carried: &Carried) -> Vec<String> {
        let run = self.dockercache(carried, ["restore", "--strict"]).run();
        run.success().stdout.split_whitespace().map(str::to_owned).collect()
    }

    /// Builds through our program.
    #[track_caller]
    pub(crate) fn build(&self, carried: &Carried, project: &Project) -> BuildReport {
        let build = self.dockercache(carried, BUILD).in_dir(project.path());
        build.run().success().build_report()
    }

    /// Saves the last build; nothing may be lost on the way.
    #[track_caller]
    pub(crate) fn save(&self, carried: &Carried) -> Saved {
        self.saved(&self.dockercache(carried, SAVE).run())
    }

    /// What a run of [`SAVE`] said.
    #[track_caller]
    pub(super) fn saved(&self, run: &Run) -> Saved {
        let saved: Saved = run.json();
        assert_eq!(saved.warnings, [""; 0]);
        assert_eq!(saved.strategy, self.builder.strategy());
        saved
    }
}

/// What `dockercache save --format json` says.
#[derive(Debug, Deserialize)]
pub(crate) struct Saved {
    pub(crate) changed: bool,
    strategy: String,
    pub(crate) taken: Vec<String>,
    pub(crate) kept: Vec<String>,
    warnings: Vec<String>,
}
