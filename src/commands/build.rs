//! `build`: the user's own build, with the cache. Whatever is wrong with the cache, it runs.

use std::ffi::OsString;

use super::exit::{Exit, Failure};
use crate::build::arguments::BuildArguments;
use crate::build::build_log::Outcome;
use crate::cli::BuildArgs;
use crate::engine::client::Client;
use crate::engine::client::run::{self, Finished};
use crate::job::attempts::{self, With};
use crate::job::deadline::Deadline;
use crate::job::environment;
use crate::job::input::StandardInput;
use crate::job::journal::Journal;
use crate::job::prepared::{Preparation, Trouble};
use crate::job::users_build::UsersBuild;
use crate::predict::explain::Explanation;
use crate::report::Reporter;
use crate::settings;

/// The words of a build, and whether they are those of `docker buildx build`.
pub(super) struct Words<'a> {
    pub(super) words: &'a [OsString],
    pub(super) of_buildx: bool,
}

pub(super) fn run(args: &BuildArgs) -> Result<Exit, Failure> {
    build(&Words { words: &args.arguments, of_buildx: false })
}

/// Builds as the user's own command would.
pub(super) fn build(words: &Words<'_>) -> Result<Exit, Failure> {
    let reporter = Reporter::new(false);
    let deadline = Deadline::of_environment(reporter);
    let mut arguments = BuildArguments::of_user(words.words.iter().cloned(), environment);
    if words.of_buildx {
        arguments = arguments.of_buildx();
    }
    let dir = settings::directory();
    let noted = Journal::open(&dir).and_then(|journal| Ok((journal.begin()?, journal)));
    let (draft, journal) = match noted {
        Ok((draft, journal)) => (Some(draft), Some(journal)),
        Err(error) => {
            reporter.warn(format!("the build will not be saved: {error}"));
            (None, None)
        }
    };
    let client = Client::from_path();
    // Whoever writes it may take any time.
    let mut input = StandardInput::keep(arguments.reads_stdin(), draft.as_ref(), reporter);
    if let (Some(path), true) = (input.path(), arguments.value("file").is_some_and(|f| f == "-")) {
        // The same Dockerfile, where it can be read as often as it takes.
        arguments = arguments.with("file", path);
    }
    let preparation = Preparation {
        arguments,
        dir,
        journal: journal.clone(),
        captures: draft.as_ref().map(|draft| draft.name().to_owned()),
    };
    let prepared = deadline.before(reporter, {
        let client = client.clone();
        move |reporter| preparation.run(&client, reporter)
    });
    let mut prepared = match prepared {
        Ok(Ok(prepared)) => prepared,
        Ok(Err(Trouble::Engine(error))) => return Err(error.into()),
        Ok(Err(Trouble::Cache(error))) => {
            return uncached(&client, words, &mut input, &error.to_string(), reporter);
        }
        Err(late) => return uncached(&client, words, &mut input, &late.to_string(), reporter),
    };

    let cache_from = prepared.offer.cache_from.clone();
    let build = UsersBuild {
        engine: &prepared.engine,
        choice: &prepared.choice,
        arguments: &prepared.arguments,
        draft: draft.as_ref(),
    };
    let state = &mut prepared.state;
    let finished =
        attempts::run(!cache_from.is_empty(), &mut input, state, reporter, &mut |with, input| {
            build.run(if with == With::Cache { &cache_from } else { &[] }, input)
        })?;
    summarise(&finished, prepared.explanation.as_ref(), reporter);
    let status = finished.status;
    let kept = deadline.after(reporter, move |reporter| {
        prepared.keep(&finished, draft, journal.as_ref(), input.file(), reporter);
    });
    if let Err(late) = kept {
        reporter.warn(format!("the build is not saved: {late}"));
    }
    Ok(Exit::of(status))
}

/// Runs the build as it is, after saying why it has no cache.
fn uncached(
    client: &Client,
    words: &Words<'_>,
    input: &mut StandardInput,
    why: &str,
    reporter: Reporter,
) -> Result<Exit, Failure> {
    reporter.warn(format!("the build runs without cache: {why}"));
    let verb: &[&str] = if words.of_buildx { &["buildx", "build"] } else { &["build"] };
    let mut command = client.command(verb);
    command.args(words.words);
    Ok(Exit::of(run::plain(client, command, input.next())?))
}

fn summarise(finished: &Finished, explanation: Option<&Explanation>, reporter: Reporter) {
    // Some forms of progress say nothing that can be counted.
    if finished.steps.is_empty() {
        return;
    }
    let count =
        |outcome| finished.steps.iter().filter(|s| !s.is_from() && s.outcome == outcome).count();
    let (cached, executed) = (count(Outcome::Cached), count(Outcome::Executed));
    let end = if finished.status.success() { "" } else { ", then it failed" };
    reporter.info(format!("build: {cached} steps cached, {executed} executed{end}"));
    for line in explanation.iter().flat_map(|explanation| explanation.summary()) {
        reporter.info(line);
    }
    if executed > 0 && explanation.is_some_and(|explanation| explanation.first_miss().is_none()) {
        reporter.info("explain: the builder ran steps all the same: a base image may have moved");
    }
}
