//! Takes a subject out of the engine, by whichever strategy it is.

use std::ffi::OsStr;

use super::subject::{Built, Recipe, Subject};
use crate::builder::Builder;
use crate::commands::offer::Offer;
use crate::engine::Engine;
use crate::engine::arguments::BuildArguments;
use crate::engine::build_log::Outcome;
use crate::engine::capture::{Captured, Request, Stage};
use crate::engine::error::EngineError;
use crate::engine::strategy::Strategy;
use crate::engine::{classic, native, replay};
use crate::explain::notes;
use crate::layout::archive::{About, FORMAT, StageAbout};
use crate::layout::directory::Layout;
use crate::project::{Detail, Project};
use crate::report::{Reporter, timestamp};

/// From where, to where, and what was there before.
pub(super) struct Capture<'a> {
    pub(super) engine: &'a Engine,
    pub(super) layout: &'a Layout,
    pub(super) offer: &'a Offer,
    /// Where in a registry the builder shall export to, if it does so by itself.
    pub(super) registry: Option<String>,
    pub(super) reporter: Reporter,
}

impl Capture<'_> {
    /// Takes what has changed; the write lock is held.
    pub(super) fn take(&self, subject: &Subject) -> Result<Captured, EngineError> {
        match subject {
            Subject::Build(built) => self.build(built),
            Subject::Images(recipe) => self.images(recipe),
        }
    }

    fn build(&self, built: &Built) -> Result<Captured, EngineError> {
        let &Self { engine, layout, offer, reporter, .. } = self;
        let project = self.project(built);
        let stages = match &project {
            Some(project) => stages(project, built),
            None => unread_stages(names(built), built.arguments.value("target")),
        };
        let request = &Request {
            arguments: &built.arguments,
            dockerfile: project.as_ref().map_or(&[], |p| &p.named),
            target_stage: project.as_ref().and_then(|p| p.target_stage.as_deref()),
            ignore_file: project.as_ref().and_then(|p| p.ignore_file.clone()),
            stages: &stages,
            images: built.images.as_deref(),
            about: self.about(built.strategy),
            offer: &offer.cache_from,
            registry: self.registry.as_deref(),
        };
        match built.strategy {
            Strategy::Classic => {
                classic::capture(engine, layout, &offer.archive, request, reporter)
            }
            Strategy::BuildkitReplay => {
                replay::capture(engine, layout, &offer.archive, request, reporter)
            }
            Strategy::BuildkitLocal if is_unchanged(&stages, offer, built) => {
                let mut archive = offer.archive.clone();
                if let Some(about) = &mut archive.about {
                    // Their names may be new.
                    about.stages = stages.iter().map(|s| s.about.clone()).collect();
                }
                let kept = stages.iter().map(|s| s.about.name.clone()).collect();
                Ok(Captured { archive, taken: Vec::new(), kept, warnings: Vec::new() })
            }
            Strategy::BuildkitLocal => {
                native::capture(engine, layout, request, reporter).or_else(|error| {
                    match request.registry {
                        None => Err(error),
                        Some(registry) => {
                            reporter.warn(format!("not exported to `{registry}`: {error}"));
                            let request = &Request { registry: None, ..request.clone() };
                            native::capture(engine, layout, request, reporter)
                        }
                    }
                })
            }
        }
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
            offer: &offer.cache_from,
            registry: self.registry.as_deref(),
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
            engine: self.engine.facts.server.to_string(),
            strategy: strategy.name().to_owned(),
            platform: self.engine.facts.platform.clone(),
            created: timestamp(),
            stages: Vec::new(),
        }
    }

    /// Reads the project; without it, only the target itself can be saved.
    fn project(&self, built: &Built) -> Option<Project> {
        let builder = Builder::of(self.engine, built.strategy);
        match Project::read(&built.arguments, &builder, Detail::Files) {
            Ok(project) => Some(project),
            Err(error) => {
                self.reporter
                    .warn(format!("only the built stage is saved, not the others: {error}"));
                None
            }
        }
    }
}

/// The stages of a build, with what became of them.
fn stages(project: &Project, built: &Built) -> Vec<Stage> {
    let executed = |name: &str| {
        built.steps.iter().any(|step| {
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

/// What is known of a build's stages without its project.
fn names(built: &Built) -> Vec<String> {
    built
        .images
        .as_ref()
        .map_or_else(|| vec!["target".to_owned()], |steps| classic::stages_in_log(steps))
}

/// Stages of which the names alone are known.
fn unread_stages(names: Vec<String>, target: Option<&OsStr>) -> Vec<Stage> {
    let stage = |(index, name)| Stage {
        index,
        target: target.map(|t| t.to_string_lossy().into_owned()),
        about: StageAbout {
            name,
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

/// Whether the builder took every step from the very cache that is in the archive.
fn is_unchanged(stages: &[Stage], offer: &Offer, built: &Built) -> bool {
    let Some(about) = offer.archive.about.as_ref().filter(|_| offer.miss.is_none()) else {
        return false;
    };
    !built.steps.is_empty()
        && about.strategy == Strategy::BuildkitLocal.name()
        && !stages.is_empty()
        && stages.len() == about.stages.len()
        && stages.iter().all(|stage| {
            !stage.executed
                && !stage.about.digest.is_empty()
                && about.stages.iter().any(|s| s.digest == stage.about.digest)
        })
}
