//! Archives in good order, to break.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use dockercache::oci::digest::Digest;

/// An archive as it was saved.
pub(super) struct Good {
    /// Its files by their paths in the directory.
    pub(super) files: BTreeMap<PathBuf, Vec<u8>>,
    /// The same as one file, uncompressed and compressed.
    pub(super) packed: Vec<(&'static str, Vec<u8>)>,
}

impl Good {
    /// Writes it into a directory, which is emptied.
    pub(super) fn write(&self, archive: &Path) {
        write(archive, &self.files);
    }

    /// The names of all files that an archive may have.
    pub(super) fn names(&self) -> Vec<PathBuf> {
        let more = ["blobs", "blobs/sha256", "dockercache.lock", ".dockercache-captures", "ingest"];
        let more = more.iter().map(PathBuf::from);
        self.files.keys().cloned().chain(more).collect()
    }

    /// The digests of its blobs that are JSON.
    pub(super) fn documents(&self) -> Vec<Digest> {
        let blobs = self.files.iter().filter(|(_, bytes)| bytes.starts_with(b"{"));
        blobs.filter_map(|(path, _)| digest_of(path)).collect()
    }
}

/// The digest in the name of a blob.
fn digest_of(path: &Path) -> Option<Digest> {
    Digest::from_hex(path.strip_prefix("blobs/sha256").ok()?.to_str()?).ok()
}

/// Writes files into a directory, which is emptied.
pub(super) fn write(archive: &Path, files: &BTreeMap<PathBuf, Vec<u8>>) {
    remove(archive);
    for (name, bytes) in files {
        let path = archive.join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("directories");
        fs::write(path, bytes).expect("a written file");
    }
}

/// Removes whatever there is.
pub(super) fn remove(path: &Path) {
    match path.symlink_metadata() {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path).expect("no directory"),
        Ok(_) => fs::remove_file(path).expect("no file"),
        Err(_) => {}
    }
}
