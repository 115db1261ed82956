//! The one process that writes a layout: whatever changes a directory needs a [`Writer`].
//!
//! Holds the lock, and a directory for what is being written. New files are written there and
//! renamed, so that a kill at any moment leaves either the old or the new. Deletes only what it
//! made: what else lies where a file of ours should be is moved aside.

use std::fs::{self, File, FileTimes};
use std::io::{self, Read as _, Seek as _, Write};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tempfile::{NamedTempFile, TempDir};

use super::digest::{Digest, Hashing};
use super::directory::{CAPTURES, Layout, LayoutError};
use super::documents::Index;
use super::regular::{self, OpenError};

/// Held by the one process that writes.
const LOCK: &str = "dockercache.lock";
/// The beginning of the names of directories for what is being written.
const ASIDE: &str = ".dockercache-ingest-";
/// Tells a directory of ours from one that a user gave such a name.
const MARKER: &str = ".made-by-dockercache";
/// For how long a writer waits for another.
pub const PATIENCE: Duration = Duration::from_mins(1);
/// How long a wait is not worth a word.
const WORTH_A_WORD: Duration = Duration::from_secs(2);
/// How often a lock that is taken is tried.
const TRIED_EVERY: Duration = Duration::from_millis(50);
/// Files that do not make a directory somebody's: a volume has them, or a repository that keeps
/// an empty directory.
const OF_NOBODY: [&str; 4] = ["lost+found", ".gitkeep", ".keep", ".gitignore"];

/// A layout that this process alone may write, until the last copy of this is dropped or the
/// process dies. What was written aside goes with it: a CI cache would carry it along.
#[derive(Clone, Debug)]
pub struct Writer {
    layout: Layout,
    held: Arc<Held>,
}

#[derive(Debug)]
struct Held {
    aside: TempDir,
    lock: File,
    /// When the lock was made: a CI's cache takes a file with another time for a new one.
    made: Option<SystemTime>,
}

impl Drop for Held {
    fn drop(&mut self) {
        // It says who waits for whom; nobody need wait any more.
        let _ = self.lock.set_len(0);
        if let Some(made) = self.made {
            let _ = self.lock.set_times(FileTimes::new().set_modified(made));
        }
    }
}

impl Deref for Writer {
    type Target = Layout;

    fn deref(&self) -> &Layout {
        &self.layout
    }
}

/// A blob that is being written. Dropped unfinished, it leaves nothing.
pub struct BlobWriter {
    out: Hashing<NamedTempFile>,
    writer: Writer,
}

impl Layout {
    /// Makes the directory a layout if it is none, and takes the write lock. Waits for another
    /// writer for [`PATIENCE`].
    pub fn lock(&self) -> Result<Writer, LayoutError> {
        self.lock_within(PATIENCE, |_| {})
    }

    /// As [`Layout::lock`], but waits no longer than `patience`. If it takes more than a moment,
    /// `say` is told who writes.
    pub fn lock_within(
        &self,
        patience: Duration,
        say: impl FnOnce(&str),
    ) -> Result<Writer, LayoutError> {
        let root = self.root();
        fs::create_dir_all(root).map_err(LayoutError::io("create", root))?;
        self.refuse_foreign()?;
        let (lock, made) = self.locked(patience, say)?;
        self.clear_leftovers();
        for dir in [root.join("blobs"), self.blobs()] {
            if regular::other_than(&dir, fs::FileType::is_dir).is_some() {
                regular::move_aside(&dir).map_err(LayoutError::io("move aside", &dir))?;
            }
            fs::create_dir_all(&dir).map_err(LayoutError::io("create", &dir))?;
        }
        let aside = tempfile::Builder::new()
            .prefix(ASIDE)
            .tempdir_in(root)
            .map_err(LayoutError::io("create a directory in", root))?;
        let marker = aside.path().join(MARKER);
        File::create_new(&marker).map_err(LayoutError::io("create", &marker))?;
        let writer = Writer { layout: self.clone(), held: Arc::new(Held { aside, lock, made }) };
        let version = root.join("oci-layout");
        if fs::symlink_metadata(&version).map_or(true, |meta| !meta.is_file()) {
            writer.replace(&version, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        Ok(writer)
    }

    /// Refuses a directory with somebody's files.
    fn refuse_foreign(&self) -> Result<(), LayoutError> {
        let root = self.root();
        let io = || LayoutError::io("list", root);
        let mut foreign = None;
        for entry in fs::read_dir(root).map_err(io())? {
            let name = entry.map_err(io())?.file_name();
            if name == LOCK || name == "oci-layout" {
                return Ok(());
            }
            if name != CAPTURES && OF_NOBODY.iter().all(|of_nobody| name != *of_nobody) {
                foreign = Some(name);
            }
        }
        match foreign {
            // Old versions of buildx leave `oci-layout` out.
            Some(name) if !matches!(self.index(), Ok(Some(_))) => Err(LayoutError::Foreign {
                path: root.to_owned(),
                found: name.to_string_lossy().into_owned(),
            }),
            _ => Ok(()),
        }
    }

    fn locked(
        &self,
        patience: Duration,
        say: impl FnOnce(&str),
    ) -> Result<(File, Option<SystemTime>), LayoutError> {
        let path = self.root().join(LOCK);
        let begun = Instant::now();
        let mut say = Some(say);
        loop {
            let mut file = match regular::open_or_create(&path) {
                Ok(file) => file,
                Err(OpenError::Irregular(_)) => {
                    regular::move_aside(&path).map_err(LayoutError::io("move aside", &path))?;
                    continue;
                }
                Err(error) => return Err(LayoutError::io("open", &path)(error.into())),
            };
            match file.try_lock() {
                Ok(()) if is_at(&file, &path) => {
                    let made = file.metadata().and_then(|meta| meta.modified()).ok();
                    // Only a courtesy.
                    let _ = file
                        .set_len(0)
                        .and_then(|()| file.write_all(std::process::id().to_string().as_bytes()));
                    return Ok((file, made));
                }
                // Removed or replaced meanwhile.
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => {
                    let waited = begun.elapsed();
                    if waited >= patience {
                        let path = self.root().to_owned();
                        return Err(LayoutError::Busy { path, holder: holder(&mut file), waited });
                    }
                    if waited > WORTH_A_WORD
                        && let Some(say) = say.take()
                    {
                        say(&holder(&mut file));
                    }
                    std::thread::sleep(TRIED_EVERY.min(patience.saturating_sub(waited)));
                }
                Err(fs::TryLockError::Error(e)) => return Err(LayoutError::io("lock", &path)(e)),
            }
        }
    }

    /// Removes what writers wrote aside that were killed, as far as it can be proven to be
    /// theirs. What can't be removed now is removed by the next writer.
    fn clear_leftovers(&self) {
        for entry in fs::read_dir(self.root()).into_iter().flatten().flatten() {
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_dir && entry.file_name().to_string_lossy().starts_with(ASIDE) {
                if fs::symlink_metadata(entry.path().join(MARKER)).is_ok_and(|m| m.is_file()) {
                    // The docker client of a killed writer may go on writing for a moment.
                    let is_busy = |e: io::Error| e.kind() == io::ErrorKind::DirectoryNotEmpty;
                    let mut attempts = 0..100;
                    while fs::remove_dir_all(entry.path()).is_err_and(is_busy)
                        && attempts.next().is_some()
                    {
                        std::thread::sleep(TRIED_EVERY);
                    }
                } else {
                    // Killed before it was marked.
                    let _ = fs::remove_dir(entry.path());
                }
            }
        }
        for entry in fs::read_dir(self.blobs()).into_iter().flatten().flatten() {
            let is_ours = entry.file_name().to_string_lossy().starts_with(ASIDE);
            let written = entry.metadata().ok().filter(fs::Metadata::is_file);
            let written = written.and_then(|meta| meta.modified().ok());
            let age = written.and_then(|time| SystemTime::now().duration_since(time).ok());
            if is_ours && age.is_some_and(|age| age > PATIENCE) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Adds a document without the lock. Under its digest it harms nobody, and the next sweep
    /// removes it.
    pub(crate) fn add_document(&self, bytes: &[u8]) -> Result<(), LayoutError> {
        let digest = Digest::of(bytes);
        if self.blob_size(&digest) == Some(bytes.len() as u64) {
            return Ok(());
        }
        let blobs = self.blobs();
        let mut file = NamedTempFile::with_prefix_in(ASIDE, &blobs)
            .map_err(LayoutError::io("create a file in", &blobs))?;
        let path = self.blob_path(&digest);
        file.write_all(bytes).map_err(LayoutError::io("write", &path))?;
        put_in_place(file, &path)
    }
}

/// Whether this file still has this name.
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let identity = |meta: fs::Metadata| (meta.dev(), meta.ino());
    let at_path = fs::symlink_metadata(path).map(identity);
    matches!((file.metadata().map(identity), at_path), (Ok(a), Ok(b)) if a == b)
}

/// Who holds the lock, by its own word.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let _ = file.rewind().and_then(|()| file.take(20).read_to_string(&mut text));
    match text.trim().parse::<u32>() {
        Ok(id) => format!("process {id}"),
        Err(_) => "another process".to_owned(),
    }
}

impl Writer {
    /// The directory for what is being written, on the same file system as the blobs.
    pub fn aside(&self) -> PathBuf {
        self.held.aside.path().to_owned()
    }

    fn temporary(&self) -> Result<NamedTempFile, LayoutError> {
        let aside = self.held.aside.path();
        NamedTempFile::new_in(aside).map_err(LayoutError::io("create a file in", aside))
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), LayoutError> {
        let mut file = self.temporary()?;
        file.write_all(bytes).map_err(LayoutError::io("write", path))?;
        put_in_place(file, path)
    }

    /// Starts a blob of yet unknown digest.
    pub fn blob_writer(&self) -> Result<BlobWriter, LayoutError> {
        Ok(BlobWriter { out: Hashing::new(self.temporary()?), writer: self.clone() })
    }

    /// Writes a small blob.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, LayoutError> {
        let digest = Digest::of(bytes);
        if self.blob_size(&digest) != Some(bytes.len() as u64) {
            self.replace(&self.blob_path(&digest), bytes)?;
        }
        Ok(digest)
    }

    /// Moves a file here as this blob, which whoever reads it must verify.
    pub(crate) fn adopt(&self, from: &Path, digest: &Digest) -> Result<(), LayoutError> {
        let path = self.blob_path(digest);
        if regular::other_than(&path, fs::FileType::is_file).is_some() {
            regular::move_aside(&path).map_err(LayoutError::io("move aside", &path))?;
        }
        match fs::rename(from, &path) {
            Err(e) if e.kind() == io::ErrorKind::CrossesDevices => {
                let mut file = self.temporary()?;
                let copied = regular::open(from)
                    .map_err(io::Error::from)
                    .and_then(|mut source| io::copy(&mut source, &mut file));
                copied.map_err(LayoutError::io("copy", from))?;
                put_in_place(file, &path)
            }
            moved => moved.map_err(LayoutError::io("move", from)),
        }
    }

    /// Replaces `index.json` in one step. Everything it points at has been written.
    pub fn commit(&self, index: &Index) -> Result<(), LayoutError> {
        let bytes = serde_json::to_vec_pretty(index)
            .map_err(|e| self.damaged(format!("index.json can't be written: {e}")))?;
        self.replace(&self.root().join("index.json"), &bytes)
    }

    /// Removes a blob; no error if it is not there.
    pub fn remove_blob(&self, digest: &Digest) -> Result<(), LayoutError> {
        let path = self.blob_path(digest);
        let removed = match regular::other_than(&path, fs::FileType::is_file) {
            Some(_) => regular::move_aside(&path),
            None => fs::remove_file(&path),
        };
        match removed {
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
        put_in_place(file, &self.writer.blob_path(&digest))?;
        Ok((digest, size))
    }

    /// As [`BlobWriter::finish`], but only if the blob has this digest; otherwise nothing is left
    /// of it, and its true digest is the inner error.
    pub fn finish_as(self, expected: &Digest) -> Result<Result<(), Digest>, LayoutError> {
        let (file, digest, _) = self.out.finish();
        if digest != *expected {
            return Ok(Err(digest));
        }
        put_in_place(file, &self.writer.blob_path(&digest)).map(Ok)
    }
}

impl Write for BlobWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.out.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Renames, over whatever is there: a link is replaced, a directory is moved aside.
fn put_in_place(file: NamedTempFile, path: &Path) -> Result<(), LayoutError> {
    world_readable(file.as_file()).map_err(LayoutError::io("write", path))?;
    if regular::other_than(path, fs::FileType::is_file).is_some() {
        regular::move_aside(path).map_err(LayoutError::io("move aside", path))?;
    }
    file.persist(path).map_err(|e| LayoutError::io("replace", path)(e.error))?;
    Ok(())
}

/// Gives a file one more name. Where that is not possible, as with another user's file or between file
/// systems, makes a copy, by way of `aside`.
pub(crate) fn link(file: &Path, name: &Path, aside: &Path) -> io::Result<()> {
    match fs::hard_link(file, name) {
        Err(e) if !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists) => {
            let mut copy = NamedTempFile::new_in(aside)?;
            io::copy(&mut File::open(file)?, &mut copy)?;
            world_readable(copy.as_file())?;
            copy.persist(name).map(drop).map_err(|e| e.error)
        }
        linked => linked,
    }
}

/// Temporary files are private; what a CI cache carries must be readable to the next job's user.
pub(crate) fn world_readable(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<String> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    const LAYOUT: [&str; 3] = ["blobs", "dockercache.lock", "oci-layout"];

    #[test]
    fn a_writer_leaves_nothing_but_the_layout() {
        let dir = tempfile::tempdir().unwrap();
        let writer = Layout::at(dir.path()).lock().unwrap();
        let mut unfinished = writer.blob_writer().unwrap();
        unfinished.write_all(b"half of a blob").unwrap();
        drop(writer);
        assert_eq!(names(dir.path()).len(), 4, "the writer is not the last one");
        drop(unfinished);
        assert_eq!(names(dir.path()), LAYOUT);
        assert_eq!(fs::read(dir.path().join(LOCK)).unwrap(), b"", "it holds a stale name");
    }

    #[test]
    fn a_second_writer_waits_a_bounded_time_and_says_for_whom() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::at(dir.path());
        let first = layout.lock().unwrap();
        let begun = Instant::now();
        let mut said = String::new();
        let patience = WORTH_A_WORD + Duration::from_millis(300);
        let error = layout.lock_within(patience, |holder| said = holder.to_owned()).unwrap_err();
        assert!(begun.elapsed() < patience * 2, "{:?}", begun.elapsed());
        let own = format!("process {}", std::process::id());
        assert_eq!(said, own);
        assert!(matches!(&error, LayoutError::Busy { holder, .. } if *holder == own), "{error}");
        drop(first);
        layout.lock_within(Duration::ZERO, |_| {}).unwrap();
    }

    #[test]
    fn readers_do_not_wait_for_a_writer() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::at(dir.path());
        let writer = layout.lock().unwrap();
        writer.commit(&Index::new(Vec::new())).unwrap();
        assert!(layout.index().unwrap().is_some());
        layout.add_document(b"{}").unwrap();
        assert_eq!(layout.blob_files().unwrap(), [(Digest::of(b"{}"), 2)]);
    }

    #[test]
    fn a_directory_of_the_user_is_refused_and_left_as_it_is() {
        for name in ["ingest", "Dockerfile", "index.json", ".bashrc"] {
            let dir = tempfile::tempdir().unwrap();
            if name == "ingest" {
                fs::create_dir(dir.path().join(name)).unwrap();
                fs::write(dir.path().join("ingest/thesis.txt"), "years of work").unwrap();
            } else {
                fs::write(dir.path().join(name), "{}").unwrap();
            }
            let error = Layout::at(dir.path()).lock().unwrap_err();
            assert!(matches!(&error, LayoutError::Foreign { found, .. } if found == name));
            assert_eq!(names(dir.path()), [name]);
        }
    }

    #[test]
    fn takes_an_empty_volume_and_what_buildx_wrote() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("lost+found")).unwrap();
        Layout::at(dir.path()).lock().unwrap();

        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("ingest")).unwrap();
        fs::create_dir_all(dir.path().join("blobs/sha256")).unwrap();
        fs::write(dir.path().join("index.json"), r#"{"schemaVersion":2,"manifests":[]}"#).unwrap();
        Layout::at(dir.path()).lock().unwrap();
        assert!(dir.path().join("ingest").exists());
    }

    #[test]
    fn clears_only_what_a_killed_writer_left() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(format!("{ASIDE}{name}"));
        drop(Layout::at(dir.path()).lock().unwrap());
        for name in ["killed", "killed-early", "users"] {
            fs::create_dir(at(name)).unwrap();
        }
        fs::write(at("killed").join(MARKER), "").unwrap();
        fs::write(at("killed").join(".tmpAbCdEf"), "half of a blob").unwrap();
        fs::write(at("users").join("file"), "of a user").unwrap();
        fs::create_dir(at("users").join(MARKER)).unwrap();
        symlink("/etc", at("link")).unwrap();
        fs::write(at("file"), "of a user").unwrap();
        drop(Layout::at(dir.path()).lock().unwrap());
        let left = [at("file"), at("link"), at("users")];
        let left = left.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned());
        assert_eq!(names(dir.path()), [&left[..], &LAYOUT.map(str::to_owned)].concat());
        assert!(at("users").join("file").exists());
    }

    /// Puts something that is not a regular file in a place.
    fn put_irregular(kind: &str, path: &Path) {
        let _ = fs::remove_file(path).or_else(|_| fs::remove_dir_all(path));
        match kind {
            "directory" => fs::create_dir_all(path.join("of/a/user")).unwrap(),
            "link" => symlink("/etc/passwd", path).unwrap(),
            "dangling" => symlink(path.with_file_name("outside"), path).unwrap(),
            "socket" => drop(UnixListener::bind(path).unwrap()),
            _ => {
                let (kind, mode) = (rustix::fs::FileType::Fifo, 0o600.into());
                rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
            }
        }
    }

    #[test]
    fn what_is_no_file_is_moved_aside_and_never_followed() {
        for kind in ["directory", "link", "dangling", "fifo", "socket"] {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().join("archive");
            let layout = Layout::at(&root);
            let digest = layout.lock().unwrap().put(b"{}").unwrap();
            let blob = layout.blob_path(&digest);
            let places = [root.join("index.json"), root.join("oci-layout"), root.join(LOCK), blob];
            for place in &places {
                put_irregular(kind, place);
            }
            let passwd = fs::metadata("/etc/passwd").unwrap().modified().unwrap();

            assert!(matches!(layout.index(), Err(LayoutError::Damaged { .. })), "{kind}");
            let descriptor = crate::oci::documents::Descriptor::of("", b"{}");
            assert!(layout.document(&descriptor).is_err() && layout.open_blob(&digest).is_err());
            let writer = layout.lock().unwrap();
            writer.put(b"{}").unwrap();
            writer.commit(&Index::new(Vec::new())).unwrap();
            drop(writer);
            assert!(places.iter().all(|place| place.symlink_metadata().unwrap().is_file()));
            put_irregular(kind, &places[3]);
            layout.lock().unwrap().remove_blob(&digest).unwrap();
            assert!(places[3].symlink_metadata().is_err());

            assert_eq!(names(dir.path()), ["archive"], "{kind}: something is outside");
            assert_eq!(fs::metadata("/etc/passwd").unwrap().modified().unwrap(), passwd);
            if kind == "directory" {
                assert!(root.join("index.json.not-ours-0/of/a/user").exists());
            }
        }
    }

    #[test]
    fn blobs_that_are_no_directory_are_moved_aside() {
        for kind in ["link", "dangling", "fifo", "socket"] {
            let dir = tempfile::tempdir().unwrap();
            let layout = Layout::at(dir.path());
            drop(layout.lock().unwrap());
            fs::remove_dir_all(dir.path().join("blobs")).unwrap();
            put_irregular(kind, &dir.path().join("blobs"));
            assert!(matches!(layout.index(), Err(LayoutError::Damaged { .. })), "{kind}");
            layout.lock().unwrap().put(b"{}").unwrap();
            assert!(dir.path().join("blobs").symlink_metadata().unwrap().is_dir());
            assert!(!dir.path().join("outside").exists());
        }
    }
}
