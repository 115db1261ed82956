//! CircleCI's cache: keys are immutable, and the newest entry with a prefix is restored.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use tempfile::TempDir;

/// The cache of one project.
#[derive(Debug)]
pub(crate) struct Cache {
    dir: TempDir,
    entries: Mutex<Vec<Entry>>,
}

/// What was stored under one key.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) file: PathBuf,
    pub(crate) size: u64,
}

impl Cache {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self { dir, entries: Mutex::default() }
    }

    /// All entries, oldest first.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Deletes entries, as CircleCI does with old ones.
    pub(crate) fn forget(&self, prefix: &str) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|entry| !entry.key.starts_with(prefix));
    }

    /// Stores what `tar` writes to its standard output, unless the key is taken.
    pub(crate) fn save(&self, key: &str, mut tar: Command) -> String {
        if self.entries().iter().any(|entry| entry.key == key) {
            return format!("Skipping cache generation, cache already exists for key: {key}\n");
        }
        let file = tempfile::NamedTempFile::new_in(self.dir.path()).expect("a file");
        let (handle, file) = file.keep().expect("a file to keep");
        let tarred = tar.stdout(handle).output().expect("tar");
        let warnings = String::from_utf8_lossy(&tarred.stderr).into_owned();
        let size = file.metadata().expect("a file").len();
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        // Another job may have been faster: the upload was for nothing.
        if entries.iter().any(|entry| entry.key == key) {
            return format!("{warnings}Uploaded, but the cache exists already for key: {key}\n");
        }
        entries.push(Entry { key: key.to_owned(), file, size });
        format!("{warnings}Stored Cache to {key}, {size} bytes\n")
    }

    /// Unpacks, with `tar`, the newest entry for the first of the keys that is any's prefix.
    pub(crate) fn restore(&self, keys: &[String], mut tar: Command) -> String {
        let entries = self.entries();
        let found =
            keys.iter().find_map(|key| entries.iter().rev().find(|e| e.key.starts_with(key)));
        let Some(entry) = found else { return "No cache is found for any key\n".to_owned() };
        let archive = File::open(&entry.file).expect("a stored file");
        let unpacked = tar.stdin(Stdio::from(archive)).output().expect("tar");
        assert!(unpacked.status.success(), "{}", String::from_utf8_lossy(&unpacked.stderr));
        format!("Found a cache from {}, {} bytes\n", entry.key, entry.size)
    }
}

#[test]
fn keys_are_immutable_and_the_newest_prefix_wins() {
    let tar = |args: &[&str]| {
        let mut command = Command::new("tar");
        command.args(args);
        command
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let file = dir.path().join("f");
    let cache = Cache::new();
    let save = |key: &str, text: &str| {
        std::fs::write(&file, text).unwrap();
        cache.save(key, tar(&["-cf", "-", "-C", path, "f"]))
    };
    let restore = |keys: &[&str]| {
        let keys: Vec<_> = keys.iter().map(|key| (*key).to_owned()).collect();
        let said = cache.restore(&keys, tar(&["-xf", "-", "-C", path]));
        (said, std::fs::read_to_string(&file).unwrap())
    };
    save("k", "one");
    save("k-new", "two");
    assert!(save("k", "three").starts_with("Skipping"));
    assert_eq!(restore(&["k"]).1, "two");
    assert_eq!(restore(&["other", "k-"]).1, "two");
    assert!(restore(&["other"]).0.starts_with("No cache"));
}
