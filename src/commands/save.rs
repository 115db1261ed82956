//! `save`: takes the cache of a build out of the engine and into the directory.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{offer, store};
use crate::builder::Builder;
use crate::cli::{Format, SaveArgs};
use crate::engine::Engine;
use crate::engine::arguments::BuildArguments;
use crate::engine::build_log::{ClassicStep, LoggedStep, Outcome};
use crate::engine::capture::{Captured, Request, Stage};
use crate::engine::client::Client;
use crate::engine::error::EngineError;
use crate::engine::facts::ImageStore;
use crate::engine::strategy::{self, Strategy};
use crate::engine::{classic, native, replay};
use crate::exit::{Exit, Failure};
use crate::explain::notes;
use crate::layout::archive::{self, About, Archive, FORMAT, StageAbout};
use crate::layout::directory::Layout;
use crate::layout::live;
use crate::project::{Detail, Project};
use crate::report::{Reporter, bytes, output, timestamp};
use crate::store::file;
use crate::store::journal::Journal;

/// The JSON form of the result.
#[derive(Serialize)]
struct Saved<'a> {
    schema: &'static str,
    /// Whether anything was written.
    changed: bool,
    strategy: &'a str,
    /// Stages that were taken from the engine.
    taken: &'a [String],
    /// Stages that were kept as they were.
    kept: &'a [String],
    live_blobs: usize,
    live_bytes: u64,
    dropped_blobs: usize,
    dropped_bytes: u64,
    warnings: &'a [String],
}

/// What is to be saved.
struct Subject {
    arguments: BuildArguments,
    steps: Option<Vec<LoggedStep>>,
    images: Option<Vec<ClassicStep>>,
    strategy: Option<Strategy>,
}

pub(super) fn run(args: &SaveArgs) -> Result<Exit, Failure> {
    let reporter = Reporter::new(args.speech.quiet);
    let codec = args
        .archive
        .as_deref()
        .map(|path| {
            file::codec_of(path).ok_or_else(|| {
                Failure::usage(format!(
                    "`{}` is neither .tar nor .tar.gz nor .tar.zst",
                    path.display()
                ))
            })
        })
        .transpose()?;
    let dir = offer::absolute(&args.directory.dir);
    let archive_path = args.archive.as_deref().map(offer::absolute);
    let log = args.from_log.as_deref().map(read_log).transpose()?;
    let engine = Engine::connect(Client::from_path())?;
    let mut journal = Journal::read(&dir);
    let store = store::open(&args.store, &mut journal)?;
    let recipe = log.is_some() || !args.image.is_empty();
    if recipe && engine.facts.store == ImageStore::Containerd {
        return Err(EngineError::Unsupported(
            "images are no build cache on an engine with the containerd image store: BuildKit \
             builds there, and keeps its cache elsewhere. Use `dockercache build` and `dockercache \
             save`"
                .to_owned(),
        )
        .into());
    }
    let Some(subject) = subject(args, log, &journal, &engine, reporter)? else {
        output_nothing(args);
        return Ok(if args.speech.strict { Exit::Strict } else { Exit::Ok });
    };

    let environment = |name: &str| std::env::var(name).ok();
    let strategy = match subject.strategy {
        Some(strategy) => strategy,
        None if recipe => Strategy::Classic,
        None => strategy::choose(
            &engine.facts,
            &engine.client,
            &subject.arguments,
            &environment,
            args.engine.strategy,
        )?,
    };
    if strategy.is_buildkit() && subject.arguments.reads_stdin() {
        reporter.info(
            "save: nothing to save: the build came from standard input, which can't be read again",
        );
        output_nothing(args);
        return Ok(if args.speech.strict { Exit::Strict } else { Exit::Ok });
    }
    let layout = Layout::at(&dir);
    // What is bad must not be built upon.
    let offer = match offer::make(&layout, &engine, strategy, &mut journal, reporter) {
        Ok(offer) => offer,
        Err(error) => {
            reporter.warn(format!("the old archive is replaced: {error}"));
            offer::nothing()
        }
    };
    let project = if recipe { None } else { project(&subject, strategy, &engine, reporter) };
    let lock = layout.lock()?;
    let captured = capture(
        &Task { engine: &engine, layout: &layout, strategy, reporter },
        &args.image,
        &offer,
        &subject,
        project.as_ref(),
    )
    .map_err(Failure::from)
    .and_then(|mut captured| {
        let mut due = false;
        if let Some(store) = &store {
            store.adapt(&mut captured.archive, &layout)?;
            due = store.is_due(&offer.archive, &journal);
        }
        Ok((commit(&layout, &captured, &offer, due)?, due, captured))
    });
    let (changed, due, captured) = match captured {
        Ok(done) => done,
        Err(failure) => {
            // What was written so far is dead, and the disk may be full of it.
            let _ = live::sweep(&layout);
            return Err(failure);
        }
    };
    for warning in &captured.warnings {
        reporter.warn(warning);
    }
    let pruned = live::sweep(&layout)?;
    drop(lock);

    offer::remember(&layout, &archive::reach(&layout)?, &mut journal);
    if let Some(build) = &mut journal.build {
        build.saved = true;
    }
    let mut well = true;
    if let Some(store) = store.as_ref().filter(|_| changed || due) {
        let subject =
            store::Subject { engine: &engine, strategy, project: project.as_ref(), reporter };
        well = store.push(&subject, &layout, &mut journal);
    }
    if let Err(error) = journal.write() {
        reporter.warn(format!("failed to note that the build is saved: {error}"));
    }
    reporter.info(format!(
        "save: {}: {} stages taken, {} kept; {} blobs, {}; dropped {} blobs, {} ({strategy})",
        if changed { "saved" } else { "nothing has changed" },
        captured.taken.len(),
        captured.kept.len(),
        pruned.live.0,
        bytes(pruned.live.1),
        pruned.dead.0,
        bytes(pruned.dead.1)
    ));
    if let (Some(path), Some(codec)) = (archive_path, codec) {
        if let Some(store) = &store {
            store.fetch_rest(&layout, reporter)?;
        }
        let archive = Archive::read(&layout)?.unwrap_or_default();
        let progress = reporter.progress("writing the file", 0);
        let size = file::save(&layout, &archive, &path, codec, &|n| progress.advance(n))?;
        drop(progress);
        reporter.info(format!("save: {} is in `{}`", bytes(size), path.display()));
    }
    let saved = Saved {
        schema: "dockercache.save.v1",
        changed,
        strategy: strategy.name(),
        taken: &captured.taken,
        kept: &captured.kept,
        live_blobs: pruned.live.0,
        live_bytes: pruned.live.1,
        dropped_blobs: pruned.dead.0,
        dropped_bytes: pruned.dead.1,
        warnings: &captured.warnings,
    };
    print(args.speech.format, &saved);
    let soft_failure = !well || !captured.warnings.is_empty();
    Ok(if args.speech.strict && soft_failure { Exit::Strict } else { Exit::Ok })
}

/// Where captures happen.
struct Task<'a> {
    engine: &'a Engine,
    layout: &'a Layout,
    strategy: Strategy,
    reporter: Reporter,
}

fn capture(
    task: &Task<'_>,
    named_images: &[String],
    offer: &offer::Offer,
    subject: &Subject,
    project: Option<&Project>,
) -> Result<Captured, EngineError> {
    let &Task { engine, layout, strategy, reporter } = task;
    let stages = stages(project, named_images, subject);
    let nothing = Vec::new();
    let request = &Request {
        arguments: &subject.arguments,
        dockerfile: project.map_or(&nothing, |p| &p.named),
        target_stage: project.and_then(|p| p.target_stage.as_deref()),
        ignore_file: project.and_then(|p| p.ignore_file.clone()),
        stages: &stages,
        images: subject.images.as_deref(),
        about: About {
            format: FORMAT,
            engine: engine.facts.server.to_string(),
            strategy: strategy.name().to_owned(),
            platform: engine.facts.platform.clone(),
            created: timestamp(),
            stages: Vec::new(),
        },
        offer: &offer.cache_from,
    };
    if !named_images.is_empty() {
        return classic::capture_named(
            engine,
            layout,
            &offer.archive,
            named_images,
            request,
            reporter,
        );
    }
    match strategy {
        Strategy::Classic => classic::capture(engine, layout, &offer.archive, request, reporter),
        Strategy::BuildkitReplay => {
            replay::capture(engine, layout, &offer.archive, request, reporter)
        }
        Strategy::BuildkitLocal if is_unchanged(&stages, offer, subject) => {
            let mut archive = offer.archive.clone();
            if let Some(about) = &mut archive.about {
                // Their names may be new.
                about.stages = stages.iter().map(|s| s.about.clone()).collect();
            }
            let kept = stages.iter().map(|s| s.about.name.clone()).collect();
            Ok(Captured { archive, taken: Vec::new(), kept, warnings: Vec::new() })
        }
        Strategy::BuildkitLocal => native::capture(engine, layout, request, reporter),
    }
}

/// Whether the builder took every step from the very cache that is in the archive.
fn is_unchanged(stages: &[Stage], offer: &offer::Offer, subject: &Subject) -> bool {
    let Some(about) = offer.archive.about.as_ref().filter(|_| offer.miss.is_none()) else {
        return false;
    };
    let seen = subject.steps.as_ref().is_some_and(|steps| !steps.is_empty());
    seen && about.strategy == Strategy::BuildkitLocal.name()
        && !stages.is_empty()
        && stages.len() == about.stages.len()
        && stages.iter().all(|stage| {
            !stage.executed
                && !stage.about.digest.is_empty()
                && about.stages.iter().any(|s| s.digest == stage.about.digest)
        })
}

/// Swaps `index.json`, if anything is different from before, or if it shall have a new time.
fn commit(
    layout: &Layout,
    captured: &Captured,
    offer: &offer::Offer,
    renew: bool,
) -> Result<bool, Failure> {
    let mut new = captured.archive.clone();
    if let (Some(new), Some(old)) = (&mut new.about, &offer.archive.about) {
        let created = std::mem::replace(&mut new.created, old.created.clone());
        if new != old {
            new.created = created;
        }
    }
    let changed = layout.index().ok().flatten().as_ref() != Some(&new.to_index());
    if !changed && !renew {
        return Ok(false);
    }
    if let (Some(new), Some(about)) = (&mut new.about, &captured.archive.about) {
        new.created.clone_from(&about.created);
    }
    layout.commit(&new.to_index())?;
    Ok(changed)
}

/// What the user wants saved; `None` if there is nothing.
fn subject(
    args: &SaveArgs,
    log: Option<Vec<ClassicStep>>,
    journal: &Journal,
    engine: &Engine,
    reporter: Reporter,
) -> Result<Option<Subject>, Failure> {
    if log.is_some() || !args.image.is_empty() {
        if !args.arguments.is_empty() {
            return Err(Failure::usage("--image and --from-log take no build arguments"));
        }
        let (arguments, steps, strategy) = (BuildArguments::default(), None, None);
        return Ok(Some(Subject { arguments, steps, images: log, strategy }));
    }
    if !args.arguments.is_empty() {
        let arguments = BuildArguments::parse(args.arguments.iter().cloned());
        return Ok(Some(Subject { arguments, steps: None, images: None, strategy: None }));
    }
    let Some(build) = &journal.build else {
        reporter.info(format!(
            "save: nothing to save: no `dockercache build` was run with `{}` on this machine; to \
             save a plain `docker build`, give its arguments: dockercache save -t app .",
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
    // What was saved already is in the archive: only what has changed since then counts.
    let fresh = !build.saved;
    Ok(Some(Subject {
        arguments: build.arguments.clone(),
        steps: fresh.then(|| build.steps.clone()).filter(|s| !s.is_empty()),
        images: Some(build.images.clone()).filter(|i| !i.is_empty()),
        strategy: build.strategy.parse().ok(),
    }))
}

/// Reads the project; without it, only the target itself can be saved.
fn project(
    subject: &Subject,
    strategy: Strategy,
    engine: &Engine,
    reporter: Reporter,
) -> Option<Project> {
    match Project::read(&subject.arguments, &Builder::of(engine, strategy), Detail::Files) {
        Ok(project) => Some(project),
        Err(error) => {
            reporter.warn(format!("only the built stage is saved, not the others: {error}"));
            None
        }
    }
}

/// The stages to save. Without the project, they are what the user or the log names.
fn stages(project: Option<&Project>, named_images: &[String], subject: &Subject) -> Vec<Stage> {
    let target = subject.arguments.value("target").map(|t| t.to_string_lossy().into_owned());
    let Some(project) = project else {
        let names = if !named_images.is_empty() {
            named_images.to_vec()
        } else if let Some(steps) = &subject.images {
            classic::stages_in_log(steps)
        } else {
            vec!["target".to_owned()]
        };
        let stage = |(index, name)| Stage {
            index,
            target: target.clone(),
            about: StageAbout {
                name,
                digest: String::new(),
                image: None,
                steps: Vec::new(),
                base: None,
            },
            executed: true,
            has_layers: true,
        };
        return names.into_iter().enumerate().map(stage).collect();
    };
    let executed = |name: &str| {
        subject.steps.iter().flatten().any(|step| {
            !step.is_from()
                && step.outcome == Outcome::Executed
                && (step.stage.is_empty() || step.stage.eq_ignore_ascii_case(name))
        })
    };
    notes(project)
        .into_iter()
        .zip(&project.stages)
        .map(|(about, stage)| Stage {
            index: stage.index,
            target: project.targets.get(stage.index).cloned().flatten(),
            executed: executed(&about.name),
            has_layers: stage.steps.iter().any(|step| step.is_layer),
            about,
        })
        .collect()
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

fn output_nothing(args: &SaveArgs) {
    print(
        args.speech.format,
        &Saved {
            schema: "dockercache.save.v1",
            changed: false,
            strategy: "none",
            taken: &[],
            kept: &[],
            live_blobs: 0,
            live_bytes: 0,
            dropped_blobs: 0,
            dropped_bytes: 0,
            warnings: &[],
        },
    );
}

fn print(format: Format, saved: &Saved<'_>) {
    match format {
        Format::Text => {}
        Format::Json => output::json(saved),
        Format::Env | Format::Github => {
            let env = format == Format::Env;
            output::pair(env, "saved", if saved.changed { "true" } else { "false" });
            output::pair(env, "bytes", &saved.live_bytes.to_string());
            output::pair(env, "strategy", saved.strategy);
        }
    }
}
