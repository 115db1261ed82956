//! An OCI image layout on disk, as it is read: every read is bounded and verified.
//!
//! Follows the OCI image layout specification: `oci-layout`, `index.json`, and
//! `blobs/sha256/<hex>`. Readers take no lock, since `index.json` is replaced in one step; what
//! changes a layout is in [`writer`](super::writer). Nothing is synced to disk: every blob is
//! verified before it is used, so a power cut costs a miss at worst. Knows nothing of what the
//! blobs mean.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::digest::Digest;
use super::documents::{self, Descriptor, Index};
use super::json;
use super::regular::{self, OpenError};

/// The largest JSON document that we read. Real ones stay below 1 MiB.
pub const DOCUMENT_LIMIT: u64 = 8 << 20;

/// See [`Layout::captures`].
pub(crate) const CAPTURES: &str = ".dockercache-captures";

/// Why a layout can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The file system refused.
    #[error("failed to {action} `{path}`: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not what its name or its descriptor says.
    #[error("archive `{path}` is damaged: {reason}")]
    Damaged {
        /// The layout's directory, or the archive file.
        path: PathBuf,
        /// What is wrong, and with which blob.
        reason: String,
    },
    /// Another process writes.
    #[error("`{path}` is being written by {holder} since more than {} s", waited.as_secs())]
    Busy {
        /// The layout's directory.
        path: PathBuf,
        /// Who writes, by its own word.
        holder: String,
        /// For how long we waited.
        waited: Duration,
    },
    /// The directory is somebody's, and no place for an archive.
    #[error("`{path}` is neither empty nor an archive: it holds `{found}`")]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// A file in it.
        found: String,
    },
}

impl LayoutError {
    /// Makes a function that turns an I/O error into ours.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// An image layout directory.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout in `root`, which need not exist.
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a blob is, or would be.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    /// Where builders leave what they exported of a build until it is saved, each in a directory of
    /// its own: on the same file system, so that blobs are shared.
    pub fn captures(&self) -> PathBuf {
        self.root.join(CAPTURES)
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    pub(crate) fn damaged(&self, reason: impl Into<String>) -> LayoutError {
        LayoutError::Damaged { path: self.root.clone(), reason: reason.into() }
    }

    /// Whether there is an archive here, readable or not.
    pub fn has_index(&self) -> bool {
        self.root.join("index.json").symlink_metadata().is_ok()
    }

    /// Reads `index.json`; `None` if there is none, that is, no archive here.
    pub fn index(&self) -> Result<Option<Index>, LayoutError> {
        let path = self.root.join("index.json");
        for part in [&self.root.join("blobs"), &self.blobs()] {
            // A link would let a stranger's archive read and delete files elsewhere.
            if let Some(kind) = regular::other_than(part, fs::FileType::is_dir) {
                return Err(self.damaged(format!("`{}` is {kind}", part.display())));
            }
        }
        let file = match regular::open(&path) {
            Ok(file) => file,
            Err(OpenError::Missing) => return Ok(None),
            Err(OpenError::Irregular(kind)) => {
                return Err(self.damaged(format!("index.json is {kind}")));
            }
            Err(OpenError::Io(e)) => return Err(LayoutError::io("open", &path)(e)),
        };
        let mut bytes = Vec::new();
        file.take(DOCUMENT_LIMIT + 1)
            .read_to_end(&mut bytes)
            .map_err(LayoutError::io("read", &path))?;
        if bytes.len() as u64 > DOCUMENT_LIMIT {
            return Err(self.damaged(format!("index.json is larger than {DOCUMENT_LIMIT} bytes")));
        }
        let index = json::parse(&bytes)
            .map_err(|e| self.damaged(format!("index.json is not an OCI index: {e}")))?;
        Ok(Some(index))
    }

    /// Reads a JSON document whole, after checking its size and digest.
    pub fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, LayoutError> {
        let digest = &descriptor.digest;
        if descriptor.size > DOCUMENT_LIMIT {
            return Err(self.damaged(format!(
                "document {digest} of {} bytes is larger than {DOCUMENT_LIMIT}",
                descriptor.size
            )));
        }
        let path = self.blob_path(digest);
        let file = regular::open(&path).map_err(|e| match e {
            OpenError::Missing => self.damaged(format!("blob {digest} is missing")),
            OpenError::Irregular(kind) => self.damaged(format!("blob {digest} is {kind}")),
            OpenError::Io(e) => LayoutError::io("open", &path)(e),
        })?;
        let mut bytes = Vec::new();
        file.take(descriptor.size + 1)
            .read_to_end(&mut bytes)
            .map_err(LayoutError::io("read", &path))?;
        if bytes.len() as u64 != descriptor.size || Digest::of(&bytes) != *digest {
            return Err(self.damaged(format!("blob {digest} does not have its size and digest")));
        }
        Ok(bytes)
    }

    /// Reads and parses a JSON document.
    pub fn parse<T: serde::de::DeserializeOwned>(
        &self,
        descriptor: &Descriptor,
    ) -> Result<T, LayoutError> {
        json::parse(&self.document(descriptor)?).map_err(|e| self.no_document(descriptor, &e))
    }

    /// Reads what a manifest or an index points at.
    pub fn children(&self, descriptor: &Descriptor) -> Result<Vec<Descriptor>, LayoutError> {
        documents::children(descriptor, &self.document(descriptor)?)
            .map_err(|e| self.no_document(descriptor, &e))
    }

    pub(crate) fn no_document(
        &self,
        descriptor: &Descriptor,
        error: &serde_json::Error,
    ) -> LayoutError {
        self.damaged(format!("blob {} is no {}: {error}", descriptor.digest, descriptor.media_type))
    }

    /// Opens a blob for reading; the caller has verified it.
    pub fn open_blob(&self, digest: &Digest) -> Result<BufReader<File>, LayoutError> {
        let path = self.blob_path(digest);
        let file = regular::open(&path).map_err(|e| LayoutError::io("open", &path)(e.into()))?;
        Ok(BufReader::with_capacity(1 << 18, file))
    }

    /// The size of a blob's file, if it is there.
    pub fn blob_size(&self, digest: &Digest) -> Option<u64> {
        fs::symlink_metadata(self.blob_path(digest))
            .ok()
            .filter(fs::Metadata::is_file)
            .map(|m| m.len())
    }

    /// Every blob file here, with its size, sorted by digest. What is no regular file is none.
    pub fn blob_files(&self) -> Result<Vec<(Digest, u64)>, LayoutError> {
        let dir = self.blobs();
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(LayoutError::io("list", &dir)(e)),
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry.map_err(LayoutError::io("list", &dir))?;
            let digest = entry.file_name().to_str().and_then(|hex| Digest::from_hex(hex).ok());
            let Some(digest) = digest else { continue };
            match entry.metadata() {
                Ok(meta) if meta.is_file() => files.push((digest, meta.len())),
                Ok(_) => {}
                // Another process sweeps.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(LayoutError::io("look at", &entry.path())(e)),
            }
        }
        files.sort();
        Ok(files)
    }
}
