//! Several builds of one command, before it runs and after.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::capture::{self, Built};
use super::journal::{Journal, State};
use super::named::Named;
use super::offer::{self, Offer};
use super::prime::{Coming, prime};
use super::{environment, store};
use crate::build::arguments::BuildArguments;
use crate::build::bake::Planner;
use crate::build::build_log::{LoggedStep, Outcome};
use crate::engine::Engine;
use crate::engine::client::Client;
use crate::engine::client::targets::targets;
use crate::engine::error::EngineError;
use crate::engine::strategy::{self, Choice};
use crate::oci::directory::Layout;
use crate::predict::project::{Detail, Project};
use crate::report::Reporter;

/// Several builds, and all that is known of them before they run.
pub(crate) struct Group {
    engine: Engine,
    pub(crate) choice: Choice,
    journal: Journal,
    pub(crate) state: State,
    layout: Layout,
    pub(crate) offer: Offer,
    named: Named,
    /// The projects of the builds; none for one that can't be read.
    projects: Vec<Option<Project>>,
    builder_cache: Option<BTreeSet<String>>,
}

impl Group {
    /// Asks the client what is built, the engine and the store, and brings what the archive has into
    /// the builder. `input` is what the client reads from standard input.
    pub(crate) fn prepare(
        client: &Client,
        planner: Planner,
        words: &[OsString],
        (directory, journal): (&Path, Journal),
        scratch: &Path,
        input: Option<PathBuf>,
        reporter: Reporter,
    ) -> Result<Self, EngineError> {
        let layout = Layout::at(directory);
        let mut state = journal.state();
        let store = store::of_environment(&mut state, reporter);
        let engine = strategy::connect_to_choose(client, &environment)?;
        capture::clean(&journal, Some(&engine), &layout);
        let arguments = match planner {
            Planner::Bake => BuildArguments::parse(words.iter().cloned()),
            Planner::Compose => BuildArguments::default(),
        };
        let choice = strategy::choose(&engine, &arguments.of_buildx(), &environment, None)?;
        let input = input.map(File::open).transpose();
        let input = input.map_err(EngineError::io("read the build's input"))?;
        let targets = targets(client, planner, words, input)?;
        let named = Named::of(targets, Some(scratch), reporter)?;
        let builder = engine.builder(choice.strategy);
        let read = |arguments| Project::read(arguments, &builder, Detail::Files).ok();
        let all: Option<Vec<Project>> = named.builds.iter().map(read).collect();
        if let Some(store) = store {
            let strategy = choice.strategy;
            let task = store::Task { engine: &engine, strategy, layout: &layout, reporter };
            // Only with all of them it is known which layers are needed.
            store.fetch(&task, all.as_deref().unwrap_or_default(), &mut state);
        }
        let projects: Vec<Option<Project>> = match all {
            Some(all) => all.into_iter().map(Some).collect(),
            None => named.builds.iter().map(read).collect(),
        };
        let offer = offer::make(&layout, &engine, choice.strategy, &mut state, reporter)?;
        reporter.info(format!("build: {}", offer::summary(&offer)));
        let offer = if offer.miss.is_some() { offer::nothing() } else { offer };
        // Before the builder knows more than it has by itself.
        let builder_cache = engine.builder_cache();
        let coming: Vec<Coming<'_>> = named
            .builds
            .iter()
            .zip(&projects)
            .filter_map(|(arguments, project)| {
                Some(Coming { arguments, project: project.as_ref()? })
            })
            .collect();
        let builder = choice.builder.as_deref();
        prime(&engine, builder, &offer, &coming, scratch, reporter)?;
        Ok(Self { engine, choice, journal, state, layout, offer, named, projects, builder_cache })
    }

    /// Captures each build.
    pub(crate) fn capture(&self, steps: &[LoggedStep], succeeded: bool, reporter: Reporter) {
        let is_cached = |step: &LoggedStep| step.is_from() || step.outcome == Outcome::Cached;
        // One log of several builds does not say whose a step is, but if none ran, that is enough.
        let steps = Some(steps).filter(|steps| !steps.is_empty() && steps.iter().all(is_cached));
        for (arguments, project) in self.named.builds.iter().zip(&self.projects) {
            let built = Built {
                engine: &self.engine,
                builder: self.choice.builder.as_deref(),
                strategy: self.choice.strategy,
                arguments,
                input: None,
                project: project.as_ref(),
                steps,
                images: &[],
                failed: !succeeded,
                archive: &self.offer.archive,
                offer: &self.offer.cache_from,
                builder_cache: self.builder_cache.as_ref(),
                compression: capture::compression(),
                mounts: None,
            };
            let noted = self
                .journal
                .begin()
                .map_err(|e| EngineError::failed("note the build", e))
                .and_then(|draft| {
                    capture::note(&self.journal, draft, &self.layout, &built, reporter)
                });
            if let Err(error) = noted {
                let name = arguments.image_name().unwrap_or_default();
                reporter.warn(format!("the build of `{name}` is not saved: {error}"));
            }
        }
    }
}
