//! `restore`: makes the archive ready for the build to come.

use serde::Serialize;

use super::exit::{Exit, Failure};
use super::{builds, forced};
use crate::archive::Archive;
use crate::archive::file;
use crate::build::arguments::BuildArguments;
use crate::builder::Strategy;
use crate::cli::{Format, RestoreArgs};
use crate::engine::Engine;
use crate::engine::client::Client;
use crate::engine::error::EngineError;
use crate::engine::strategy::{self, Choice};
use crate::job::capture;
use crate::job::environment;
use crate::job::journal::{Draft, Journal};
use crate::job::offer::{self, Offer};
use crate::job::prime::{Coming, prime};
use crate::job::{locked, packs, store};
use crate::oci::directory::Layout;
use crate::predict::explain::explain;
use crate::report::Reporter;
use crate::report::output;

/// The JSON form of the result.
#[derive(Serialize)]
struct Restored<'a> {
    schema: &'static str,
    hit: bool,
    strategy: &'a str,
    /// Why it is a miss.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    /// Flags for a plain build.
    flags: &'a [String],
    stages: Vec<&'a str>,
    blobs: usize,
    bytes: u64,
    damaged_blobs: usize,
}

pub(super) fn run(args: &RestoreArgs) -> Result<Exit, Failure> {
    let reporter = Reporter::new(args.speech.quiet);
    let forced = forced(&args.engine)?;
    let dir = &args.directory.dir;
    let layout = Layout::at(dir);
    if let Some(path) = &args.archive {
        let progress = reporter.progress("unpacking", 0);
        file::restore(&locked(&layout, reporter)?, path, &|n| progress.advance(n))?;
    }
    let journal = Journal::open(dir);
    if let Err(error) = &journal {
        reporter.warn(format!("the job's builds will not be saved: {error}"));
    }
    // A job starts here: what an earlier one built on this machine is not its business.
    journal.iter().for_each(Journal::begin_job);
    let mut state = journal.as_ref().map(Journal::state).unwrap_or_default();
    state.away = None;
    state.unverified = false;
    packs::take(&layout, &mut state, reporter);
    let store = store::open(args.store.store.as_deref(), args.store.read_only, &mut state)?;
    let engine = strategy::connect_to_choose(&Client::from_path(), &environment)?;
    if let Ok(journal) = &journal {
        capture::clean(journal, Some(&engine), &layout);
    }
    let draft = journal.as_ref().ok().and_then(|journal| journal.begin_scratch().ok());
    let scratch = draft.as_ref().map(Draft::scratch);
    let named = builds::named(&args.builds, &engine.client, scratch, reporter)?;
    let builds = &named.builds;
    let first = builds.first().cloned().unwrap_or_default();
    let Choice { strategy, builder } = chosen(&engine, &first, forced, &layout)?;
    let projects = named.projects(&engine.builder(strategy), reporter);
    let mut well = true;
    if let Some(store) = store {
        let task = store::Task { engine: &engine, strategy, layout: &layout, reporter };
        well = store.fetch(&task, &projects, &mut state);
    }
    let mut offer = offer::make(&layout, &engine, strategy, &mut state, reporter)?;
    packs::settle(&layout, &mut state);
    let from: Vec<_> = projects.iter().flat_map(|p| p.from.clone()).collect();
    let from = Some(&*from).filter(|_| !projects.is_empty());
    let pull = builds.iter().any(|build| build.switch("pull"));
    offer.make_ready(&engine, strategy, &layout, from, pull, reporter)?;
    if let Some(scratch) = scratch.filter(|_| builds.len() > 1)
        && projects.len() == builds.len()
        && strategy.is_buildkit()
    {
        let coming = builds.iter().zip(&projects);
        let coming: Vec<Coming<'_>> =
            coming.map(|(arguments, project)| Coming { arguments, project }).collect();
        prime(&engine, builder.as_deref(), &offer, &coming, scratch, reporter)?;
    }
    if let Err(error) = state.write() {
        reporter.warn(format!("the build will verify again: failed to note the result: {error}"));
    }
    reporter.info(format!("restore: {}", offer::summary(&offer)));
    if let Some(about) = offer.archive.about.as_ref().filter(|_| offer.miss.is_none()) {
        for (build, project) in builds.iter().zip(&projects) {
            let explanation = explain(about, build.image_name().as_deref(), project);
            explanation.summary().into_iter().for_each(|line| reporter.info(line));
        }
    }
    if args.speech.format == Format::Text && offer.cache_from.iter().any(|f| f.contains(' ')) {
        reporter.info(
            "restore: the flags have blanks in them, on which `$(dockercache restore)` breaks: \
             `dockercache build` adds them by itself",
        );
    }
    print(args, &offer, strategy);
    let soft_failure = !well || offer.miss.is_some() || offer.bad > 0;
    Ok(if args.speech.strict && soft_failure { Exit::Strict } else { Exit::Ok })
}

/// How the build to come is made: as `docker build` would do it, unless the job is known to use `docker
/// buildx build` by its archive.
fn chosen(
    engine: &Engine,
    build: &BuildArguments,
    forced: Option<Strategy>,
    layout: &Layout,
) -> Result<Choice, EngineError> {
    let own = strategy::choose(engine, build, &environment, forced)?;
    if own.strategy.is_buildkit() {
        return Ok(own);
    }
    let about = Archive::read(layout).ok().flatten().and_then(|archive| archive.about);
    let is_archives = |choice: &Choice| {
        about.as_ref().is_some_and(|about| about.strategy == choice.strategy.name())
    };
    let possible = strategy::possible(engine, build, &environment, forced)?;
    Ok(possible.into_iter().find(is_archives).unwrap_or(own))
}

fn print(args: &RestoreArgs, offer: &Offer, strategy: Strategy) {
    let flags: Vec<String> =
        offer.cache_from.iter().map(|value| format!("--cache-from={value}")).collect();
    let about = offer.archive.about.as_ref();
    match args.speech.format {
        Format::Text if flags.is_empty() => {}
        Format::Text => output::line(&flags.join(" ")),
        Format::Json => output::json(&Restored {
            schema: "dockercache.restore.v1",
            hit: offer.miss.is_none(),
            strategy: strategy.name(),
            reason: offer.miss.as_deref(),
            flags: &flags,
            stages: about
                .map_or_else(Vec::new, |a| a.stages.iter().map(|s| s.name.as_str()).collect()),
            blobs: offer.live.0,
            bytes: offer.live.1,
            damaged_blobs: offer.bad,
        }),
        Format::Env | Format::Github => {
            let env = args.speech.format == Format::Env;
            output::pair(env, "hit", if offer.miss.is_none() { "true" } else { "false" });
            output::pair(env, "flags", &flags.join(" "));
            output::pair(env, "strategy", strategy.name());
        }
    }
}
