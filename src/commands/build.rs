//! `build`: the user's own build, with the cache. Whatever is wrong with the cache, it runs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use super::{connect_to_choose, environment, offer, store, variable};
use crate::builder::Builder;
use crate::cli::BuildArgs;
use crate::context::BuildContext;
use crate::engine::Engine;
use crate::engine::arguments::{BuildArguments, ContextSource};
use crate::engine::build_log::Outcome;
use crate::engine::client::Client;
use crate::engine::error::EngineError;
use crate::engine::ready;
use crate::engine::run::{self, Echo, Finished};
use crate::engine::strategy::{self, Strategy};
use crate::exit::{Exit, Failure};
use crate::explain::{Explanation, explain};
use crate::layout::archive::About;
use crate::layout::directory::Layout;
use crate::project::{Detail, Project};
use crate::report::Reporter;
use crate::store::journal::{Journal, NotedBuild};

pub(super) fn run(args: &BuildArgs) -> Result<Exit, Failure> {
    let reporter = Reporter::new(false);
    let arguments = BuildArguments::of_user(args.arguments.iter().cloned(), environment);
    let dir = directory();
    let mut journal = Journal::read(&dir);
    let store = store::open(&store::from_environment(), &mut journal).unwrap_or_else(|failure| {
        reporter.warn(format!("the store is left out: {}", failure.message));
        None
    });
    let client = Client::from_path();
    let engine = match connect_to_choose(client.clone()) {
        Ok(engine) => engine,
        // Without an engine there is no build either.
        Err(error @ (EngineError::NoClient { .. } | EngineError::Unreachable(_)))
            if arguments.value("builder").is_none() && variable("BUILDX_BUILDER").is_none() =>
        {
            return Err(error.into());
        }
        Err(error) => return uncached(&client, &args.arguments, &error, reporter),
    };
    let forced = variable("DOCKERCACHE_STRATEGY").and_then(|name| {
        let parsed = name.parse().map_err(|why| format!("DOCKERCACHE_STRATEGY is left out: {why}"));
        parsed.inspect_err(|why| reporter.warn(why)).ok()
    });
    let chosen = strategy::choose(&engine.facts, &client, &arguments, &environment, forced);
    let strategy = match chosen {
        Ok(strategy) => strategy,
        Err(error) => return uncached(&client, &args.arguments, &error, reporter),
    };

    let layout = Layout::at(&dir);
    warn_of_cache_in_context(&arguments, &dir, reporter);
    // Before the build: it may take long, and files may change meanwhile.
    let project = || {
        let builder = Builder::of(&engine, strategy);
        Project::read(&arguments, &builder, Detail::Files).ok()
    };
    let project = if store.is_some() || layout.has_index() { project() } else { None };
    if let Some(store) = store {
        let task = store::Task { engine: &engine, strategy, layout: &layout, reporter };
        store.fetch(&task, project.as_slice(), &mut journal);
    }
    let (cache_from, archive) = offered(&layout, &engine, strategy, &mut journal, reporter);
    let explanation = archive
        .zip(project)
        .map(|(about, project)| explain(&about, arguments.image_name().as_deref(), &project));
    let mut finished = build(&engine, strategy, &arguments, &cache_from)?;
    if !cache_from.is_empty() && finished.failed_in_cache() {
        reporter.warn("the build failed while it read the cache; it runs again without");
        // Whatever the store was thought to hold: what is saved next must not count on it.
        journal.remote = None;
        finished = build(&engine, strategy, &arguments, &[])?;
    }
    summarise(&finished, strategy, reporter);
    for line in explanation.iter().flat_map(Explanation::summary) {
        reporter.info(line);
    }
    if finished.status.success() {
        journal.note(NotedBuild {
            arguments,
            directory: std::env::current_dir().unwrap_or_default(),
            engine: engine.facts.id.clone(),
            strategy: strategy.name().to_owned(),
            steps: finished.steps,
            images: finished.images,
            saved: false,
        });
    }
    if let Err(error) = journal.write() {
        reporter
            .warn(format!("`save` will need the build's arguments: failed to note them: {error}"));
    }
    Ok(exit_of(finished.status))
}

/// `build` has no options of its own, so the directory comes from the environment alone.
fn directory() -> PathBuf {
    std::env::var_os("DOCKERCACHE_DIR")
        .filter(|dir| !dir.is_empty())
        .map_or_else(|| PathBuf::from("/tmp/dockercache"), PathBuf::from)
}

/// What `--cache-from` may name, and what the archive is of. No trouble with the cache gets any
/// further than a warning.
fn offered(
    layout: &Layout,
    engine: &Engine,
    strategy: Strategy,
    journal: &mut Journal,
    reporter: Reporter,
) -> (Vec<String>, Option<About>) {
    let without = |error: String| {
        reporter.warn(format!("the build runs without cache: {error}"));
        (Vec::new(), None)
    };
    let offer = match offer::make(layout, engine, strategy, journal, reporter) {
        Ok(offer) => offer,
        Err(error) => return without(error.to_string()),
    };
    reporter.info(format!("build: {}", offer::summary(&offer, strategy)));
    if offer.miss.is_none() {
        let loaded = ready::load_missing(engine, strategy, layout, &offer.archive, reporter);
        if let Err(error) = loaded {
            return without(error.to_string());
        }
    }
    let about = offer.archive.about.filter(|_| offer.miss.is_none());
    (offer.cache_from, about)
}

fn build(
    engine: &Engine,
    strategy: Strategy,
    arguments: &BuildArguments,
    cache_from: &[String],
) -> Result<Finished, EngineError> {
    let mut words: Vec<OsString> =
        cache_from.iter().map(|value| format!("--cache-from={value}").into()).collect();
    words.extend(arguments.all());
    if !strategy.is_buildkit() {
        return run::classic(&engine.client, &words, Echo::Shown);
    }
    let chosen = variable("BUILDKIT_PROGRESS").is_some();
    // The client refuses a form of progress together with `--quiet`.
    if arguments.value("progress").is_none() && !chosen && !arguments.switch("quiet") {
        // The form that we can read; in a CI log it is the default anyway.
        words.insert(0, "--progress=plain".into());
    }
    run::buildkit(engine, &words, arguments.value("builder").is_some(), Echo::Shown)
}

/// Runs the build as it is, after saying why it has no cache.
fn uncached(
    client: &Client,
    words: &[OsString],
    why: &EngineError,
    reporter: Reporter,
) -> Result<Exit, Failure> {
    reporter.warn(format!("the build runs without cache: {why}"));
    Ok(exit_of(run::plain(client, words)?))
}

fn summarise(finished: &Finished, strategy: Strategy, reporter: Reporter) {
    let count =
        |outcome| finished.steps.iter().filter(|s| !s.is_from() && s.outcome == outcome).count();
    if finished.steps.is_empty() {
        // Some forms of progress say nothing that can be counted.
        return;
    }
    reporter.info(format!(
        "build: {} steps cached, {} executed ({strategy})",
        count(Outcome::Cached),
        count(Outcome::Executed)
    ));
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

fn exit_of(status: ExitStatus) -> Exit {
    use std::os::unix::process::ExitStatusExt as _;
    let code = status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(1);
    Exit::Build(u8::try_from(code).unwrap_or(1))
}
