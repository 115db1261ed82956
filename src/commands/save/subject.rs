//! What is to be saved: the builds of the job, or images.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::cli::SaveArgs;
use crate::commands::{builds, environment};
use crate::engine::Engine;
use crate::engine::build_log::ClassicStep;
use crate::engine::classic;
use crate::engine::error::EngineError;
use crate::engine::facts::ImageStore;
use crate::engine::strategy::{self, Strategy};
use crate::exit::{Exit, Failure};
use crate::report::Reporter;
use crate::store::journal::{Journal, NotedBuild};

/// What is to be saved.
pub(super) enum Subject {
    /// Builds, all by one strategy.
    Builds(Strategy, Vec<NotedBuild>),
    /// Images of the classic builder, by a recipe of 2018.
    Images(Recipe),
}

/// How images are named that are to be saved.
pub(super) enum Recipe {
    /// By their tags.
    Named(Vec<String>),
    /// By the log of the build that made them.
    Logged(Vec<ClassicStep>),
}

impl Subject {
    /// How the cache is carried.
    pub(super) fn strategy(&self) -> Strategy {
        match self {
            Self::Builds(strategy, _) => *strategy,
            Self::Images(_) => Strategy::Classic,
        }
    }

    /// The job's builds; `None` if there is nothing to save.
    pub(super) fn builds(
        args: &SaveArgs,
        journal: &Journal,
        engine: &Engine,
        reporter: Reporter,
    ) -> Result<Option<Self>, Failure> {
        let here = journal.builds.iter().filter(|build| build.engine == engine.facts.id);
        let mut builds: Vec<NotedBuild> = here.cloned().collect();
        if builds.is_empty() {
            let reason = if journal.builds.is_empty() {
                format!(
                    "no `dockercache build` was run with `{}` on this machine; to save a plain \
                     `docker build`, give its arguments: dockercache save -t app .",
                    args.directory.dir.display()
                )
            } else {
                "the last build was made on another engine".to_owned()
            };
            reporter.info(format!("save: nothing to save: {reason}"));
            return Ok(None);
        }
        builds.retain(|build| {
            let Some(reason) = hindrance(build) else { return true };
            let image = build.arguments.image_name();
            let name = image.map_or_else(String::new, |image| format!(" of `{image}`"));
            reporter.warn(format!("the build{name} is not saved: {reason}"));
            false
        });
        let Some(last) = builds.last() else { return Ok(None) };
        let name = last.strategy.clone();
        let strategy: Strategy = name.parse().map_err(Failure::usage)?;
        let all = builds.len();
        builds.retain(|build| build.strategy == name);
        if builds.len() < all {
            reporter.warn(format!(
                "one archive holds builds of one strategy: {} that were not by {name} are left \
                 out; give them a directory of their own",
                all - builds.len()
            ));
        }
        Ok(Some(Self::Builds(strategy, builds)))
    }
}

/// Why the cache of a build can't be carried.
fn hindrance(build: &NotedBuild) -> Option<&'static str> {
    if build.arguments.has_several_platforms() {
        Some("an archive is for one platform")
    } else if build.strategy != Strategy::Classic.name() && build.arguments.reads_stdin() {
        Some("it came from standard input, which can't be read again")
    } else {
        None
    }
}

/// Notes the builds that the user names: they have run, though nobody saw them.
pub(super) fn note_named(
    args: &SaveArgs,
    journal: &mut Journal,
    engine: &Engine,
) -> Result<(), Failure> {
    let forced = args.engine.strategy;
    for arguments in builds::named(&args.builds, &engine.client)? {
        if let Some(missing) = arguments.missing() {
            return Err(Failure::usage(missing));
        }
        let strategy =
            strategy::choose(&engine.facts, &engine.client, &arguments, &environment, forced)?;
        journal.note(NotedBuild {
            arguments,
            directory: std::env::current_dir().unwrap_or_default(),
            engine: engine.facts.id.clone(),
            strategy: strategy.name().to_owned(),
            steps: Vec::new(),
            images: Vec::new(),
            saved: false,
        });
    }
    Ok(())
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
