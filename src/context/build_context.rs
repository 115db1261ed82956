//! The build context as callers see it: open it, ask what an instruction sees of it.

use super::digest::{self, ContentDigest};
use super::error::ContextError;
use super::go_path::{below_root, has_wildcards};
use super::ignore::IgnoreFile;
use super::pattern::PatternMatcher;
use super::select::{ListForm, Selected, Selector};
use super::walk::{Directory, Found, Node, Tree};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// A local build context. Directories are listed and files are read when a query first needs them,
/// and once.
#[derive(Debug)]
pub struct BuildContext {
    tree: Tree,
    ignore_file: Option<PathBuf>,
}

/// What one instruction takes from the context.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContextQuery {
    /// The sources after variable expansion, without URLs and heredocs.
    pub sources: Vec<String>,
    /// The patterns of `--exclude`.
    pub excludes: Vec<String>,
    /// Whether `--parents` was given.
    pub parents: bool,
    /// Whether wildcards are resolved: they are in `COPY` and `ADD`, not in a bind mount.
    pub wildcards: bool,
    /// The form of the digest that the engine uses for wildcards and filters.
    pub form: ListForm,
}

impl ContextQuery {
    /// The query of a `COPY` or `ADD` without further flags.
    pub fn copy<S: Into<String>>(sources: impl IntoIterator<Item = S>) -> Self {
        let sources = sources.into_iter().map(Into::into).collect();
        Self { sources, wildcards: true, ..Self::default() }
    }

    /// The query of a `RUN` with bind mounts of these sources.
    pub fn mounts<S: Into<String>>(sources: impl IntoIterator<Item = S>) -> Self {
        Self { wildcards: false, ..Self::copy(sources) }
    }
}

/// The digest of what an instruction sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextDigest {
    /// Equal to the builder's own content digest of these sources.
    pub digest: ContentDigest,
    /// Every file, link, and directory that went into it, sorted by path.
    pub entries: Vec<ContextEntry>,
    /// The size of these files together.
    pub bytes: u64,
}

/// Something in the context that went into a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextEntry {
    /// Relative to the context.
    pub path: PathBuf,
    /// What it is.
    pub kind: EntryKind,
    /// The permission bits, with set-user-id, set-group-id, and sticky.
    pub mode: u32,
    /// The size of a file, otherwise 0.
    pub size: u64,
    /// Of header and content; of a directory, the header alone.
    pub digest: ContentDigest,
}

/// The kinds of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A socket, FIFO, or device.
    Other,
}

/// What a context has cost so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadCost {
    /// How many directories were listed.
    pub directories: u64,
    /// How many files were read.
    pub files: u64,
    /// How many bytes were read from them.
    pub bytes: u64,
}

impl BuildContext {
    /// Opens a context and reads its ignore file: `<dockerfile>.dockerignore` where there is one,
    /// otherwise `.dockerignore` in the context.
    pub fn open(root: &Path, dockerfile: Option<&Path>) -> Result<Self, ContextError> {
        let resolved = root.canonicalize().map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => ContextError::NoContext { path: root.to_owned() },
            _ => ContextError::read(root, source),
        })?;
        if !resolved.is_dir() {
            return Err(ContextError::NotADirectory { path: root.to_owned() });
        }
        let ignore = IgnoreFile::find(&resolved, dockerfile)?;
        Ok(Self { tree: Tree::new(resolved, ignore.matcher), ignore_file: ignore.path })
    }

    /// The ignore file in force, if there is one.
    pub fn ignore_file(&self) -> Option<&Path> {
        self.ignore_file.as_deref()
    }

    /// Whether the client sends a file at this path, relative to the context, whether it is there
    /// yet or not.
    pub(crate) fn sends(&self, path: &Path) -> bool {
        self.tree.sends(path.as_os_str().as_bytes())
    }

    /// Computes the digest of what an instruction sees, and lists what that is.
    pub fn digest(&self, query: &ContextQuery) -> Result<ContextDigest, ContextError> {
        let mut entries = BTreeMap::new();
        let digest = self.digest_with(query, &mut |place| self.collect(place, &mut entries))?;
        let bytes = entries.values().map(|entry: &ContextEntry| entry.size).sum();
        Ok(ContextDigest { digest, entries: entries.into_values().collect(), bytes })
    }

    /// Computes the digest alone, which takes less time and memory.
    pub fn digest_alone(&self, query: &ContextQuery) -> Result<ContentDigest, ContextError> {
        self.digest_with(query, &mut |_| Ok(()))
    }

    fn digest_with(
        &self,
        query: &ContextQuery,
        visit: &mut dyn FnMut(&Selected<'_>) -> Result<(), ContextError>,
    ) -> Result<ContentDigest, ContextError> {
        if query.form == ListForm::Sources {
            return self.digest_by_source(query, visit);
        }
        let mut joined = Vec::new();
        for selector in selectors(query)? {
            let selection = selector.select(&self.tree).map_err(|error| self.explain(error))?;
            if !joined.is_empty() {
                joined.push(0);
            }
            joined.extend(selection.digest.to_string().bytes());
            selection.places.iter().try_for_each(&mut *visit)?;
        }
        Ok(ContentDigest::of(&joined))
    }

    /// Each source's entries by path, in the order of the sources.
    fn digest_by_source(
        &self,
        query: &ContextQuery,
        visit: &mut dyn FnMut(&Selected<'_>) -> Result<(), ContextError>,
    ) -> Result<ContentDigest, ContextError> {
        let mut joined = Vec::new();
        for source in &query.sources {
            let selection =
                selector(source, query)?.select(&self.tree).map_err(|error| self.explain(error))?;
            let mut entries = BTreeMap::new();
            for place in &selection.places {
                self.collect(place, &mut entries)?;
                visit(place)?;
            }
            for (path, entry) in &entries {
                joined.extend_from_slice(path);
                joined.push(0);
                joined.extend(entry.digest.to_string().bytes());
            }
            joined.push(0);
        }
        Ok(ContentDigest::of(&joined))
    }

    /// Every file and link that is not ignored, relative to the context, in the order of a walk.
    pub fn files(&self) -> Result<Vec<PathBuf>, ContextError> {
        let mut files = Vec::new();
        self.each_below(&self.tree.top, &mut |found| {
            if let Found::Leaf { .. } = found {
                files.push(to_path(found.path()));
            }
            Ok(())
        })?;
        Ok(files)
    }

    /// What was listed and read so far.
    pub fn read_cost(&self) -> ReadCost {
        ReadCost {
            directories: self.tree.listed.load(Ordering::Relaxed),
            files: self.tree.files_read.load(Ordering::Relaxed),
            bytes: self.tree.bytes_read.load(Ordering::Relaxed),
        }
    }

    /// Says so when a source is missing only because it is ignored.
    fn explain(&self, error: ContextError) -> ContextError {
        let (ContextError::MissingSource { source_path, .. }, Some(ignore_file)) =
            (&error, &self.ignore_file)
        else {
            return error;
        };
        let everything = Tree::new(self.tree.on_disk(b""), PatternMatcher::default());
        match everything.lookup(&below_root(source_path.as_bytes()), true) {
            Ok(Some(_)) => ContextError::IgnoredSource {
                source_path: source_path.clone(),
                ignore_file: ignore_file.clone(),
            },
            _ => error,
        }
    }

    fn collect(
        &self,
        place: &Selected<'_>,
        entries: &mut BTreeMap<Vec<u8>, ContextEntry>,
    ) -> Result<(), ContextError> {
        let mut add = |found: Found<'_>| {
            let path = found.path();
            // The root has no header that counts.
            if !path.is_empty() && !entries.contains_key(&path) {
                let entry = self.entry(found)?;
                entries.insert(path, entry);
            }
            Ok(())
        };
        add(place.found)?;
        match place.found {
            Found::Directory(directory) if place.whole => self.each_below(directory, &mut add),
            _ => Ok(()),
        }
    }

    fn entry(&self, found: Found<'_>) -> Result<ContextEntry, ContextError> {
        let (kind, mode, size) = match found {
            Found::Directory(directory) => (EntryKind::Directory, directory.mode, 0),
            Found::Leaf { node, .. } => match node {
                Node::Directory(directory) => (EntryKind::Directory, directory.mode, 0),
                Node::File(file) => match file.digest.get() {
                    Some(read) => (EntryKind::File, read.mode, read.size),
                    None => (EntryKind::File, file.mode, file.size),
                },
                Node::Link { mode, .. } => (EntryKind::Symlink, *mode, 0),
                Node::Special { mode, .. } => (EntryKind::Other, *mode, 0),
            },
        };
        let digest = match found {
            Found::Directory(directory) => digest::header(&self.tree, directory),
            Found::Leaf { .. } => digest::place(&self.tree, found)?,
        };
        Ok(ContextEntry { path: to_path(found.path()), kind, mode: mode & 0o7777, size, digest })
    }

    fn each_below<'a>(
        &'a self,
        directory: &'a Directory,
        visit: &mut impl FnMut(Found<'a>) -> Result<(), ContextError>,
    ) -> Result<(), ContextError> {
        for entry in self.tree.entries(directory)? {
            let found = directory.found(entry);
            visit(found)?;
            if let Found::Directory(below) = found {
                self.each_below(below, visit)?;
            }
        }
        Ok(())
    }
}

fn to_path(path: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(path))
}

/// Turns sources into selectors, in the order in which the builder joins their digests.
fn selectors(query: &ContextQuery) -> Result<Vec<Selector>, ContextError> {
    let mut selectors = Vec::new();
    for source in &query.sources {
        selectors.push(selector(source, query)?);
    }
    let plain: BTreeSet<Vec<u8>> = selectors
        .iter()
        .filter(|selector| !selector.is_filtered())
        .map(|selector| selector.path.clone())
        .collect();
    // A plain source that is named twice, or that lies in another one, counts once.
    let mut seen = BTreeSet::new();
    selectors.retain(|selector| {
        selector.is_filtered()
            || (seen.insert(selector.path.clone())
                && !plain.iter().any(|other| {
                    !other.is_empty()
                        && selector.path.starts_with(&[other, b"/".as_slice()].concat())
                }))
    });
    selectors.sort_by(|left, right| {
        let path = |selector: &Selector| {
            if selector.path.is_empty() { b"/".to_vec() } else { selector.path.clone() }
        };
        // Stable, with the plain ones first.
        (path(left), left.is_filtered()).cmp(&(path(right), right.is_filtered()))
    });
    Ok(selectors)
}

fn selector(written: &str, query: &ContextQuery) -> Result<Selector, ContextError> {
    let mut source = written;
    let mut include = None;
    let mut required = None;
    if query.parents {
        // The part behind `/./` is what keeps its parents.
        let (start, pattern) = written.split_once("/./").unwrap_or(("/", written));
        source = start;
        let pattern = below_root(pattern.as_bytes());
        if !has_wildcards(start.as_bytes()) && !has_wildcards(&pattern) {
            required = Some([below_root(start.as_bytes()), pattern.clone()].concat());
        }
        let text = pattern.strip_prefix(b"/").unwrap_or(&pattern);
        include = Some(matcher([text])?);
    }
    let exclude = (!query.excludes.is_empty())
        .then(|| matcher(query.excludes.iter().map(String::as_bytes)))
        .transpose()?;
    let path = below_root(source.as_bytes());
    let wildcard = query.wildcards && has_wildcards(&path);
    let (written, form) = (written.to_owned(), query.form);
    Ok(Selector { written, path, wildcard, include, exclude, required, form })
}

fn matcher<'a>(
    patterns: impl IntoIterator<Item = &'a [u8]>,
) -> Result<PatternMatcher, ContextError> {
    let patterns: Vec<&[u8]> = patterns.into_iter().collect();
    PatternMatcher::new(patterns.iter().copied()).map_err(|(bad, reason)| ContextError::Pattern {
        pattern: String::from_utf8_lossy(patterns[bad]).into_owned(),
        reason,
    })
}
