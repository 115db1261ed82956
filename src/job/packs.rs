//! The packs in which a CI's cache carries the archive, as the verbs use them.
//!
//! Before a job's builds the CI restores the index, then the packs that are chosen here; after them it saves
//! the packs that are new, then the index. A pack that the CI was asked for and has not brought whole
//! is a miss of what needs it, and is in no table from then on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::journal::{Packs, State};
use super::reads;
use crate::archive::Archive;
use crate::builder::Strategy;
use crate::oci::digest::Digest;
use crate::oci::directory::{Layout, LayoutError};
use crate::oci::documents::Index;
use crate::oci::live;
use crate::oci::writer::Writer;
use crate::packs::disk;
use crate::packs::plan::{self, Layer, Terms};
use crate::packs::table::{Day, Pack, Table};
use crate::packs::uses::Uses;
use crate::predict::project::Project;
use crate::report::{Reporter, bytes, count};

/// Layers below this are in no pack: they travel with the index.
const SMALL: u64 = 16 << 10;

/// A pack for the CI to move.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) key: String,
    /// Its directory, which is where it was saved from.
    pub(crate) place: PathBuf,
}

/// For how long the CI keeps what it has saved, and what day it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Calendar {
    lifetime: Duration,
    today: Day,
}

impl Calendar {
    pub(crate) fn new(lifetime: Duration) -> Self {
        Self { lifetime, today: Day::of(SystemTime::now()) }
    }

    /// The age at which what is in use is saved again: early enough for projects that rest for a few
    /// days.
    fn renew_after(self) -> Duration {
        self.lifetime * 2 / 3
    }
}

/// Takes the index that the CI has restored, and chooses the packs to restore.
pub(crate) fn choose(
    writer: &Writer,
    strategy: Strategy,
    projects: &[Project],
    calendar: Calendar,
    state: &mut State,
    reporter: Reporter,
) -> Result<Vec<Chosen>, LayoutError> {
    state.packs = None;
    let Some(table) = disk::take_index(writer)? else {
        reporter.info("packs: the CI's cache has no index of this project");
        return Ok(Vec::new());
    };
    let mut table = table.unwrap_or_else(|reason| {
        reporter.warn(format!("the packs are not used: their table is damaged: {reason}"));
        Table::default()
    });
    table.retain_younger(calendar.lifetime, calendar.today);
    let archive = Archive::read(writer)?.unwrap_or_default();
    let live = live_layers(writer)?;
    let needed = reads::layers(strategy, projects, &archive);
    let needed = needed.unwrap_or_else(|| live.keys().cloned().collect());
    let needed: BTreeSet<Digest> = needed.into_iter().filter(|l| live.contains_key(l)).collect();
    let is_here = |digest: &Digest| writer.blob_size(digest).is_some();
    let chosen =
        plan::to_restore(&table, &needed, &is_here, calendar.today, calendar.renew_after());
    let size: u64 = chosen.iter().map(|pack| pack.size()).sum();
    let all: u64 = table.packs.iter().map(Pack::size).sum();
    reporter.info(format!(
        "packs: {} of {}, {} of {}",
        chosen.len(),
        count(table.packs.len(), "pack"),
        bytes(size),
        bytes(all)
    ));
    let asked: BTreeMap<String, BTreeSet<Digest>> = chosen
        .iter()
        .map(|pack| {
            let of_use = pack.layers.keys().filter(|l| live.contains_key(*l)).cloned();
            (pack.key(), of_use.collect())
        })
        .collect();
    let coming: BTreeSet<&Digest> = asked.values().flatten().collect();
    let elsewhere = table.layers().into_iter().filter(|l| !coming.contains(l)).cloned().collect();
    let places = chosen.iter().map(|pack| Chosen {
        key: pack.key(),
        place: disk::slot_directory(writer.root(), pack.slot),
    });
    let places = places.collect();
    state.packs = Some(Packs { table, elsewhere, asked, is_new: true, ..Packs::default() });
    Ok(places)
}

/// Takes what the CI has restored of packs, if packs were chosen for this job. What was known of those
/// of another job is forgotten.
pub(crate) fn take(layout: &Layout, state: &mut State, reporter: Reporter) {
    state.packs = state.packs.take().filter(|packs| packs.is_new);
    if state.packs.is_none() {
        return;
    }
    match super::locked(layout, reporter).and_then(|writer| disk::take_packs(&writer)) {
        Ok((number, size)) => {
            reporter.info(format!("packs: {}, {} restored", count(number, "layer"), bytes(size)));
        }
        Err(error) => reporter.warn(format!("the packs are not used: {error}")),
    }
}

/// Forgets packs of which something is missing or was corrupt, once the archive is verified.
pub(crate) fn settle(layout: &Layout, state: &mut State) {
    let Some(packs) = &mut state.packs else { return };
    packs.is_new = false;
    let asked = std::mem::take(&mut packs.asked);
    let is_whole = |layers: &BTreeSet<Digest>| layers.iter().all(|l| layout.blob_size(l).is_some());
    let broken = asked.iter().filter(|(_, layers)| !is_whole(layers));
    packs.broken = broken.map(|(key, _)| key.clone()).collect();
    packs.table.packs.retain(|pack| !packs.broken.contains(&pack.key()));
}

/// What the CI is to save.
#[derive(Debug, Default)]
pub(crate) struct Planned {
    /// The new packs, by slots.
    pub(crate) new: BTreeMap<usize, Chosen>,
    /// Whether the table is another one than what the CI has, or grows too old there.
    pub(crate) changed: bool,
    /// Bytes of the new packs, and of all.
    pub(crate) size: (u64, u64),
}

/// Groups the archive's layers and lays out what the CI saves.
pub(crate) fn save(
    writer: &Writer,
    calendar: Calendar,
    state: &State,
) -> Result<Planned, LayoutError> {
    let Some(archive) = Archive::read(writer)? else { return Ok(Planned::default()) };
    let uses = Uses::of(&archive);
    let mut before = state.packs.as_ref().map(|packs| packs.table.clone()).unwrap_or_default();
    before.retain_younger(calendar.lifetime, calendar.today);
    let layers: Vec<Layer> = live_layers(writer)?
        .into_iter()
        .map(|(digest, size)| Layer {
            here: writer.blob_size(&digest) == Some(size),
            usage: uses.layers.get(&digest).copied().unwrap_or_default(),
            digest,
            size,
        })
        .collect();
    let nothing = BTreeSet::new();
    let terms = Terms {
        shares: &uses.shares,
        today: calendar.today,
        renew_after: calendar.renew_after(),
        broken: state.packs.as_ref().map_or(&nothing, |packs| &packs.broken),
    };
    let mut plan = plan::plan(&before, &layers, &terms);
    let is_old = before.made.age(calendar.today) >= calendar.renew_after();
    if is_old {
        plan.table.made = calendar.today;
    }
    disk::lay_out(writer, &plan.table, &plan.new)?;
    let is_new = |slot: usize, key: &str| plan.new.get(&slot).is_some_and(|new| new == key);
    let packs = || plan.table.packs.iter();
    let new = packs().filter(|pack| is_new(pack.slot, &pack.key()));
    Ok(Planned {
        size: (new.map(Pack::size).sum(), packs().map(Pack::size).sum()),
        changed: state.packs.as_ref().is_none_or(|packs| packs.table != plan.table),
        new: plan
            .new
            .into_iter()
            .map(|(slot, key)| {
                (slot, Chosen { key, place: disk::slot_directory(writer.root(), slot) })
            })
            .collect(),
    })
}

/// The layers that may be in packs, with their sizes.
fn live_layers(layout: &Layout) -> Result<BTreeMap<Digest, u64>, LayoutError> {
    let index = layout.index()?.unwrap_or_else(|| Index::new(Vec::new()));
    let blobs = live::reach(layout, &index).blobs.into_values();
    let layers = blobs.filter(|blob| blob.is_layer() && blob.size > SMALL);
    Ok(layers.map(|layer| (layer.digest, layer.size)).collect())
}
