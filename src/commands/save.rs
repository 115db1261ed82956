//! `save`: takes the cache of the job's builds out of the engine and into the directory.

mod capture;
mod commit;
mod outcome;
mod subject;

use std::path::{Path, PathBuf};

use super::gate::Gate;
use super::offer;
use super::store::{self, Store};
use crate::cli::SaveArgs;
use crate::engine::Engine;
use crate::engine::client::Client;
use crate::exit::{Exit, Failure};
use crate::layout::archive::{self, Archive};
use crate::layout::codec::{Codec, Compression};
use crate::layout::directory::Layout;
use crate::layout::live;
use crate::report::{Reporter, bytes};
use crate::store::file;
use crate::store::journal::Journal;
use capture::Capture;
use outcome::Saved;
use subject::{Recipe, Subject};

pub(super) fn run(args: &SaveArgs) -> Result<Exit, Failure> {
    let reporter = Reporter::new(args.speech.quiet);
    let file = args.archive.as_deref().map(one_file).transpose()?;
    if args.store.read_only {
        reporter.info(
            "save: nothing is written: this job only reads (DOCKERCACHE_READ_ONLY or --read-only)",
        );
        Saved::nothing().print(args.speech.format);
        return Ok(Exit::Ok);
    }
    let dir = offer::absolute(&args.directory.dir);
    let recipe = Recipe::asked(args)?;
    let mut journal = Journal::read(&dir);
    let store = store::open(&args.store, &mut journal)?;
    let engine = Engine::connect(Client::from_path())?;
    let gate = Gate::of_environment(&engine).map_err(Failure::usage)?;
    subject::note_named(args, &mut journal, &engine)?;
    let subject = match recipe {
        Some(recipe) => Some(Subject::Images(recipe.on(&engine)?)),
        None => Subject::builds(args, &journal, &engine, reporter)?,
    };
    let Some(subject) = subject else {
        Saved::nothing().print(args.speech.format);
        return Ok(if args.speech.strict { Exit::Strict } else { Exit::Ok });
    };

    let layout = Layout::at(&dir);
    let strategy = subject.strategy();
    // What is bad must not be built upon.
    let offer = match offer::make(&layout, &engine, strategy, &mut journal, reporter) {
        Ok(offer) => offer,
        Err(error) => {
            reporter.warn(format!("the old archive is replaced: {error}"));
            offer::nothing()
        }
    };
    let lock = layout.lock()?;
    let before = layout.blob_files()?;
    let capture = Capture {
        engine: &engine,
        layout: &layout,
        offer: &offer,
        store: store.as_ref(),
        reporter,
        compression: compression(args, &engine, reporter),
        keep_others: args.keep_others,
    };
    let due = store.is_some() && Store::is_due(&offer.archive, &journal);
    let done = capture.take(&subject).map_err(Failure::from).and_then(|mut captured| {
        if let Some(store) = &store {
            store.adapt(&mut captured.archive, &layout)?;
        }
        let committed =
            commit::commit(&layout, &captured.archive, &offer.archive, due, &gate, &mut journal)?;
        Ok((committed, captured))
    });
    let (changed, captured) = match done {
        Ok(done) => done,
        Err(error) => {
            // What was written so far is dead, and the disk may be full of it.
            let _ = live::sweep(&layout);
            return Err(error);
        }
    };
    for warning in &captured.warnings {
        reporter.warn(warning);
    }
    let pruned = live::sweep(&layout)?;
    drop(lock);

    let reach = archive::reach(&layout)?;
    offer::remember(&layout, &reach, &mut journal);
    journal.builds.iter_mut().for_each(|build| build.saved = true);
    if let Some(key) = gate.signs_as(&journal) {
        reporter.info(format!("save: signed; to check: DOCKERCACHE_VERIFY_KEY={key}"));
    }
    let mut well = true;
    if let Some(reason) = gate.why_unsigned(&journal) {
        reporter.warn(reason);
        well = false;
    }
    if let Some(store) = store.as_ref().filter(|_| changed || due) {
        let task = store::Task { engine: &engine, strategy, layout: &layout, reporter };
        well &= store.push(&task, &gate, &mut journal);
    }
    if let Err(error) = journal.write() {
        reporter.warn(format!("failed to note that the build is saved: {error}"));
    }
    for build in commit::gone(&captured.archive, &offer.archive) {
        reporter.info(format!(
            "save: dropped build `{build}`, which this job has not built; `--keep-others` keeps it"
        ));
    }
    let dropped = before.iter().filter(|(digest, _)| !reach.blobs.contains_key(digest));
    let saved = Saved::of(changed, strategy, &captured, pruned.live, dropped);
    reporter.info(saved.summary());
    if let Some((path, codec)) = file {
        if let Some(store) = &store {
            store.fetch_rest(&layout, reporter)?;
        }
        let archive = Archive::read(&layout)?.unwrap_or_default();
        let progress = reporter.progress("writing the file", 0);
        let seal = |index: &_| gate.seal(index, &journal);
        let size = file::save(&layout, &archive, &path, codec, &seal, &|n| progress.advance(n))?;
        drop(progress);
        reporter.info(format!("save: {} is in `{}`", bytes(size), path.display()));
    }
    saved.print(args.speech.format);
    let soft_failure = !well || !captured.warnings.is_empty();
    Ok(if args.speech.strict && soft_failure { Exit::Strict } else { Exit::Ok })
}

/// How new layers are compressed, if the user says so and the engine reads it.
fn compression(args: &SaveArgs, engine: &Engine, reporter: Reporter) -> Option<Compression> {
    let asked = args.compression?;
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
        Failure::usage(format!("`{}` is neither .tar nor .tar.gz nor .tar.zst", path.display()))
    })?;
    Ok((offer::absolute(path), codec))
}
