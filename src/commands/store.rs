//! The store that jobs share, as the verbs use it: what a build needs is fetched before, what is
//! new is pushed after. Whatever is wrong with it, the directory is used alone.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::key::generation;
use super::{environment, variable};
use crate::cli;
use crate::engine::Engine;
use crate::engine::strategy::Strategy;
use crate::exit::Failure;
use crate::explain::needed_layers;
use crate::key::{KeyScope, Keys};
use crate::layout::archive::{self, About, Archive, FORMAT, StageAbout};
use crate::layout::directory::Layout;
use crate::layout::live;
use crate::layout::oci::Descriptor;
use crate::layout::verify::BadBlob;
use crate::project::Project;
use crate::project_name::project_name;
use crate::report::{Reporter, bytes, count};
use crate::store::journal::{Journal, RemoteCopy};
use crate::store::remote::environment::Environment;
use crate::store::remote::error::StoreError;
use crate::store::remote::reference::{RefName, ref_names};
use crate::store::remote::signature::Trust;
use crate::store::remote::transfer::{PushError, Remote, is_layer};
use crate::store::remote::url::StoreUrl;

/// A cache that is older is saved again although nothing changed, so that it does not grow too
/// old for a store that is cleaned by age.
const RENEWED_AFTER: Duration = Duration::from_hours(24);
/// The first Docker whose BuildKit reads a cache manifest in the form of an image manifest.
const READS_IMAGE_FORM: u32 = 25;

/// The names of the first and the last level.
const EXACT_LEVEL: &str = "exact";
const PROJECT_LEVEL: &str = "project";
/// Hexadecimal digits of a stage's digest; others come from archives of strangers.
const DIGEST_LENGTH: usize = 64;

/// A store that is open.
pub(super) struct Store {
    remote: Remote,
    url: StoreUrl,
    trust: Trust,
    read_only: bool,
    /// It was not available a short while ago.
    is_away: bool,
}

/// What something is fetched or pushed for.
pub(super) struct Task<'a> {
    pub(super) engine: &'a Engine,
    pub(super) strategy: Strategy,
    pub(super) layout: &'a Layout,
    pub(super) reporter: Reporter,
}

/// The store's options for `build`, which has none of its own.
pub(super) fn from_environment() -> cli::Store {
    // It only reads.
    cli::Store { store: variable("DOCKERCACHE_STORE"), read_only: true }
}

/// Opens the store that is named, if one is, and begins to connect. What the journal says of
/// another store is forgotten.
pub(super) fn open(options: &cli::Store, journal: &mut Journal) -> Result<Option<Store>, Failure> {
    let store = named(options, journal)?;
    let url = store.as_ref().map(|store| store.url.to_string());
    journal.remote = journal.remote.take().filter(|copy| Some(&copy.url) == url.as_ref());
    Ok(store)
}

fn named(options: &cli::Store, journal: &Journal) -> Result<Option<Store>, Failure> {
    let Some(text) = options.store.as_deref().filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let url: StoreUrl = text.parse().map_err(|why| {
        Failure::usage(format!("the store of --store or DOCKERCACHE_STORE: {why}"))
    })?;
    let remote = Remote::open(&url, &Environment::of_process()).map_err(Failure::from)?;
    let is_away = journal.is_away(&url.to_string());
    if !is_away {
        remote.greet_ahead();
    }
    Ok(Some(Store { remote, url, trust: trust()?, read_only: options.read_only, is_away }))
}

/// The keys in the environment.
fn trust() -> Result<Trust, Failure> {
    let (signing, verifying) =
        (variable("DOCKERCACHE_SIGNING_KEY"), variable("DOCKERCACHE_VERIFY_KEY"));
    Trust::new(signing.as_deref(), verifying.as_deref()).map_err(Failure::usage)
}

impl Store {
    /// Fetches the nearest cache and of it what the build will read. `false` if there was trouble,
    /// which has been told of.
    pub(super) fn fetch(
        &self,
        task: &Task<'_>,
        projects: &[Project],
        journal: &mut Journal,
    ) -> bool {
        if self.is_away {
            task.reporter.warn(format!("the store is left out: {}", self.away()));
            return false;
        }
        let fetched = self.fetch_nearest(task, projects, journal);
        match fetched {
            Ok(said) => {
                task.reporter.info(format!("store: {said}"));
                true
            }
            Err(error) => {
                task.reporter.warn(format!("the store is left out: {error}"));
                self.note_trouble(&error, journal);
                false
            }
        }
    }

    fn fetch_nearest(
        &self,
        task: &Task<'_>,
        projects: &[Project],
        journal: &mut Journal,
    ) -> Result<String, PushError> {
        let &Task { layout, reporter, .. } = task;
        let builds: Vec<Vec<&str>> = projects
            .iter()
            .map(|project| project.stages.iter().map(|s| s.digest.as_str()).collect())
            .collect();
        let refs = refs(task, &builds);
        let looking = reporter.task(&format!("looking for a cache in {}", self.url));
        let found = self.remote.find(&refs, &self.trust, |reason| reporter.warn(reason))?;
        drop(looking);
        let Some(found) = found else {
            return Ok(format!("no cache of this project in {}", self.url));
        };
        if About::of(&found.index).is_some_and(|about| about.format > FORMAT) {
            return Ok(format!("the cache in {} was written by a newer dockercache", self.url));
        }
        let lock = layout.lock()?;
        self.remote.fetch_documents(&found.index, layout)?;
        layout.commit(&found.index)?;
        let archive = Archive::read(layout)?.unwrap_or_default();
        let blobs = live::reach(layout, &found.index).blobs;
        let (mut layers, documents): (Vec<_>, Vec<_>) = blobs.into_values().partition(is_layer);
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
        let copy = journal.remote.insert(RemoteCopy {
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
        let failed = self.remote.fetch(&wanted, layout, &|n| progress.advance(n))?;
        drop((progress, lock));
        for (digest, error) in &failed {
            reporter.warn(format!("layer {} is left out: {error}", digest.short()));
            // Neither here nor there: it is taken out of the archive.
            copy.blobs.remove(digest);
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
    pub(super) fn fetch_rest(&self, layout: &Layout, reporter: Reporter) -> Result<(), Failure> {
        let _lock = layout.lock()?;
        let missing: Vec<Descriptor> = archive::reach(layout)?
            .blobs
            .into_values()
            .filter(|blob| layout.blob_size(&blob.digest) != Some(blob.size))
            .collect();
        let progress = reporter.progress("fetching", missing.iter().map(|b| b.size).sum());
        let failed = self.remote.fetch(&missing, layout, &|n| progress.advance(n))?;
        match failed.into_iter().next() {
            Some((_, error)) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// Where a builder that exports its cache by itself shall export to, as `--cache-to` has it: what it
    /// reads from a registry it can name there without fetching it.
    pub(super) fn export_to(&self) -> Option<String> {
        match &self.url {
            StoreUrl::Registry { host, repository, tag } if !self.read_only && !self.is_away => {
                Some(format!("type=registry,ref={host}/{repository}:{tag}"))
            }
            _ => None,
        }
    }

    /// Fetches the documents of what a builder has exported to the store by itself. The write
    /// lock is held by the caller.
    pub(super) fn fetch_documents(
        &self,
        archive: &Archive,
        layout: &Layout,
    ) -> Result<(), PushError> {
        self.remote.fetch_documents(&archive.to_index(), layout)
    }

    /// The archive in the form that the store takes. The write lock is held by the caller.
    pub(super) fn adapt(&self, archive: &mut Archive, layout: &Layout) -> Result<(), PushError> {
        if let (StoreUrl::Registry { .. }, Some(cache)) = (&self.url, &archive.cache) {
            archive.cache = Some(archive::cache_as_image(layout, cache)?);
        }
        Ok(())
    }

    /// Whether an archive must be pushed although nothing in it has changed.
    pub(super) fn is_due(archive: &Archive, journal: &Journal) -> bool {
        let is_exact = journal.remote.as_ref().is_some_and(|copy| copy.level == EXACT_LEVEL);
        let created = archive.about.as_ref().map(|about| about.created.as_str());
        let created = created.and_then(|text| humantime::parse_rfc3339(text).ok());
        let age = created.and_then(|time| SystemTime::now().duration_since(time).ok());
        !is_exact || age.is_none_or(|age| age > RENEWED_AFTER)
    }

    /// Pushes the archive in the directory. `false` if there was trouble, which has been told of.
    pub(super) fn push(&self, task: &Task<'_>, journal: &mut Journal) -> bool {
        let reporter = task.reporter;
        if self.read_only {
            reporter.info(format!("store: nothing is written to {}: it is read only", self.url));
            return true;
        }
        if self.is_away {
            reporter.warn(format!("the cache is not in the store: {}", self.away()));
            return false;
        }
        match self.push_archive(task, journal) {
            Ok(said) => {
                reporter.info(format!("store: {said}"));
                if let Some(key) = self.trust.public_key() {
                    reporter.info(format!("store: signed; to check: DOCKERCACHE_VERIFY_KEY={key}"));
                }
                true
            }
            Err(error) => {
                reporter.warn(format!("the cache is not in the store: {error}"));
                self.note_trouble(&error, journal);
                false
            }
        }
    }

    fn away(&self) -> String {
        format!("{} was not available a short while ago", self.url)
    }

    /// The rest of the job need not wait for a store that does not answer.
    fn note_trouble(&self, error: &PushError, journal: &mut Journal) {
        if let PushError::Store(StoreError::Unavailable { .. }) = error {
            journal.away = Some((self.url.to_string(), SystemTime::now()));
        }
    }

    fn push_archive(&self, task: &Task<'_>, journal: &mut Journal) -> Result<String, PushError> {
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
        let known = journal.remote.as_ref().map_or(&nothing, |copy| &copy.blobs);
        let pushed = match self.remote.push(layout, &index, &refs, known, &self.trust, &advance) {
            Err(PushError::Store(error @ StoreError::Missing { .. })) => {
                task.reporter.warn(format!("{error}; what needs it is built again next time"));
                archive = self.without_lost(layout)?;
                index = archive.to_index();
                self.remote.push(layout, &index, &refs, &nothing, &self.trust, &advance)?
            }
            pushed => pushed?,
        };
        drop(progress);
        if let (StoreUrl::Registry { tag, .. }, Some(cache)) = (&self.url, &archive.cache) {
            self.remote.tag(tag, &layout.document(cache)?)?;
        }
        journal.remote = Some(RemoteCopy {
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
    fn without_lost(&self, layout: &Layout) -> Result<Archive, PushError> {
        let _lock = layout.lock()?;
        let blobs: Vec<Descriptor> = archive::reach(layout)?.blobs.into_values().collect();
        let lost: Vec<BadBlob> = self
            .remote
            .lost(layout, &blobs)?
            .into_iter()
            .map(|digest| BadBlob { digest, reason: "the store has lost it".to_owned() })
            .collect();
        let mut archive = archive::heal(layout, &lost)?;
        self.adapt(&mut archive, layout)?;
        layout.commit(&archive.to_index())?;
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
    let needed = (task.strategy == Strategy::BuildkitReplay && !projects.is_empty())
        .then(|| projects.iter().map(|project| needed_layers(archive, project)).collect())
        .and_then(|each: Option<Vec<_>>| Some(each?.into_iter().flatten().collect()));
    let is_needed =
        |l: &Descriptor| needed.as_ref().is_none_or(|n: &BTreeSet<_>| n.contains(&l.digest));
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
    let project = project_name(Path::new("."), &environment);
    let scope = KeyScope {
        generation: generation(task.engine.facts.version).to_owned(),
        strategy: task.strategy.name().to_owned(),
        platform: task.engine.facts.platform.clone(),
        project: project.clone(),
        salt: variable("DOCKERCACHE_SALT").unwrap_or_default(),
        period: String::new(),
    };
    let of = |stages: &[&str]| ref_names(&Keys::of_digests(&scope, stages), &project);
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
