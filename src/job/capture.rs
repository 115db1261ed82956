//! Captures a build: decides by the builder's word which of its stages the archive has already, and
//! lets the engine keep the others until `save` takes them.
//!
//! It runs in the process of the build, with its environment, arguments and standard input. What
//! `save` needs is noted in the journal.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::caller;
use super::journal::{Draft, Journal, NotedBuild};
use super::variable;
use crate::archive::{About, Archive, FORMAT, StageAbout};
use crate::build::arguments::BuildArguments;
use crate::build::build_log::{ClassicStep, LoggedStep, Outcome};
use crate::builder::Strategy;
use crate::engine::Engine;
use crate::engine::error::EngineError;
use crate::engine::strategy::capture::{Captured, CapturedStage, Request, Source, Stage, Word};
use crate::engine::strategy::disclosure::disclosures;
use crate::engine::strategy::repeat::repeat;
use crate::engine::strategy::{classic, native, replay};
use crate::mounts::carry::NotedMount;
use crate::oci::codec::Compression;
use crate::oci::digest::Digest;
use crate::oci::directory::{Layout, LayoutError};
use crate::predict::StageDigest;
use crate::predict::explain::notes;
use crate::predict::project::Project;
use crate::report::{Reporter, timestamp};

/// A build that has run.
pub(crate) struct Built<'a> {
    /// The engine that built.
    pub(crate) engine: &'a Engine,
    /// What `BUILDX_BUILDER` was set to, if to anything.
    pub(crate) builder: Option<&'a str>,
    /// How its cache is carried.
    pub(crate) strategy: Strategy,
    /// The user's arguments.
    pub(crate) arguments: &'a BuildArguments,
    /// What it read from standard input.
    pub(crate) input: Option<&'a File>,
    /// The project as it was before the build; none if it can't be read.
    pub(crate) project: Option<&'a Project>,
    /// What became of each step; none if nobody saw the build.
    pub(crate) steps: Option<&'a [LoggedStep]>,
    /// The classic builder's images.
    pub(crate) images: &'a [ClassicStep],
    /// Whether it failed.
    pub(crate) failed: bool,
    /// The archive that it was offered; an empty one if it was offered none.
    pub(crate) archive: &'a Archive,
    /// The `--cache-from` values that it was offered.
    pub(crate) offer: &'a [String],
    /// What the builder's own cache held before the build; none if that is not known.
    pub(crate) builder_cache: Option<&'a BTreeSet<String>>,
    /// How new layers are compressed, if the user says so.
    pub(crate) compression: Option<Compression>,
    /// Its cache mounts; none if nobody carried them.
    pub(crate) mounts: Option<Vec<NotedMount>>,
}

/// Captures what is not in the archive, and notes the build.
pub(crate) fn note(
    journal: &Journal,
    draft: Draft,
    layout: &Layout,
    built: &Built<'_>,
    reporter: Reporter,
) -> Result<NotedBuild, EngineError> {
    let began = SystemTime::now();
    if built.arguments.has_several_platforms() {
        return Err(EngineError::Unsupported("an archive is for one platform".to_owned()));
    }
    let earlier = journal.builds();
    let earlier: Vec<&NotedBuild> =
        earlier.iter().filter(|build| build.engine == built.engine.facts.id).collect();
    let mut images = built.images.to_vec();
    let captured = if built.strategy == Strategy::Classic {
        if images.is_empty() {
            let _task = reporter.task("reading the build's images from cache");
            images = repeat(built.engine, built.arguments, built.offer)?;
        }
        of_images(built, &images)?
    } else {
        let evidence = Evidence::of(built, &earlier);
        let mark = journal.mark();
        let is_alone = || journal.is_alone(&draft);
        let request = Request {
            engine: built.engine,
            builder: built.builder,
            arguments: built.arguments,
            input: built.input,
            dockerfile: built.project.map_or(&[], |project| &project.named),
            target_stage: built.project.and_then(|project| project.target_stage.as_deref()),
            ignore_file: built.project.and_then(|project| project.ignore_file.as_deref()),
            stages: stages(built, &evidence),
            offer: built.offer,
            archive: built.archive,
            scratch: draft.scratch(),
            mark: &mark,
            name: draft.name(),
            failed: built.failed,
            compression: built.compression,
            is_alone: &is_alone,
        };
        match built.strategy {
            Strategy::BuildkitLocal => {
                let root = layout.root();
                caller::make_directory(root).map_err(LayoutError::io("create", root))?;
                native::capture(&request, layout, about(built), reporter)?
            }
            _ => replay::capture(&request, about(built), reporter)?,
        }
    };
    caller::give_archive(layout.root());
    let (identity, project) = identities(built.arguments);
    let noted = NotedBuild {
        name: name(built),
        identity,
        project,
        engine: built.engine.facts.id.clone(),
        strategy: built.strategy,
        began,
        captured,
        images,
        builder_cache: built.engine.builder_cache().unwrap_or_default(),
        mounts: built.mounts.clone(),
        saved: false,
        place: PathBuf::new(),
    };
    draft.finish(noted).map_err(EngineError::io("write the journal"))
}

/// The image's name, else the project's.
fn name(built: &Built<'_>) -> String {
    let project = || built.project.map(|project| project.name.clone());
    built.arguments.image_name().or_else(project).unwrap_or_else(|| "image".to_owned())
}

/// What tells the build and its project from others. The arguments themselves may be secret.
fn identities(arguments: &BuildArguments) -> (Digest, Digest) {
    let directory = std::env::current_dir().unwrap_or_default();
    let digest = |words: &mut dyn Iterator<Item = &OsStr>| {
        let mut bytes = directory.as_os_str().as_encoded_bytes().to_vec();
        for word in words {
            bytes.push(0);
            bytes.extend(word.as_encoded_bytes());
        }
        Digest::of(&bytes)
    };
    let words = arguments.for_repetition(&[]);
    let identity = digest(&mut words.iter().map(AsRef::as_ref));
    let context = format!("{:?}", arguments.context());
    let dockerfile = arguments.dockerfile().unwrap_or_default();
    let target = arguments.value("target").unwrap_or_default();
    let project = digest(&mut [OsStr::new(&context), dockerfile.as_os_str(), target].into_iter());
    (identity, project)
}

fn about(built: &Built<'_>) -> About {
    About {
        format: FORMAT,
        engine: built.engine.facts.version.to_string(),
        strategy: built.strategy.name().to_owned(),
        platform: built.engine.facts.platform.clone(),
        created: timestamp(),
        stages: Vec::new(),
    }
}

/// What the classic builder left: images, which its log names.
fn of_images(built: &Built<'_>, images: &[ClassicStep]) -> Result<Captured, EngineError> {
    let dockerfile = built.project.map_or(&[][..], |project| &project.named);
    let ends = classic::ends_of_stages(images);
    let disclosures = disclosures(built.engine, built.arguments, dockerfile, &ends)?;
    let source = |index| {
        let disclosure = disclosures.iter().find(|found| found.stage == index);
        disclosure.map_or(Source::Images, |found| Source::Discloses(found.argument.clone()))
    };
    let abouts: Vec<(usize, StageAbout)> = match built.project {
        Some(project) => {
            project.stages.iter().map(|stage| stage.index).zip(notes(project)).collect()
        }
        None => classic::stages_in_log(images).into_iter().map(unread).enumerate().collect(),
    };
    let stages = abouts.into_iter().map(|(index, about)| CapturedStage {
        index,
        about,
        has_layers: true,
        source: source(index),
    });
    Ok(Captured { about: about(built), failed: built.failed, stages: stages.collect() })
}

/// The stages of a build, with what is known of each.
fn stages(built: &Built<'_>, evidence: &Evidence<'_>) -> Vec<Stage> {
    let Some(project) = built.project else {
        let target = built.arguments.value("target");
        let word = if built.failed { Word::Unbuilt } else { Word::Open };
        return vec![Stage {
            index: 0,
            target: target.map(|target| target.to_string_lossy().into_owned()),
            about: unread("target".to_owned()),
            has_layers: true,
            word,
        }];
    };
    let abouts = notes(project).into_iter();
    abouts
        .zip(&project.stages)
        .map(|(about, stage)| {
            let target = project.targets.get(stage.index).cloned().flatten();
            let has_layers = stage.steps.iter().any(|step| step.is_layer);
            let word = evidence.on(project, stage, &about);
            Stage { index: stage.index, target, about, has_layers, word }
        })
        .collect()
}

/// A stage of which the name alone is known.
fn unread(name: String) -> StageAbout {
    StageAbout { name, ..StageAbout::default() }
}

/// What the builder has said of a build, and what else its steps could come from.
struct Evidence<'a> {
    built: &'a Built<'a>,
    /// The builds of this job that are not saved yet.
    unsaved: Vec<&'a NotedBuild>,
    /// Whether nothing but the archive and this job's builds could give a step.
    is_closed: bool,
}

impl<'a> Evidence<'a> {
    fn of(built: &'a Built<'a>, earlier: &[&'a NotedBuild]) -> Self {
        let is_known = |id| earlier.iter().any(|build| build.builder_cache.contains(id));
        Self {
            built,
            unsaved: earlier.iter().filter(|build| !build.saved).copied().collect(),
            is_closed: built.builder_cache.is_some_and(|cache| cache.iter().all(is_known)),
        }
    }

    /// What the builder has said of a stage.
    fn on(&self, project: &Project, stage: &StageDigest, about: &StageAbout) -> Word {
        let Some(logged) = self.built.steps else { return Word::Open };
        let mut own: Vec<&LoggedStep> = logged
            .iter()
            .filter(|step| !step.is_from())
            .filter(|step| step.stage.is_empty() || step.stage.eq_ignore_ascii_case(&about.name))
            .collect();
        own.sort_by_key(|step| step.place);
        let expected = stage.steps.iter().filter(|step| step.is_layer).count();
        if self.built.failed {
            let done = own.iter().take_while(|step| step.outcome != Outcome::Unfinished).count();
            if done < expected || own.len() > done {
                let cut = (done > 0).then(|| project.cut(stage.index, done)).flatten();
                return cut.map_or(Word::Unbuilt, Word::Cut);
            }
        }
        let is_cached = |step: &&LoggedStep| step.outcome == Outcome::Cached;
        // A step that two stages have in common is listed for one of them.
        let is_whole =
            own.len() >= expected || logged.iter().filter(|s| !s.is_from()).all(|s| is_cached(&s));
        if !self.is_closed || !is_whole || !own.iter().all(is_cached) {
            return Word::Open;
        }
        if let Some(source) = self.captured(about) {
            return Word::Captured(source);
        }
        let has_same_base = || {
            let mut stages = self.built.archive.about.iter().flat_map(|about| &about.stages);
            stages.any(|old| old.digest == about.digest && old.base == about.base)
        };
        let is_kept = self.built.archive.stage_image(about).is_some();
        if is_kept && (expected > 0 || has_same_base()) { Word::FromArchive } else { Word::Open }
    }

    /// Where an earlier build of the job, which is not saved yet, has left the same stage.
    fn captured(&self, about: &StageAbout) -> Option<Source> {
        let stages = self.unsaved.iter().flat_map(|build| &build.captured.stages);
        let same = stages.filter(|stage| stage.about.digest == about.digest);
        same.map(|stage| &stage.source)
            .find(|source| match source {
                Source::Carrier(tag) => {
                    matches!(self.built.engine.connection.image(tag), Ok(Some(_)))
                }
                Source::Export(directory, _) => directory.is_dir(),
                _ => false,
            })
            .cloned()
    }
}

/// How the user wants new layers to be compressed, for commands that have no options of their own.
pub(crate) fn compression() -> Option<Compression> {
    variable("DOCKERCACHE_COMPRESSION")?.parse().ok()
}

/// Removes what builds and saves that were killed have left: names in the engine, exports beside the archive.
pub(crate) fn clean(journal: &Journal, engine: Option<&Engine>, layout: &Layout) {
    let names = journal.live_names();
    let is_dead = |name: &str| names.iter().all(|live| !name.starts_with(live.as_str()));
    if let Some(engine) = engine {
        let mark = journal.mark();
        for name in engine.own_names().unwrap_or_default() {
            let tag = name.rsplit_once(':').map_or("", |(_, tag)| tag);
            if tag.strip_prefix(&mark).is_some_and(is_dead) {
                let _ = engine.connection.remove_image(&name);
            }
        }
    }
    let captures = layout.captures();
    if captures.symlink_metadata().is_ok_and(|found| found.is_dir()) {
        for entry in std::fs::read_dir(&captures).into_iter().flatten().flatten() {
            if is_dead(&entry.file_name().to_string_lossy()) {
                let _ = remove(&entry.path());
            }
        }
        // Only if nothing is left in it.
        let _ = std::fs::remove_dir(&captures);
    }
}

fn remove(path: &Path) -> std::io::Result<()> {
    if path.symlink_metadata()?.is_dir() {
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    }
}
