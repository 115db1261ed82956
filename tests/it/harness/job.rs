//! CI machines that start empty, and the cache directory that is carried between them.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;

use super::build_report::BuildReport;
use super::engine::Engine;
use super::invocation::{Invocation, Run, dockercache};
use super::oci_reader::OciDirectory;
use super::project::Project;

/// Which builder the user's environment asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DockerBuild {
    Buildkit,
    /// `DOCKER_BUILDKIT=0`
    Classic,
}

/// What a CI's cache keeps from job to job: the directory, and files beside it.
#[derive(Debug)]
pub(crate) struct Carried {
    dir: TempDir,
}

impl Carried {
    pub(crate) fn nothing() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory") }
    }

    /// The archive's directory, `DOCKERCACHE_DIR`.
    pub(crate) fn archive(&self) -> PathBuf {
        self.dir.path().join("archive")
    }

    /// A place for a file beside the archive.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The archive as others see it.
    pub(crate) fn reader(&self) -> OciDirectory {
        OciDirectory::at(self.archive())
    }
}

/// A job on a machine of its own, with an engine.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    engine: &'a Engine,
    builder: DockerBuild,
    /// Temporary files of the job, such as the journal: they are not carried.
    temporary: TempDir,
}

impl<'a> Job<'a> {
    /// A job on a machine that has nothing but the base image `busybox:1`.
    pub(crate) fn fresh(engine: &'a Engine, builder: DockerBuild) -> Self {
        let job = Self::empty(engine, builder);
        engine.base_image(&["busybox:1"]);
        job
    }

    /// A job on a machine that has no image at all.
    pub(crate) fn empty(engine: &'a Engine, builder: DockerBuild) -> Self {
        engine.wipe();
        Self { engine, builder, temporary: tempfile::tempdir().expect("a directory") }
    }

    /// Another job on the same machine, which starts with what is in the engine.
    pub(crate) fn beside(other: &Self) -> Self {
        let temporary = tempfile::tempdir().expect("a directory");
        Self { engine: other.engine, builder: other.builder, temporary }
    }

    pub(crate) fn engine(&self) -> &'a Engine {
        self.engine
    }

    pub(crate) fn builder(&self) -> DockerBuild {
        self.builder
    }

    /// Prepares a run of `dockercache` with the carried directory.
    pub(crate) fn dockercache<'w>(
        &self,
        carried: &Carried,
        words: impl IntoIterator<Item = &'w str>,
    ) -> Invocation {
        self.prepared(dockercache(self.engine, words)).env("DOCKERCACHE_DIR", carried.archive())
    }

    /// Prepares a run of the `docker` client, with the builder that was asked for.
    pub(crate) fn docker<'w>(&self, words: impl IntoIterator<Item = &'w str>) -> Invocation {
        self.prepared(self.engine.docker(words))
    }

    fn prepared(&self, invocation: Invocation) -> Invocation {
        let buildkit = if self.builder == DockerBuild::Buildkit { "1" } else { "0" };
        invocation
            .env("DOCKER_BUILDKIT", buildkit)
            .env("BUILDKIT_PROGRESS", "plain")
            .env("TMPDIR", self.temporary.path())
    }

    /// `dockercache restore`
    pub(crate) fn restore(&self, carried: &Carried) -> Restored {
        let run = self.dockercache(carried, ["restore", "--format", "json"]).run();
        Restored(json(run.success()))
    }

    /// `dockercache build -t app .`
    pub(crate) fn build(&self, carried: &Carried, project: &Project) -> BuildReport {
        let build = self.dockercache(carried, ["build", "-t", "app", "."]);
        build.in_dir(project.path()).run().success().build_report()
    }

    /// `dockercache save`
    pub(crate) fn save(&self, carried: &Carried) -> Saved {
        Saved(json(self.dockercache(carried, ["save", "--format", "json"]).run().success()))
    }
}

/// What `restore --format json` printed.
#[derive(Debug)]
pub(crate) struct Restored(Value);

impl Restored {
    #[track_caller]
    pub(crate) fn assert_hit(&self) -> &Self {
        assert_eq!(self.0["hit"], true, "{}", self.0);
        assert_eq!(self.0["damaged_blobs"], 0, "{}", self.0);
        self
    }

    /// Asserts a miss whose reason says this.
    #[track_caller]
    pub(crate) fn assert_miss(&self, reason: &str) {
        assert_eq!(self.0["hit"], false, "{}", self.0);
        let given = self.0["reason"].as_str().expect("a reason");
        assert!(given.contains(reason), "the reason is `{given}`, expected `{reason}`");
    }
}

/// What `save --format json` printed.
#[derive(Debug)]
pub(crate) struct Saved(Value);

impl Saved {
    /// Whether anything was written.
    pub(crate) fn changed(&self) -> bool {
        self.0["changed"].as_bool().expect("a boolean")
    }

    #[track_caller]
    pub(crate) fn assert_no_warnings(&self) -> &Self {
        assert_eq!(self.0["warnings"], Value::Array(Vec::new()));
        self
    }
}

fn json(run: &Run) -> Value {
    serde_json::from_str(&run.stdout).expect("JSON on standard output")
}

/// Text of about `kilobytes` that hardly compresses, another one for each seed.
pub(crate) fn noise(seed: u64, kilobytes: usize) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut text = String::new();
    while text.len() < kilobytes * 1024 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let _ = writeln!(text, "{state:016x}");
    }
    text
}
