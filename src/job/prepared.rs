//! A build that is about to run: what the engine, the store and the archive have for it.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::capture::{self, Built};
use super::journal::{Draft, Journal, State};
use super::offer::{self, Offer};
use super::{environment, store, variable};
use crate::build::arguments::{BuildArguments, ContextSource};
use crate::builder::Strategy;
use crate::context::BuildContext;
use crate::dockerfile::Image;
use crate::engine::Engine;
use crate::engine::client::Client;
use crate::engine::client::process;
use crate::engine::client::run::Finished;
use crate::engine::error::EngineError;
use crate::engine::strategy::{self, Choice};
use crate::mounts::carry::{Carrier, NotedMount};
use crate::mounts::policy::Settings;
use crate::oci::directory::Layout;
use crate::predict::explain::{Explanation, explain};
use crate::predict::project::{Detail, Project};
use crate::report::Reporter;

/// What must be known to prepare a build.
pub(crate) struct Preparation {
    /// Those of the build, with a Dockerfile that can be read.
    pub(crate) arguments: BuildArguments,
    pub(crate) dir: PathBuf,
    pub(crate) journal: Option<Journal>,
    /// The name of what it leaves beside the archive; none if it will not be saved.
    pub(crate) captures: Option<String>,
}

/// Why a build is not prepared.
pub(crate) enum Trouble {
    /// Without an engine there is no build either.
    Engine(EngineError),
    /// There is no cache for it.
    Cache(EngineError),
}

/// A build that is about to run.
pub(crate) struct Prepared {
    pub(crate) engine: Engine,
    pub(crate) choice: Choice,
    pub(crate) arguments: BuildArguments,
    layout: Layout,
    pub(crate) state: State,
    project: Option<Project>,
    pub(crate) offer: Offer,
    pub(crate) explanation: Option<Explanation>,
    builder_cache: Option<BTreeSet<String>>,
    settings: Settings,
    /// Its cache mounts; none if they can't be carried.
    mounts: Option<Vec<NotedMount>>,
    /// Where they lie.
    directory: PathBuf,
}

impl Preparation {
    /// Asks the engine and the store, and fills what the build will read.
    pub(crate) fn run(self, client: &Client, reporter: Reporter) -> Result<Prepared, Trouble> {
        let Self { arguments, dir, journal, captures } = self;
        let mut state = journal.as_ref().map(Journal::state).unwrap_or_default();
        let store = store::of_environment(&mut state, reporter);
        let engine =
            strategy::connect_to_choose(client, &environment).map_err(|error| match error {
                EngineError::NoClient { .. } | EngineError::Unreachable(_)
                    if strategy::builds_on_engine(client, &arguments, &environment) =>
                {
                    Trouble::Engine(error)
                }
                error => Trouble::Cache(error),
            })?;
        let forced = variable("DOCKERCACHE_STRATEGY").and_then(|name| {
            let parsed =
                name.parse().map_err(|why| format!("DOCKERCACHE_STRATEGY is ignored: {why}"));
            parsed.inspect_err(|why| reporter.warn(why)).ok()
        });
        let choice =
            strategy::choose(&engine, &arguments, &environment, forced).map_err(Trouble::Cache)?;

        let layout = Layout::at(&dir);
        if let Some(journal) = &journal {
            capture::clean(journal, Some(&engine), &layout);
        }
        warn_of_cache_in_context(&arguments, &dir, reporter);
        // Before the build: it may take long, and files may change meanwhile.
        let builder = engine.builder(choice.strategy);
        let project = Project::read(&arguments, &builder, Detail::Files).ok();
        if let Some(store) = store {
            let strategy = choice.strategy;
            let task = store::Task { engine: &engine, strategy, layout: &layout, reporter };
            store.fetch(&task, project.as_slice(), &mut state);
        }
        let bases = (project.as_ref().map(|p| p.from.clone()), arguments.switch("pull"));
        let offer = offered(&layout, &engine, choice.strategy, bases, &mut state, reporter);
        let explanation = offer
            .archive
            .about
            .as_ref()
            .zip(project.as_ref())
            .map(|(about, project)| explain(about, arguments.image_name().as_deref(), project));
        let builder_cache = engine.builder_cache();
        let name = format!("{}-mounts", captures.as_deref().unwrap_or_default());
        let mut prepared = Prepared {
            directory: offer::absolute(&layout.captures().join(name)),
            settings: Settings::of_environment(&environment, reporter),
            mounts: None,
            engine,
            choice,
            arguments,
            layout,
            state,
            project,
            offer,
            explanation,
            builder_cache,
        };
        let carries = captures.is_some()
            && prepared.choice.strategy.is_buildkit()
            && !prepared.arguments.has_several_platforms()
            && !prepared.arguments.switch("check");
        prepared.mounts =
            prepared.carrier(reporter).filter(|c| carries && c.is_of_use()).map(|c| {
                let noted = journal.as_ref().map(Journal::builds).unwrap_or_default();
                let noted = noted.iter().filter(|build| build.engine == prepared.engine.facts.id);
                let noted: Vec<_> = noted.flat_map(|build| build.mounts.iter().flatten()).collect();
                c.fill(&noted)
            });
        Ok(prepared)
    }
}

impl Prepared {
    fn carrier(&self, reporter: Reporter) -> Option<Carrier<'_>> {
        self.project.as_ref().map(|project| Carrier {
            engine: &self.engine,
            builder: self.choice.builder.as_deref(),
            arguments: &self.arguments,
            layout: &self.layout,
            archive: &self.offer.archive,
            mounts: &project.cache_mounts,
            directory: self.directory.clone(),
            settings: self.settings.clone(),
            reporter,
        })
    }

    /// Captures the build that has run.
    pub(crate) fn keep(
        &self,
        finished: &Finished,
        draft: Option<Draft>,
        journal: Option<&Journal>,
        input: Option<&File>,
        reporter: Reporter,
    ) {
        let mut mounts = self.mounts.clone();
        if let (Some(carrier), Some(mounts)) = (self.carrier(reporter), &mut mounts)
            && !process::is_told_to_end()
        {
            carrier.pack(mounts, &finished.steps);
        }
        self.state.keep(reporter);
        let (Some(journal), Some(draft)) = (journal, draft) else { return };
        if process::is_told_to_end() {
            return;
        }
        let done = Built {
            engine: &self.engine,
            builder: self.choice.builder.as_deref(),
            strategy: self.choice.strategy,
            arguments: &self.arguments,
            input,
            project: self.project.as_ref(),
            steps: Some(finished.steps.as_slice()).filter(|steps| !steps.is_empty()),
            images: &finished.images,
            failed: !finished.status.success(),
            archive: &self.offer.archive,
            offer: &self.offer.cache_from,
            builder_cache: self.builder_cache.as_ref(),
            compression: capture::compression(),
            // A build without mounts, or with none to be carried, is known to have none.
            mounts: mounts.or_else(|| self.project.as_ref().map(|_| Vec::new())),
        };
        if let Err(error) = capture::note(journal, draft, &self.layout, &done, reporter) {
            reporter.warn(format!("the build is not saved: {error}"));
        }
    }
}

/// What the build can be offered. No trouble with the cache gets any further than a warning.
fn offered(
    layout: &Layout,
    engine: &Engine,
    strategy: Strategy,
    (from, pull): (Option<Vec<Image>>, bool),
    state: &mut State,
    reporter: Reporter,
) -> Offer {
    let without = |error: String| {
        reporter.warn(format!("the build runs without cache: {error}"));
        offer::nothing()
    };
    let mut offer = match offer::make(layout, engine, strategy, state, reporter) {
        Ok(offer) => offer,
        Err(error) => return without(error.to_string()),
    };
    let from = from.as_deref();
    if let Err(error) = offer.make_ready(engine, strategy, layout, from, pull, reporter) {
        return without(error.to_string());
    }
    reporter.info(format!("build: {}", offer::summary(&offer)));
    if offer.miss.is_some() { offer::nothing() } else { offer }
}

/// A cache that is copied into the image changes the build that it is the cache of.
fn warn_of_cache_in_context(arguments: &BuildArguments, dir: &Path, reporter: Reporter) {
    let ContextSource::Directory(root) = arguments.context() else { return };
    let (Ok(canonical), Ok(dir)) = (root.canonicalize(), dir.canonicalize()) else { return };
    let Ok(inside) = dir.strip_prefix(canonical) else { return };
    let Ok(context) = BuildContext::open(&root, arguments.dockerfile().as_deref()) else { return };
    if ["index.json", "blobs/sha256"].iter().any(|file| context.sends(&inside.join(file))) {
        let file = context.ignore_file().unwrap_or(Path::new(".dockerignore"));
        reporter.warn(format!(
            "the cache is in the build context: add `{}` to `{}`, or each build sends it to the \
             engine",
            inside.display(),
            file.display()
        ));
    }
}
