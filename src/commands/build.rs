//! `build`: the user's own build, with the cache. Whatever is wrong with the cache, it runs.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use super::{connect_to_choose, environment};
use crate::build::arguments::{BuildArguments, ContextSource};
use crate::build::build_log::Outcome;
use crate::cli::BuildArgs;
use crate::context::BuildContext;
use crate::dockerfile::Image;
use crate::engine::Engine;
use crate::engine::client::Client;
use crate::engine::client::process;
use crate::engine::client::run::{self, Echo, Finished, Input};
use crate::engine::error::EngineError;
use crate::engine::strategy::{self, Choice, Strategy};
use crate::exit::{Exit, Failure};
use crate::job::capture::{self, Built};
use crate::job::deadline::Deadline;
use crate::job::journal::{Draft, Journal, State};
use crate::job::offer::{self, Offer};
use crate::job::{store, variable};
use crate::mounts::carry::{Carrier, NotedMount};
use crate::mounts::policy::Settings;
use crate::oci::directory::Layout;
use crate::predict::builder::Builder;
use crate::predict::explain::{Explanation, explain};
use crate::predict::project::{Detail, Project};
use crate::report::{Reporter, output};

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
    let dir = directory();
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
    let mut input = StandardInput::of(&arguments, draft.as_ref(), reporter);
    let kept = input.path.as_ref().filter(|_| arguments.value("file").is_some_and(|f| f == "-"));
    let to_read = match kept {
        // The same Dockerfile, where it can be read as often as it takes.
        Some(path) => arguments.with("file", path),
        None => arguments,
    };
    let preparation = Preparation {
        arguments: to_read,
        dir,
        journal: journal.clone(),
        captures: draft.as_ref().map(|draft| draft.name().to_owned()),
    };
    let prepared = deadline.before(reporter, {
        let client = client.clone();
        move |reporter| preparation.run(client, reporter)
    });
    let mut prepared = match prepared {
        Ok(Ok(prepared)) => prepared,
        Ok(Err(Trouble::Engine(error))) => return Err(error.into()),
        Ok(Err(Trouble::Cache(error))) => {
            return uncached(&client, words, &mut input, &error.to_string(), reporter);
        }
        Err(late) => return uncached(&client, words, &mut input, &late.to_string(), reporter),
    };

    let offer = &prepared.offer;
    let build = Build {
        engine: &prepared.engine,
        choice: &prepared.choice,
        arguments: &prepared.arguments,
        draft: draft.as_ref(),
    };
    let mut finished = build.run(&offer.cache_from, &mut input)?;
    let can_repeat = !offer.cache_from.is_empty() && input.is_repeatable();
    if can_repeat && finished.failed_by_chance() {
        reporter.warn("the builder got in its own way as it used the cache; it runs again");
        finished = build.run(&offer.cache_from, &mut input)?;
    }
    if can_repeat && finished.failed_in_cache() {
        reporter.warn("the build failed while it read the cache; it runs again without");
        // Whatever the store was thought to hold: what is saved next must not count on it.
        prepared.state.remote = None;
        finished = build.run(&[], &mut input)?;
    }
    summarise(&finished, prepared.explanation.as_ref(), reporter);
    let status = finished.status;
    let kept = deadline.after(reporter, move |reporter| {
        prepared.keep(&finished, draft, journal.as_ref(), input.file.as_ref(), reporter);
    });
    if let Err(late) = kept {
        reporter.warn(format!("the build is not saved: {late}"));
    }
    Ok(exit_of(status))
}

/// What must be known to prepare a build.
struct Preparation {
    /// Those of the build, with a Dockerfile that can be read.
    arguments: BuildArguments,
    dir: PathBuf,
    journal: Option<Journal>,
    /// The name of what it leaves beside the archive; none if it will not be saved.
    captures: Option<String>,
}

/// Why a build is not prepared.
enum Trouble {
    /// Without an engine there is no build either.
    Engine(EngineError),
    /// There is no cache for it.
    Cache(EngineError),
}

/// A build that is about to run.
struct Prepared {
    engine: Engine,
    choice: Choice,
    arguments: BuildArguments,
    layout: Layout,
    state: State,
    project: Option<Project>,
    offer: Offer,
    explanation: Option<Explanation>,
    builder_cache: Option<BTreeSet<String>>,
    settings: Settings,
    /// Its cache mounts; none if they can't be carried.
    mounts: Option<Vec<NotedMount>>,
    /// Where they lie.
    directory: PathBuf,
}

impl Preparation {
    fn run(self, client: Client, reporter: Reporter) -> Result<Prepared, Trouble> {
        let Self { arguments, dir, journal, captures } = self;
        let mut state = journal.as_ref().map(Journal::state).unwrap_or_default();
        let store = store::of_environment(&mut state).unwrap_or_else(|failure| {
            reporter.warn(format!("the store is skipped: {}", failure.message));
            None
        });
        let engine = connect_to_choose(client).map_err(|error| match error {
            EngineError::NoClient { .. } | EngineError::Unreachable(_)
                if arguments.value("builder").is_none()
                    && variable("BUILDX_BUILDER").is_none()
                    && !arguments.is_for_buildx() =>
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
        let builder = Builder::of(&engine, choice.strategy);
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
    fn keep(
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
        if let Err(error) = self.state.write() {
            reporter.warn(format!(
                "the next command verifies the archive again: failed to write: {error}"
            ));
        }
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
            compression: variable("DOCKERCACHE_COMPRESSION").and_then(|text| text.parse().ok()),
            // A build without mounts, or with none to be carried, is known to have none.
            mounts: mounts.or_else(|| self.project.as_ref().map(|_| Vec::new())),
        };
        if let Err(error) = capture::note(journal, draft, &self.layout, &done, reporter) {
            reporter.warn(format!("the build is not saved: {error}"));
        }
    }
}

/// `build` has no options of its own, so the directory comes from the environment alone.
pub(super) fn directory() -> PathBuf {
    std::env::var_os("DOCKERCACHE_DIR")
        .filter(|dir| !dir.is_empty())
        .map_or_else(|| PathBuf::from("/tmp/dockercache"), PathBuf::from)
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

/// What the build reads from standard input, kept so that it can be read again.
struct StandardInput {
    /// Where it is kept.
    path: Option<PathBuf>,
    file: Option<File>,
    /// What could not be kept.
    rest: Option<Box<dyn Read + Send>>,
}

impl StandardInput {
    fn of(arguments: &BuildArguments, draft: Option<&Draft>, reporter: Reporter) -> Self {
        let nothing = Self { path: None, file: None, rest: None };
        let Some(draft) = draft.filter(|_| arguments.reads_stdin()) else { return nothing };
        let path = draft.scratch().join("stdin");
        let Ok(mut file) = File::create_new(&path) else { return nothing };
        let copied = io::copy(&mut io::stdin(), &mut file);
        let Ok(file) = File::open(&path) else { return nothing };
        match copied {
            Ok(_) => Self { path: Some(path), file: Some(file), rest: None },
            Err(error) => {
                reporter.warn(format!(
                    "the build can't be repeated: failed to keep its input: {error}"
                ));
                Self { path: None, file: None, rest: Some(Box::new(file.chain(io::stdin()))) }
            }
        }
    }

    fn is_repeatable(&self) -> bool {
        self.rest.is_none()
    }

    fn next(&mut self) -> Input {
        if let Some(rest) = self.rest.take() {
            return Input::Passed(rest);
        }
        // Opened again: from its start.
        match self.path.as_ref().map(File::open) {
            Some(Ok(file)) => Input::File(file),
            Some(Err(_)) | None => Input::Inherited,
        }
    }
}

/// The user's build.
struct Build<'a> {
    engine: &'a Engine,
    choice: &'a Choice,
    arguments: &'a BuildArguments,
    draft: Option<&'a Draft>,
}

/// What the user wants to see of a build.
#[derive(Clone, Copy, PartialEq, Eq)]
enum View {
    /// Its log, in a form that we can read.
    Log,
    /// Nothing; with `-q`, the image's ID in the end.
    Quiet { prints_id: bool },
    /// What the client draws on a terminal, which nobody else can read.
    Terminal,
}

impl Build<'_> {
    fn run(
        &self,
        cache_from: &[String],
        input: &mut StandardInput,
    ) -> Result<Finished, EngineError> {
        let view = self.view();
        let mut words: Vec<OsString> =
            cache_from.iter().map(|value| format!("--cache-from={value}").into()).collect();
        let mut id_file = None;
        match view {
            View::Quiet { prints_id } => {
                words.extend(self.arguments.without(&["quiet", "progress"]));
                let own = self.arguments.value("iidfile").map(PathBuf::from);
                let ours = self.draft.map(|draft| draft.scratch().join("iid"));
                if let (true, None, Some(ours)) = (prints_id, &own, &ours) {
                    words.insert(0, format!("--iidfile={}", ours.display()).into());
                }
                id_file = own.or(ours).filter(|_| prints_id);
            }
            View::Log | View::Terminal => words.extend(self.arguments.all()),
        }
        let asked =
            self.arguments.value("progress").is_some() || variable("BUILDKIT_PROGRESS").is_some();
        let is_buildkit = self.choice.strategy.is_buildkit();
        if is_buildkit && (matches!(view, View::Quiet { .. }) || view == View::Log && !asked) {
            // The form that we can read; in a CI log it is the default anyway.
            words.insert(0, "--progress=plain".into());
        }
        let echo = match view {
            View::Log => Echo::Shown,
            View::Quiet { .. } => Echo::Muted,
            View::Terminal => Echo::Terminal,
        };
        let client = &self.engine.client;
        let finished = if is_buildkit {
            run::buildkit(client, &words, self.choice.builder.as_deref(), echo, input.next())?
        } else {
            run::classic(client, &words, echo, input.next())?
        };
        if let View::Quiet { .. } = view {
            if finished.status.success() {
                if let Some(file) = id_file {
                    output::line(fs::read_to_string(file).unwrap_or_default().trim());
                }
            } else {
                finished.last_words().iter().for_each(|line| output::complaint(line));
            }
        }
        Ok(finished)
    }

    fn view(&self) -> View {
        let flag = self.arguments.value("progress").map(|p| p.to_string_lossy().into_owned());
        let progress = flag.clone().or_else(|| variable("BUILDKIT_PROGRESS"));
        if self.arguments.switch("quiet") || flag.as_deref() == Some("quiet") {
            // Without a place for the image's ID, the client prints it by itself. And the ID is no
            // result of what an exporter writes to files, which refuse to name it.
            let has_id = self.draft.is_some() && self.arguments.value("output").is_none();
            return if has_id { View::Quiet { prints_id: true } } else { View::Terminal };
        }
        match progress.as_deref() {
            Some("quiet") => View::Quiet { prints_id: false },
            Some("tty") => View::Terminal,
            _ => View::Log,
        }
    }
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
    Ok(exit_of(run::plain(client, command, input.next())?))
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

pub(super) fn exit_of(status: ExitStatus) -> Exit {
    use std::os::unix::process::ExitStatusExt as _;
    let code = status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(1);
    Exit::Build(u8::try_from(code).unwrap_or(1))
}
