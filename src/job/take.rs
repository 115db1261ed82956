//! Makes an archive of what was captured of the job's builds.

use super::journal::NotedBuild;
use super::offer::Offer;
use super::variable;
use crate::archive::builds;
use crate::archive::carrier;
use crate::archive::{About, Archive, FORMAT, StageAbout};
use crate::build::build_log::ClassicStep;
use crate::builder::Strategy;
use crate::engine::Engine;
use crate::engine::error::EngineError;
use crate::engine::strategy::capture::{Captured, CapturedStage, Source, Taken};
use crate::engine::strategy::{classic, native, replay};
use crate::mounts::carry::NotedMount;
use crate::mounts::collect;
use crate::mounts::policy::Settings;
use crate::oci::codec::Compression;
use crate::oci::directory::LayoutError;
use crate::oci::writer::Writer;
use crate::report::{Reporter, timestamp};

/// From where, to where, and what was there before.
pub(crate) struct Taking<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) layout: &'a Writer,
    pub(crate) offer: &'a Offer,
    pub(crate) reporter: Reporter,
    /// How new layers are compressed, if the user says so.
    pub(crate) compression: Option<Compression>,
    /// What begins the tags of what the engine pushes, which no other process has.
    pub(crate) mark: &'a str,
    /// Whether builds stay that are not among those to be taken.
    pub(crate) keep_others: bool,
}

impl Taking<'_> {
    /// Takes one build after the other, each with what is known of those before it, and joins them.
    /// What can't be taken stays as it was in the archive.
    pub(crate) fn builds(
        &self,
        strategy: Strategy,
        builds: &[NotedBuild],
    ) -> Result<Taken, EngineError> {
        let several = builds.len() > 1;
        let mut all = Taken::default();
        let mut parts: Vec<Archive> = Vec::new();
        let mut names: Vec<String> = Vec::new();
        for build in builds {
            let name = unused_name(&build.name, &names);
            let known = builds::known(&parts, &self.offer.archive);
            match self.build(strategy, build, &name, &known) {
                Ok(taken) => {
                    let told = |stage| if several { format!("{name}/{stage}") } else { stage };
                    all.taken.extend(taken.taken.into_iter().map(told));
                    all.kept.extend(taken.kept.into_iter().map(told));
                    all.warnings.extend(taken.warnings);
                    parts.push(taken.archive);
                }
                // The other builds do not suffer for it.
                Err(
                    error @ (EngineError::Failed { .. }
                    | EngineError::NotBuilt(_)
                    | EngineError::Unsupported(_)),
                ) if several => {
                    all.warnings.push(format!("build `{name}` is not saved: {error}"));
                    if self.offer.miss.is_none() && self.offer.archive.builds().contains(&&*name) {
                        parts.push(self.old(&name, &mut all.kept));
                    }
                }
                Err(error) => return Err(error),
            }
            names.push(name);
        }
        if self.keep_others && self.offer.miss.is_none() {
            let old = &self.offer.archive;
            let others = old.builds().into_iter().filter(|build| names.iter().all(|n| n != build));
            let others: Vec<_> = others.map(|build| self.old(build, &mut all.kept)).collect();
            parts.splice(..0, others);
        }
        let joined = builds::join(self.layout, parts)?;
        all.archive = joined.archive;
        if strategy == Strategy::BuildkitReplay {
            // An older version kept images as they were, build arguments and all.
            carrier::strip(self.layout, &mut all.archive)?;
        }
        all.warnings.extend(replay::cut_warning(joined.cut_records));
        all.warnings.extend(joined.damaged);
        Ok(all)
    }

    /// A build as it is in the archive, and the names of its stages.
    fn old(&self, build: &str, kept: &mut Vec<String>) -> Archive {
        let part = builds::part(&self.offer.archive, build);
        kept.extend(part.about.iter().flat_map(|about| &about.stages).map(qualified));
        part
    }

    fn build(
        &self,
        strategy: Strategy,
        build: &NotedBuild,
        name: &str,
        known: &Archive,
    ) -> Result<Taken, EngineError> {
        let &Self { engine, layout, mark, reporter, .. } = self;
        let compression = self.compression.unwrap_or_else(|| engine.compression());
        let mut captured = build.captured.clone();
        for stage in &mut captured.stages {
            name.clone_into(&mut stage.about.build);
            // What is saved is in the archive, and nowhere else any more.
            if build.saved && matches!(stage.source, Source::Carrier(_) | Source::Export(..)) {
                stage.source = Source::Archive;
            }
        }
        match strategy {
            Strategy::Classic => {
                let request = classic::Request {
                    stages: &captured.stages,
                    images: &build.images,
                    about: captured.about.clone(),
                    failed: captured.failed,
                    compression,
                };
                classic::take(engine, layout, known, &request, reporter)
            }
            Strategy::BuildkitReplay => {
                replay::take(engine, layout, known, &captured, compression, mark, reporter)
            }
            Strategy::BuildkitLocal => native::take(layout, known, &captured),
        }
    }

    /// Takes images of the classic builder by their tags.
    pub(crate) fn named_images(&self, names: &[String]) -> Result<Taken, EngineError> {
        let stages = stages_named(names);
        let request = self.request(&stages, &[]);
        let old = &self.offer.archive;
        classic::take_named(self.engine, self.layout, old, names, &request, self.reporter)
    }

    /// Takes the images that the log of a classic build names.
    pub(crate) fn logged_images(&self, steps: &[ClassicStep]) -> Result<Taken, EngineError> {
        let stages = stages_named(&classic::stages_in_log(steps));
        let request = self.request(&stages, steps);
        classic::take(self.engine, self.layout, &self.offer.archive, &request, self.reporter)
    }

    fn request<'a>(
        &self,
        stages: &'a [CapturedStage],
        images: &'a [ClassicStep],
    ) -> classic::Request<'a> {
        let about = About {
            format: FORMAT,
            engine: self.engine.facts.version.to_string(),
            strategy: Strategy::Classic.name().to_owned(),
            platform: self.engine.facts.platform.clone(),
            created: timestamp(),
            stages: Vec::new(),
        };
        let compression = self.compression.unwrap_or_else(|| self.engine.compression());
        classic::Request { stages, images, about, failed: false, compression }
    }
}

/// Adds the cache mounts of these builds to the archive; gives what the user should know.
pub(crate) fn mounts(
    taking: &Taking<'_>,
    builds: &[NotedBuild],
    archive: &mut Archive,
) -> Result<Vec<String>, LayoutError> {
    let settings = Settings::of_environment(&variable, taking.reporter);
    let mut noted: Vec<NotedMount> = Vec::new();
    for build in builds {
        for mount in build.mounts.iter().flatten() {
            let mut mount = mount.clone();
            // What is saved is in the archive, and nowhere else any more.
            mount.packed = mount.packed.filter(|_| !build.saved);
            let is_same = |known: &NotedMount| known.mount == mount.mount;
            match noted.iter_mut().find(|known| is_same(known)) {
                Some(known) if mount.packed.is_some() => *known = mount,
                Some(_) => {}
                None => noted.push(mount),
            }
        }
    }
    let keeps_others = taking.keep_others || builds.iter().any(|build| build.mounts.is_none());
    let old = &taking.offer.archive;
    collect::collect(taking.layout, archive, old, &noted, keeps_others, &settings)
}

/// Leaves nothing of what was captured where it was captured to.
pub(crate) fn release(engine: &Engine, strategy: Strategy, captured: &Captured) {
    match strategy {
        Strategy::BuildkitReplay => replay::release(engine, captured),
        Strategy::BuildkitLocal => native::release(captured),
        Strategy::Classic => {}
    }
}

/// The name, with a number if another build has it.
fn unused_name(name: &str, used: &[String]) -> String {
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    let mut names = std::iter::once(name.to_owned()).chain(numbered);
    names.find(|name| !used.contains(name)).unwrap_or_else(|| name.to_owned())
}

/// A stage by its build and its name.
fn qualified(stage: &StageAbout) -> String {
    format!("{}/{}", stage.build, stage.name)
}

/// Stages of which the names alone are known.
fn stages_named(names: &[String]) -> Vec<CapturedStage> {
    let stage = |(index, name): (usize, &String)| CapturedStage {
        index,
        about: StageAbout { name: name.clone(), ..StageAbout::default() },
        has_layers: true,
        source: Source::Images,
    };
    names.iter().enumerate().map(stage).collect()
}
