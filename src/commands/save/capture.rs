//! Takes a subject out of the engine, by whichever strategy it is.

use std::ffi::OsStr;

use super::subject::{Recipe, Subject};
use crate::builder::Builder;
use crate::commands::offer::Offer;
use crate::commands::store::Store;
use crate::engine::Engine;
use crate::engine::arguments::BuildArguments;
use crate::engine::build_log::{ClassicStep, LoggedStep, Outcome};
use crate::engine::capture::{Captured, Request, Stage};
use crate::engine::error::EngineError;
use crate::engine::strategy::Strategy;
use crate::engine::{classic, native, replay};
use crate::explain::notes;
use crate::layout::archive::{About, Archive, FORMAT, StageAbout};
use crate::layout::builds;
use crate::layout::carrier;
use crate::layout::codec::Compression;
use crate::layout::writer::Writer;
use crate::project::{Detail, Project};
use crate::report::{Reporter, timestamp};
use crate::store::journal::NotedBuild;

/// From where, to where, and what was there before.
pub(super) struct Capture<'a> {
    pub(super) engine: &'a Engine,
    pub(super) layout: &'a Writer,
    pub(super) offer: &'a Offer,
    /// Where a builder that exports by itself may export to.
    pub(super) store: Option<&'a Store>,
    pub(super) reporter: Reporter,
    /// How new layers are compressed, if the user says so.
    pub(super) compression: Option<Compression>,
    /// Whether builds stay that are not among those to be taken.
    pub(super) keep_others: bool,
}

impl Capture<'_> {
    /// Takes what has changed.
    pub(super) fn take(&self, subject: &Subject) -> Result<Captured, EngineError> {
        match subject {
            Subject::Builds(strategy, builds) => self.builds(*strategy, builds),
            Subject::Images(recipe) => self.images(recipe),
        }
    }

    /// Takes one build after the other, each with what is known of those before it, and joins them.
    fn builds(&self, strategy: Strategy, builds: &[NotedBuild]) -> Result<Captured, EngineError> {
        let several = builds.len() > 1;
        let mut all = Captured::default();
        let mut parts: Vec<Archive> = Vec::new();
        let mut names: Vec<String> = Vec::new();
        for build in builds {
            let entered = enter(build);
            let project = entered.as_ref().ok().and_then(|()| self.project(strategy, build));
            names.push(unused_name(build, project.as_ref(), &names));
            let name = &names[names.len() - 1];
            let known = builds::known(&parts, &self.offer.archive);
            let captured =
                entered.and_then(|()| self.build(strategy, build, name, project.as_ref(), &known));
            let captured = captured.and_then(|captured| unless_nothing(captured, "save the build"));
            match captured {
                Ok(captured) => {
                    let told = |stage| if several { format!("{name}/{stage}") } else { stage };
                    all.taken.extend(captured.taken.into_iter().map(told));
                    all.kept.extend(captured.kept.into_iter().map(told));
                    all.warnings.extend(captured.warnings);
                    parts.push(captured.archive);
                }
                // The other builds shall not suffer for it.
                Err(error @ (EngineError::Failed { .. } | EngineError::Unsupported(_)))
                    if several =>
                {
                    all.warnings.push(format!("build `{name}` is not saved: {error}"));
                    if self.offer.miss.is_none() && self.offer.archive.builds().contains(&&**name) {
                        parts.push(self.old(name, &mut all.kept));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        let mut all = unless_nothing(all, "save any build")?;
        if self.keep_others && self.offer.miss.is_none() {
            let old = &self.offer.archive;
            let others = old.builds().into_iter().filter(|build| names.iter().all(|n| n != build));
            let others: Vec<_> = others.map(|build| self.old(build, &mut all.kept)).collect();
            parts.splice(..0, others);
        }
        let joined = builds::join(self.layout, parts)?;
        all.archive = joined.archive;
        if strategy == Strategy::BuildkitReplay {
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
        project: Option<&Project>,
        known: &Archive,
    ) -> Result<Captured, EngineError> {
        let &Self { engine, layout, offer, reporter, .. } = self;
        let images = Some(build.images.as_slice()).filter(|images| !images.is_empty());
        let mut stages = match project {
            Some(project) => stages(project, build),
            None => unread_stages(stage_names(images), build.arguments.value("target")),
        };
        for stage in &mut stages {
            name.clone_into(&mut stage.about.build);
        }
        let request = &Request {
            arguments: &build.arguments,
            dockerfile: project.map_or(&[], |p| &p.named),
            target_stage: project.and_then(|p| p.target_stage.as_deref()),
            ignore_file: project.and_then(|p| p.ignore_file.clone()),
            stages: &stages,
            images,
            about: self.about(strategy),
            compression: self.compression,
            offer: &offer.cache_from,
            registry: None,
        };
        match strategy {
            Strategy::Classic => classic::capture(engine, layout, known, request, reporter),
            Strategy::BuildkitReplay => replay::capture(engine, layout, known, request, reporter),
            Strategy::BuildkitLocal => match unchanged(&stages, offer, build) {
                Some(captured) => Ok(captured),
                None => self.exported(request),
            },
        }
    }

    /// Lets the builder export, to the registry where that is the store: what it reads from there
    /// it need not fetch.
    fn exported(&self, request: &Request<'_>) -> Result<Captured, EngineError> {
        let &Self { engine, layout, reporter, .. } = self;
        let destination = self.store.and_then(|store| Some((store, store.export_to()?)));
        let Some((store, registry)) = destination else {
            return native::capture(engine, layout, request, reporter);
        };
        let there = Request { registry: Some(&registry), ..request.clone() };
        let captured = native::capture(engine, layout, &there, reporter).and_then(|captured| {
            let documents = store.fetch_documents(&captured.archive, layout);
            documents.map_err(|e| EngineError::failed("export the build cache", e))?;
            Ok(captured)
        });
        captured.or_else(|error| {
            reporter.warn(format!("the cache is exported to the directory: {error}"));
            native::capture(engine, layout, request, reporter)
        })
    }

    fn images(&self, recipe: &Recipe) -> Result<Captured, EngineError> {
        let &Self { engine, layout, offer, reporter, .. } = self;
        let (names, steps) = match recipe {
            Recipe::Named(names) => (names.clone(), None),
            Recipe::Logged(steps) => (classic::stages_in_log(steps), Some(steps.as_slice())),
        };
        let request = &Request {
            arguments: &BuildArguments::default(),
            dockerfile: &[],
            target_stage: None,
            ignore_file: None,
            stages: &unread_stages(names, None),
            images: steps,
            about: self.about(Strategy::Classic),
            compression: self.compression,
            offer: &offer.cache_from,
            registry: None,
        };
        match recipe {
            Recipe::Named(names) => {
                classic::capture_named(engine, layout, &offer.archive, names, request, reporter)
            }
            Recipe::Logged(_) => {
                classic::capture(engine, layout, &offer.archive, request, reporter)
            }
        }
    }

    fn about(&self, strategy: Strategy) -> About {
        About {
            format: FORMAT,
            engine: self.engine.facts.version.to_string(),
            strategy: strategy.name().to_owned(),
            platform: self.engine.facts.platform.clone(),
            created: timestamp(),
            stages: Vec::new(),
        }
    }

    /// Reads the project; without it, only the target itself can be saved.
    fn project(&self, strategy: Strategy, build: &NotedBuild) -> Option<Project> {
        let builder = Builder::of(self.engine, strategy);
        match Project::read(&build.arguments, &builder, Detail::Files) {
            Ok(project) => Some(project),
            Err(error) => {
                self.reporter
                    .warn(format!("only the built stage is saved, not the others: {error}"));
                None
            }
        }
    }
}

/// A build of which nothing could be taken must not cost what was there.
fn unless_nothing(captured: Captured, action: &str) -> Result<Captured, EngineError> {
    if captured.taken.is_empty() && captured.kept.is_empty() && !captured.warnings.is_empty() {
        return Err(EngineError::failed(action, captured.warnings.join("; ")));
    }
    Ok(captured)
}

/// Goes to where the build was run, which its arguments are relative to.
fn enter(build: &NotedBuild) -> Result<(), EngineError> {
    std::env::set_current_dir(&build.directory).map_err(|e| {
        let directory = build.directory.display();
        EngineError::Unsupported(format!("the build's directory `{directory}`: {e}"))
    })
}

/// The image's name, else the project's, with a number if another build has it.
fn unused_name(build: &NotedBuild, project: Option<&Project>, used: &[String]) -> String {
    let name = build.arguments.image_name().or_else(|| Some(project?.name.clone()));
    let name = name.unwrap_or_else(|| "image".to_owned());
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    let mut names = std::iter::once(name.clone()).chain(numbered);
    names.find(|name| !used.contains(name)).unwrap_or(name.clone())
}

/// A stage by its build and its name.
fn qualified(stage: &StageAbout) -> String {
    format!("{}/{}", stage.build, stage.name)
}

/// The stages of a build, with what became of them.
fn stages(project: &Project, build: &NotedBuild) -> Vec<Stage> {
    let executed = |name: &str| {
        unsaved_steps(build).iter().any(|step| {
            !step.is_from()
                && step.outcome == Outcome::Executed
                && (step.stage.is_empty() || step.stage.eq_ignore_ascii_case(name))
        })
    };
    notes(project)
        .into_iter()
        .zip(&project.stages)
        .map(|(about, stage)| Stage {
            index: stage.index,
            target: project.targets.get(stage.index).cloned().flatten(),
            executed: executed(&about.name),
            has_layers: stage.steps.iter().any(|step| step.is_layer),
            about,
        })
        .collect()
}

/// What became of the steps since the last save: what was saved already is in the archive.
fn unsaved_steps(build: &NotedBuild) -> &[LoggedStep] {
    if build.saved { &[] } else { &build.steps }
}

/// What is known of a build's stages without its project.
fn stage_names(images: Option<&[ClassicStep]>) -> Vec<String> {
    images.map_or_else(|| vec!["target".to_owned()], classic::stages_in_log)
}

/// Stages of which the names alone are known.
fn unread_stages(names: Vec<String>, target: Option<&OsStr>) -> Vec<Stage> {
    let stage = |(index, name)| Stage {
        index,
        target: target.map(|t| t.to_string_lossy().into_owned()),
        about: StageAbout {
            name,
            build: String::new(),
            digest: String::new(),
            image: None,
            steps: Vec::new(),
            base: None,
        },
        executed: true,
        has_layers: true,
    };
    names.into_iter().enumerate().map(stage).collect()
}

/// The builder's own export as it is in the archive, if it took every step from that.
fn unchanged(stages: &[Stage], offer: &Offer, build: &NotedBuild) -> Option<Captured> {
    let about = offer.archive.about.as_ref().filter(|_| offer.miss.is_none())?;
    let seen = !unsaved_steps(build).is_empty();
    let is_same = |stage: &Stage| !stage.executed && !stage.about.digest.is_empty();
    if !seen || about.strategy != Strategy::BuildkitLocal.name() || !stages.iter().all(is_same) {
        return None;
    }
    let now: Vec<&StageAbout> = stages.iter().map(|stage| &stage.about).collect();
    let cache = builds::export_of(&offer.archive, &now)?;
    // Their names may be new.
    let about = About { stages: now.iter().copied().cloned().collect(), ..about.clone() };
    Some(Captured {
        archive: Archive { about: Some(about), cache: Some(cache), ..Archive::default() },
        kept: now.iter().map(|stage| stage.name.clone()).collect(),
        ..Captured::default()
    })
}
