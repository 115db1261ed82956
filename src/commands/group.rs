//! `buildx` and `compose`: commands of the user's own that build several images, with the cache.
//! Whatever is wrong with the cache, they run.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::build::{self, Words};
use super::builds::Named;
use super::environment;
use super::exit::{Exit, Failure};
use crate::build::arguments::BuildArguments;
use crate::build::bake::Planner;
use crate::build::build_log::{LoggedStep, Outcome};
use crate::cli::BuildArgs;
use crate::engine::Engine;
use crate::engine::client::Client;
use crate::engine::client::process;
use crate::engine::client::run::{self, Echo, Input};
use crate::engine::client::targets::targets;
use crate::engine::error::EngineError;
use crate::engine::strategy::{self, Choice};
use crate::job::attempts::{self, With};
use crate::job::capture::{self, Built};
use crate::job::deadline::Deadline;
use crate::job::input::StandardInput;
use crate::job::journal::{Journal, State};
use crate::job::offer::{self, Offer};
use crate::job::prime::{Coming, prime};
use crate::job::{store, variable};
use crate::oci::directory::Layout;
use crate::predict::project::{Detail, Project};
use crate::report::Reporter;

/// Flags of `docker compose` before its command that take a value in the next word.
const COMPOSE_VALUES: &[&str] = &[
    "--ansi",
    "--env-file",
    "--file",
    "--parallel",
    "--profile",
    "--progress",
    "--project-directory",
    "--project-name",
    "-f",
    "-p",
];

pub(super) fn buildx(args: &BuildArgs) -> Result<Exit, Failure> {
    let words = args.arguments.as_slice();
    match words.split_first() {
        Some((first, rest)) if first == "build" || first == "b" => {
            build::build(&Words { words: rest, of_buildx: true })
        }
        Some((first, rest)) if first == "bake" || first == "f" => {
            let own = [&["buildx".into(), "bake".into()], rest].concat();
            run(Planner::Bake, rest, &own)
        }
        _ => Err(Failure::usage("expected `buildx build` or `buildx bake`")),
    }
}

pub(super) fn compose(args: &BuildArgs) -> Result<Exit, Failure> {
    let words = args.arguments.as_slice();
    let own = [&["compose".into()], words].concat();
    match building(words) {
        Some(planned) => run(Planner::Compose, &planned, &own),
        None => as_it_is(&Client::from_path(), &own, Input::Inherited),
    }
}

/// The words of `docker compose build` that build what these words of `docker compose` build.
fn building(words: &[OsString]) -> Option<Vec<OsString>> {
    let mut at = 0;
    while words.get(at)?.as_encoded_bytes().starts_with(b"-") {
        at += if COMPOSE_VALUES.iter().any(|flag| words[at] == *flag) { 2 } else { 1 };
    }
    let (global, rest) = (&words[..at], &words[at + 1..]);
    if words[at] == "build" {
        return Some(words.to_vec());
    }
    let builds = words[at] == "up" && rest.iter().any(|word| word == "--build");
    let services = || rest.iter().filter(|word| !word.as_encoded_bytes().starts_with(b"-"));
    builds.then(|| {
        let command = ["build", "--with-dependencies"].map(OsString::from);
        global.iter().cloned().chain(command).chain(services().cloned()).collect()
    })
}

/// Runs `own`, which builds what the planner makes of `words`, with the cache.
fn run(planner: Planner, words: &[OsString], own: &[OsString]) -> Result<Exit, Failure> {
    let reporter = Reporter::new(false);
    let deadline = Deadline::of_environment(reporter);
    let client = Client::from_path();
    let uncached = |why: &str, input: Input| {
        reporter.warn(format!("the build runs without cache: {why}"));
        as_it_is(&client, own, input)
    };
    let begun = Journal::open(&build::directory());
    let begun = begun.and_then(|journal| Ok((journal.begin_scratch()?, journal)));
    let (scratch, journal) = match begun {
        Ok(begun) => begun,
        Err(error) => return uncached(&error.to_string(), Input::Inherited),
    };
    let mut input = StandardInput::keep(reads_stdin(words), Some(&scratch), reporter);
    if !input.is_repeatable() {
        return uncached("its input can't be kept", input.next());
    }
    let prepared = deadline.before(reporter, {
        let (client, words, scratch) =
            (client.clone(), words.to_vec(), scratch.scratch().to_path_buf());
        let input = input.path().cloned();
        move |reporter| Group::prepare(&client, planner, &words, journal, &scratch, input, reporter)
    });
    let prepared = prepared.map_err(|late| late.to_string());
    let mut group = match prepared.and_then(|group| group.map_err(|failure| failure.message)) {
        Ok(group) => group,
        Err(why) => return uncached(&why, input.next()),
    };
    // What draws on a terminal can't be read.
    let echo = match variable("BUILDKIT_PROGRESS").as_deref() {
        Some("tty") => Echo::Terminal,
        _ => Echo::Shown,
    };
    let is_offered = !group.offer.cache_from.is_empty();
    let builder = group.choice.builder.clone();
    // With or without the cache the command is the same: what the archive has was brought into the
    // builder before, and what the builder could not read of it, it has dropped.
    let mut attempt = |_: With, input: Input| {
        let mut command = client.command(own);
        command.envs(builder.iter().map(|builder| ("BUILDX_BUILDER", builder)));
        run::own_command(&client, command, echo, input)
    };
    let finished = attempts::run(is_offered, &mut input, &mut group.state, reporter, &mut attempt)?;
    let status = finished.status;
    if !process::is_told_to_end() {
        let kept = deadline.after(reporter, move |reporter| {
            if let Err(error) = group.state.write() {
                reporter.warn(format!(
                    "the next command verifies the archive again: failed to write: {error}"
                ));
            }
            group.capture(&finished.steps, finished.status.success(), reporter);
        });
        if let Err(late) = kept {
            reporter.warn(format!("not all builds are saved: {late}"));
        }
    }
    Ok(build::exit_of(status))
}

fn as_it_is(client: &Client, own: &[OsString], input: Input) -> Result<Exit, Failure> {
    Ok(build::exit_of(run::plain(client, client.command(own), input)?))
}

/// Whether bake or compose reads one of its files from standard input.
fn reads_stdin(words: &[OsString]) -> bool {
    let is_stdin =
        |word: &OsString| ["-", "-f-", "-f=-", "--file=-"].iter().any(|stdin| word == stdin);
    words.iter().any(is_stdin)
}

/// Several builds, and all that is known of them before they run.
struct Group {
    engine: Engine,
    choice: Choice,
    journal: Journal,
    state: State,
    layout: Layout,
    offer: Offer,
    named: Named,
    /// The projects of the builds; none for one that can't be read.
    projects: Vec<Option<Project>>,
    builder_cache: Option<std::collections::BTreeSet<String>>,
}

impl Group {
    fn prepare(
        client: &Client,
        planner: Planner,
        words: &[OsString],
        journal: Journal,
        scratch: &Path,
        input: Option<PathBuf>,
        reporter: Reporter,
    ) -> Result<Self, Failure> {
        let layout = Layout::at(&build::directory());
        let mut state = journal.state();
        let store = store::of_environment(&mut state)?;
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
    fn capture(&self, steps: &[LoggedStep], succeeded: bool, reporter: Reporter) {
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
                compression: variable("DOCKERCACHE_COMPRESSION").and_then(|text| text.parse().ok()),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn built(words: &[&str]) -> Option<Vec<String>> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let text = |word: &OsString| word.to_string_lossy().into_owned();
        building(&words).map(|words| words.iter().map(text).collect())
    }

    #[test]
    fn what_compose_builds_is_told_from_what_it_only_runs() {
        assert_eq!(built(&["build", "app"]).unwrap(), ["build", "app"]);
        let with_file = ["-f", "up.yml", "--profile=x", "build"];
        assert_eq!(built(&with_file).unwrap(), with_file);
        assert_eq!(
            built(&["-p", "x", "up", "-d", "--build", "app"]).unwrap(),
            ["-p", "x", "build", "--with-dependencies", "app"]
        );
        for other in [&["up", "-d"][..], &["logs", "build"], &["--help"], &[]] {
            assert_eq!(built(other), None, "{other:?}");
        }
    }
}
