//! Removes refs that are too old or too much, and then blobs that no ref reaches.
//!
//! See [`super::notes`] for what keeps savers and collectors apart.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use tokio::time::timeout;

use super::error::StoreError;
use super::notes::{COLLECTOR, CONDEMNED, Plan, SAVER, unique};
use super::refs::RefName;
use super::remote::{AT_ONCE, Remote, between, in_parallel};
use super::{Note, Shelf, Shelved};
use crate::archive::About;
use crate::oci::digest::Digest;
use crate::oci::documents::{self, Descriptor, Index};

/// What may stay.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Blobs and notes that are younger are left alone: a save may be in progress.
    pub grace: Duration,
    /// Refs that were written as long ago, or longer, go.
    pub max_age: Option<Duration>,
    /// The bytes that the caches of one project may have; the oldest go first.
    pub max_size: Option<u64>,
    /// Only say what would go.
    pub dry_run: bool,
}

/// What went, or would go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// The refs that went.
    pub refs: Vec<String>,
    /// How many refs are left.
    pub refs_left: usize,
    /// Number and bytes of blobs that went; none where a registry collects them itself.
    pub blobs: (usize, u64),
    /// Number and bytes of blobs that are left; none where a registry collects them itself.
    pub blobs_left: (usize, u64),
    /// Whether there is, or was, anything of ours in the store.
    pub was_here: bool,
}

/// Refs that are read between two looks at the clock.
const AT_A_TIME: usize = 16;
/// How long a collector that could not go on tries to take its note back.
const PARTING: Duration = Duration::from_secs(3);
/// Blobs that are condemned and removed at once: all must be gone within [`super::remote::Terms`].
const AT_A_REMOVAL: usize = 300;
/// The same for caches, each of which has some refs.
const CACHES_AT_A_REMOVAL: usize = 10;
/// The note that something of ours was here, though all of it may be gone.
const COLLECTED: &str = "collected";

/// Documents that have been read, with what they point at: most are named by several refs.
type Known = Mutex<BTreeMap<Digest, Vec<Descriptor>>>;

/// An index, and all refs that name it.
struct Cache {
    project: String,
    refs: Vec<String>,
    written: SystemTime,
    /// What it reaches, with sizes in bytes.
    reach: BTreeMap<Digest, u64>,
}

impl Remote {
    /// Collects by `policy`.
    pub fn collect(&self, policy: &Policy) -> Result<Collected, StoreError> {
        let Some(objects) = self.store().shelf() else {
            return self.collect_refs(policy);
        };
        let name = format!("{COLLECTOR}{}", unique());
        let result = Collector {
            remote: self,
            objects,
            name: &name,
            begun: SystemTime::UNIX_EPOCH,
            renewed: None,
            condemned: 0,
        }
        .run(policy);
        // A store that has just failed is not waited for once more: nobody relies on the note for long.
        let _limited = result.is_err().then(|| self.within(PARTING));
        let _ = self.wait(objects.remove_note(&name));
        result
    }

    /// A registry: it keeps no blob that no manifest names, so removing tags is all.
    fn collect_refs(&self, policy: &Policy) -> Result<Collected, StoreError> {
        let caches = match self.caches(None, &mut || Ok(())) {
            Err(StoreError::Missing { .. }) => return Ok(Collected::default()),
            caches => caches?,
        };
        let now = SystemTime::now();
        let gone = condemned(&caches, policy, now, &BTreeSet::new());
        let mut collected = Collected { was_here: true, ..Collected::default() };
        for (at, cache) in caches.iter().enumerate() {
            if gone.contains(&at) {
                for name in cache.refs.iter().filter(|_| !policy.dry_run) {
                    match self.wait(self.store().remove_ref(name)) {
                        // A registry that someone writes to just then may find its own tag gone.
                        Ok(()) | Err(StoreError::Missing { .. }) => {}
                        Err(error) => return Err(error),
                    }
                }
                collected.refs.extend(cache.refs.iter().cloned());
            } else {
                collected.refs_left += cache.refs.len();
            }
        }
        collected.refs.sort();
        Ok(collected)
    }

    /// Every index that refs of ours name. Without a shelf, its age is what it says itself.
    /// `beat` is called every now and then.
    fn caches(
        &self,
        objects: Option<&dyn Shelf>,
        beat: &mut dyn FnMut() -> Result<(), StoreError>,
    ) -> Result<Vec<Cache>, StoreError> {
        let mut caches: BTreeMap<Digest, Cache> = BTreeMap::new();
        let known = Mutex::default();
        let names = self.wait(self.store().refs())?;
        for some in names.chunks(AT_A_TIME) {
            beat()?;
            let read = Mutex::new(Vec::new());
            in_parallel(AT_ONCE, some, |name| {
                let cache = self.cache(name, objects, &known)?;
                read.lock().unwrap_or_else(PoisonError::into_inner).extend(cache);
                Ok::<(), StoreError>(())
            })?;
            for (digest, cache) in read.into_inner().unwrap_or_else(PoisonError::into_inner) {
                match caches.entry(digest) {
                    Entry::Vacant(entry) => drop(entry.insert(cache)),
                    Entry::Occupied(mut entry) => {
                        let same = entry.get_mut();
                        same.refs.extend(cache.refs);
                        same.written = same.written.max(cache.written);
                    }
                }
            }
        }
        Ok(caches.into_values().collect())
    }

    /// What a ref names, by the index's digest; `None` for one that is not ours, or gone.
    fn cache(
        &self,
        name: &str,
        objects: Option<&dyn Shelf>,
        known: &Known,
    ) -> Result<Option<(Digest, Cache)>, StoreError> {
        let Some(project) = RefName::project_of(name) else { return Ok(None) };
        let Some(bytes) = self.wait(self.store().read_ref(name))? else { return Ok(None) };
        // What is no index names nothing.
        let index: Index = serde_json::from_slice(&bytes).unwrap_or_else(|_| Index::new(vec![]));
        let written = match objects {
            Some(objects) => self.wait(objects.ref_time(name))?,
            None => created(&index),
        };
        let cache = Cache {
            project: project.to_owned(),
            refs: vec![name.to_owned()],
            written: written.unwrap_or(SystemTime::UNIX_EPOCH),
            reach: self.reach(&index, known)?,
        };
        Ok(Some((Digest::of(&bytes), cache)))
    }

    /// What an index reaches. A document that is lost ends it for what stands below it; one that
    /// can't be read now is an error, since what it reaches would be taken for dead.
    fn reach(&self, index: &Index, known: &Known) -> Result<BTreeMap<Digest, u64>, StoreError> {
        let mut reach = BTreeMap::new();
        let mut queue = index.manifests.clone();
        while let Some(descriptor) = queue.pop() {
            if reach.insert(descriptor.digest.clone(), descriptor.size).is_some() {
                continue;
            }
            if !descriptor.is_document() {
                continue;
            }
            let lock = || known.lock().unwrap_or_else(PoisonError::into_inner);
            let seen = lock().get(&descriptor.digest).cloned();
            if let Some(children) = seen {
                queue.extend(children);
                continue;
            }
            let children = match self.document(&descriptor) {
                Ok(bytes) => documents::children(&descriptor, &bytes).unwrap_or_default(),
                Err(StoreError::Missing { .. } | StoreError::Damaged { .. }) => Vec::new(),
                Err(error) => return Err(error),
            };
            queue.extend(children.iter().cloned());
            lock().insert(descriptor.digest, children);
        }
        Ok(reach)
    }
}

/// When an index was saved, by its saver's clock.
fn created(index: &Index) -> Option<SystemTime> {
    let about = About::of(index)?;
    let created = humantime::parse_rfc3339(&about.created).ok()?;
    // A clock that runs ahead makes nothing live permanently.
    Some(created.min(SystemTime::now()))
}

/// The caches that must go: those that are too old, and the oldest of each project that has too
/// much. What a saver is about to write stays.
fn condemned(
    caches: &[Cache],
    policy: &Policy,
    now: SystemTime,
    held: &BTreeSet<String>,
) -> BTreeSet<usize> {
    let mut order: Vec<usize> = (0..caches.len()).collect();
    order.sort_by_key(|&at| std::cmp::Reverse(caches[at].written));
    let mut sizes: BTreeMap<&str, (BTreeSet<&Digest>, u64)> = BTreeMap::new();
    let mut gone = BTreeSet::new();
    for at in order {
        let cache = &caches[at];
        let is_held = cache.refs.iter().any(|r| held.contains(r));
        let too_old = policy.max_age.is_some_and(|age| between(cache.written, now) >= age);
        let (counted, size) = sizes.entry(&cache.project).or_default();
        let new = cache.reach.iter().filter(|(digest, _)| !counted.contains(digest));
        let more: u64 = new.map(|(_, size)| size).sum();
        let too_much = policy.max_size.is_some_and(|budget| *size + more > budget);
        if (too_old || too_much) && !is_held {
            gone.insert(at);
        } else {
            counted.extend(cache.reach.keys());
            *size += more;
        }
    }
    gone
}

/// A collector at work.
struct Collector<'a> {
    remote: &'a Remote,
    objects: &'a dyn Shelf,
    name: &'a str,
    /// When its note was first written, by the store's clock.
    begun: SystemTime,
    /// When its note was last written, and the store's time then.
    renewed: Option<(Instant, SystemTime)>,
    /// How many notes it has condemned in.
    condemned: usize,
}

impl Collector<'_> {
    fn run(mut self, policy: &Policy) -> Result<Collected, StoreError> {
        // Nothing may be read before the note is there.
        let now = self.renew()?;
        self.begun = now;
        let notes = self.notes(policy)?;
        // Where many collectors were killed there are many, and each would be read again and again.
        for name in notes.stale.iter().filter(|_| !policy.dry_run) {
            self.renew()?;
            self.remote.wait(self.objects.remove_note(name))?;
        }
        let held: BTreeSet<String> = notes.savers.iter().flat_map(|p| p.refs.clone()).collect();
        let (remote, objects) = (self.remote, self.objects);
        let mut caches = remote.caches(Some(objects), &mut || self.renew().map(drop))?;
        let mut collected =
            Collected { was_here: notes.ours || !caches.is_empty(), ..Collected::default() };
        let gone: Vec<usize> = condemned(&caches, policy, now, &held).into_iter().collect();
        // From the end: what is removed moves nothing that comes later.
        for some in gone.rchunks(CACHES_AT_A_REMOVAL) {
            self.renew()?;
            for at in self.remove_caches(&caches, some, policy)?.into_iter().rev() {
                collected.refs.extend(caches.remove(at).refs);
            }
        }
        collected.refs.sort();
        collected.refs_left = caches.iter().map(|c| c.refs.len()).sum();
        let mut live: BTreeSet<Digest> = notes.savers.into_iter().flat_map(|p| p.blobs).collect();
        live.extend(caches.into_iter().flat_map(|c| c.reach.into_keys()));

        let mut dead = Vec::new();
        let mut blobs = objects.blobs();
        while let Some(blob) = remote.wait(async { blobs.next().await.transpose() })? {
            self.renew()?;
            collected.was_here = true;
            let young = between(blob.written, now) < policy.grace;
            if young || live.contains(&blob.digest) {
                count(&mut collected.blobs_left, &blob);
            } else {
                dead.push(blob);
            }
            if dead.len() == AT_A_REMOVAL {
                self.remove(std::mem::take(&mut dead), policy, &mut collected)?;
            }
        }
        self.remove(dead, policy, &mut collected)?;
        if !policy.dry_run && collected.was_here {
            remote.wait(objects.write_note(COLLECTED, b""))?;
        }
        Ok(collected)
    }

    /// Removes the refs of caches, and gives which ones: all but those that a saver is about to write.
    fn remove_caches(
        &mut self,
        caches: &[Cache],
        some: &[usize],
        policy: &Policy,
    ) -> Result<Vec<usize>, StoreError> {
        if policy.dry_run {
            return Ok(some.to_vec());
        }
        let refs = some.iter().flat_map(|&at| caches[at].refs.iter().cloned()).collect();
        let plan = Plan { refs, ..Plan::default() };
        self.condemn(&plan, policy, |this, savers| {
            let held = |name| savers.iter().any(|saver| saver.refs.contains(name));
            let free = |at: &usize| !caches[*at].refs.iter().any(held);
            let some: Vec<usize> = some.iter().copied().filter(free).collect();
            let refs = some.iter().flat_map(|&at| &caches[at].refs);
            let removals = refs.map(|name| this.remote.store().remove_ref(name));
            this.in_time(async { join_all(removals).await.into_iter().collect() })?;
            Ok(some)
        })
    }

    /// Removes blobs, but for those that a saver is about to need.
    fn remove(
        &mut self,
        mut dead: Vec<Shelved>,
        policy: &Policy,
        collected: &mut Collected,
    ) -> Result<(), StoreError> {
        if !policy.dry_run && !dead.is_empty() {
            self.renew()?;
            let blobs = dead.iter().map(|blob| blob.digest.clone()).collect();
            let plan = Plan { blobs, ..Plan::default() };
            dead = self.condemn(&plan, policy, |this, savers| {
                let (held, dead): (Vec<_>, Vec<_>) = dead
                    .into_iter()
                    .partition(|blob| savers.iter().any(|s| s.blobs.contains(&blob.digest)));
                for blob in &held {
                    count(&mut collected.blobs_left, blob);
                }
                let digests: Vec<Digest> = dead.iter().map(|blob| blob.digest.clone()).collect();
                this.in_time(this.objects.remove_blobs(&digests))?;
                Ok(dead)
            })?;
        }
        for blob in &dead {
            count(&mut collected.blobs, blob);
        }
        Ok(())
    }

    /// Says what is about to be removed, and lets `remove` do so with the plans of all savers that
    /// may not know of it. It must be over before savers rely on that.
    fn condemn<T>(
        &mut self,
        plan: &Plan,
        policy: &Policy,
        remove: impl FnOnce(&Self, Vec<Plan>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let start = Instant::now();
        self.condemned += 1;
        let own = self.name.trim_start_matches(COLLECTOR);
        let name = format!("{CONDEMNED}{own}-{}", self.condemned);
        self.remote.wait(self.objects.write_note(&name, &plan.to_json()))?;
        let savers = self.notes(policy)?.savers;
        let removed = if start.elapsed() < self.remote.terms().removal / 3 {
            remove(self, savers)
        } else {
            Err(self.too_slow())
        };
        // Where it is not known what was removed, savers wait until it must be over.
        if removed.is_ok() {
            self.remote.wait(self.objects.remove_note(&name))?;
        }
        removed
    }

    /// Waits for a removal, for a part of the time in which savers wait for it.
    fn in_time(
        &self,
        removal: impl Future<Output = Result<(), StoreError>>,
    ) -> Result<(), StoreError> {
        let limit = self.remote.terms().removal / 3;
        let removal = async { timeout(limit, removal).await.map_err(|_| self.too_slow())? };
        self.remote.wait(removal)
    }

    fn too_slow(&self) -> StoreError {
        StoreError::Unavailable {
            url: self.remote.url().to_owned(),
            reason: "it answered too slowly to go on removing safely; try again".to_owned(),
        }
    }

    /// Keeps the note fresh. A collector that was held up for too long gives up: savers no longer
    /// wait for it.
    fn renew(&mut self) -> Result<SystemTime, StoreError> {
        let force = self.remote.terms().collector;
        let age = self.renewed.map(|(at, _)| at.elapsed());
        if let (Some(age), Some((_, time))) = (age, self.renewed) {
            if age > force / 2 {
                return Err(self.too_slow());
            }
            if age < force / 6 {
                return Ok(time);
            }
        }
        let before = Instant::now();
        let time = self.remote.wait(self.objects.write_note(self.name, b""))?;
        self.renewed = Some((before, time));
        Ok(time)
    }

    /// What others say. A saver's note protects its blobs until this collector ends, however long
    /// that takes.
    fn notes(&self, policy: &Policy) -> Result<Notes, StoreError> {
        let notes = self.remote.wait(self.objects.notes(""))?;
        let limit = policy.grace.max(self.remote.terms().collector);
        let ours = notes.iter().any(|note| note.name != self.name);
        let is_stale = |note: &Note| {
            let kinds = [SAVER, COLLECTOR, CONDEMNED];
            kinds.iter().any(|kind| note.name.starts_with(kind))
                && between(note.written, self.begun) > limit
        };
        let (stale, fresh): (Vec<_>, Vec<_>) = notes.into_iter().partition(is_stale);
        let savers = fresh.iter().filter(|note| note.name.starts_with(SAVER));
        let savers = savers.filter_map(Plan::of).collect();
        Ok(Notes { savers, stale: stale.into_iter().map(|note| note.name).collect(), ours })
    }
}

/// What notes say.
struct Notes {
    /// The plans of savers at work, or such as a collector at work may not know of.
    savers: Vec<Plan>,
    /// The names of notes that have lost their force.
    stale: Vec<String>,
    /// Whether there is any but the collector's own.
    ours: bool,
}

fn count(counted: &mut (usize, u64), blob: &Shelved) {
    counted.0 += 1;
    counted.1 += blob.size;
}
