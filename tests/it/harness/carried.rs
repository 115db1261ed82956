//! What a CI's cache carries from job to job, and all that tests look for in it and do to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use dockercache::oci::digest::Digest;
use tempfile::TempDir;
use walkdir::WalkDir;

use super::oci_reader::OciDirectory;

/// The archive's directory, and files beside it.
#[derive(Debug)]
pub(crate) struct Carried {
    dir: TempDir,
}

impl Carried {
    pub(crate) fn nothing() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory") }
    }

    /// The archive's directory, `DOCKERCACHE_DIR`; the program makes it.
    pub(crate) fn archive(&self) -> PathBuf {
        self.file("archive")
    }

    /// A place for a file beside the archive.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The archive as others see it.
    pub(crate) fn reader(&self) -> OciDirectory {
        OciDirectory::at(self.archive())
    }

    /// All files of the archive by their path in it, byte for byte.
    pub(crate) fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut contents = BTreeMap::new();
        for entry in WalkDir::new(self.archive()) {
            let entry = entry.expect("an entry");
            if !entry.file_type().is_dir() {
                let name = entry.path().strip_prefix(self.archive()).expect("a path inside");
                contents.insert(name.to_owned(), fs::read(entry.path()).expect("a file"));
            }
        }
        contents
    }

    /// The same with the digest of each, to compare.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, String> {
        let digest = |(name, bytes): (_, Vec<u8>)| (name, Digest::of(&bytes).to_string());
        self.contents().into_iter().map(digest).collect()
    }

    /// Writes files into the archive.
    pub(crate) fn write(&self, contents: BTreeMap<PathBuf, Vec<u8>>) {
        for (name, bytes) in contents {
            let path = self.archive().join(name);
            fs::create_dir_all(path.parent().expect("a directory")).expect("directories");
            fs::write(path, bytes).expect("a written file");
        }
    }

    /// Deletes the archive.
    pub(crate) fn forget(&self) {
        fs::remove_dir_all(self.archive()).expect("no archive");
    }

    /// The blobs by size, ascending.
    pub(crate) fn blobs(&self) -> Vec<(u64, PathBuf)> {
        let files = fs::read_dir(self.archive().join("blobs/sha256")).expect("blobs");
        let sized = files.map(|entry| {
            let entry = entry.expect("an entry");
            (entry.metadata().expect("a blob").len(), entry.path())
        });
        let mut blobs: Vec<_> = sized.collect();
        blobs.sort();
        blobs
    }

    /// The one blob of about this size, or with this text in it.
    pub(crate) fn blob(&self, is_it: impl Fn(u64, &[u8]) -> bool) -> PathBuf {
        let mut blobs = self.blobs().into_iter();
        let found = blobs.find(|(size, path)| is_it(*size, &fs::read(path).expect("a blob")));
        found.unwrap_or_else(|| panic!("no such blob in {:?}", self.blobs())).1
    }

    /// Deletes all layers but those with these digests, which are those of the uncompressed
    /// layers; gives the digests of the deleted blobs.
    pub(crate) fn remove_layers_except(&self, needed: &[String]) -> BTreeSet<String> {
        let mut removed = BTreeSet::new();
        for (_, path) in self.blobs() {
            let Some(layer) = decompressed(&fs::read(&path).expect("a blob")) else { continue };
            if !needed.contains(&Digest::of(&layer).to_string()) {
                fs::remove_file(&path).expect("a removed file");
                removed.insert(format!("sha256:{}", path.file_name().expect("a name").display()));
            }
        }
        removed
    }

    /// Replaces the archive by a copy of `other`.
    pub(crate) fn copy_from(&self, other: &Path) {
        // The docker client of a save that was killed may still write for a moment.
        for _ in 0..200 {
            let _ = fs::remove_dir_all(self.archive());
            if fs::create_dir(self.archive()).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        copy(other, &self.archive());
    }

    /// Copies the archive.
    pub(crate) fn copy_to(&self, other: &Path) {
        copy(&self.archive(), other);
    }

    /// Asserts that every blob has its digest and that nothing but the archive is there.
    #[track_caller]
    pub(crate) fn assert_clean(&self) {
        for (path, digest) in self.files() {
            let name = path.file_name().expect("a name").to_string_lossy();
            let alone = ["index.json", "oci-layout", "dockercache.lock"];
            match path.parent().and_then(Path::file_name).and_then(|n| n.to_str()) {
                Some("sha256") => assert_eq!(digest, format!("sha256:{name}")),
                _ => assert!(alone.contains(&&*name), "left: {path:?}"),
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
