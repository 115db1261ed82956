//! Digests of files and directories, equal byte for byte to the ones that the builder computes.
//!
//! `BuildKit` (`cache/contenthash`) hashes, for each file, the fields of a tar header in the "tarsum"
//! form and then the content; and for each directory the names and digests of what is in it. The
//! header holds the permission bits, size, type, link target, and extended attributes; never the
//! modification time, and the client sets the owner to zero. The builder's own digests let a
//! prediction be checked against its cache records. Files are read once, in parallel, through a small
//! buffer.

use super::error::ContextError;
use super::walk::{Directory, File, Found, Node, Special, Tree};
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};
use std::cell::RefCell;
use std::fmt;
use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::Ordering;

/// A SHA-256 digest; displayed as the builder writes it, `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentDigest([u8; 32]);

impl ContentDigest {
    /// The digest of some bytes.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The 64 hexadecimal digits alone.
    pub fn hex(&self) -> String {
        self.to_string().split_off("sha256:".len())
    }
}

impl fmt::Display for ContentDigest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentDigest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// What a file was when it was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct FileDigest {
    pub(super) digest: ContentDigest,
    pub(super) mode: u32,
    pub(super) size: u64,
}

/// The list form that the builder hashes for directories and filtered sources: names and digests.
#[derive(Default)]
pub(super) struct FileList(Sha256);

impl FileList {
    /// Adds an entry by its path, which starts with a slash and has zero bytes for slashes.
    pub(super) fn add(&mut self, path: &[u8], digest: ContentDigest) {
        let key: Vec<u8> = path.iter().map(|&byte| if byte == b'/' { 0 } else { byte }).collect();
        self.add_verbatim(&key, digest);
    }

    /// Adds an entry by any name.
    pub(super) fn add_verbatim(&mut self, name: &[u8], digest: ContentDigest) {
        self.0.update(name);
        self.0.update(digest.to_string());
    }

    pub(super) fn finish(self) -> ContentDigest {
        ContentDigest(self.0.finalize().into())
    }
}

/// The digest of a directory's own header: its mode, and nothing for the root.
pub(super) fn header(tree: &Tree, directory: &Directory) -> ContentDigest {
    if directory.is_root() {
        return ContentDigest::of(b"");
    }
    let header = Header { mode: directory.mode, kind: b'5', ..Header::default() };
    header.finish(&xattrs(&tree.on_disk(&directory.path)))
}

/// The digest of a directory with all that is in it.
pub(super) fn directory(tree: &Tree, directory: &Directory) -> Result<ContentDigest, ContextError> {
    if let Some(&known) = directory.digest.get() {
        return Ok(known);
    }
    let entries = tree.entries(directory)?;
    let digests = entries
        .par_iter()
        .map(|entry| place(tree, directory.found(entry)))
        .collect::<Result<Vec<_>, _>>()?;
    let mut list = FileList::default();
    list.add(b"/", header(tree, directory));
    for (entry, digest) in entries.iter().zip(digests) {
        list.add(&[b"/", &*entry.name].concat(), digest);
    }
    let digest = list.finish();
    Ok(*directory.digest.get_or_init(|| digest))
}

/// The digest of whatever is at a place; links are not followed.
pub(super) fn place(tree: &Tree, found: Found<'_>) -> Result<ContentDigest, ContextError> {
    match found {
        Found::Directory(below) => directory(tree, below),
        Found::Leaf { parent, name, node } => match node {
            Node::Directory(below) => directory(tree, below),
            Node::File(node) => Ok(file(tree, node, || tree.on_disk(&parent.join(name)))?.digest),
            Node::Link { mode, target } => {
                let header = Header { mode: *mode, kind: b'2', link: target, ..Header::default() };
                Ok(header.finish(&xattrs(&tree.on_disk(&parent.join(name)))))
            }
            Node::Special { mode, kind, device } => {
                let (kind, device) = match kind {
                    Special::Socket => (b'0', 0),
                    Special::Fifo => (b'6', 0),
                    Special::CharDevice => (b'3', *device),
                    Special::BlockDevice => (b'4', *device),
                };
                let header = Header { mode: *mode, kind, device, ..Header::default() };
                Ok(header.finish(&xattrs(&tree.on_disk(&parent.join(name)))))
            }
        },
    }
}

fn file<P: AsRef<Path>>(
    tree: &Tree,
    file: &File,
    path: impl FnOnce() -> P,
) -> Result<FileDigest, ContextError> {
    if let Some(&known) = file.digest.get() {
        return Ok(known);
    }
    let path = path();
    let path = path.as_ref();
    let read = read_twice(|| read_once(path)).map_err(|source| ContextError::read(path, source))?;
    let digest = read.ok_or_else(|| ContextError::Unstable { path: path.to_owned() })?;
    tree.files_read.fetch_add(1, Ordering::Relaxed);
    tree.bytes_read.fetch_add(digest.size, Ordering::Relaxed);
    Ok(*file.digest.get_or_init(|| digest))
}

/// Tries once more when a file changed under the first attempt.
fn read_twice<T>(mut read: impl FnMut() -> io::Result<Option<T>>) -> io::Result<Option<T>> {
    match read()? {
        Some(read) => Ok(Some(read)),
        None => read(),
    }
}

/// Hashes a file, or gives nothing when the file changed meanwhile.
fn read_once(path: &Path) -> io::Result<Option<FileDigest>> {
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; 128 * 1024]);
    }

    let mut file = fs::File::open(path)?;
    let before = file.metadata()?;
    let header =
        Header { mode: before.mode(), size: before.len(), kind: b'0', ..Header::default() };
    let mut hash = header.hash(&xattrs(path));
    let mut size = 0;
    BUFFER.with_borrow_mut(|buffer| {
        // One byte more than the size is enough to see that a file has grown.
        while size <= before.len() {
            let count = match file.read(buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            hash.update(&buffer[..count]);
            size += count as u64;
        }
        Ok(())
    })?;
    let unchanged = size == before.len() && stamp(&before) == stamp(&file.metadata()?);
    Ok(unchanged.then(|| FileDigest {
        digest: ContentDigest(hash.finalize().into()),
        mode: before.mode(),
        size,
    }))
}

/// What shows that a file was written to or had its mode changed.
fn stamp(metadata: &Metadata) -> (u64, u32, i64, i64) {
    (metadata.len(), metadata.mode(), metadata.mtime(), metadata.mtime_nsec())
}

/// The fields of a tar header that count.
#[derive(Default)]
struct Header<'a> {
    mode: u32,
    size: u64,
    kind: u8,
    link: &'a [u8],
    device: u64,
}

impl Header<'_> {
    fn hash(&self, xattrs: &[(Vec<u8>, Vec<u8>)]) -> Sha256 {
        let mut hash = Sha256::new();
        let (major, minor) = (rustix::fs::major(self.device), rustix::fs::minor(self.device));
        let permissions = self.mode & 0o7777;
        hash.update(format!("namemode{permissions}uid0gid0size{}typeflag", self.size));
        hash.update([self.kind]);
        hash.update("linkname");
        hash.update(self.link);
        hash.update(format!("unamegnamedevmajor{major}devminor{minor}"));
        for (name, value) in xattrs {
            hash.update(name);
            hash.update(value);
        }
        hash
    }

    fn finish(&self, xattrs: &[(Vec<u8>, Vec<u8>)]) -> ContentDigest {
        ContentDigest(self.hash(xattrs).finalize().into())
    }
}

/// The extended attributes that count, sorted by name, without following a link.
fn xattrs(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let Ok(Some(names)) = read_xattr(|buffer| rustix::fs::llistxattr(path, buffer)) else {
        return Vec::new(); // Nearly always, or a file system without attributes.
    };
    let mut xattrs: Vec<_> = names
        .split(|&byte| byte == 0)
        .filter(|name| counts(name))
        .filter_map(|name| {
            let value = read_xattr(|buffer| rustix::fs::lgetxattr(path, name, buffer)).ok()?;
            Some((name.to_vec(), value.unwrap_or_default()))
        })
        .collect();
    xattrs.sort_unstable();
    xattrs
}

/// Reads into a buffer that is long enough; gives nothing when there is nothing.
fn read_xattr(
    read: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Option<Vec<u8>>> {
    /// The most that Linux gives for names (`XATTR_LIST_MAX`) and for a value (`XATTR_SIZE_MAX`).
    const LONGEST: usize = 64 * 1024;

    let mut short = [0; 256];
    match read(&mut short) {
        Ok(0) => Ok(None),
        Ok(length) => Ok(Some(short[..length].to_vec())),
        Err(rustix::io::Errno::RANGE) => {
            let mut long = vec![0; LONGEST];
            let length = read(&mut long)?;
            long.truncate(length);
            Ok(Some(long))
        }
        Err(error) => Err(error),
    }
}

fn counts(xattr: &[u8]) -> bool {
    xattr == b"security.capability"
        || ![b"security.".as_slice(), b"system.", b"com.apple."]
            .iter()
            .any(|prefix| xattr.starts_with(prefix))
            && !xattr.is_empty()
}

#[cfg(test)]
mod tests {
    use super::super::pattern::PatternMatcher;
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

    fn tree(root: &Path) -> Tree {
        Tree::new(root.to_owned(), PatternMatcher::default())
    }

    fn digest(root: &Path, path: &str) -> String {
        let tree = tree(root);
        let found = tree.lookup(path.as_bytes(), false).unwrap().unwrap();
        place(&tree, found).unwrap().to_string()
    }

    fn set_mode(path: PathBuf, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn write(path: PathBuf, content: &str) {
        fs::write(&path, content).unwrap();
        set_mode(path, 0o644);
    }

    fn create_dir(path: PathBuf) {
        fs::create_dir(&path).unwrap();
        set_mode(path, 0o755);
    }

    /// The values are the published ones of `BuildKit`'s own tests.
    #[test]
    fn equals_the_builder_s_digests() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        write(root.join("foo"), "data0");
        write(root.join("bar"), "data1");
        create_dir(root.join("d0"));
        write(root.join("d0/abc"), "data0");
        symlink("abc", root.join("d0/def")).unwrap();
        symlink("nosuchfile", root.join("d0/ghi")).unwrap();
        let data0 = "sha256:cd8e75bca50f2d695f220d0cb0997d8ead387e4f926e8669a92d7f104cc9885b";
        assert_eq!(digest(root, "foo"), data0);
        assert_eq!(digest(root, "d0/abc"), data0);
        assert_eq!(
            digest(root, "bar"),
            "sha256:c2b5e234f5f38fc5864da7def04782f82501a40d46192e4207d5b3f0c3c4732b"
        );
        let directory = "sha256:d47454417d2c554067fbefe5f5719edc49f3cfe969c36b62e34a187a4da0cc9a";
        assert_eq!(digest(root, "d0"), directory);
    }

    /// The builder sees everything in a context, not the context itself: where its tests
    /// hash the header of the root, a local source has the digest of nothing.
    #[test]
    fn the_root_has_no_header() {
        let temp = tempfile::tempdir().unwrap();
        let before = digest(temp.path(), "");
        set_mode(temp.path().to_owned(), 0o711);
        assert_eq!(digest(temp.path(), ""), before);
        let nothing = ContentDigest::of(b"").to_string();
        assert_eq!(before, ContentDigest::of(&[b"\0", nothing.as_bytes()].concat()).to_string());
    }

    #[test]
    fn a_file_that_changes_is_read_once_more() {
        let temp = tempfile::NamedTempFile::new().unwrap();
        fs::write(temp.path(), "one").unwrap();
        let mut attempts = 0;
        let read = read_twice(|| {
            attempts += 1;
            if attempts == 1 { Ok(None) } else { read_once(temp.path()) }
        });
        assert_eq!(read.unwrap().unwrap().size, 3);
        assert!(read_twice(|| Ok(None::<u8>)).unwrap().is_none());
    }

    #[test]
    fn a_file_that_grows_without_end_is_seen() {
        // A file that says it is empty and is not is what a growing file looks like.
        assert!(read_once(Path::new("/proc/version")).unwrap().is_none());
    }

    #[test]
    fn sockets_and_fifos_count_without_being_opened() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        set_mode(root.join("socket"), 0o644);
        write(root.join("empty"), "");
        assert_eq!(digest(root, "socket"), digest(root, "empty"));
        rustix::fs::mknodat(
            rustix::fs::CWD,
            root.join("fifo"),
            rustix::fs::FileType::Fifo,
            0o644.into(),
            0,
        )
        .unwrap();
        assert_ne!(digest(root, "fifo"), digest(root, "empty"));
    }

    #[test]
    fn attributes_that_count() {
        assert!(counts(b"user.note") && counts(b"security.capability"));
        assert!(!counts(b"security.selinux") && !counts(b"system.posix_acl_access"));
        assert!(!counts(b"com.apple.quarantine") && !counts(b""));

        let temp = tempfile::NamedTempFile::new().unwrap();
        let set = |name: &str, value: &[u8]| {
            rustix::fs::setxattr(temp.path(), name, value, rustix::fs::XattrFlags::empty())
        };
        if set("user.b", b"1").is_err() {
            return; // The file system of the test has none.
        }
        let digest = || read_once(temp.path()).unwrap().unwrap().digest;
        let first = digest();
        set("user.b", b"2").unwrap();
        let second = digest();
        assert_ne!(first, second);
        set("user.a", &[b'x'; 1000]).unwrap();
        assert_ne!(second, digest());
        let found = xattrs(temp.path());
        assert_eq!(found[0], (b"user.a".to_vec(), vec![b'x'; 1000]));
        assert_eq!(found[1], (b"user.b".to_vec(), b"2".to_vec()));
    }
}
