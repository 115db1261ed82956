//! The store that jobs share, as the verbs use it: what a build needs is fetched before, what is
//! new is pushed after. Whatever is wrong with it, the directory is used alone.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::gate::Gate;
use super::journal::{RemoteCopy, State};
use super::project_name::project_name;
use super::reads;
use super::refs;
use super::variable;
use crate::archive::trust::Trust;
use crate::archive::{self, About, Archive, FORMAT, StageAbout};
use crate::builder::Strategy;
use crate::engine::Engine;
use crate::oci::directory::{Layout, LayoutError};
use crate::oci::documents::Descriptor;
use crate::oci::live;
use crate::oci::verify::BadBlob;
use crate::oci::writer::Writer;
use crate::predict::project::Project;
use crate::predict::{KeyScope, Keys};
use crate::report::{Reporter, bytes, count};
use crate::store::error::{PushError, StoreError};
use crate::store::push::There;
use crate::store::refs::RefName;
use crate::store::remote::Remote;
use crate::store::url::StoreUrl;
use crate::store::variables::Variables;

/// A cache that is older is saved again although nothing changed, so that it does not grow too
/// old for a store that is cleaned by age.
const RENEWED_AFTER: Duration = Duration::from_hours(24);
/// The variable with the time for which a job looks for a cache in a store, and its default.
const TIMEOUT: &str = "DOCKERCACHE_STORE_TIMEOUT";
const PATIENCE: Duration = Duration::from_mins(1);
/// The first Docker whose BuildKit reads a cache manifest in the form of an image manifest.
const READS_IMAGE_FORM: u32 = 25;

/// The names of the first and the last level.
const EXACT_LEVEL: &str = "exact";
const PROJECT_LEVEL: &str = "project";
/// Hexadecimal digits of a stage's digest; others come from archives of strangers.
const DIGEST_LENGTH: usize = 64;

/// A store that is open.
pub(crate) struct Store {
    remote: Remote,
    url: StoreUrl,
    /// How long to look for a cache in it.
    patience: Duration,
    read_only: bool,
    /// It was not available a short while ago.
    is_away: bool,
}

/// Why a store can't be used, or not everything be fetched from it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SyncError {
    /// What the user has set is wrong.
    #[error("{0}")]
    Settings(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The directory can't be read or written.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// What something is fetched or pushed for.
pub(crate) struct Task<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) strategy: Strategy,
    pub(crate) layout: &'a Layout,
    pub(crate) reporter: Reporter,
}

/// The store of `build`, which has no options of its own. It only reads, and does without one that
/// can't be used.
pub(crate) fn of_environment(state: &mut State, reporter: Reporter) -> Option<Store> {
    open(variable("DOCKERCACHE_STORE").as_deref(), true, state).unwrap_or_else(|error| {
        reporter.warn(format!("the store is skipped: {error}"));
        None
    })
}

/// Opens the store that is named, if one is, and begins to connect. What the journal says of
/// another store is forgotten.
pub(crate) fn open(
    url: Option<&str>,
    read_only: bool,
    state: &mut State,
) -> Result<Option<Store>, SyncError> {
    // With or without a store: what is wrong with them must stop a job early.
    Trust::of_environment().map_err(SyncError::Settings)?;
    let store = named(url, read_only, state)?;
    let url = store.as_ref().map(|store| store.url.to_string());
    state.remote = state.remote.take().filter(|copy| Some(&copy.url) == url.as_ref());
    Ok(store)
}

fn named(url: Option<&str>, read_only: bool, state: &State) -> Result<Option<Store>, SyncError> {
    let Some(text) = url.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let url: StoreUrl = text.parse().map_err(|why| {
        SyncError::Settings(format!("the store of --store or DOCKERCACHE_STORE: {why}"))
    })?;
    let patience = patience()?;
    let remote = Remote::open(&url, &Variables::of_process())?;
    let is_away = state.is_away(&url.to_string());
    if !is_away {
        remote.greet_ahead();
    }
    Ok(Some(Store { remote, url, patience, read_only, is_away }))
}

/// How long a job looks for a cache in a store.
fn patience() -> Result<Duration, SyncError> {
    let Some(text) = variable(TIMEOUT) else { return Ok(PATIENCE) };
    super::parse_duration(&text).ok_or_else(|| {
        SyncError::Settings(format!(
            "invalid `{TIMEOUT}`: expected a time with a unit, such as `60s`"
        ))
    })
}

impl Store {
    /// Fetches the nearest cache and of it what the build will read. `false` if there was trouble,
    /// which has been reported.
    pub(crate) fn fetch(&self, task: &Task<'_>, projects: &[Project], state: &mut State) -> bool {
        if self.is_away {
            task.reporter.warn(format!("the store is left out: {}", self.away()));
            return false;
        }
        let fetched = self.fetch_nearest(task, projects, state);
        self.note_damage(state);
        match fetched {
            Ok(said) => {
                task.reporter.info(format!("store: {said}"));
                true
            }
            Err(error) => {
                task.reporter.warn(format!("the store is left out: {error}"));
                self.note_trouble(&error, state);
                false
            }
        }
    }

    /// What the store gave, and not as its digests promise, is pushed again by the next save.
    fn note_damage(&self, state: &mut State) {
        let new = self.remote.damaged_blobs();
        if !new.is_empty() {
            let known = state.damaged.take().filter(|(url, _)| *url == self.url.to_string());
            let known = known.map(|(_, blobs)| blobs).unwrap_or_default();
            state.damaged = Some((self.url.to_string(), known.into_iter().chain(new).collect()));
        }
    }

    fn fetch_nearest(
        &self,
        task: &Task<'_>,
        projects: &[Project],
        state: &mut State,
    ) -> Result<String, PushError> {
        let &Task { layout, reporter, .. } = task;
        let builds: Vec<Vec<&str>> = projects
            .iter()
            .map(|project| project.stages.iter().map(|s| s.digest.as_str()).collect())
            .collect();
        let gate = match Gate::of_environment(task.engine) {
            Ok(gate) => gate,
            Err(reason) => return Ok(reason),
        };
        let refs = refs(task, &builds);
        let looking = reporter.task(&format!("looking for a cache in {}", self.url));
        let limited = self.remote.within(self.patience);
        let (trust, scope) = (gate.trust(), gate.scope());
        let found = self.remote.find(&refs, trust, scope, |reason| reporter.warn(reason))?;
        drop(looking);
        let Some(found) = found else {
            return Ok(format!("no cache of this project in {}", self.url));
        };
        if About::of(&found.index).is_some_and(|about| about.format > FORMAT) {
            return Ok(format!("the cache in {} was written by a newer dockercache", self.url));
        }
        let writer = super::locked(layout, reporter)?;
        self.remote.fetch_documents(&found.index, &writer)?;
        // With its signature: the directory may go to a CI's cache.
        writer.commit(&found.signed)?;
        let archive = Archive::of(layout, found.index.clone())?;
        let blobs = live::reach(layout, &found.index).blobs;
        let (mut layers, documents): (Vec<_>, Vec<_>) =
            blobs.into_values().partition(Descriptor::is_layer);
        let mut direct = self.direct(task, &archive);
        if direct.is_some() {
            // The engine would try for minutes to pull a layer that is not there.
            let lost = self.remote.lost(layout, &layers)?;
            if !lost.is_empty() {
                reporter.warn(format!(
                    "{} has lost {}: left out",
                    self.url,
                    count(lost.len(), "layer")
                ));
                direct = None;
            }
            layers.retain(|layer| !lost.contains(&layer.digest));
        }
        drop(limited);
        let copy = state.remote.insert(RemoteCopy {
            url: self.url.to_string(),
            level: found.level.clone(),
            blobs: layers.iter().chain(&documents).map(|blob| blob.digest.clone()).collect(),
            direct,
        });
        let total: u64 = layers.iter().map(|l| l.size).sum();
        let wanted = match copy.direct {
            Some(_) => Vec::new(),
            None => wanted(task, projects, &archive, layers),
        };
        let size: u64 = wanted.iter().map(|l| l.size).sum();
        let progress = reporter.progress("fetching", size);
        let failed = self.remote.fetch(&wanted, &writer, &|n| progress.advance(n))?;
        drop((progress, writer));
        for (digest, error) in &failed {
            // Neither here nor there: it is taken out of the archive.
            copy.blobs.remove(digest);
            if let StoreError::Slow { .. } | StoreError::Unavailable { .. } = error {
                // The rest of the job need not wait for it either.
                state.away = Some((self.url.to_string(), SystemTime::now()));
                continue;
            }
            reporter.warn(format!("layer {} is left out: {error}", digest.short()));
        }
        let is_slow = |error: &StoreError| {
            matches!(error, StoreError::Slow { .. } | StoreError::Unavailable { .. })
        };
        let slow: Vec<_> = failed.iter().filter(|(_, error)| is_slow(error)).collect();
        if let Some((_, error)) = slow.first() {
            reporter.warn(format!("{}: left out: {error}", count(slow.len(), "layer")));
        }
        let how = match copy.direct {
            Some(_) => "the builder reads its layers by itself".to_owned(),
            None => format!("{} of {} fetched", bytes(size), bytes(total)),
        };
        Ok(format!("{} cache in {}: {how}", found.level, self.url))
    }

    /// The value for `--cache-from` with which the builder reads the cache by itself, layer by
    /// layer as it needs them.
    fn direct(&self, task: &Task<'_>, archive: &Archive) -> Option<String> {
        let StoreUrl::Registry { host, repository, .. } = &self.url else { return None };
        let reads = task.strategy.is_buildkit()
            && task.engine.client.has_buildx()
            && task.engine.facts.version.major >= READS_IMAGE_FORM;
        let cache = archive.cache.as_ref().filter(|_| reads)?;
        // By its digest: another job may write the tag meanwhile.
        Some(format!("type=registry,ref={host}/{repository}@{}", cache.digest))
    }

    /// Fetches every layer of the archive that is not in the directory.
    pub(crate) fn fetch_rest(&self, layout: &Layout, reporter: Reporter) -> Result<(), SyncError> {
        let writer = super::locked(layout, reporter)?;
        let missing: Vec<Descriptor> = archive::reach(layout)?
            .blobs
            .into_values()
            .filter(|blob| layout.blob_size(&blob.digest) != Some(blob.size))
            .collect();
        let progress = reporter.progress("fetching", missing.iter().map(|b| b.size).sum());
        let failed = self.remote.fetch(&missing, &writer, &|n| progress.advance(n))?;
        match failed.into_iter().next() {
            Some((_, error)) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// The archive in the form that the store takes.
    pub(crate) fn adapt(&self, archive: &mut Archive, layout: &Writer) -> Result<(), PushError> {
        if let (StoreUrl::Registry { .. }, Some(cache)) = (&self.url, &archive.cache) {
            archive.cache = Some(archive::cache_as_image(layout, cache)?);
        }
        Ok(())
    }

    /// Whether an archive must be pushed although nothing in it has changed.
    pub(crate) fn is_due(archive: &Archive, state: &State) -> bool {
        let is_exact = state.remote.as_ref().is_some_and(|copy| copy.level == EXACT_LEVEL);
        let created = archive.about.as_ref().map(|about| about.created.as_str());
        let created = created.and_then(|text| humantime::parse_rfc3339(text).ok());
        let age = created.and_then(|time| SystemTime::now().duration_since(time).ok());
        !is_exact || age.is_none_or(|age| age > RENEWED_AFTER)
    }

    /// Pushes the archive in the directory. `false` if there was trouble, which has been reported.
    pub(crate) fn push(&self, task: &Task<'_>, gate: &Gate, state: &mut State) -> bool {
        let reporter = task.reporter;
        if self.read_only {
            reporter.info(format!("store: nothing is written to {}: it is read only", self.url));
            return true;
        }
        if self.is_away {
            reporter.warn(format!("the cache is not in the store: {}", self.away()));
            return false;
        }
        match self.push_archive(task, gate, state) {
            Ok(said) => {
                reporter.info(format!("store: {said}"));
                true
            }
            Err(error) => {
                reporter.warn(format!("the cache is not in the store: {error}"));
                self.note_trouble(&error, state);
                false
            }
        }
    }

    fn away(&self) -> String {
        format!("{} was not available a short while ago", self.url)
    }

    /// The rest of the job need not wait for a store that does not answer.
    fn note_trouble(&self, error: &PushError, state: &mut State) {
        if let PushError::Store(StoreError::Unavailable { .. } | StoreError::Slow { .. }) = error {
            state.away = Some((self.url.to_string(), SystemTime::now()));
        }
    }

    fn push_archive(
        &self,
        task: &Task<'_>,
        gate: &Gate,
        state: &mut State,
    ) -> Result<String, PushError> {
        let layout = task.layout;
        let Some(mut index) = layout.index()? else {
            return Ok("there is no archive to push".to_owned());
        };
        let mut archive = Archive::read(layout)?.unwrap_or_default();
        let refs = refs(task, &digests_by_build(&archive));
        let stages = archive.about.iter().flat_map(|about| &about.stages);
        let bases = stages.filter_map(|stage| Some(stage.base.as_ref()?.name.as_str()));
        self.remote.mount_from(&bases.collect::<Vec<_>>());
        let progress = task.reporter.progress("pushing", 0);
        let advance = |n| progress.advance(n);
        let nothing = BTreeSet::new();
        let known = state.remote.as_ref().map_or(&nothing, |copy| &copy.blobs);
        let damaged = state.damaged.as_ref().filter(|(url, _)| *url == self.url.to_string());
        let damaged = damaged.map_or(&nothing, |(_, blobs)| blobs);
        let there = There { known, damaged };
        let pushed = match self.remote.push(layout, &index, &refs, &there, &advance) {
            Err(PushError::Store(error @ StoreError::Missing { .. })) => {
                task.reporter.warn(format!("{error}; what needs it is built again next time"));
                archive = self.without_lost(layout, gate, state, task.reporter)?;
                index = gate.seal(&archive.to_index(), state);
                let there = There { known: &nothing, damaged };
                self.remote.push(layout, &index, &refs, &there, &advance)?
            }
            pushed => pushed?,
        };
        drop(progress);
        if let (StoreUrl::Registry { tag, .. }, Some(cache)) = (&self.url, &archive.cache) {
            self.remote.tag(tag, &layout.document(cache)?)?;
        }
        state.damaged = None;
        state.remote = Some(RemoteCopy {
            url: self.url.to_string(),
            level: EXACT_LEVEL.to_owned(),
            blobs: live::reach(layout, &index).blobs.into_keys().collect(),
            direct: self.direct(task, &archive),
        });
        Ok(format!(
            "{}, {} pushed to {}; {}, {} were there",
            count(pushed.uploaded.0, "blob"),
            bytes(pushed.uploaded.1),
            self.url,
            pushed.present.0,
            bytes(pushed.present.1)
        ))
    }

    /// The archive without what is neither in the directory nor in the store any more.
    fn without_lost(
        &self,
        layout: &Layout,
        gate: &Gate,
        state: &State,
        reporter: Reporter,
    ) -> Result<Archive, PushError> {
        let writer = super::locked(layout, reporter)?;
        let blobs: Vec<Descriptor> = archive::reach(layout)?.blobs.into_values().collect();
        let lost: Vec<BadBlob> = self
            .remote
            .lost(layout, &blobs)?
            .into_iter()
            .map(|digest| BadBlob { digest, reason: "the store has lost it".to_owned() })
            .collect();
        let mut archive = archive::heal(&writer, &lost)?;
        self.adapt(&mut archive, &writer)?;
        writer.commit(&gate.seal(&archive.to_index(), state))?;
        Ok(archive)
    }
}

/// The layers to fetch: those that these builds will read and that are not here.
fn wanted(
    task: &Task<'_>,
    projects: &[Project],
    archive: &Archive,
    layers: Vec<Descriptor>,
) -> Vec<Descriptor> {
    let needed = reads::layers(task.strategy, projects, archive);
    let is_needed = |l: &Descriptor| needed.as_ref().is_none_or(|n| n.contains(&l.digest));
    let is_here = |l: &Descriptor| task.layout.blob_size(&l.digest) == Some(l.size);
    layers.into_iter().filter(|l| is_needed(l) && !is_here(l)).collect()
}

/// The stages' digests of each build in an archive.
fn digests_by_build(archive: &Archive) -> Vec<Vec<&str>> {
    let stages = || archive.about.iter().flat_map(|about| &about.stages);
    let known = |stage: &&StageAbout| stage.digest.len() == DIGEST_LENGTH;
    let of = |build| {
        stages().filter(|s| s.build == build).filter(known).map(|s| s.digest.as_str()).collect()
    };
    archive.builds().into_iter().map(of).collect()
}

/// The refs of builds with these stages, the most exact first; without stages, the project's only.
fn refs(task: &Task<'_>, builds: &[Vec<&str>]) -> Vec<RefName> {
    let project = project_name(Path::new("."), &|name| std::env::var(name).ok());
    let scope = KeyScope {
        generation: task.engine.facts.version.generation().to_owned(),
        strategy: task.strategy.name().to_owned(),
        platform: task.engine.facts.platform.clone(),
        project: project.clone(),
        salt: variable("DOCKERCACHE_SALT").unwrap_or_default(),
        period: String::new(),
    };
    let of = |stages: &[&str]| refs::of_keys(&Keys::of_digests(&scope, stages), &project);
    let mut refs: Vec<RefName> = builds.iter().flat_map(|stages| of(stages)).collect();
    if builds.iter().all(Vec::is_empty) {
        refs = of(&[]).into_iter().filter(|r| r.level == PROJECT_LEVEL).collect();
    }
    // Builds of one project have some in common.
    let mut seen = BTreeSet::new();
    refs.retain(|r| seen.insert(r.name.clone()));
    refs.sort_by_key(|r| match r.level.as_str() {
        EXACT_LEVEL => 0,
        PROJECT_LEVEL => 2,
        _ => 1,
    });
    refs
}
