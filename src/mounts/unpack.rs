//! Unpacks the layers of a mount, the first one first, into an empty directory.
//!
//! The layers are content of somebody: no path leaves the mount, whether by `..`, by a link on the
//! way, or by the target of a hard link, and devices are refused. Whiteouts are those of the OCI image
//! specification.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{
    MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, lchown, symlink,
};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags, lsetxattr, utimensat};
use tar::EntryType;

use super::listing::UNREAD;
use super::pack::{OPAQUE, WHITEOUT, XATTR};
use crate::oci::codec;

/// What zeros become a hole from.
const BLOCK: usize = 4096;
const BLOCK_LENGTH: i64 = 4096;

/// What was unpacked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Unpacked {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// Entries that would have left the mount, and devices.
    pub(crate) refused: u64,
}

/// Unpacks one compressed layer over what is there.
pub(crate) fn layer(root: &Path, layer: impl Read, done: &mut Unpacked) -> io::Result<()> {
    let (_, tar) = codec::decoder(layer)?;
    let mut archive = tar::Archive::new(tar);
    let mut times: Vec<(PathBuf, Timespec)> = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let Some(path) = inside(root, &path) else {
            done.refused += 1;
            continue;
        };
        let name = path.file_name().map(|name| name.as_bytes().to_vec()).unwrap_or_default();
        if path != root && name == OPAQUE {
            empty(path.parent().unwrap_or(root))?;
        } else if let Some(gone) = name.strip_prefix(WHITEOUT).filter(|_| path != root) {
            if !gone.is_empty() && gone != b"." && gone != b".." {
                remove(&path.with_file_name(OsStr::from_bytes(gone)))?;
            }
        } else {
            let modified = extract(root, &path, &mut entry, done)?;
            times.extend(modified.map(|time| (path, time)));
        }
    }
    // What is put into a directory changes its time; so they come last, the innermost first.
    times.reverse();
    for (path, modified) in times {
        set_times(&path, modified)?;
    }
    Ok(())
}

/// Where an entry is, if it is in the mount: `root` for the mount itself.
fn inside(root: &Path, path: &Path) -> Option<PathBuf> {
    let mut place = root.to_owned();
    let mut parts = path.components().filter(|part| *part != Component::CurDir).peekable();
    while let Some(part) = parts.next() {
        let Component::Normal(name) = part else { return None };
        place.push(name);
        if parts.peek().is_some() {
            let is_directory = place.symlink_metadata().is_ok_and(|meta| meta.is_dir());
            if !is_directory {
                return None;
            }
        }
    }
    Some(place)
}

/// Makes one file; gives the time of a directory, which is set later.
fn extract(
    root: &Path,
    path: &Path,
    entry: &mut tar::Entry<'_, impl Read>,
    done: &mut Unpacked,
) -> io::Result<Option<Timespec>> {
    let header = entry.header().clone();
    let kind = header.entry_type();
    let there = path.symlink_metadata().ok();
    let is_directory = there.as_ref().is_some_and(fs::Metadata::is_dir);
    if there.is_some() && !(is_directory && kind == EntryType::Directory) {
        remove(path)?;
    }
    let mut modified =
        Timespec { tv_sec: i64::try_from(header.mtime()?).unwrap_or_default(), tv_nsec: 0 };
    let mut attributes: Vec<(String, Vec<u8>)> = Vec::new();
    for extension in entry.pax_extensions()?.into_iter().flatten() {
        let extension = extension?;
        let Ok(key) = extension.key() else { continue };
        if key == "mtime" {
            modified = extension.value().ok().and_then(time).unwrap_or(modified);
        } else if let Some(name) = key.strip_prefix(XATTR) {
            attributes.push((name.to_owned(), extension.value_bytes().to_vec()));
        }
    }
    match kind {
        EntryType::Directory => {
            if !is_directory {
                fs::create_dir(path)?;
            }
        }
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            done.bytes += write(path, entry)?;
        }
        EntryType::Symlink => {
            let target = entry.link_name()?.unwrap_or_default().into_owned();
            symlink(target, path)?;
        }
        EntryType::Link => {
            let target = entry.link_name()?.and_then(|target| inside(root, &target));
            match target {
                Some(target) if target.symlink_metadata().is_ok_and(|meta| meta.is_file()) => {
                    fs::hard_link(target, path)?;
                    done.files += 1;
                }
                _ => done.refused += 1,
            }
            return Ok(None);
        }
        _ => {
            done.refused += 1;
            return Ok(None);
        }
    }
    done.files += 1;
    let number = |id: u64| u32::try_from(id).unwrap_or_default();
    lchown(path, Some(number(header.uid()?)), Some(number(header.gid()?)))?;
    if kind != EntryType::Symlink {
        // After the owner, whose change clears some of the bits.
        fs::set_permissions(path, fs::Permissions::from_mode(header.mode()? & 0o7777))?;
    }
    for (name, value) in attributes {
        // Not every file system has them, and no cache is wrong without.
        let _ = lsetxattr(path, name.as_str(), &value, XattrFlags::empty());
    }
    set_times(path, modified)?;
    Ok((kind == EntryType::Directory).then_some(modified))
}

/// Writes a file; what is zero becomes a hole.
fn write(path: &Path, content: &mut impl Read) -> io::Result<u64> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let mut buffer = vec![0; 64 * BLOCK];
    let mut size = 0;
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match content.read(&mut buffer[filled..])? {
                0 => break,
                read => filled += read,
            }
        }
        for block in buffer[..filled].chunks(BLOCK) {
            if block.len() == BLOCK && block.iter().all(|&byte| byte == 0) {
                file.seek(SeekFrom::Current(BLOCK_LENGTH))?;
            } else {
                file.write_all(block)?;
            }
        }
        size += filled as u64;
        if filled < buffer.len() {
            file.set_len(size)?;
            return Ok(size);
        }
    }
}

fn set_times(path: &Path, modified: Timespec) -> io::Result<()> {
    let last_access = Timespec { tv_sec: UNREAD, tv_nsec: 0 };
    let times = Timestamps { last_access, last_modification: modified };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// A time as PAX has it, in seconds with a fraction.
fn time(text: &str) -> Option<Timespec> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let nanos: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    Some(Timespec { tv_sec: seconds.parse().ok()?, tv_nsec: nanos.parse().ok()? })
}

/// Removes a file or a whole directory; no error if there is none.
fn remove(path: &Path) -> io::Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes what is in a directory.
pub(crate) fn empty(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        remove(&entry?.path())?;
    }
    Ok(())
}

/// Whether access times move where `directory` is: a file of our own is made, read and removed.
pub(crate) fn records_access(directory: &Path) -> bool {
    let path = directory.join(".dockercache-probe");
    let before = directory.metadata();
    let seen = (|| -> io::Result<bool> {
        fs::write(&path, "read me")?;
        set_times(&path, Timespec { tv_sec: UNREAD, tv_nsec: 0 })?;
        let mut text = String::new();
        File::open(&path)?.read_to_string(&mut text)?;
        Ok(path.metadata()?.atime() != UNREAD)
    })();
    let _ = fs::remove_file(&path);
    if let Ok(before) = before {
        let of = |seconds, nanos| Timespec { tv_sec: seconds, tv_nsec: nanos };
        let times = Timestamps {
            last_access: of(before.atime(), before.atime_nsec()),
            last_modification: of(before.mtime(), before.mtime_nsec()),
        };
        let _ = utimensat(CWD, directory, &times, AtFlags::empty());
    }
    seen.unwrap_or(false)
}
