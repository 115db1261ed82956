//! A save, against a collector of dead blobs at work at the same time.
//!
//! Where a store does not collect by itself, savers and collectors tell each other by notes what
//! they are about to do. A saver writes a note with all that its refs will need, then looks for a
//! collector's note, and waits while there is one. Only then it looks which blobs are there,
//! uploads the others, and writes its refs; if that took long, it begins again with a new note. A
//! collector writes its note first, and then reads the savers'. Whoever comes second sees the
//! other, so no blob goes that a ref is about to need. A note of a process that was killed loses
//! its force with time, by the store's own clock.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::transfer::{PushError, Remote, between};
use super::{Shelf, error::StoreError};
use crate::layout::digest::Digest;
use crate::layout::oci::Descriptor;

/// The beginning of collectors' notes.
pub(super) const COLLECTOR: &str = "collector-";
/// The beginning of savers' notes.
pub(super) const SAVER: &str = "saver-";

/// How long savers and collectors rely on what they have told each other.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// For how long after it was last written a collector's note keeps savers waiting.
    pub collector: Duration,
    /// For how long a saver acts on its note before it writes a new one. Must be far below the
    /// grace, so that no collector takes the note for that of a dead process.
    pub saver: Duration,
    /// How long a saver waits for collectors.
    pub patience: Duration,
}

impl Default for Terms {
    fn default() -> Self {
        let [collector, saver, patience] = [120, 20, 150].map(Duration::from_secs);
        Self { collector, saver, patience }
    }
}

impl Terms {
    /// The shortest grace that is safe.
    pub fn shortest_grace(&self) -> Duration {
        self.saver * 3
    }
}

/// How often a saver begins again before the store is too slow for it. The first time, it may have
/// much to upload.
const ATTEMPTS: usize = 4;

/// What a saver is about to need.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The refs that it writes.
    pub(super) refs: BTreeSet<String>,
    /// The blobs that its index reaches.
    pub(super) blobs: BTreeSet<Digest>,
}

/// Writes the refs after `complete` has seen to it that nothing is missing. It may be called again.
pub(super) fn commit(
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
    let plan = serde_json::to_vec(&plan).unwrap_or_default();
    let name = format!("{SAVER}{}", unique());
    let result =
        announced(remote, shelf, &name, &plan, complete).and_then(|()| write(remote, refs, index));
    // Left behind, it keeps its blobs for some time longer than needed.
    let _ = remote.wait(shelf.remove_note(&name));
    result
}

/// Comes to an end only when a note is fresh, no collector works, and nothing is missing.
fn announced(
    remote: &Remote,
    shelf: &dyn Shelf,
    name: &str,
    plan: &[u8],
    complete: &mut dyn FnMut() -> Result<(), PushError>,
) -> Result<(), PushError> {
    let terms = remote.terms();
    let mut waiting = None;
    let mut left = ATTEMPTS;
    while left > 0 {
        let written = Instant::now();
        let now = remote.wait(shelf.write_note(name, plan))?;
        if is_collecting(remote, shelf, now)? {
            if waiting.get_or_insert(written).elapsed() > terms.patience {
                return Err(PushError::Collecting);
            }
            std::thread::sleep(terms.saver / 20);
            continue;
        }
        waiting = None;
        complete()?;
        if written.elapsed() < terms.saver {
            return Ok(());
        }
        left -= 1;
    }
    let reason = "it answers too slowly for a save that no removal of dead blobs may harm";
    Err(StoreError::Unavailable { url: remote.url().to_owned(), reason: reason.to_owned() }.into())
}

fn is_collecting(remote: &Remote, shelf: &dyn Shelf, now: SystemTime) -> Result<bool, StoreError> {
    let notes = remote.wait(shelf.notes(COLLECTOR))?;
    Ok(notes.iter().any(|note| between(note.written, now) < remote.terms().collector))
}

fn write(remote: &Remote, refs: &[&str], index: &[u8]) -> Result<(), PushError> {
    let store = remote.store();
    let written =
        remote.wait(futures_util::future::join_all(refs.iter().map(|r| store.write_ref(r, index))));
    written.into_iter().collect::<Result<(), StoreError>>()?;
    Ok(())
}

/// A name that no other process chooses.
pub(super) fn unique() -> String {
    use std::hash::{BuildHasher as _, RandomState};
    let random = || RandomState::new().hash_one(std::process::id());
    format!("{:016x}{:016x}", random(), random())
}
