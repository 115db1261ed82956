//! `save`: takes the cache of the job's builds into the directory.

mod outcome;
mod subject;

use std::path::{Path, PathBuf};

use super::exit::{Exit, Failure};
use super::forced;
use crate::archive::file;
use crate::archive::{self, Archive};
use crate::builder::Strategy;
use crate::cli::SaveArgs;
use crate::engine::Engine;
use crate::engine::client::Client;
use crate::engine::strategy::capture::Taken;
use crate::job::gate::Gate;
use crate::job::journal::{self, Journal, NotedBuild};
use crate::job::offer::{self, Offer};
use crate::job::store::{self, Store};
use crate::job::take::{self, Taking};
use crate::job::{caller, capture, commit, locked, variable};
use crate::mounts::carry::release;
use crate::oci::codec::{Codec, Compression};
use crate::oci::directory::{Layout, LayoutError};
use crate::oci::documents::Index;
use crate::oci::live;
use crate::oci::writer::Writer;
use crate::report::{Reporter, bytes};
use outcome::Saved;
use subject::{How, Recipe, Subject};

/// How often another job's save may come between what we looked at and the lock.
const ATTEMPTS: usize = 5;

pub(super) fn run(args: &SaveArgs) -> Result<Exit, Failure> {
    let reporter = Reporter::new(args.speech.quiet);
    let forced = forced(&args.engine)?;
    let asked = args.compression.as_deref().map(str::parse).transpose();
    let asked: Option<Compression> = asked.map_err(|why: String| Failure::usage(why))?;
    let file = args.archive.as_deref().map(one_file).transpose()?;
    if args.store.read_only {
        reporter.info(
            "save: nothing is written: this job only reads (DOCKERCACHE_READ_ONLY or --read-only)",
        );
        Saved::nothing().print(args.speech.format);
        return Ok(Exit::Ok);
    }
    let dir = offer::absolute(&args.directory.dir);
    let layout = Layout::at(&dir);
    let recipe = Recipe::asked(args)?;
    let journal = Journal::open(&dir)?;
    let mut state = journal.state();
    let store = store::open(args.store.store.as_deref(), args.store.read_only, &mut state)?;
    let engine = Engine::connect(Client::from_path())?;
    let gate = Gate::of_environment(&engine).map_err(Failure::usage)?;
    capture::clean(&journal, Some(&engine), &layout);
    let recipe = recipe.map(|recipe| recipe.on(&engine)).transpose()?;
    let scratch = journal.begin_scratch()?;
    let mark = format!("{}{}-", journal.mark(), scratch.name());
    let mut well = {
        let how = How {
            forced,
            compression: asked,
            engine: &engine,
            layout: &layout,
            scratch: scratch.scratch(),
            reporter,
        };
        subject::capture_named(args, &journal, &how, &mut state)?
    };

    let subject = |noted: Vec<NotedBuild>| match &recipe {
        Some(recipe) => Some(Subject::Images(recipe)),
        None => Subject::builds(&dir, journal::current(noted, &engine.facts.id), reporter),
    };
    let nothing = || {
        Saved::nothing().print(args.speech.format);
        Ok(if args.speech.strict { Exit::Strict } else { Exit::Ok })
    };
    let Some(first) = subject(journal.builds()) else { return nothing() };
    let strategy = first.strategy();
    let (writer, offer) = writer(
        &layout,
        &mut |layout| {
            // What is bad must not be built upon.
            offer::make(layout, &engine, strategy, &mut state, reporter).unwrap_or_else(|error| {
                reporter.warn(format!("the old archive is replaced: {error}"));
                offer::nothing()
            })
        },
        reporter,
    )?;
    // Another job's save may have taken some of them meanwhile.
    let noted = journal.builds();
    let Some(subject) = subject(noted.clone()) else { return nothing() };
    if let Some(reason) = subject.must_not_replace(&offer.archive, args) {
        reporter.warn(format!("nothing is saved: {reason}"));
        return nothing();
    }
    if strategy == Strategy::BuildkitLocal
        && asked.is_some()
        && variable("DOCKERCACHE_COMPRESSION").is_none()
    {
        reporter.warn(
            "`--compression` comes too late: this builder compresses as it builds; set \
             DOCKERCACHE_COMPRESSION for the build",
        );
    }
    let before = layout.blob_files()?;
    let taking = Taking {
        engine: &engine,
        layout: &writer,
        offer: &offer,
        reporter,
        compression: asked.and_then(|asked| readable(asked, &engine, reporter)),
        mark: &mark,
        keep_others: args.keep_others,
    };
    let due = store.is_some() && Store::is_due(&offer.archive, &state);
    let done = subject.take(&taking).map_err(Failure::from).and_then(|mut taken| {
        if taken.taken.is_empty() && taken.kept.is_empty() {
            taken.warnings.iter().for_each(|warning| reporter.warn(warning));
            gate.why_unsigned(&state).into_iter().for_each(|reason| reporter.warn(reason));
            return Ok(None);
        }
        if let Subject::Builds(_, builds) = &subject {
            let warnings = take::mounts(&taking, builds, &mut taken.archive)?;
            taken.warnings.extend(warnings);
        }
        if let Some(store) = &store {
            store.adapt(&mut taken.archive, &writer)?;
        }
        let changed =
            commit::commit(&writer, &taken.archive, &offer.archive, due, &gate, &mut state)?;
        Ok(Some((changed, taken)))
    });
    let done = match done {
        Ok(done) => done,
        Err(error) => {
            // What was written so far is dead, and the disk may be full of it.
            let _ = live::sweep(&writer);
            return Err(error);
        }
    };
    let Some((changed, taken)) = done else {
        reporter.info(format!("save: nothing to save: {}", subject.why_nothing()));
        return nothing();
    };
    for warning in &taken.warnings {
        reporter.warn(warning);
    }
    let pruned = live::sweep(&writer)?;
    let reach = archive::reach(&layout)?;
    offer::remember(&layout, &reach, &mut state);
    settle(noted, &engine, reporter);
    drop(writer);
    caller::give_archive(&dir);
    capture::clean(&journal, None, &layout);
    if let Some(key) = gate.signs_as(&state) {
        reporter.info(format!("save: signed; to check: DOCKERCACHE_VERIFY_KEY={key}"));
    }

    if let Some(reason) = gate.why_unsigned(&state) {
        reporter.warn(reason);
        well = false;
    }
    if let Some(store) = store.as_ref().filter(|_| changed || due) {
        let task = store::Task { engine: &engine, strategy, layout: &layout, reporter };
        well &= store.push(&task, &gate, &mut state);
    }
    state.keep(reporter);
    report_gone(&taken, &offer, reporter);
    let dropped = before.iter().filter(|(digest, _)| !reach.blobs.contains_key(digest));
    let saved = Saved::of(changed, strategy, &taken, pruned.live, dropped);
    reporter.info(saved.summary());
    if let Some((path, codec)) = file {
        if let Some(store) = &store {
            store.fetch_rest(&layout, reporter)?;
        }
        let seal = |index: &_| gate.seal(index, &state);
        write_file(&layout, &path, codec, &seal, reporter)?;
    }
    saved.print(args.speech.format);
    let soft_failure = !well || !taken.warnings.is_empty();
    Ok(if args.speech.strict && soft_failure { Exit::Strict } else { Exit::Ok })
}

/// Takes the lock, with the archive verified as it is under the lock.
fn writer(
    layout: &Layout,
    verify: &mut dyn FnMut(&Layout) -> Offer,
    reporter: Reporter,
) -> Result<(Writer, Offer), LayoutError> {
    let mut attempts = 1;
    loop {
        // Verifying takes the lock by itself, if there is anything bad.
        let offer = verify(layout);
        let seen = layout.index().ok().flatten();
        let writer = locked(layout, reporter)?;
        if layout.index().ok().flatten() == seen || attempts == ATTEMPTS {
            return Ok((writer, offer));
        }
        attempts += 1;
    }
}

/// Notes that builds are saved, and leaves nothing of them in the engine.
fn settle(builds: Vec<NotedBuild>, engine: &Engine, reporter: Reporter) {
    for mut build in builds.into_iter().filter(|build| build.engine == engine.facts.id) {
        if build.saved {
            continue;
        }
        take::release(engine, build.strategy, &build.captured);
        release(build.mounts.as_deref().unwrap_or_default());
        if let Err(error) = build.mark_saved() {
            reporter.warn(format!("failed to note that `{}` is saved: {error}", build.name));
        }
    }
}

fn report_gone(taken: &Taken, offer: &Offer, reporter: Reporter) {
    for build in commit::gone(&taken.archive, &offer.archive) {
        reporter.info(format!(
            "save: removed build `{build}`, which this job has not built; `--keep-others` keeps it"
        ));
    }
}

fn write_file(
    layout: &Layout,
    path: &Path,
    codec: Codec,
    seal: &dyn Fn(&Index) -> Index,
    reporter: Reporter,
) -> Result<(), Failure> {
    let archive = Archive::read(layout)?.unwrap_or_default();
    let progress = reporter.progress("writing the file", 0);
    let size = file::save(layout, &archive, path, codec, seal, &|n| progress.advance(n))?;
    drop(progress);
    reporter.info(format!("save: {} is in `{}`", bytes(size), path.display()));
    Ok(())
}

/// The compression that the user asks for, if the engine reads it.
fn readable(asked: Compression, engine: &Engine, reporter: Reporter) -> Option<Compression> {
    if engine.reads(asked.codec) {
        return Some(asked);
    }
    reporter.warn(format!(
        "layers are compressed with {}, because Docker {} fails on {}",
        engine.compression().codec,
        engine.facts.version,
        asked.codec
    ));
    None
}

/// Where the one-file form goes, and how it is compressed.
fn one_file(path: &Path) -> Result<(PathBuf, Codec), Failure> {
    let codec = file::codec_of(path).ok_or_else(|| {
        Failure::usage(format!(
            "unknown kind of archive `{}` (expected .tar, .tar.gz or .tar.zst)",
            path.display()
        ))
    })?;
    Ok((offer::absolute(path), codec))
}
