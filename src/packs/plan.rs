//! Makes a table of packs from the one before and from the layers that live now.
//!
//! A pack that the CI has is kept as it is, with its key, as long as it is of use. Layers that are in none
//! form new packs, by how builds use them. Two packs are merged where there would be more than a job
//! has steps for: the pair that costs least, counted in bytes that future jobs move for nothing. A
//! pack is rewritten where too much of it is dead, and renewed before the CI deletes it. What is not
//! on this machine can't be saved, so such a pack is kept or lost, never changed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::SLOTS;
use super::table::{Day, Pack, Table};
use crate::oci::digest::Digest;

/// The most packs; more are merged, as far as they are on this machine.
const MOST_PACKS: usize = 12;
/// A pack is rewritten where more than one part in so many is dead.
const DEAD_PART: u64 = 4;
/// Less than this is not worth a rewrite.
const DEAD_BYTES: u64 = 256 << 10;
/// What a cache step takes, in bytes that move in that time.
const STEP: u64 = 512 << 10;
/// For how many builds ahead costs are counted.
const AHEAD: u64 = 10;

/// A layer that lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layer {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    /// Whether it is on this machine.
    pub(crate) here: bool,
    /// How builds use it.
    pub(crate) usage: Usage,
}

/// How builds use a layer: a bit for each kind of build.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Usage {
    /// The builds that read it.
    pub(crate) read: u64,
    /// The builds that replace it.
    pub(crate) replaced: u64,
}

/// What the planner is told beside layers.
#[derive(Clone, Debug)]
pub(crate) struct Terms<'a> {
    /// How often each kind of build comes, of a thousand builds.
    pub(crate) shares: &'a [u64],
    pub(crate) today: Day,
    /// The age at which a pack is saved again.
    pub(crate) renew_after: Duration,
    /// Keys under which the CI has something else than it should.
    pub(crate) broken: &'a BTreeSet<String>,
}

/// A table, and what of it the CI does not have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) table: Table,
    /// The keys of the packs that are new, by their slots: each at most once.
    pub(crate) new: BTreeMap<usize, String>,
}

/// A pack that is being planned.
#[derive(Clone, Debug)]
struct Draft<'a> {
    layers: Vec<&'a Layer>,
    /// Bytes of layers in it that are dead.
    dead: u64,
    /// The pack that the CI has, if it is kept as it is.
    kept: Option<&'a Pack>,
}

impl Draft<'_> {
    fn live(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }

    fn is_here(&self) -> bool {
        self.layers.iter().all(|layer| layer.here)
    }

    /// The builds that restore it.
    fn read(&self) -> u64 {
        self.layers.iter().fold(0, |read, layer| read | layer.usage.read)
    }

    /// What making it again of what the CI has would upload.
    fn again(&self) -> u64 {
        self.kept.map_or(0, |_| self.live())
    }
}

/// Plans the packs of `layers`, from the table before. Layers that are neither on this machine nor in
/// one of its packs are in no pack: nothing can save them.
pub(crate) fn plan(before: &Table, layers: &[Layer], terms: &Terms<'_>) -> Plan {
    let mut loose: BTreeMap<&Digest, &Layer> =
        layers.iter().map(|layer| (&layer.digest, layer)).collect();
    let mut drafts: Vec<Draft<'_>> = Vec::new();
    for pack in &before.packs {
        let live: Vec<&Layer> = pack.layers.keys().filter_map(|l| loose.remove(l)).collect();
        let size: u64 = live.iter().map(|layer| layer.size).sum();
        if !live.is_empty() {
            let dead = pack.size().saturating_sub(size);
            drafts.push(Draft { layers: live, dead, kept: Some(pack) });
        }
    }
    let is_wasteful = |draft: &Draft<'_>| {
        draft.dead > DEAD_BYTES && draft.dead > (draft.dead + draft.live()) / DEAD_PART
    };
    let (wasteful, kept): (Vec<_>, Vec<_>) =
        drafts.into_iter().partition(|draft| draft.is_here() && is_wasteful(draft));
    drafts = kept;
    loose.extend(wasteful.iter().flat_map(|d| &d.layers).map(|layer| (&layer.digest, *layer)));
    let mut groups: BTreeMap<Usage, Vec<&Layer>> = BTreeMap::new();
    for layer in loose.into_values().filter(|layer| layer.here) {
        groups.entry(layer.usage).or_default().push(layer);
    }
    drafts.extend(groups.into_values().map(|layers| Draft { layers, dead: 0, kept: None }));
    merge(&mut drafts, terms.shares);
    renew(&mut drafts, terms);
    finish(drafts, before, terms)
}

/// Makes packs new that the CI would delete before long, the oldest first, while there are steps left.
fn renew(drafts: &mut [Draft<'_>], terms: &Terms<'_>) {
    let new = drafts.iter().filter(|draft| draft.kept.is_none()).count();
    let mut due: Vec<&mut Draft<'_>> = drafts
        .iter_mut()
        .filter(|draft| draft.is_here())
        .filter(|draft| draft.kept.is_some_and(|p| p.made.age(terms.today) >= terms.renew_after))
        .collect();
    due.sort_by_key(|draft| draft.kept.map(|pack| pack.made));
    for draft in due.into_iter().take(SLOTS.saturating_sub(new)) {
        (draft.kept, draft.dead) = (None, 0);
    }
}

/// Merges packs until a job has steps for all that it may restore and save.
fn merge(drafts: &mut Vec<Draft<'_>>, shares: &[u64]) {
    loop {
        let new = drafts.iter().filter(|draft| draft.kept.is_none()).count();
        let crowded = (0..shares.len())
            .map(|build| 1_u64 << build)
            .find(|bit| drafts.iter().filter(|draft| draft.read() & bit != 0).count() > SLOTS);
        let fits_crowd = |d: &Draft<'_>| crowded.is_some_and(|bit| d.read() & bit != 0);
        let is_many = drafts.len() > MOST_PACKS;
        let is_surplus = |d: &Draft<'_>| new > SLOTS && d.kept.is_none();
        let pair = cheapest(drafts, &fits_crowd, shares)
            .or_else(|| cheapest(drafts, &|_| is_many, shares))
            .or_else(|| cheapest(drafts, &is_surplus, shares));
        let pair = pair
            .or_else(|| cheapest(drafts, &|_| true, shares).filter(|(_, _, cost)| *cost < STEP));
        let Some((first, second, _)) = pair else { return };
        let other = drafts.swap_remove(second);
        let one = &mut drafts[first];
        one.layers.extend(other.layers);
        (one.kept, one.dead) = (None, 0);
    }
}

/// The two packs that can be merged at the least cost.
fn cheapest(
    drafts: &[Draft<'_>],
    fits: &dyn Fn(&Draft<'_>) -> bool,
    shares: &[u64],
) -> Option<(usize, usize, u64)> {
    let usable: Vec<usize> =
        (0..drafts.len()).filter(|&at| drafts[at].is_here() && fits(&drafts[at])).collect();
    let pairs = usable
        .iter()
        .enumerate()
        .flat_map(|(place, &first)| usable[place + 1..].iter().map(move |&second| (first, second)));
    pairs
        .map(|(first, second)| (first, second, cost(&drafts[first], &drafts[second], shares)))
        .min_by_key(|(_, _, cost)| *cost)
}

/// What merging two packs costs the builds to come, in bytes.
fn cost(one: &Draft<'_>, other: &Draft<'_>, shares: &[u64]) -> u64 {
    let mut moved = 0;
    for (build, share) in shares.iter().enumerate() {
        let bit = 1_u64 << build;
        let of_one = |draft: &Draft<'_>, other: &Draft<'_>| {
            // What comes along although this build does not read it.
            if draft.read() & bit != 0 && other.read() & bit == 0 { other.live() } else { 0 }
        };
        let replaced = |draft: &Draft<'_>| -> u64 {
            let dead = draft.layers.iter().filter(|layer| layer.usage.replaced & bit != 0);
            dead.map(|layer| layer.size).sum()
        };
        let (dead_one, dead_other) = (replaced(one), replaced(other));
        // Either the dead part is restored for nothing from then on, or the rest is saved again.
        let waste = |dead: u64, draft: u64| dead.min(draft.saturating_sub(dead));
        let together = waste(dead_one + dead_other, one.live() + other.live());
        let apart = waste(dead_one, one.live()) + waste(dead_other, other.live());
        let extra = of_one(one, other) + of_one(other, one) + together.saturating_sub(apart);
        moved += extra.saturating_mul(*share);
    }
    (one.again() + other.again()).saturating_add(moved.saturating_mul(AHEAD) / 1000)
}

/// Gives each new pack a slot of its own: of those that fewest packs were saved from, since two packs in
/// one directory need a CI's cache that leaves there what it finds.
fn finish(drafts: Vec<Draft<'_>>, before: &Table, terms: &Terms<'_>) -> Plan {
    let (kept, new): (Vec<_>, Vec<_>) = drafts.into_iter().partition(|d| d.kept.is_some());
    let mut packs: Vec<Pack> = kept.into_iter().filter_map(|d| d.kept.cloned()).collect();
    let mut slots: Vec<usize> = (1..=SLOTS).collect();
    slots.sort_by_key(|slot| (packs.iter().filter(|pack| pack.slot == *slot).count(), *slot));
    let mut plan = Plan::default();
    for (draft, slot) in new.into_iter().zip(slots) {
        let layers = draft.layers.iter().map(|layer| (layer.digest.clone(), layer.size)).collect();
        let mut pack = Pack { slot, made: terms.today, attempt: 0, layers };
        while terms.broken.contains(&pack.key()) {
            pack.attempt += 1;
        }
        plan.new.insert(slot, pack.key());
        packs.push(pack);
    }
    packs.sort_by(|a, b| a.layers.cmp(&b.layers));
    let is_same = packs.len() == before.packs.len() && plan.new.is_empty();
    plan.table = Table::new(if is_same { before.made } else { terms.today }, packs);
    plan
}

/// The packs that a build restores: those of which it reads something that is not on this machine, the
/// largest share of it first, no more than there are steps for. Where steps are left, also those that are
/// due to be saved again, and the smallest ones if packs should be merged.
pub(crate) fn to_restore<'a>(
    table: &'a Table,
    needed: &BTreeSet<Digest>,
    is_here: &dyn Fn(&Digest) -> bool,
    today: Day,
    renew_after: Duration,
) -> Vec<&'a Pack> {
    let wanted = |pack: &Pack| -> u64 {
        let layers = pack.layers.iter().filter(|(l, _)| needed.contains(l) && !is_here(l));
        layers.map(|(_, size)| *size).sum()
    };
    let is_absent = |pack: &&Pack| !pack.layers.keys().all(is_here);
    let mut chosen: Vec<&Pack> = table.packs.iter().filter(|pack| wanted(pack) > 0).collect();
    chosen.sort_by_key(|pack| std::cmp::Reverse(wanted(pack)));
    let mut idle: Vec<&Pack> =
        table.packs.iter().filter(|pack| wanted(pack) == 0).filter(is_absent).collect();
    idle.sort_by_key(|pack| pack.size());
    let is_due = |pack: &&&Pack| pack.made.age(today) >= renew_after;
    chosen.extend(idle.iter().filter(is_due));
    let is_crowded = table.packs.len() + SLOTS > MOST_PACKS;
    chosen.extend(idle.iter().filter(|pack| is_crowded && !is_due(pack)));
    chosen.truncate(SLOTS);
    chosen
}

#[cfg(test)]
mod tests;
