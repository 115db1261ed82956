//! What the commands of a job tell each other: which builds were captured, and what is known of
//! the archive's blobs.
//!
//! It lies outside of the archive, which CI systems carry to other machines, in a directory that
//! the archive's path alone decides: whatever `TMPDIR` or `sudo` a step of the job has, it finds
//! the same one. No value of a build argument or secret is in it. Each build writes a note of its
//! own, so that builds that run at once lose nothing of each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::caller;
use crate::build::build_log::ClassicStep;
use crate::builder::Strategy;
use crate::engine::strategy::capture::Captured;
use crate::mounts::carry::NotedMount;
use crate::oci::digest::Digest;
use crate::oci::verify::Seen;
use crate::packs::table::Table;
use crate::report::Reporter;

/// How long a store that did not answer is skipped.
const AWAY: Duration = Duration::from_mins(5);
/// How long a build that nobody has saved stays noted, if its job never ends with a `save`.
const FORGOTTEN_AFTER: Duration = Duration::from_hours(24);

/// Where journals lie: decided by nothing that differs between the steps of a job.
const HOME: &str = "/tmp";
const NOTE: &str = "note.json";
const STATE: &str = "state.json";
const LOCK: &str = "lock";
/// How the names of notes end that no build is noted in.
const OF_NO_BUILD: &str = "-scratch";

/// Why there is no journal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    /// Somebody else may write there.
    #[error("`{path}` is not trusted: {reason}; remove it")]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file system refused.
    #[error("failed to {action} `{path}`: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl JournalError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// The journal of one archive.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    directory: PathBuf,
    /// Tells the names that its builds leave in an engine from those of others.
    id: String,
}

/// What is known of an archive on this machine.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct State {
    /// Blobs that were found good.
    #[serde(default)]
    pub(crate) verified: BTreeMap<Digest, Seen>,
    /// The store that the archive came from or went to.
    #[serde(default)]
    pub(crate) remote: Option<RemoteCopy>,
    /// A store that did not answer, and when.
    #[serde(default)]
    pub(crate) away: Option<(String, SystemTime)>,
    /// A store, and the blobs of which it gave something else than their digests promise.
    #[serde(default)]
    pub(crate) damaged: Option<(String, BTreeSet<Digest>)>,
    /// The packs of the archive, where a CI's cache carries it in such.
    #[serde(default)]
    pub(crate) packs: Option<Packs>,
    /// The index in the directory that was found good with the keys of this job, or made from it.
    #[serde(default)]
    pub(crate) admitted: Option<Digest>,
    /// Whether a build of this job was given a cache that no signature covers.
    #[serde(default)]
    pub(crate) unverified: bool,
    #[serde(skip)]
    path: Option<PathBuf>,
}

/// What a CI's cache holds of the archive.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Packs {
    /// Which layers are in which pack.
    pub(crate) table: Table,
    /// The layers that are in the CI's cache alone: this job does without them.
    pub(crate) elsewhere: BTreeSet<Digest>,
    /// The packs that were asked for, by their keys, with the layers that are needed of each.
    pub(crate) asked: BTreeMap<String, BTreeSet<Digest>>,
    /// The packs that the CI did not bring whole, by their keys.
    #[serde(default)]
    pub(crate) broken: BTreeSet<String>,
    /// Whether they are of the job that begins.
    pub(crate) is_new: bool,
}

/// What a store holds of the archive.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct RemoteCopy {
    /// The store's URL.
    pub(crate) url: String,
    /// The level of the ref that named the archive.
    pub(crate) level: String,
    /// The archive's blobs: those that are not in the directory are there.
    pub(crate) blobs: BTreeSet<Digest>,
    /// What `--cache-from` names, where the builder reads the store by itself.
    pub(crate) direct: Option<String>,
}

/// A build that was captured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NotedBuild {
    /// The name of the build: its image's, or its project's.
    pub(crate) name: String,
    /// Equal for builds with the same arguments, run in the same place.
    pub(crate) identity: Digest,
    /// Equal for builds of the same stage of the same Dockerfile.
    pub(crate) project: Digest,
    /// The engine's or the builder's ID: on another one, what was captured is not there.
    pub(crate) engine: String,
    /// How its cache is carried.
    pub(crate) strategy: Strategy,
    /// When it began.
    pub(crate) began: SystemTime,
    /// What was captured.
    pub(crate) captured: Captured,
    /// The classic builder's images.
    #[serde(default)]
    pub(crate) images: Vec<ClassicStep>,
    /// What the builder's own cache held after the build: whatever else is in it before the next
    /// build came from elsewhere.
    #[serde(default)]
    pub(crate) builder_cache: BTreeSet<String>,
    /// Its cache mounts; none if they are not known, since nobody carried them.
    #[serde(default)]
    pub(crate) mounts: Option<Vec<NotedMount>>,
    /// Whether it has been saved since.
    #[serde(default)]
    pub(crate) saved: bool,
    /// Where its note lies.
    #[serde(skip)]
    pub(crate) place: PathBuf,
}

/// A note that is being made: its directory serves as scratch space, and what a build leaves in an
/// engine bears its name. Dropped unfinished, it is removed.
#[derive(Debug)]
pub(crate) struct Draft {
    directory: PathBuf,
    name: String,
    finished: bool,
    _lock: File,
}

impl Journal {
    /// The journal of the archive in `archive`, which need not exist. Refuses one that another
    /// user could have written.
    pub(crate) fn open(archive: &Path) -> Result<Self, JournalError> {
        let place = real_path(archive);
        let id = Digest::of(place.as_os_str().as_encoded_bytes()).short().to_owned();
        let directory = private_directory(&format!("journal-{id}"))?;
        Ok(Self { directory, id })
    }

    /// What all tags in an engine begin with that builds of this journal, and saves of them, leave
    /// there.
    pub(crate) fn mark(&self) -> String {
        format!("{}-", self.id)
    }

    /// Begins a note.
    pub(crate) fn begin(&self) -> Result<Draft, JournalError> {
        self.begin_as("")
    }

    /// Begins a note that is never finished: what a command needs for a while and the next one
    /// removes, should it be killed.
    pub(crate) fn begin_scratch(&self) -> Result<Draft, JournalError> {
        self.begin_as(OF_NO_BUILD)
    }

    fn begin_as(&self, suffix: &str) -> Result<Draft, JournalError> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // Sorted by name, notes are in the order of time.
        let prefix = format!("{:020}-", since.as_nanos());
        let scratch = tempfile::Builder::new()
            .prefix(&prefix)
            .suffix(suffix)
            .rand_bytes(8)
            .tempdir_in(&self.directory)
            .map_err(JournalError::io("create a directory in", &self.directory))?;
        let directory = scratch.keep();
        let name = directory.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let begun = caller::give(&directory).and_then(|()| {
            let lock = File::create(directory.join(LOCK))?;
            lock.lock()?;
            Ok(lock)
        });
        let lock = begun.map_err(JournalError::io("lock", &directory))?;
        Ok(Draft { directory, name, finished: false, _lock: lock })
    }

    /// The builds that are noted, in the order in which they began. What can't be read is skipped.
    pub(crate) fn builds(&self) -> Vec<NotedBuild> {
        self.entries()
            .into_iter()
            .filter_map(|place| {
                let json = fs::read(place.join(NOTE)).ok()?;
                let note: NotedBuild = serde_json::from_slice(&json).ok()?;
                Some(NotedBuild { place, ..note })
            })
            .collect()
    }

    /// The names of all notes, whether finished, being made by a live process, or left by a dead
    /// one; the last are removed first.
    pub(crate) fn live_names(&self) -> BTreeSet<String> {
        let alive = |place: &PathBuf| {
            if place.join(NOTE).exists() {
                return true;
            }
            let lock = File::open(place.join(LOCK));
            // Just begun, or held by whoever makes it.
            let alive = lock.map_or_else(|_| is_new(place), |lock| is_held(&lock));
            if !alive {
                let _ = fs::remove_dir_all(place);
            }
            alive
        };
        let entries = self.entries().into_iter().filter(alive);
        entries
            .filter_map(|place| Some(place.file_name()?.to_string_lossy().to_lowercase()))
            .collect()
    }

    /// Whether no other build is being noted.
    pub(crate) fn is_alone(&self, own: &Draft) -> bool {
        let is_other = |place: &PathBuf| {
            *place != own.directory
                && !place.to_string_lossy().ends_with(OF_NO_BUILD)
                && !place.join(NOTE).exists()
                && File::open(place.join(LOCK)).is_ok_and(|lock| is_held(&lock))
        };
        !self.entries().iter().any(is_other)
    }

    fn entries(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let mut places: Vec<PathBuf> = entries
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .collect();
        places.sort();
        places
    }

    /// Forgets builds that are saved, that are on another engine, or that nobody has saved for a
    /// day: a new job begins. Others may be of a job that runs at the same time.
    pub(crate) fn begin_job(&self) {
        for build in self.builds() {
            let is_old = build.began.elapsed().is_ok_and(|age| age > FORGOTTEN_AFTER);
            if build.saved || is_old {
                build.forget();
            }
        }
    }

    /// What is known of the archive; nothing if that can't be read.
    pub(crate) fn state(&self) -> State {
        let path = self.directory.join(STATE);
        let state = fs::read(&path).ok().and_then(|json| serde_json::from_slice(&json).ok());
        State { path: Some(path), ..state.unwrap_or_default() }
    }
}

impl State {
    /// Whether a layer that is not in the directory is in a store or in the CI's cache.
    pub(crate) fn is_elsewhere(&self, digest: &Digest) -> bool {
        self.remote.as_ref().is_some_and(|copy| copy.blobs.contains(digest))
            || self.packs.as_ref().is_some_and(|packs| packs.elsewhere.contains(digest))
    }

    /// Whether a store did not answer, a short while ago.
    pub(crate) fn is_away(&self, url: &str) -> bool {
        self.away.as_ref().is_some_and(|(store, since)| {
            store == url && since.elapsed().is_ok_and(|elapsed| elapsed < AWAY)
        })
    }

    /// Writes it in one step; one that came from no journal is kept nowhere.
    pub(crate) fn write(&self) -> io::Result<()> {
        match &self.path {
            Some(path) => write_json(path, self),
            None => Ok(()),
        }
    }

    /// Writes it. Where that fails, the next command has to do again what this one has found out.
    pub(crate) fn keep(&self, reporter: Reporter) {
        if let Err(error) = self.write() {
            reporter.warn(format!(
                "the next command verifies the archive again: failed to write: {error}"
            ));
        }
    }
}

impl Draft {
    /// A directory for what is needed while the note is made.
    pub(crate) fn scratch(&self) -> &Path {
        &self.directory
    }

    /// What is unique to the note, and fit for the name of an image.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Writes the note; the scratch space is emptied.
    pub(crate) fn finish(mut self, build: NotedBuild) -> io::Result<NotedBuild> {
        for entry in fs::read_dir(&self.directory)?.flatten() {
            if entry.file_name() != LOCK {
                let path = entry.path();
                let _ =
                    if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
            }
        }
        write_json(&self.directory.join(NOTE), &build)?;
        self.finished = true;
        Ok(NotedBuild { place: self.directory.clone(), ..build })
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.finished {
            // What can't be removed now is removed by the next command.
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

impl NotedBuild {
    /// Notes that it is saved.
    pub(crate) fn mark_saved(&mut self) -> io::Result<()> {
        self.saved = true;
        write_json(&self.place.join(NOTE), self)
    }

    /// Removes the note.
    pub(crate) fn forget(&self) {
        let _ = fs::remove_dir_all(&self.place);
    }
}

fn is_held(lock: &File) -> bool {
    matches!(lock.try_lock(), Err(fs::TryLockError::WouldBlock))
}

/// The builds of `notes` that count for `engine`: each once, the last of those with the same
/// arguments, and of those of one project the last that is not saved yet.
pub(crate) fn current(notes: Vec<NotedBuild>, engine: &str) -> Vec<NotedBuild> {
    let mut builds: Vec<NotedBuild> = Vec::new();
    for build in notes.into_iter().filter(|build| build.engine == engine) {
        builds.retain(|old| {
            let replaced = old.identity == build.identity
                // A build that failed does not take the place of what succeeded before.
                && (!build.captured.failed || old.captured.failed);
            let is_outdated = old.saved && old.project == build.project && !build.captured.failed;
            !(replaced || is_outdated)
        });
        builds.push(build);
    }
    builds
}

/// A directory for what only this user may write, by a name that each step of a job finds again.
pub(crate) fn private_directory(name: &str) -> Result<PathBuf, JournalError> {
    let directory = Path::new(HOME).join(format!("dockercache-{name}"));
    match fs::DirBuilder::new().mode(0o700).create(&directory) {
        Ok(()) => caller::give(&directory).map_err(JournalError::io("own", &directory))?,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(JournalError::io("create", &directory)(e)),
    }
    let found =
        fs::symlink_metadata(&directory).map_err(JournalError::io("look at", &directory))?;
    let reason = if !found.is_dir() {
        Some("it is not a directory".to_owned())
    } else if !caller::is_ours(found.uid()) {
        Some(format!("it belongs to user {}", found.uid()))
    } else {
        (found.mode() & 0o077 != 0).then(|| "other users have access to it".to_owned())
    };
    match reason {
        Some(reason) => Err(JournalError::Foreign { path: directory, reason }),
        None => Ok(directory),
    }
}

fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new("/")))?;
    serde_json::to_writer(io::BufWriter::new(file.as_file()), value)?;
    caller::give(file.path())?;
    file.persist(path).map_err(|e| e.error)?;
    Ok(())
}

/// Whether a directory was made so short a while ago that its maker may not have locked it yet.
fn is_new(place: &Path) -> bool {
    let modified = fs::metadata(place).and_then(|found| found.modified());
    modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age < Duration::from_mins(1)))
}

/// Who has put a directory where anybody could have put it, if that is not us, or root.
pub(crate) fn stranger_of(directory: &Path) -> Option<u32> {
    const STICKY_AND_FOR_ALL: u32 = 0o1002;
    let directory = real_path(directory);
    let parent = fs::metadata(directory.parent()?).ok()?;
    let owner = fs::metadata(&directory).ok()?.uid();
    let is_open = parent.mode() & STICKY_AND_FOR_ALL == STICKY_AND_FOR_ALL;
    (is_open && owner != 0 && !caller::is_ours(owner)).then_some(owner)
}

/// The path without links, as far as it exists.
fn real_path(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut missing = Vec::new();
    let mut existing = absolute.as_path();
    loop {
        if let Ok(real) = existing.canonicalize() {
            return missing.iter().rev().fold(real, |path, name| path.join(name));
        }
        match (existing.parent(), existing.file_name()) {
            (Some(parent), Some(name)) => {
                missing.push(name.to_owned());
                existing = parent;
            }
            _ => return absolute,
        }
    }
}
