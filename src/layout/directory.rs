//! An OCI image layout on disk: verified reads, atomic writes, one writer at a time.
//!
//! Follows the OCI image layout specification: `oci-layout`, `index.json`, and
//! `blobs/sha256/<hex>`. New files are written aside and renamed, so that a kill at any moment
//! leaves either the old or the new. Nothing is synced to disk: every blob is verified before it
//! is used, so a power cut costs a miss at worst. Knows nothing of what the blobs mean.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::NamedTempFile;

use super::digest::{Digest, Hashing};
use super::oci::{self, Descriptor, Index};

/// The largest JSON document that we read. Real ones stay below 1 MiB.
pub const DOCUMENT_LIMIT: u64 = 8 << 20;

/// Files that are being written; swept by the next writer.
const ASIDE: &str = "ingest";
/// Held by the one process that writes.
const LOCK: &str = "dockercache.lock";

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

/// Held while a layout is written; released when it is dropped or the process dies. What was
/// written aside goes with it: a CI cache would carry it along.
#[derive(Debug)]
pub struct WriteLock {
    aside: PathBuf,
    _file: File,
}

impl Drop for WriteLock {
    fn drop(&mut self) {
        // What can't be removed now is removed when the lock is taken next.
        let _ = fs::remove_dir_all(&self.aside);
    }
}

/// A blob that is being written. Dropped unfinished, it leaves nothing.
pub struct BlobWriter {
    out: Hashing<NamedTempFile>,
    blobs: PathBuf,
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

    fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    /// A directory for what is being written, on the same file system as the blobs.
    pub fn aside(&self) -> PathBuf {
        self.root.join(ASIDE)
    }

    fn damaged(&self, reason: impl Into<String>) -> LayoutError {
        LayoutError::Damaged { path: self.root.clone(), reason: reason.into() }
    }

    /// Whether there is an archive here, readable or not.
    pub fn has_index(&self) -> bool {
        self.root.join("index.json").exists()
    }

    /// Reads `index.json`; `None` if there is none, that is, no archive here.
    pub fn index(&self) -> Result<Option<Index>, LayoutError> {
        let path = self.root.join("index.json");
        for part in [&self.root.join("blobs"), &self.blobs()] {
            // A link would let a stranger's archive read and delete files elsewhere.
            if part.is_symlink() {
                return Err(self.damaged(format!("`{}` is a symbolic link", part.display())));
            }
        }
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(LayoutError::io("open", &path)(e)),
        };
        let mut bytes = Vec::new();
        file.take(DOCUMENT_LIMIT + 1)
            .read_to_end(&mut bytes)
            .map_err(LayoutError::io("read", &path))?;
        if bytes.len() as u64 > DOCUMENT_LIMIT {
            return Err(self.damaged(format!("index.json is larger than {DOCUMENT_LIMIT} bytes")));
        }
        let index = serde_json::from_slice(&bytes)
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
        let file = File::open(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => self.damaged(format!("blob {digest} is missing")),
            _ => LayoutError::io("open", &path)(e),
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
        serde_json::from_slice(&self.document(descriptor)?)
            .map_err(|e| self.no_document(descriptor, &e))
    }

    /// Reads what a manifest or an index points at.
    pub fn children(&self, descriptor: &Descriptor) -> Result<Vec<Descriptor>, LayoutError> {
        oci::children(descriptor, &self.document(descriptor)?)
            .map_err(|e| self.no_document(descriptor, &e))
    }

    fn no_document(&self, descriptor: &Descriptor, error: &serde_json::Error) -> LayoutError {
        self.damaged(format!("blob {} is no {}: {error}", descriptor.digest, descriptor.media_type))
    }

    /// Opens a blob for reading; the caller has verified it.
    pub fn open_blob(&self, digest: &Digest) -> Result<BufReader<File>, LayoutError> {
        let path = self.blob_path(digest);
        let file = File::open(&path).map_err(LayoutError::io("open", &path))?;
        Ok(BufReader::with_capacity(1 << 18, file))
    }

    /// The size of a blob's file, if it is there.
    pub fn blob_size(&self, digest: &Digest) -> Option<u64> {
        fs::symlink_metadata(self.blob_path(digest))
            .ok()
            .filter(fs::Metadata::is_file)
            .map(|m| m.len())
    }

    /// Takes the write lock and makes the directory a layout if it is none; waits for other
    /// writers. What a killed writer left aside is removed.
    pub fn lock(&self) -> Result<WriteLock, LayoutError> {
        fs::create_dir_all(&self.root).map_err(LayoutError::io("create", &self.root))?;
        let path = self.root.join(LOCK);
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(LayoutError::io("open", &path))?;
        file.lock().map_err(LayoutError::io("lock", &path))?;
        let aside = self.aside();
        // The docker client of a writer that was killed may go on writing for a moment.
        let mut attempts = 0;
        while let Err(e) = fs::remove_dir_all(&aside) {
            match e.kind() {
                io::ErrorKind::NotFound => break,
                io::ErrorKind::DirectoryNotEmpty if attempts < 100 => {
                    attempts += 1;
                    std::thread::sleep(Duration::from_millis(50));
                }
                _ => return Err(LayoutError::io("clear", &aside)(e)),
            }
        }
        for dir in [&self.blobs(), &aside] {
            fs::create_dir_all(dir).map_err(LayoutError::io("create", dir))?;
        }
        let marker = self.root.join("oci-layout");
        if !marker.exists() {
            fs::write(&marker, r#"{"imageLayoutVersion":"1.0.0"}"#)
                .map_err(LayoutError::io("write", &marker))?;
        }
        Ok(WriteLock { aside, _file: file })
    }

    /// Starts a blob of yet unknown digest. The write lock is held by the caller.
    pub fn blob_writer(&self) -> Result<BlobWriter, LayoutError> {
        let aside = self.aside();
        let file =
            NamedTempFile::new_in(&aside).map_err(LayoutError::io("create a file in", &aside))?;
        Ok(BlobWriter { out: Hashing::new(file), blobs: self.blobs() })
    }

    /// Writes a small blob.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, LayoutError> {
        let digest = Digest::of(bytes);
        if self.blob_size(&digest) == Some(bytes.len() as u64) {
            return Ok(digest);
        }
        let mut writer = self.blob_writer()?;
        writer.write_all(bytes).map_err(LayoutError::io("write", &self.blob_path(&digest)))?;
        Ok(writer.finish()?.0)
    }

    /// Replaces `index.json` in one step. Everything it points at has been written.
    pub fn commit(&self, index: &Index) -> Result<(), LayoutError> {
        let path = self.root.join("index.json");
        let bytes = serde_json::to_vec_pretty(index)
            .map_err(|e| self.damaged(format!("index.json can't be written: {e}")))?;
        let mut file = NamedTempFile::new_in(self.aside())
            .map_err(LayoutError::io("create a file in", &self.aside()))?;
        file.write_all(&bytes)
            .and_then(|()| world_readable(file.as_file()))
            .map_err(LayoutError::io("write", &path))?;
        file.persist(&path).map_err(|e| LayoutError::io("replace", &path)(e.error))?;
        Ok(())
    }

    /// Every blob file here, with its size, sorted by digest.
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
            let size = entry.metadata().map_err(LayoutError::io("look at", &entry.path()))?.len();
            files.extend(digest.map(|digest| (digest, size)));
        }
        files.sort();
        Ok(files)
    }

    /// Removes a blob; no error if it is not there.
    pub fn remove_blob(&self, digest: &Digest) -> Result<(), LayoutError> {
        let path = self.blob_path(digest);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(LayoutError::io("remove", &path)(e))
            }
            _ => Ok(()),
        }
    }
}

impl BlobWriter {
    /// Puts the blob in its place under its digest; gives digest and size.
    pub fn finish(self) -> Result<(Digest, u64), LayoutError> {
        let (file, digest, size) = self.out.finish();
        place(file, &self.blobs, &digest)?;
        Ok((digest, size))
    }

    /// As [`BlobWriter::finish`], but only if the blob has this digest; otherwise nothing is left
    /// of it, and its true digest is the inner error.
    pub fn finish_as(self, expected: &Digest) -> Result<Result<(), Digest>, LayoutError> {
        let (file, digest, _) = self.out.finish();
        if digest != *expected {
            return Ok(Err(digest));
        }
        place(file, &self.blobs, &digest).map(Ok)
    }
}

fn place(file: NamedTempFile, blobs: &Path, digest: &Digest) -> Result<(), LayoutError> {
    let path = blobs.join(digest.hex());
    world_readable(file.as_file()).map_err(LayoutError::io("write", &path))?;
    file.persist(&path).map_err(|e| LayoutError::io("write", &path)(e.error))?;
    Ok(())
}

/// Temporary files are private; what a CI cache carries must be readable to the next job's user.
pub(crate) fn world_readable(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

impl Write for BlobWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.out.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
