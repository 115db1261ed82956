//! Where a server keeps its files: a directory that goes with it, on a small disk of its own if
//! need be.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A directory.
pub(super) struct Disk {
    directory: TempDir,
    mounted: bool,
}

impl Disk {
    /// Makes an empty one that holds so many bytes, or as many as there are.
    pub(super) fn new(megabytes: Option<u32>) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        if let Some(megabytes) = megabytes {
            let size = format!("size={megabytes}m");
            let mut mount = Command::new("mount");
            mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(directory.path());
            assert!(mount.status().expect("mount runs").success(), "no disk: this needs root");
        }
        Self { directory, mounted: megabytes.is_some() }
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            // A server may still have files open.
            let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
        }
    }
}

/// Fills the disk that a directory lies on, but for so many bytes; gives the file that does.
pub(crate) fn fill(directory: &Path, spare: u64) -> PathBuf {
    let path = directory.join("filler");
    let mut file = File::create(&path).expect("a file");
    let mut filled = 0;
    loop {
        match file.write(&[1; 4096]) {
            Ok(count) => filled += count as u64,
            Err(error) if error.kind() == ErrorKind::StorageFull => break,
            Err(error) => panic!("the disk can't be filled: {error}"),
        }
    }
    file.set_len(filled.checked_sub(spare).expect("a disk with room")).expect("a shorter file");
    path
}
