//! What is to be saved: a build of the journal, one whose arguments are given, or images.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::cli::SaveArgs;
use crate::engine::Engine;
use crate::engine::arguments::BuildArguments;
use crate::engine::build_log::{ClassicStep, LoggedStep};
use crate::engine::classic;
use crate::engine::error::EngineError;
use crate::engine::facts::ImageStore;
use crate::engine::strategy::{self, Strategy};
use crate::exit::{Exit, Failure};
use crate::report::Reporter;
use crate::store::journal::Journal;

/// What is to be saved.
pub(super) enum Subject {
    /// A build.
    Build(Built),
    /// Images of the classic builder, by a recipe of 2018.
    Images(Recipe),
}

/// A build that has been run.
pub(super) struct Built {
    /// Its arguments.
    pub(super) arguments: BuildArguments,
    /// How its cache is carried.
    pub(super) strategy: Strategy,
    /// What became of its steps; none if nobody saw it.
    pub(super) steps: Vec<LoggedStep>,
    /// The classic builder's images, if they were seen.
    pub(super) images: Option<Vec<ClassicStep>>,
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
            Self::Build(built) => built.strategy,
            Self::Images(_) => Strategy::Classic,
        }
    }

    /// The arguments of the build, if it is one.
    pub(super) fn arguments(&self) -> BuildArguments {
        match self {
            Self::Build(built) => built.arguments.clone(),
            Self::Images(_) => BuildArguments::default(),
        }
    }

    /// The build that the user means; `None` if there is nothing to save.
    pub(super) fn find(
        args: &SaveArgs,
        journal: &Journal,
        engine: &Engine,
        reporter: Reporter,
    ) -> Result<Option<Self>, Failure> {
        let built = if args.arguments.is_empty() {
            Built::noted(args, journal, engine, reporter)?
        } else {
            Some(Built::named(args, engine)?)
        };
        let Some(built) = built else { return Ok(None) };
        if built.strategy.is_buildkit() && built.arguments.reads_stdin() {
            reporter.info(
                "save: nothing to save: the build came from standard input, which can't be read \
                 again",
            );
            return Ok(None);
        }
        Ok(Some(Self::Build(built)))
    }
}

impl Built {
    /// The build whose arguments are given.
    fn named(args: &SaveArgs, engine: &Engine) -> Result<Self, Failure> {
        let arguments = BuildArguments::parse(args.arguments.iter().cloned());
        let strategy = choose(&arguments, args.engine.strategy, engine)?;
        Ok(Self { arguments, strategy, steps: Vec::new(), images: None })
    }

    /// The last build that the journal knows of.
    fn noted(
        args: &SaveArgs,
        journal: &Journal,
        engine: &Engine,
        reporter: Reporter,
    ) -> Result<Option<Self>, Failure> {
        let Some(build) = &journal.build else {
            reporter.info(format!(
                "save: nothing to save: no `dockercache build` was run with `{}` on this machine; \
                 to save a plain `docker build`, give its arguments: dockercache save -t app .",
                args.directory.dir.display()
            ));
            return Ok(None);
        };
        if build.engine != engine.facts.id {
            reporter.info("save: nothing to save: the last build was made on another engine");
            return Ok(None);
        }
        std::env::set_current_dir(&build.directory).map_err(|e| {
            Failure::usage(format!("the build's directory `{}`: {e}", build.directory.display()))
        })?;
        let arguments = build.arguments.clone();
        let strategy = match build.strategy.parse() {
            Ok(strategy) => strategy,
            Err(_) => choose(&arguments, args.engine.strategy, engine)?,
        };
        // What was saved already is in the archive: only what has changed since then counts.
        let steps = if build.saved { Vec::new() } else { build.steps.clone() };
        let images = Some(build.images.clone()).filter(|images| !images.is_empty());
        Ok(Some(Self { arguments, strategy, steps, images }))
    }
}

impl Recipe {
    /// The recipe that the options name, if they do.
    pub(super) fn asked(args: &SaveArgs) -> Result<Option<Self>, Failure> {
        let recipe = match &args.from_log {
            Some(log) => Self::Logged(read_log(log)?),
            None if !args.image.is_empty() => Self::Named(args.image.clone()),
            None => return Ok(None),
        };
        if !args.arguments.is_empty() {
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

fn choose(
    arguments: &BuildArguments,
    forced: Option<Strategy>,
    engine: &Engine,
) -> Result<Strategy, EngineError> {
    let environment = |name: &str| std::env::var(name).ok();
    strategy::choose(&engine.facts, &engine.client, arguments, &environment, forced)
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
