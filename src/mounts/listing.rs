//! What is in a mount, as it is noted between the helper that unpacks it and the one that packs it.
//!
//! Paths are bytes, relative to the mount, and end with a NUL.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io::{self, BufRead, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

/// The access time of a file that nobody has read since it was unpacked, in seconds since 1970: long
/// before any change of the file, so that `relatime` records the first read.
pub(crate) const UNREAD: i64 = 946_684_800;

/// What kind of file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File,
    Symlink,
    /// A device, a pipe or a socket, which is never carried.
    Other,
}

impl Kind {
    pub(crate) fn of(kind: fs::FileType) -> Self {
        if kind.is_dir() {
            Self::Directory
        } else if kind.is_file() {
            Self::File
        } else if kind.is_symlink() {
            Self::Symlink
        } else {
            Self::Other
        }
    }

    fn letter(self) -> char {
        match self {
            Self::Directory => 'd',
            Self::File => 'f',
            Self::Symlink => 'l',
            Self::Other => 'o',
        }
    }
}

/// A file of a mount.
#[derive(Debug)]
pub(crate) struct Found {
    /// Relative to the mount.
    pub(crate) path: PathBuf,
    pub(crate) kind: Kind,
    pub(crate) meta: Metadata,
}

/// Every file in `root`, directories before what is in them; `root` itself is not in it. What
/// vanishes meanwhile is skipped. Links are not followed.
pub(crate) fn walk(root: &Path) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in WalkDir::new(root).min_depth(1).sort_by_file_name() {
        let entry = match entry.map_err(io::Error::from) {
            Ok(entry) => entry,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        let Ok(meta) = entry.metadata() else { continue };
        let path = entry.path().strip_prefix(root).map_err(io::Error::other)?.to_owned();
        found.push(Found { path, kind: Kind::of(meta.file_type()), meta });
    }
    Ok(found)
}

/// What is known of a file that has been unpacked. Whoever changes the file changes one of these, or
/// its change time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) letter: char,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// A mount as it was unpacked.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// No file had changed later, by the engine's clock.
    pub(crate) complete: (i64, i64),
    pub(crate) files: BTreeMap<PathBuf, Known>,
}

impl Found {
    fn known(&self) -> Known {
        Known {
            letter: self.kind.letter(),
            inode: self.meta.ino(),
            // The size of a directory is the file system's business.
            size: if self.kind == Kind::Directory { 0 } else { self.meta.size() },
            modified: (self.meta.mtime(), self.meta.mtime_nsec()),
        }
    }
}

impl Listing {
    /// Of what is in a mount now.
    pub(crate) fn of(found: &[Found]) -> Self {
        let changed = found.iter().map(|file| (file.meta.ctime(), file.meta.ctime_nsec()));
        Self {
            complete: changed.max().unwrap_or_default(),
            files: found.iter().map(|file| (file.path.clone(), file.known())).collect(),
        }
    }

    /// Whether the file is as it was.
    pub(crate) fn has(&self, file: &Found) -> bool {
        self.files.get(&file.path) == Some(&file.known())
            && (file.meta.ctime(), file.meta.ctime_nsec()) <= self.complete
    }

    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        write!(out, "{} {}\0", self.complete.0, self.complete.1)?;
        for (path, known) in &self.files {
            let Known { letter, inode, size, modified: (seconds, nanos) } = known;
            write!(out, "{letter} {inode} {size} {seconds} {nanos} ")?;
            out.write_all(path.as_os_str().as_bytes())?;
            out.write_all(b"\0")?;
        }
        Ok(())
    }

    pub(crate) fn read(input: impl Read) -> io::Result<Self> {
        let mut records = io::BufReader::new(input).split(0);
        let bad = || io::Error::other("the listing is not readable");
        let first = records.next().ok_or_else(bad)??;
        let mut words = Words(&first);
        let mut listing = Self {
            complete: (words.number().ok_or_else(bad)?, words.number().ok_or_else(bad)?),
            files: BTreeMap::new(),
        };
        for record in records {
            let record = record?;
            let mut words = Words(&record);
            let (path, known) = words.entry().ok_or_else(bad)?;
            listing.files.insert(path, known);
        }
        Ok(listing)
    }
}

/// For how many builds in a row files have not been used; those that were used by the last one are not
/// in it.
pub(crate) type Ages = BTreeMap<PathBuf, u32>;

pub(crate) fn write_ages(ages: &Ages, out: &mut impl Write) -> io::Result<()> {
    for (path, age) in ages {
        write!(out, "{age} ")?;
        out.write_all(path.as_os_str().as_bytes())?;
        out.write_all(b"\0")?;
    }
    Ok(())
}

pub(crate) fn read_ages(input: impl Read) -> io::Result<Ages> {
    let mut ages = Ages::new();
    for record in io::BufReader::new(input).split(0) {
        let record = record?;
        let mut words = Words(&record);
        let age = words.number().and_then(|age| u32::try_from(age).ok());
        let age = age.ok_or_else(|| io::Error::other("the ages are not readable"))?;
        ages.insert(words.path(), age);
    }
    Ok(ages)
}

/// Words that end with a space each.
struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn word(&mut self) -> Option<&str> {
        let end = self.0.iter().position(|&b| b == b' ').unwrap_or(self.0.len());
        let (word, rest) = self.0.split_at(end);
        self.0 = rest.get(1..).unwrap_or_default();
        std::str::from_utf8(word).ok()
    }

    fn number(&mut self) -> Option<i64> {
        self.word()?.parse().ok()
    }

    fn path(&mut self) -> PathBuf {
        PathBuf::from(OsStr::from_bytes(self.0))
    }

    fn entry(&mut self) -> Option<(PathBuf, Known)> {
        let letter = self.word()?.chars().next()?;
        let inode = self.word()?.parse().ok()?;
        let size = self.word()?.parse().ok()?;
        let modified = (self.number()?, self.number()?);
        Some((self.path(), Known { letter, inode, size, modified }))
    }
}
