//! Packs a mount: what has changed since it was unpacked, or all of it, without what builds no longer
//! use.
//!
//! Times have nanoseconds, since compilers compare them. Nothing is followed that leads out of the
//! mount, and reading leaves no trace that would look like use.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, lgetxattr, llistxattr};
use serde::{Deserialize, Serialize};
use tar::{EntryType, Header};

use super::listing::{Ages, Found, Kind, Listing, UNREAD};
use super::policy::Bounds;

/// What the name of a whiteout begins with, by the OCI image specification.
pub(crate) const WHITEOUT: &[u8] = b".wh.";
/// The whiteout of all that is in a directory.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";
/// What PAX records with an extended attribute begin with.
pub(crate) const XATTR: &str = "SCHILY.xattr.";
/// The extended attributes that are carried begin so.
const CARRIED: [&str; 3] = ["user.", "security.capability", "system.posix_acl_"];

/// What a mount consists of, and what is packed of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Packed {
    /// Whether the layer stands for itself; else it is on top of those that were unpacked.
    pub(crate) full: bool,
    /// Whether there is a layer at all.
    pub(crate) changed: bool,
    /// Digest of the layer before compression.
    pub(crate) diff_id: String,
    /// The layer's size before compression, in bytes.
    pub(crate) unpacked: u64,
    /// Files that are kept, and their bytes.
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// Files of them that this build has used, and their bytes.
    pub(crate) used_files: u64,
    pub(crate) used_bytes: u64,
    /// Files that are dropped, and their bytes.
    pub(crate) dropped_files: u64,
    pub(crate) dropped_bytes: u64,
    /// Files that can't be packed: devices, pipes, sockets, and names that mean something in a layer.
    pub(crate) refused: u64,
    /// Whether it is known which files were used.
    pub(crate) knows_use: bool,
}

/// What is to be done with the files of a mount.
pub(crate) struct Plan<'a> {
    /// What the layer has, directories before what is in them.
    written: Vec<&'a Found>,
    /// What the layer takes away from those below it.
    gone: Vec<PathBuf>,
    /// The ages that are noted.
    pub(crate) ages: Ages,
    pub(crate) packed: Packed,
}

/// Decides what is kept and what of that is packed. `listing` is what was unpacked, if anything was.
pub(crate) fn plan<'a>(
    found: &'a [Found],
    listing: Option<&Listing>,
    ages: &Ages,
    knows_use: bool,
    bounds: &Bounds,
) -> Plan<'a> {
    let mut packed = Packed { knows_use, ..Packed::default() };
    let is_same = |file: &Found| listing.is_some_and(|listing| listing.has(file));
    // A layer would mean something else by such a name.
    let is_named =
        |file: &Found| file.path.iter().all(|part| !part.as_bytes().starts_with(WHITEOUT));
    let mut new_ages = Ages::new();
    let mut candidates: Vec<(&Found, u32)> = Vec::new();
    for file in found.iter().filter(|file| file.kind != Kind::Directory) {
        if file.kind == Kind::Other || !is_named(file) {
            packed.refused += 1;
            continue;
        }
        let is_unused = knows_use && is_same(file) && file.meta.atime() == UNREAD;
        let age = if is_unused { ages.get(&file.path).copied().unwrap_or(0) + 1 } else { 0 };
        if age >= bounds.builds {
            packed.dropped_files += 1;
            packed.dropped_bytes += file.meta.size();
        } else {
            candidates.push((file, age));
        }
    }
    // The longest unused go first, then the oldest.
    let mut total: u64 = candidates.iter().map(|(file, _)| file.meta.size()).sum();
    if total > bounds.bytes {
        candidates.sort_by_key(|(file, age)| (std::cmp::Reverse(*age), file.meta.mtime()));
        let mut evicted = 0;
        while total > bounds.bytes && evicted < candidates.len() {
            let size = candidates[evicted].0.meta.size();
            total -= size;
            packed.dropped_files += 1;
            packed.dropped_bytes += size;
            evicted += 1;
        }
        candidates.drain(..evicted);
    }
    let mut places: BTreeSet<&Path> = BTreeSet::new();
    for (file, age) in &candidates {
        packed.files += 1;
        packed.bytes += file.meta.size();
        if *age == 0 {
            packed.used_files += 1;
            packed.used_bytes += file.meta.size();
        } else {
            new_ages.insert(file.path.clone(), *age);
        }
        places.insert(&file.path);
        places.extend(file.path.ancestors().skip(1));
    }
    // A directory goes with the last of its files; one that was empty stays.
    let parents: BTreeSet<&Path> = found.iter().filter_map(|file| file.path.parent()).collect();
    for directory in found.iter().filter(|file| file.kind == Kind::Directory) {
        let is_empty = !parents.contains(directory.path.as_path());
        if is_empty && is_named(directory) {
            places.extend(directory.path.ancestors());
        }
    }
    let kept: Vec<&Found> =
        found.iter().filter(|file| places.contains(file.path.as_path())).collect();
    let changed: Vec<&Found> = kept.iter().copied().filter(|file| !is_same(file)).collect();
    let gone = listing.map_or_else(Vec::new, |listing| gone(listing, &kept));
    let size = |files: &[&Found]| files.iter().map(|file| tar_size(file)).sum::<u64>();
    let is_grown = bounds.is_grown(size(&changed), size(&kept));
    packed.full = listing.is_none() || is_grown;
    packed.changed = packed.full || !changed.is_empty() || !gone.is_empty();
    let (written, gone) = if packed.full { (kept, Vec::new()) } else { (changed, gone) };
    Plan { written, gone, ages: new_ages, packed }
}

/// About what a file takes in a layer, in bytes.
fn tar_size(file: &Found) -> u64 {
    let content = if file.kind == Kind::File { file.meta.size() } else { 0 };
    // Its header, and that of its times.
    1536 + content.next_multiple_of(512)
}

/// What was unpacked and is not kept, each without what is in it.
fn gone(listing: &Listing, kept: &[&Found]) -> Vec<PathBuf> {
    let letters: BTreeMap<&Path, bool> =
        kept.iter().map(|file| (file.path.as_path(), file.kind == Kind::Directory)).collect();
    let mut gone: Vec<PathBuf> = Vec::new();
    let mut outer = BTreeSet::new();
    for (path, known) in &listing.files {
        let is_gone = letters.get(path.as_path()) != Some(&(known.letter == 'd'));
        // Sorted, so a directory comes before what is in it.
        let is_inner = path.ancestors().skip(1).any(|above| outer.contains(above));
        if is_gone && !is_inner {
            outer.insert(path.as_path());
            gone.push(path.clone());
        }
    }
    gone
}

impl Plan<'_> {
    /// Writes the layer's tar.
    pub(crate) fn write(&self, root: &Path, out: impl Write) -> io::Result<()> {
        let mut tar = tar::Builder::new(out);
        for path in &self.gone {
            let mut name = OsString::from_vec(WHITEOUT.to_vec());
            name.push(path.file_name().unwrap_or_default());
            let mut header = Header::new_gnu();
            header.set_size(0);
            header.set_mode(0o644);
            tar.append_data(&mut header, path.with_file_name(name), io::empty())?;
        }
        let mut links: HashMap<(u64, u64), &Path> = HashMap::new();
        if self.packed.full {
            let root_meta = root.symlink_metadata()?;
            entry(&mut tar, root, Path::new("./"), Kind::Directory, &root_meta, &mut links)?;
        }
        for file in &self.written {
            entry(&mut tar, root, &file.path, file.kind, &file.meta, &mut links)?;
        }
        tar.finish()
    }
}

fn entry<'a>(
    tar: &mut tar::Builder<impl Write>,
    root: &Path,
    path: &'a Path,
    kind: Kind,
    meta: &std::fs::Metadata,
    links: &mut HashMap<(u64, u64), &'a Path>,
) -> io::Result<()> {
    let place = root.join(path);
    let mut header = Header::new_gnu();
    header.set_size(0);
    header.set_mode(meta.mode() & 0o7777);
    header.set_uid(meta.uid().into());
    header.set_gid(meta.gid().into());
    header.set_mtime(u64::try_from(meta.mtime()).unwrap_or_default());
    if kind == Kind::File
        && meta.nlink() > 1
        && let Some(first) = links.get(&(meta.dev(), meta.ino()))
    {
        header.set_entry_type(EntryType::Link);
        return tar.append_link(&mut header, path, first);
    }
    // What has vanished since is skipped.
    let file = match kind {
        Kind::File => match open(&place) {
            Ok(file) => Some(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        },
        _ => None,
    };
    let mut records = vec![("mtime".to_owned(), time(meta).into_bytes())];
    records.extend(attributes(&place));
    tar.append_pax_extensions(records.iter().map(|(name, value)| (name.as_str(), &value[..])))?;
    match (kind, file) {
        (Kind::Directory, _) => {
            header.set_entry_type(EntryType::Directory);
            tar.append_data(&mut header, path, io::empty())
        }
        (Kind::Symlink, _) => {
            header.set_entry_type(EntryType::Symlink);
            let target = std::fs::read_link(&place)?;
            tar.append_link(&mut header, path, target)
        }
        (_, Some(file)) => {
            if meta.nlink() > 1 {
                links.insert((meta.dev(), meta.ino()), path);
            }
            header.set_size(meta.size());
            // A file that shrinks meanwhile keeps the size that was promised.
            tar.append_data(&mut header, path, file.chain(io::repeat(0)).take(meta.size()))
        }
        _ => Ok(()),
    }
}

/// Opens a file so that reading it does not look like use.
fn open(path: &Path) -> io::Result<File> {
    let flags = |flags: OFlags| i32::try_from(flags.bits()).unwrap_or_default();
    let with = |flag| OpenOptions::new().read(true).custom_flags(flags(flag)).open(path);
    with(OFlags::NOFOLLOW | OFlags::NOATIME).or_else(|_| with(OFlags::NOFOLLOW))
}

/// The time of change as PAX has it.
fn time(meta: &std::fs::Metadata) -> String {
    // Before 1970 the fraction would have to be counted the other way round.
    match meta.mtime() {
        seconds if seconds < 0 => seconds.to_string(),
        seconds => format!("{seconds}.{:09}", meta.mtime_nsec()),
    }
}

fn attributes(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names = vec![0; 64 << 10];
    let Ok(length) = llistxattr(path, &mut names[..]) else { return Vec::new() };
    let names =
        names[..length].split(|&byte| byte == 0).filter_map(|n| std::str::from_utf8(n).ok());
    let carried = names.filter(|name| CARRIED.iter().any(|prefix| name.starts_with(prefix)));
    carried
        .filter_map(|name| {
            let mut value = vec![0; 64 << 10];
            let length = lgetxattr(path, name, &mut value[..]).ok()?;
            value.truncate(length);
            Some((format!("{XATTR}{name}"), value))
        })
        .collect()
}
