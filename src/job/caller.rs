//! The user who called `sudo`, if one did: steps of one job may run with and without it, so what a step
//! of root's makes belongs to that user.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt as _, chown, fchown};
use std::path::Path;

use rustix::fs::{Dir, FileType, Mode, OFlags, fstat, openat};

/// What of an archive's directory a step makes.
const MADE: [&CStr; 5] =
    [c"blobs", c"index.json", c"oci-layout", c"dockercache.lock", c".dockercache-captures"];

/// The user and group who called `sudo`, if root runs us for somebody.
fn caller() -> Option<(u32, u32)> {
    let number = |name| std::env::var(name).ok()?.parse().ok();
    let is_root = rustix::process::geteuid().is_root();
    is_root.then(|| Some((number("SUDO_UID")?, number("SUDO_GID")?))).flatten()
}

/// Whether what this user owns can be trusted as our own.
pub(super) fn is_ours(uid: u32) -> bool {
    uid == rustix::process::geteuid().as_raw() || caller().is_some_and(|(user, _)| user == uid)
}

/// Gives what we have made to the caller.
pub(super) fn give(path: &Path) -> io::Result<()> {
    match caller() {
        Some((user, group)) => chown(path, Some(user), Some(group)),
        None => Ok(()),
    }
}

/// Makes an archive's directory for the caller, if it is not there.
pub(super) fn make_directory(root: &Path) -> io::Result<()> {
    if caller().is_none() || root.exists() {
        return Ok(());
    }
    fs::create_dir_all(root)?;
    give(root)
}

/// Gives what root has made in an archive to the caller, if the archive is the caller's. What can't be
/// given stays: the next step says what it can't write.
pub(crate) fn give_archive(root: &Path) {
    let Some((user, group)) = caller() else { return };
    let Ok(root) = File::open(root) else { return };
    if !root.metadata().is_ok_and(|found| found.is_dir() && found.uid() == user) {
        return;
    }
    for name in MADE {
        give_below(root.as_fd(), name, (user, group));
    }
}

/// By its descriptor, so that nothing else can be put in its place meanwhile; and a file with one name
/// only, so that it is none from elsewhere.
fn give_below(directory: impl AsFd, name: &CStr, to: (u32, u32)) {
    let careful = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(found) = openat(directory, name, careful, Mode::empty()) else { return };
    let Ok(stat) = fstat(&found) else { return };
    let kind = FileType::from_raw_mode(stat.st_mode);
    let is_roots = stat.st_uid == 0;
    if is_roots && (kind.is_dir() || kind.is_file() && stat.st_nlink == 1) {
        let _ = fchown(&found, Some(to.0), Some(to.1));
    }
    if kind.is_dir() {
        for entry in Dir::read_from(&found).into_iter().flatten().flatten() {
            if entry.file_name() != c"." && entry.file_name() != c".." {
                give_below(&found, entry.file_name(), to);
            }
        }
    }
}
