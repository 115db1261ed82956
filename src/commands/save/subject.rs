//! What is saved: the builds of the job, or images.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::archive::Archive;
use crate::build::arguments::BuildArguments;
use crate::build::build_log::ClassicStep;
use crate::builder::Strategy;
use crate::cli::SaveArgs;
use crate::commands::builds;
use crate::commands::exit::{Exit, Failure};
use crate::engine::Engine;
use crate::engine::api::facts::ImageStore;
use crate::engine::error::EngineError;
use crate::engine::strategy::capture::{Source, Taken};
use crate::engine::strategy::classic;
use crate::engine::strategy::{self, Choice};
use crate::job::capture::{self, Built};
use crate::job::environment;
use crate::job::journal::{Draft, Journal, NotedBuild, State};
use crate::job::offer;
use crate::job::take::Taking;
use crate::job::variable;
use crate::oci::codec::Compression;
use crate::oci::directory::Layout;
use crate::predict::project::{Detail, Project};
use crate::report::Reporter;

/// What is saved.
pub(super) enum Subject<'a> {
    /// Builds, all by one strategy.
    Builds(Strategy, Vec<NotedBuild>),
    /// Images of the classic builder, by a recipe of 2018.
    Images(&'a Recipe),
}

/// How images are named that are saved.
pub(super) enum Recipe {
    /// By their tags.
    Named(Vec<String>),
    /// By the log of the build that made them.
    Logged(Vec<ClassicStep>),
}

impl Subject<'_> {
    /// How the cache is carried.
    pub(super) fn strategy(&self) -> Strategy {
        match self {
            Self::Builds(strategy, _) => *strategy,
            Self::Images(_) => Strategy::Classic,
        }
    }

    /// The builds that are noted; `None` if there is nothing to save.
    pub(super) fn builds(
        dir: &Path,
        mut builds: Vec<NotedBuild>,
        reporter: Reporter,
    ) -> Option<Self> {
        let Some(last) = builds.last() else {
            reporter.info(format!(
                "save: nothing to save: no `dockercache build` was run with `{}` on this engine; to \
                 save a plain `docker build`, give its arguments: dockercache save -t app .",
                dir.display()
            ));
            return None;
        };
        let strategy = last.strategy;
        let all = builds.len();
        builds.retain(|build| build.strategy == strategy);
        if builds.len() < all {
            reporter.warn(format!(
                "{} that were not by {strategy} are not saved: an archive holds builds of one \
                 strategy; give them a directory of their own",
                all - builds.len()
            ));
        }
        Some(Self::Builds(strategy, builds))
    }

    /// Takes it.
    pub(super) fn take(&self, taking: &Taking<'_>) -> Result<Taken, EngineError> {
        match self {
            Self::Builds(strategy, builds) => taking.builds(*strategy, builds),
            Self::Images(Recipe::Named(names)) => taking.named_images(names),
            Self::Images(Recipe::Logged(steps)) => taking.logged_images(steps),
        }
    }

    /// Why the archive must stay as it is: a builder that nobody asked for would take the place of
    /// another one's cache.
    pub(super) fn must_not_replace(&self, old: &Archive, args: &SaveArgs) -> Option<String> {
        let is_classic = self.strategy() == Strategy::Classic;
        let is_asked = args.engine.strategy.is_some()
            || variable("DOCKER_BUILDKIT").is_some()
            || matches!(self, Self::Images(_));
        let old = old.about.as_ref()?.strategy.parse::<Strategy>().ok()?;
        (is_classic && !is_asked && old.is_buildkit()).then(|| {
            "the archive holds BuildKit's cache, and this client built with the classic builder; \
             install the buildx plugin, or set DOCKER_BUILDKIT=0 to change to the classic builder"
                .to_owned()
        })
    }

    /// Why there was nothing to take.
    pub(super) fn why_nothing(&self) -> String {
        let Self::Builds(_, builds) = self else {
            return "no image has layers of its own".to_owned();
        };
        let reasons = builds.iter().flat_map(|build| &build.captured.stages);
        let reasons = reasons.filter_map(|stage| match &stage.source {
            Source::Missing(reason) => Some(format!("stage `{}`: {reason}", stage.about.name)),
            _ => None,
        });
        let reasons: Vec<String> = reasons.collect();
        match builds.last() {
            _ if !reasons.is_empty() => reasons.join("; "),
            Some(build) if build.captured.failed => {
                format!("the build of `{}` failed before any of its steps was built", build.name)
            }
            _ => "no step of the build makes a layer".to_owned(),
        }
    }
}

/// How builds that have run are captured.
pub(super) struct How<'a> {
    pub(super) forced: Option<Strategy>,
    pub(super) compression: Option<Compression>,
    pub(super) engine: &'a Engine,
    pub(super) layout: &'a Layout,
    /// A directory for temporary files.
    pub(super) scratch: &'a Path,
    pub(super) reporter: Reporter,
}

/// Captures the builds that the user names: they have run, though nobody saw them. What the builder
/// has not cached is not built. Says whether all could be captured.
pub(super) fn capture_named(
    args: &SaveArgs,
    journal: &Journal,
    how: &How<'_>,
    state: &mut State,
) -> Result<bool, Failure> {
    let How { forced, engine, scratch, reporter, .. } = *how;
    let mut well = true;
    let named = builds::named(&args.builds, &engine.client, Some(scratch), reporter)?;
    for arguments in named.builds {
        if let Some(missing) = arguments.missing() {
            return Err(Failure::usage(missing));
        }
        let choices = strategy::possible(engine, &arguments, &environment, forced)?;
        if let Some(reason) = why_not_captured(journal, &arguments, &choices, how, state)? {
            reporter.warn(format!("a build is not saved: {reason}"));
            well = false;
        }
    }
    Ok(well)
}

/// Captures a build in the way in which it was made; the result is why it can't be.
fn why_not_captured(
    journal: &Journal,
    arguments: &BuildArguments,
    choices: &[Choice],
    how: &How<'_>,
    state: &mut State,
) -> Result<Option<String>, Failure> {
    let mut first = None;
    for choice in choices {
        match capture_one((journal, journal.begin()?), arguments, choice, how, state) {
            // It was made in another way, or not at all.
            Ok(noted) if choices.len() > 1 && !noted.captured.has_cache() => noted.forget(),
            Ok(_) => return Ok(None),
            Err(EngineError::Unsupported(reason) | EngineError::NotBuilt(reason)) => {
                first.get_or_insert(reason);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(first)
}

fn capture_one(
    (journal, draft): (&Journal, Draft),
    arguments: &BuildArguments,
    choice: &Choice,
    how: &How<'_>,
    state: &mut State,
) -> Result<NotedBuild, EngineError> {
    let How { compression, engine, layout, reporter, .. } = *how;
    let builder = engine.builder(choice.strategy);
    let project = Project::read(arguments, &builder, Detail::Files)
        .inspect_err(|error| reporter.warn(format!("only the built stage is saved: {error}")))
        .ok();
    let offer = offer::make(layout, engine, choice.strategy, state, reporter)
        .unwrap_or_else(|_| offer::nothing());
    let offer = if offer.miss.is_some() { offer::nothing() } else { offer };
    let built = Built {
        engine,
        builder: choice.builder.as_deref(),
        strategy: choice.strategy,
        arguments,
        input: None,
        project: project.as_ref(),
        steps: None,
        images: &[],
        failed: false,
        archive: &offer.archive,
        offer: &offer.cache_from,
        builder_cache: None,
        compression,
        mounts: None,
    };
    capture::note(journal, draft, layout, &built, reporter)
}

impl Recipe {
    /// The recipe that the options name, if they do.
    pub(super) fn asked(args: &SaveArgs) -> Result<Option<Self>, Failure> {
        let recipe = match &args.from_log {
            Some(log) => Self::Logged(read_log(log)?),
            None if !args.image.is_empty() => Self::Named(args.image.clone()),
            None => return Ok(None),
        };
        if args.builds.any() {
            return Err(Failure::usage("--image and --from-log take no build arguments"));
        }
        Ok(Some(recipe))
    }

    /// Refuses engines on which images are no cache.
    pub(super) fn on(self, engine: &Engine) -> Result<Self, Failure> {
        match engine.facts.store {
            ImageStore::GraphDriver => Ok(self),
            ImageStore::Containerd => Err(EngineError::Unsupported(
                "images are no build cache on an engine with the containerd image store: BuildKit \
                 builds there, and keeps its cache elsewhere. Use `dockercache build` and \
                 `dockercache save`"
                    .to_owned(),
            )
            .into()),
        }
    }
}

fn read_log(path: &Path) -> Result<Vec<ClassicStep>, Failure> {
    let name = if path == Path::new("-") { PathBuf::from("standard input") } else { path.into() };
    let mut text = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().read_to_end(&mut text)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut text))
    };
    read.map_err(|e| Failure {
        exit: Exit::Io,
        message: format!("failed to read the log `{}`: {e}", name.display()),
        hint: None,
    })?;
    Ok(classic::images_in_log(&name, &String::from_utf8_lossy(&text))?)
}
