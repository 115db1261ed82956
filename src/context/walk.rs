//! The files of a context that the client would send, listed directory by directory on demand.
//!
//! What is sent follows buildx and fsutil: an ignored directory is there when something below it is
//! re-included; symbolic links are sent as links and never followed; a socket is sent as an empty
//! regular file (fsutil clears the socket bit), a FIFO or device as what it is, without content. A
//! directory is only listed when a query reaches it, which is why this is no `walkdir` loop: a query
//! for one file lists its parents, and an ignored directory that no `!` pattern reaches is never
//! opened.

use super::digest::{ContentDigest, FileDigest};
use super::error::ContextError;
use super::pattern::{MatchInfo, PatternMatcher};
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// A context directory, as far as it has been listed.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
    ignore: PatternMatcher,
    pub(super) top: Directory,
    pub(super) listed: AtomicU64,
    pub(super) files_read: AtomicU64,
    pub(super) bytes_read: AtomicU64,
}

/// A directory: its own header, and its entries once it has been listed.
#[derive(Debug)]
pub(super) struct Directory {
    /// Relative to the root, without slashes at the ends; empty for the root.
    pub(super) path: Vec<u8>,
    pub(super) mode: u32,
    ignored: bool,
    info: Option<MatchInfo>,
    entries: OnceLock<Vec<Entry>>,
    visible: OnceLock<bool>,
    pub(super) digest: OnceLock<ContentDigest>,
}

/// A name in a directory.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Box<[u8]>,
    pub(super) node: Node,
}

/// What is behind a name.
#[derive(Debug)]
pub(super) enum Node {
    Directory(Box<Directory>),
    File(File),
    Link { mode: u32, target: Box<[u8]> },
    Special { mode: u32, kind: Special, device: u64 },
}

/// A regular file, and its digest once it has been read.
#[derive(Debug)]
pub(super) struct File {
    pub(super) mode: u32,
    pub(super) size: u64,
    pub(super) digest: OnceLock<FileDigest>,
}

/// Files that have no content of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Special {
    Socket,
    Fifo,
    CharDevice,
    BlockDevice,
}

/// A place in the tree.
#[derive(Debug, Clone, Copy)]
pub(super) enum Found<'a> {
    Directory(&'a Directory),
    Leaf { parent: &'a Directory, name: &'a [u8], node: &'a Node },
}

impl Found<'_> {
    /// The path below the root.
    pub(super) fn path(&self) -> Vec<u8> {
        match self {
            Self::Directory(directory) => directory.path.clone(),
            Self::Leaf { parent, name, .. } => parent.join(name),
        }
    }
}

impl Directory {
    fn new(path: Vec<u8>, mode: u32, ignored: bool, info: Option<MatchInfo>) -> Self {
        Self {
            path,
            mode,
            ignored,
            info,
            entries: OnceLock::new(),
            visible: OnceLock::new(),
            digest: OnceLock::new(),
        }
    }

    pub(super) fn join(&self, name: &[u8]) -> Vec<u8> {
        if self.path.is_empty() { name.to_vec() } else { [&self.path, name].join(&b'/') }
    }

    pub(super) fn is_root(&self) -> bool {
        self.path.is_empty()
    }

    /// The place of one of its entries.
    pub(super) fn found<'a>(&'a self, entry: &'a Entry) -> Found<'a> {
        match &entry.node {
            Node::Directory(directory) => Found::Directory(directory),
            node => Found::Leaf { parent: self, name: &entry.name, node },
        }
    }
}

impl Tree {
    pub(super) fn new(root: PathBuf, ignore: PatternMatcher) -> Self {
        Self {
            root,
            ignore,
            // The builder never sees the mode of the root.
            top: Directory::new(Vec::new(), 0, false, None),
            listed: AtomicU64::new(0),
            files_read: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
        }
    }

    pub(super) fn on_disk(&self, path: &[u8]) -> PathBuf {
        self.root.join(OsStr::from_bytes(path.strip_prefix(b"/").unwrap_or(path)))
    }

    /// Whether a file at this path is sent, by the ignore file alone.
    pub(super) fn sends(&self, path: &[u8]) -> bool {
        let mut info: Option<MatchInfo> = None;
        let ends = path.iter().enumerate().filter(|&(_, &byte)| byte == b'/').map(|(at, _)| at);
        let mut ignored = false;
        for end in ends.chain([path.len()]) {
            let (matched, found) = self.ignore.matches(&path[..end], info.as_ref());
            (ignored, info) = (matched, Some(found));
        }
        !ignored
    }

    /// The entries that are sent, sorted by name.
    pub(super) fn entries<'a>(
        &self,
        directory: &'a Directory,
    ) -> Result<Vec<&'a Entry>, ContextError> {
        let mut entries = Vec::new();
        for entry in self.listing(directory)? {
            if self.is_visible(&entry.node)? {
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    fn is_visible(&self, node: &Node) -> Result<bool, ContextError> {
        let Node::Directory(directory) = node else {
            return Ok(true);
        };
        if !directory.ignored {
            return Ok(true);
        }
        if let Some(&known) = directory.visible.get() {
            return Ok(known);
        }
        let mut visible = false;
        for entry in self.listing(directory)? {
            if self.is_visible(&entry.node)? {
                visible = true;
                break;
            }
        }
        Ok(*directory.visible.get_or_init(|| visible))
    }

    /// What may be sent: an ignored directory is in it as long as a pattern can re-include.
    fn listing<'a>(&self, directory: &'a Directory) -> Result<&'a [Entry], ContextError> {
        if let Some(entries) = directory.entries.get() {
            return Ok(entries);
        }
        let entries = self.list(directory)?;
        Ok(directory.entries.get_or_init(|| entries))
    }

    fn list(&self, directory: &Directory) -> Result<Vec<Entry>, ContextError> {
        self.listed.fetch_add(1, Ordering::Relaxed);
        let on_disk = self.on_disk(&directory.path);
        let listing = match fs::read_dir(&on_disk) {
            Ok(listing) => listing,
            // As the client: what is ignored may be closed to us, and what is gone is not sent.
            Err(error) if directory.ignored && error.kind() == io::ErrorKind::PermissionDenied => {
                return Ok(Vec::new());
            }
            Err(error) if is_gone(&error) && !directory.is_root() => return Ok(Vec::new()),
            Err(error) => return Err(ContextError::read(on_disk, error)),
        };
        let mut entries = Vec::new();
        for entry in listing {
            let entry = entry.map_err(|source| ContextError::read(&on_disk, source))?;
            let name = entry.file_name().into_vec();
            let path = directory.join(&name);
            let (ignored, info) = self.ignore.matches(&path, directory.info.as_ref());
            let failed = |source| ContextError::read(entry.path(), source);
            let is_directory = entry.file_type().map_err(failed)?.is_dir();
            if ignored && (!is_directory || self.ignore.all_below_match(&path, &info)) {
                continue;
            }
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(failed(error)),
            };
            let node = if metadata.is_dir() {
                let info = (!self.ignore.is_empty()).then_some(info);
                Node::Directory(Box::new(Directory::new(path, metadata.mode(), ignored, info)))
            } else {
                leaf(&entry.path(), &metadata)?
            };
            entries.push(Entry { name: name.into_boxed_slice(), node });
        }
        entries.sort_unstable_by(|left, right| left.name.cmp(&right.name));
        Ok(entries)
    }

    fn child<'a>(
        &self,
        directory: &'a Directory,
        name: &[u8],
    ) -> Result<Option<Found<'a>>, ContextError> {
        let entries = self.listing(directory)?;
        let Ok(at) = entries.binary_search_by(|entry| (*entry.name).cmp(name)) else {
            return Ok(None);
        };
        Ok(self.is_visible(&entries[at].node)?.then(|| directory.found(&entries[at])))
    }

    /// Finds a path. Links on the way are followed inside the context: an absolute target starts at
    /// its root, and `..` stops there. The last component is followed on request.
    pub(super) fn lookup(
        &self,
        path: &[u8],
        follow_last: bool,
    ) -> Result<Option<Found<'_>>, ContextError> {
        /// As many as the builder allows.
        const MOST_LINKS: usize = 255;

        // The components still to go, the next one last.
        let mut ahead: Vec<Vec<u8>> = components(path).rev().map(<[u8]>::to_vec).collect();
        let mut at: Vec<Vec<u8>> = Vec::new();
        let mut links = 0;
        let mut found = Some(Found::Directory(&self.top));
        while let Some(name) = ahead.pop() {
            if name == b".." {
                at.pop();
            } else {
                at.push(name);
            }
            found = self.walk_to(&at)?;
            let Some(Found::Leaf { node: Node::Link { target, .. }, .. }) = found else {
                continue;
            };
            if ahead.is_empty() && !follow_last {
                break;
            }
            links += 1;
            if links > MOST_LINKS {
                let source_path = String::from_utf8_lossy(path).into_owned();
                return Err(ContextError::LinkLoop { source_path });
            }
            if target.starts_with(b"/") {
                at.clear();
            } else {
                at.pop();
            }
            ahead.extend(components(target).rev().map(<[u8]>::to_vec));
            found = self.walk_to(&at)?;
        }
        Ok(found)
    }

    /// Finds a path without following any link.
    fn walk_to(&self, components: &[Vec<u8>]) -> Result<Option<Found<'_>>, ContextError> {
        let mut found = Found::Directory(&self.top);
        for name in components {
            let Found::Directory(directory) = found else {
                return Ok(None);
            };
            let Some(next) = self.child(directory, name)? else {
                return Ok(None);
            };
            found = next;
        }
        Ok(Some(found))
    }
}

/// The components of a path that mean something.
fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".")
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn leaf(path: &Path, metadata: &Metadata) -> Result<Node, ContextError> {
    let mode = metadata.mode();
    let kind = metadata.file_type();
    if kind.is_symlink() {
        let target = fs::read_link(path).map_err(|source| ContextError::read(path, source))?;
        let target = target.into_os_string().into_vec().into_boxed_slice();
        return Ok(Node::Link { mode, target });
    }
    let kind = if kind.is_socket() {
        Special::Socket
    } else if kind.is_fifo() {
        Special::Fifo
    } else if kind.is_char_device() {
        Special::CharDevice
    } else if kind.is_block_device() {
        Special::BlockDevice
    } else {
        return Ok(Node::File(File { mode, size: metadata.len(), digest: OnceLock::new() }));
    };
    Ok(Node::Special { mode, kind, device: metadata.rdev() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn tree(root: &Path, patterns: &[&str]) -> Tree {
        let ignore = PatternMatcher::new(patterns.iter().map(|p| p.as_bytes())).unwrap();
        Tree::new(root.to_owned(), ignore)
    }

    fn all(tree: &Tree) -> Vec<String> {
        fn below(tree: &Tree, directory: &Directory, names: &mut Vec<String>) {
            for entry in tree.entries(directory).unwrap() {
                let found = directory.found(entry);
                names.push(String::from_utf8_lossy(&found.path()).into_owned());
                if let Found::Directory(directory) = found {
                    below(tree, directory, names);
                }
            }
        }
        let mut names = Vec::new();
        below(tree, &tree.top, &mut names);
        names
    }

    fn write(root: &Path, paths: &[&str]) {
        for path in paths {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
    }

    #[test]
    fn lists_what_is_sent_in_order() {
        let temp = tempfile::tempdir().unwrap();
        write(temp.path(), &["b", "a/z", "a/keep/y", "a-b", "c/x"]);
        fs::create_dir(temp.path().join("empty")).unwrap();
        let all_of = |patterns: &[&str]| all(&tree(temp.path(), patterns)).join(" ");
        assert_eq!(all_of(&[]), "a a/keep a/keep/y a/z a-b b c c/x empty");
        assert_eq!(all_of(&["a"]), "a-b b c c/x empty");
        assert_eq!(all_of(&["a", "!a/keep"]), "a a/keep a/keep/y a-b b c c/x empty");
        assert_eq!(all_of(&["*", "!**/y"]), "a a/keep a/keep/y");
        assert_eq!(all_of(&["*", "!nothing"]), "");
        assert_eq!(all_of(&["a", "!a/nothing"]), "a-b b c c/x empty");
    }

    #[test]
    fn never_opens_what_is_ignored_for_good() {
        let temp = tempfile::tempdir().unwrap();
        write(temp.path(), &["node_modules/a/b", "node_modules/c/d", "src/e"]);
        let listed = |patterns: &[&str]| {
            let tree = tree(temp.path(), patterns);
            all(&tree);
            tree.listed.into_inner()
        };
        assert_eq!(listed(&[]), 5);
        assert_eq!(listed(&["node_modules"]), 2);
        assert_eq!(listed(&["node_modules", "!src/**/e"]), 2);
        assert_eq!(listed(&["node_modules", "!node_modules/a/b"]), 4);
    }

    #[test]
    fn looks_up_without_listing_the_rest() {
        let temp = tempfile::tempdir().unwrap();
        write(temp.path(), &["a/b/c", "d/e/f"]);
        let tree = tree(temp.path(), &[]);
        assert!(tree.lookup(b"/a/b/c", true).unwrap().is_some());
        assert!(tree.lookup(b"a/nothing", true).unwrap().is_none());
        assert!(tree.lookup(b"a/b/c/below", true).unwrap().is_none());
        assert_eq!(tree.listed.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn follows_links_inside_the_context_only() {
        let temp = tempfile::tempdir().unwrap();
        write(temp.path(), &["target/file", "link1/x"]);
        for (at, to) in [
            ("link1/file", "../target/file"),
            ("link1/file_abs", "/target/file"),
            ("link1/dir", "../target"),
            ("link2", "link1"),
            ("out", "../../../../target/file"),
            ("loop1", "loop2"),
            ("loop2", "loop1"),
            ("gone", "nowhere"),
            ("to_root", "/"),
        ] {
            symlink(to, temp.path().join(at)).unwrap();
        }
        let tree = tree(temp.path(), &[]);
        for path in [
            "target/file",
            "link1/file",
            "link1/file_abs",
            "link1/dir/file",
            "link2/file",
            "link2/dir/file",
            "out",
            "to_root/target/file",
            "nowhere/../target/file",
        ] {
            let found = tree.lookup(path.as_bytes(), true).unwrap();
            let path_found = found.map(|found| found.path());
            assert_eq!(path_found.as_deref(), Some(b"target/file".as_slice()), "{path}");
        }
        assert!(matches!(
            tree.lookup(b"link1/file", false).unwrap(),
            Some(Found::Leaf { node: Node::Link { .. }, .. })
        ));
        assert!(tree.lookup(b"gone", true).unwrap().is_none());
        assert!(matches!(tree.lookup(b"loop1", true), Err(ContextError::LinkLoop { .. })));
        assert!(
            tree.lookup(b"to_root", true).unwrap().is_some_and(|found| found.path().is_empty())
        );
    }

    #[test]
    fn an_ignored_link_target_is_not_there() {
        let temp = tempfile::tempdir().unwrap();
        write(temp.path(), &["secret"]);
        symlink("secret", temp.path().join("link")).unwrap();
        assert!(tree(temp.path(), &["secret"]).lookup(b"link", true).unwrap().is_none());
    }

    #[test]
    fn names_need_not_be_utf8() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join(OsStr::from_bytes(b"a\xff")), "x").unwrap();
        fs::write(temp.path().join(OsStr::from_bytes(b"a\xfe")), "x").unwrap();
        assert!(tree(temp.path(), &[]).lookup(b"a\xff", true).unwrap().is_some());
        let ignore = PatternMatcher::new([b"a\xff".as_slice()]).unwrap();
        let tree = Tree::new(temp.path().to_owned(), ignore);
        assert!(tree.lookup(b"a\xff", true).unwrap().is_none());
        assert!(tree.lookup(b"a\xfe", true).unwrap().is_some());
    }
}
