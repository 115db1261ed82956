//! A save, against a collector of dead blobs at work at the same time.
//!
//! Where a store does not collect by itself, savers and collectors tell each other by notes what
//! they are about to do; neither waits for the other to end.
//!
//! A saver writes a note with all that its refs will need, then looks which blobs collectors have
//! condemned before. Only if it needs one of these it waits, until that blob is removed for sure:
//! some seconds. Then it looks which blobs are there, uploads the others, and writes its refs, and
//! all the while it keeps its note fresh. A collector condemns a few blobs in a note,
//! and only then reads the savers' notes and removes what none of them needs. Whoever comes second
//! sees the other, so no blob goes that a ref is about to need.
//!
//! A collector has read the refs before it condemns anything, so it does not know what was saved
//! since. That is why a saver that ends while a collector is at work leaves its note behind: until
//! the collector is done, it protects what the new refs name. A note of a process that was killed
//! loses its force with time, by the store's own clock.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use super::error::{PushError, StoreError};
use super::remote::{Remote, between};
use super::{Note, Shelf};
use crate::oci::digest::Digest;
use crate::oci::documents::Descriptor;

/// The beginning of the notes that say that a collector is at work.
pub(crate) const COLLECTOR: &str = "collector-";
/// The beginning of the notes in which collectors condemn.
pub(crate) const CONDEMNED: &str = "condemned-";
/// The beginning of savers' notes.
pub(crate) const SAVER: &str = "saver-";
/// How coarse a store's clock may be.
const TICK: Duration = Duration::from_secs(2);

/// How often a saver begins again because its note could not be kept fresh.
const ATTEMPTS: usize = 4;

/// What a saver is about to need, or what a collector is about to remove.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// The refs that it writes.
    pub(crate) refs: BTreeSet<String>,
    /// The blobs that its index reaches.
    pub(crate) blobs: BTreeSet<Digest>,
}

impl Plan {
    /// What a note says. What can't be read is no plan of ours.
    pub(crate) fn of(note: &Note) -> Option<Self> {
        serde_json::from_slice(&note.text).ok()
    }

    fn meets(&self, other: &Self) -> bool {
        !self.refs.is_disjoint(&other.refs) || !self.blobs.is_disjoint(&other.blobs)
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Writes the refs after `complete` has seen to it that nothing is missing. It may be called again.
pub(crate) fn commit(
    remote: &Remote,
    refs: &[&str],
    blobs: &[Descriptor],
    index: &[u8],
    complete: &mut dyn FnMut() -> Result<(), PushError>,
) -> Result<(), PushError> {
    let Some(shelf) = remote.store().shelf() else {
        complete()?;
        return write(remote, refs, index);
    };
    let plan = Plan {
        refs: refs.iter().map(|&r| r.to_owned()).collect(),
        blobs: blobs.iter().map(|b| b.digest.clone()).collect(),
    };
    let saver = Saver { remote, shelf, name: format!("{SAVER}{}", unique()), plan };
    let (beat, now) = match saver.announced(complete) {
        Ok(announced) => announced,
        Err(error) => {
            // Nothing was named. Left behind, the note keeps its blobs for longer than needed.
            let _ = remote.wait(shelf.remove_note(&saver.name));
            return Err(error);
        }
    };
    write(remote, refs, index)?;
    drop(beat);
    saver.leave(now);
    Ok(())
}

/// A save at work.
struct Saver<'a> {
    remote: &'a Remote,
    shelf: &'a dyn Shelf,
    name: String,
    plan: Plan,
}

impl Saver<'_> {
    /// Comes to an end only when a note is fresh, and nothing is missing nor about to be removed.
    /// Gives what keeps the note fresh, and the store's time.
    fn announced(
        &self,
        complete: &mut dyn FnMut() -> Result<(), PushError>,
    ) -> Result<(Beat, SystemTime), PushError> {
        for _ in 0..ATTEMPTS {
            let written = Instant::now();
            let now = self.announce()?;
            let beat = Beat::start(self, written);
            self.wait_for_removals(now)?;
            complete()?;
            if beat.is_steady() {
                return Ok((beat, now));
            }
        }
        let reason = "it answers too slowly for a save that no removal of dead blobs may harm";
        let url = self.remote.url().to_owned();
        Err(StoreError::Unavailable { url, reason: reason.to_owned() }.into())
    }

    fn announce(&self) -> Result<SystemTime, StoreError> {
        self.remote.wait(self.shelf.write_note(&self.name, &self.plan.to_json()))
    }

    /// Waits until what was condemned before is removed for sure, if it is needed here. Who
    /// condemns later sees our note.
    fn wait_for_removals(&self, now: SystemTime) -> Result<(), StoreError> {
        let force = self.remote.terms().removal;
        let start = Instant::now();
        let condemned = || self.remote.wait(self.shelf.notes(CONDEMNED));
        let meets = |note: &Note| Plan::of(note).is_some_and(|plan| plan.meets(&self.plan));
        let mut left: Vec<(String, Duration)> = condemned()?
            .iter()
            .filter(|note| meets(note))
            .map(|note| {
                (note.name.clone(), (force + TICK).saturating_sub(between(note.written, now)))
            })
            .collect();
        loop {
            left.retain(|(_, rest)| *rest > start.elapsed());
            if left.is_empty() {
                return Ok(());
            }
            std::thread::sleep(force / 30);
            let there: BTreeSet<String> = condemned()?.into_iter().map(|note| note.name).collect();
            left.retain(|(name, _)| there.contains(name));
        }
    }

    /// Removes the note, unless a collector is at work that does not know of the refs.
    fn leave(&self, now: SystemTime) {
        // What can't be told is not relied on; a collector removes old notes.
        let Ok(collectors) = self.remote.wait(self.shelf.notes(COLLECTOR)) else { return };
        let force = self.remote.terms().collector + self.remote.terms().saver;
        if collectors.iter().all(|note| between(note.written, now) > force) {
            let _ = self.remote.wait(self.shelf.remove_note(&self.name));
        }
    }
}

/// Writes a saver's note again and again, until it is dropped.
struct Beat {
    task: JoinHandle<()>,
    state: Arc<Mutex<Pulse>>,
    /// Held while the note is being written.
    writing: Arc<tokio::sync::Mutex<()>>,
    limit: Duration,
}

/// Whether a note was fresh all the time.
struct Pulse {
    /// When it was last begun to be written.
    last: Instant,
    missed: bool,
}

impl Beat {
    fn start(saver: &Saver<'_>, written: Instant) -> Self {
        let limit = saver.remote.terms().saver;
        let state = Arc::new(Mutex::new(Pulse { last: written, missed: false }));
        let writing = Arc::new(tokio::sync::Mutex::new(()));
        let busy = Arc::clone(&writing);
        let (pulse, store) = (Arc::clone(&state), saver.remote.shared());
        let (name, text) = (saver.name.clone(), saver.plan.to_json());
        let task = saver.remote.spawn(async move {
            loop {
                tokio::time::sleep(limit / 3).await;
                let _busy = busy.lock().await;
                let (Some(shelf), begun) = (store.shelf(), Instant::now()) else { return };
                let written = shelf.write_note(&name, &text).await.is_ok();
                let mut pulse = pulse.lock().unwrap_or_else(PoisonError::into_inner);
                // Until now it was as old as the last one.
                pulse.missed |= pulse.last.elapsed() > limit * 2;
                if written {
                    pulse.last = begun;
                }
            }
        });
        Self { task, state, writing, limit }
    }

    /// Whether the note was fresh all the time, and is now.
    fn is_steady(&self) -> bool {
        let pulse = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        !pulse.missed && pulse.last.elapsed() < self.limit
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        // What is on its way to the store would bring the note back after its removal.
        let _quiet = self.writing.blocking_lock();
        self.task.abort();
    }
}

fn write(remote: &Remote, refs: &[&str], index: &[u8]) -> Result<(), PushError> {
    let store = remote.store();
    let writes = refs.iter().map(|r| store.write_ref(r, index));
    remote.wait(async {
        let written = futures_util::future::join_all(writes).await;
        written.into_iter().collect::<Result<(), StoreError>>()
    })?;
    Ok(())
}

/// A name that no other process chooses.
pub(crate) fn unique() -> String {
    use std::hash::{BuildHasher as _, RandomState};
    let random = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}", random(), random())
}
