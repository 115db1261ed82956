//! What was done with a directory on this machine: its last build, and which blobs were verified.
//!
//! Lies in the temporary directory, readable to its user only, and never in the archive: build
//! arguments may be secrets, and a CI cache is no place for them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::engine::arguments::BuildArguments;
use crate::engine::build_log::{ClassicStep, LoggedStep};
use crate::layout::digest::Digest;
use crate::layout::verify::Seen;

/// The journal of one directory.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Journal {
    /// The last build with this directory.
    pub build: Option<LastBuild>,
    /// Blobs that were found good.
    pub verified: BTreeMap<Digest, Seen>,
    /// The store that the archive came from or went to.
    #[serde(default)]
    pub remote: Option<RemoteCopy>,
    #[serde(skip)]
    path: PathBuf,
}

/// What a store holds of the archive.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct RemoteCopy {
    /// The store's URL.
    pub url: String,
    /// The level of the ref that named the archive.
    pub level: String,
    /// The archive's blobs: those that are not in the directory are there.
    pub blobs: BTreeSet<Digest>,
    /// What `--cache-from` names, where the builder reads the store by itself.
    pub direct: Option<String>,
}

/// A build that succeeded.
#[derive(Debug, Serialize, Deserialize)]
pub struct LastBuild {
    /// Its arguments.
    pub arguments: BuildArguments,
    /// Where it was run.
    pub directory: PathBuf,
    /// The engine's ID: on another engine, the build is not there.
    pub engine: String,
    /// The strategy's name.
    pub strategy: String,
    /// What became of each step.
    pub steps: Vec<LoggedStep>,
    /// The classic builder's images.
    pub images: Vec<ClassicStep>,
    /// Whether it has been saved since.
    pub saved: bool,
}

impl Journal {
    /// Reads the journal of `dir`; an empty one if there is none that can be read.
    pub fn read(dir: &Path) -> Self {
        let path = path_for(dir);
        let mut journal: Self = fs::read(&path)
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok())
            .unwrap_or_default();
        journal.path = path;
        journal
    }

    /// Writes it in one step.
    pub fn write(&self) -> io::Result<()> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        if !dir.exists() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let file = tempfile::NamedTempFile::new_in(dir)?;
        serde_json::to_writer(&file, self)?;
        file.persist(&self.path).map_err(|e| e.error)?;
        Ok(())
    }
}

fn path_for(dir: &Path) -> PathBuf {
    let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let absolute = absolute.canonicalize().unwrap_or(absolute);
    let name = Digest::of(absolute.as_os_str().as_encoded_bytes());
    let user = fs::metadata("/proc/self").map_or(0, |m| m.uid());
    std::env::temp_dir()
        .join(format!("dockercache-journal-{user}"))
        .join(format!("{}.json", name.short()))
}
