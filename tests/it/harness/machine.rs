//! A CI machine with a project: it starts with an empty engine and is thrown away after the job.
//! Only the cache directory is carried to the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use walkdir::WalkDir;

use super::build_report::BuildReport;
use super::builder::Builder;
use super::engine::Engine;
use super::image::Image;
use super::invocation::{Invocation, dockercache};
use super::project::Project;

/// Files by their path in a directory.
pub(crate) type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A machine, and what outlives it: the project and the cache directory.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) engine: MutexGuard<'static, Engine>,
    pub(crate) project: Project,
    builder: Builder,
    cache: TempDir,
}

/// What `dockercache save --format json` says.
#[derive(Debug, Deserialize)]
pub(crate) struct Saved {
    pub(crate) changed: bool,
    pub(crate) strategy: String,
    pub(crate) taken: Vec<String>,
    pub(crate) kept: Vec<String>,
    pub(crate) warnings: Vec<String>,
}

impl Machine {
    /// A machine with nothing on it but this project.
    pub(crate) fn new(builder: Builder, files: &[(&str, &str)]) -> Self {
        let machine = Self {
            engine: Engine::shared(builder.generation()),
            project: Project::new(files),
            builder,
            cache: tempfile::tempdir().expect("a cache directory"),
        };
        machine.engine.base_image(&["busybox:1"]);
        machine
    }

    /// A new machine on which the cache of the project's first build was put; gives that build's
    /// image as well. The first build is made once for all tests that begin so.
    pub(crate) fn after_first_build(builder: Builder, files: &[(&str, &str)]) -> (Self, Image) {
        type FirstBuild = (Builder, Files, Image);
        static FIRST_BUILDS: Mutex<Vec<FirstBuild>> = Mutex::new(Vec::new());
        let known = || {
            let builds = FIRST_BUILDS.lock().unwrap_or_else(PoisonError::into_inner);
            builds.iter().find(|(of, ..)| *of == builder).cloned()
        };
        // The engine is held from here on, so no other test is about to make the same build.
        let engine = Engine::shared(builder.generation());
        let cache = tempfile::tempdir().expect("a cache directory");
        let machine = Self { engine, project: Project::new(files), builder, cache };
        if let Some((_, cache, image)) = known() {
            for (name, bytes) in cache {
                let path = machine.cache.path().join(name);
                fs::create_dir_all(path.parent().expect("a directory")).expect("directories");
                fs::write(path, bytes).expect("a written file");
            }
            machine.add_base();
            return (machine, image);
        }
        machine.engine.base_image(&["busybox:1"]);
        assert_eq!(machine.build().cached(), [""; 0]);
        machine.save();
        let image = machine.image();
        FIRST_BUILDS.lock().unwrap_or_else(PoisonError::into_inner).push((
            builder,
            machine.cache_files(),
            image.clone(),
        ));
        machine.replace();
        (machine, image)
    }

    /// Goes on on another machine: an empty engine, and no trace of the last job.
    pub(crate) fn replace(&self) {
        self.engine.wipe();
        self.add_base();
    }

    /// Puts the base image where a registry would be. A cache for the classic builder brings it.
    fn add_base(&self) {
        if self.builder.is_buildkit() {
            self.engine.base_image(&["busybox:1"]);
        }
    }

    /// Prepares a run of our program in the project's directory.
    pub(crate) fn dockercache<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Invocation {
        self.prepare(dockercache(&self.engine, args)).env("DOCKERCACHE_DIR", self.cache())
    }

    /// Prepares a run of the client in the project's directory.
    pub(crate) fn docker<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Invocation {
        self.prepare(self.engine.docker(args)).env("BUILDKIT_PROGRESS", "plain")
    }

    fn prepare(&self, invocation: Invocation) -> Invocation {
        self.builder.choose(invocation.in_dir(self.project.path()))
    }

    /// The arguments of the user's build. An attestation has the time of the build in it, so
    /// where one would be made, there is none: the images shall be comparable.
    pub(crate) fn arguments(&self) -> Vec<&'static str> {
        let attests = self.builder.strategy() == "buildkit-local";
        let flag = attests.then_some("--provenance=false");
        flag.into_iter().chain(["--tag", "app", "."]).collect()
    }

    /// Restores, which must be a hit; gives the flags for a plain build.
    #[track_caller]
    pub(crate) fn restore(&self) -> Vec<String> {
        let run = self.dockercache(["restore", "--strict"]).run();
        let flags = &run.success().stdout;
        flags.split_whitespace().map(str::to_owned).collect()
    }

    /// Builds through our program.
    #[track_caller]
    pub(crate) fn build(&self) -> BuildReport {
        let run = self.dockercache(["build"]).args(self.arguments()).run();
        run.success().build_report()
    }

    /// Builds with the plain client: `command` is `build` or `buildx build`, with flags.
    #[track_caller]
    pub(crate) fn plain_build(&self, command: &[&str]) -> BuildReport {
        let run = self.docker(command.iter().copied()).args(self.arguments()).run();
        run.success().build_report()
    }

    /// Saves the last build; nothing may be lost on the way.
    #[track_caller]
    pub(crate) fn save(&self) -> Saved {
        self.save_build(&[])
    }

    /// Saves the build with these arguments.
    #[track_caller]
    pub(crate) fn save_build(&self, arguments: &[&str]) -> Saved {
        let run = self
            .dockercache(["save", "--strict", "--format", "json"])
            .args(arguments.iter().copied())
            .run();
        let saved: Saved = serde_json::from_str(&run.success().stdout).expect("JSON of `save`");
        assert_eq!(saved.warnings, [""; 0]);
        assert_eq!(saved.strategy, self.builder.strategy());
        saved
    }

    /// The image that the build has made.
    pub(crate) fn image(&self) -> Image {
        Image::of(&self.engine, "app")
    }

    /// What the image prints when it runs.
    #[track_caller]
    pub(crate) fn output(&self) -> String {
        self.docker(["run", "--rm", "app"]).run().success().stdout.clone()
    }

    /// Asserts that no layer with this file in it has come to the engine.
    #[track_caller]
    pub(crate) fn assert_nowhere(&self, name: &str) {
        let found = self.engine.files_named(name);
        assert!(found.is_empty(), "the engine has read a layer for nothing: {found:?}");
    }

    /// The cache directory.
    pub(crate) fn cache(&self) -> &Path {
        self.cache.path()
    }

    /// All of the cache directory, byte for byte.
    pub(crate) fn cache_files(&self) -> Files {
        WalkDir::new(self.cache())
            .into_iter()
            .map(|entry| entry.expect("a readable directory"))
            .filter(|entry| entry.file_type().is_file())
            .map(|entry| {
                let name = entry.path().strip_prefix(self.cache()).expect("inside").to_owned();
                (name, fs::read(entry.path()).expect("a readable file"))
            })
            .collect()
    }

    /// Empties the cache directory.
    pub(crate) fn forget_cache(&self) {
        for name in self.cache_files().into_keys() {
            fs::remove_file(self.cache().join(name)).expect("a removed file");
        }
    }

    /// Deletes all layers from the cache directory but those with these digests, which are those
    /// of the uncompressed layers; gives the digests of the deleted blobs.
    pub(crate) fn remove_layers_except(&self, needed: &[String]) -> BTreeSet<String> {
        let mut removed = BTreeSet::new();
        for (name, bytes) in self.cache_files() {
            let Some(layer) = decompressed(&bytes) else { continue };
            let digest = format!("sha256:{}", hex(&Sha256::digest(layer)));
            if !needed.contains(&digest) {
                fs::remove_file(self.cache().join(&name)).expect("a removed file");
                removed.insert(format!("sha256:{}", name.file_name().expect("a name").display()));
            }
        }
        removed
    }
}

/// A layer's tar; `None` for what is no compressed layer.
fn decompressed(blob: &[u8]) -> Option<Vec<u8>> {
    if blob.starts_with(&[0x1f, 0x8b]) {
        let mut tar = Vec::new();
        flate2::read::MultiGzDecoder::new(blob).read_to_end(&mut tar).expect("a gzip stream");
        return Some(tar);
    }
    let is_zstd = blob.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]);
    is_zstd.then(|| zstd::decode_all(blob).expect("a zstd stream"))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}
