//! A cache directory, as a CI's own cache would carry it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use dockercache::layout::digest::Digest;
use tempfile::TempDir;

use super::engine::Engine;
use super::invocation::{Invocation, Run, dockercache};
use super::project::Project;

/// A cache directory, and a temporary directory for what the program keeps outside of it.
#[derive(Debug)]
pub(crate) struct Cache {
    dir: TempDir,
}

impl Cache {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("tmp")).expect("a temporary directory");
        Self { dir }
    }

    /// The cache directory; the program makes it.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    /// A file beside the cache directory.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Prepares a run of the program on this directory.
    pub(crate) fn command<'a>(
        &self,
        engine: &Engine,
        args: impl IntoIterator<Item = &'a str>,
    ) -> Invocation {
        dockercache(engine, args)
            .env("DOCKERCACHE_DIR", self.path())
            .env("TMPDIR", self.beside("tmp"))
    }

    pub(crate) fn restore(&self, engine: &Engine) -> Run {
        self.command(engine, ["restore"]).run()
    }

    pub(crate) fn build(&self, engine: &Engine, project: &Project) -> Run {
        self.command(engine, ["build", "--tag", "app", "."]).in_dir(project.path()).run()
    }

    pub(crate) fn save(&self, engine: &Engine) -> Run {
        self.command(engine, ["save"]).run()
    }

    /// The blobs by size, ascending.
    pub(crate) fn blobs(&self) -> Vec<(u64, PathBuf)> {
        let dir = self.path().join("blobs/sha256");
        let files = fs::read_dir(dir).expect("blobs").map(|entry| {
            let entry = entry.expect("an entry");
            (entry.metadata().expect("a blob").len(), entry.path())
        });
        let mut blobs: Vec<_> = files.collect();
        blobs.sort();
        blobs
    }

    /// The one blob of about this size, or with this text in it.
    pub(crate) fn blob(&self, is_it: impl Fn(u64, &[u8]) -> bool) -> PathBuf {
        let found: Vec<_> = self
            .blobs()
            .into_iter()
            .filter(|(size, path)| is_it(*size, &fs::read(path).expect("a blob")))
            .collect();
        assert!(!found.is_empty(), "no such blob in {:?}", self.blobs());
        found[0].1.clone()
    }

    /// Replaces the directory by a copy of `other`.
    pub(crate) fn copy_from(&self, other: &Path) {
        // The docker client of a save that was killed may still write for a moment.
        for _ in 0..200 {
            let _ = fs::remove_dir_all(self.path());
            if fs::create_dir(self.path()).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        copy(other, &self.path());
    }

    /// Copies the directory.
    pub(crate) fn copy_to(&self, other: &Path) {
        copy(&self.path(), other);
    }

    /// Every file in the directory with its content's digest, without the lock.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, String> {
        let mut files = BTreeMap::new();
        for entry in walkdir::WalkDir::new(self.path()) {
            let entry = entry.expect("an entry");
            if !entry.file_type().is_dir() && entry.file_name() != "dockercache.lock" {
                let bytes = fs::read(entry.path()).unwrap_or_default();
                files.insert(entry.path().to_owned(), Digest::of(&bytes).to_string());
            }
        }
        files
    }

    /// Asserts that every blob has its digest and that nothing but the archive is there.
    #[track_caller]
    pub(crate) fn assert_clean(&self) {
        for (path, digest) in self.files() {
            let name = path.file_name().expect("a name").to_string_lossy();
            match path.parent().and_then(Path::file_name).and_then(|n| n.to_str()) {
                Some("sha256") => assert_eq!(digest, format!("sha256:{name}")),
                _ => assert!(["index.json", "oci-layout"].contains(&&*name), "left: {path:?}"),
            }
        }
    }
}

/// Copies the archive, without what a writer that was killed left aside.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for part in ["blobs", "index.json", "oci-layout"] {
        let status = Command::new("cp").arg("-a").arg(from.join(part)).arg(to).status();
        assert!(status.expect("cp runs").success());
    }
}
