//! Brings what the archive has of several builds into the builder, before they run at once.
//!
//! BuildKit of Docker 28.5 now and then misses the last step of targets that it builds at the same time
//! from one imported cache (docker/buildx#3878). What is in its own cache it finds. So each stage that
//! is expected to be in the archive is looked up once, alone; its layers stay where they are until
//! something reads them. The builds that follow need no `--cache-from`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

use super::offer::Offer;
use crate::build::arguments::BuildArguments;
use crate::engine::Engine;
use crate::engine::error::EngineError;
use crate::engine::strategy::cached::Repetition;
use crate::predict::StageDigest;
use crate::predict::project::Project;
use crate::report::Reporter;

/// A build to come, and its project.
pub(crate) struct Coming<'a> {
    pub(crate) arguments: &'a BuildArguments,
    pub(crate) project: &'a Project,
}

/// Looks up what the archive is expected to have of these builds. What it has not is not built.
/// `scratch` is a directory for temporary files.
pub(crate) fn prime(
    engine: &Engine,
    builder: Option<&str>,
    offer: &Offer,
    builds: &[Coming<'_>],
    scratch: &Path,
    reporter: Reporter,
) -> Result<(), EngineError> {
    let Some(about) = offer.archive.about.as_ref().filter(|_| offer.miss.is_none()) else {
        return Ok(());
    };
    let steps = about.stages.iter().flat_map(|stage| &stage.steps);
    let known: BTreeSet<&str> = steps.map(|step| step.digest.as_str()).collect();
    let _task = reporter.task("looking the builds up in the cache");
    // Stages that builds have in common are looked up once.
    let mut done: BTreeSet<String> = BTreeSet::new();
    for (build, stage) in builds.iter().flat_map(|b| b.project.stages.iter().map(move |s| (b, s))) {
        let layers = stage.steps.iter().filter(|step| step.is_layer);
        let hits: Vec<&str> = layers
            .map(|step| step.digest.as_str())
            .take_while(|digest| known.contains(digest))
            .collect();
        let Some(last) = hits.last() else { continue };
        let Some(dockerfile) = build.project.cut(stage.index, hits.len()) else { continue };
        if !done.insert((*last).to_owned()) {
            continue;
        }
        let file = scratch.join("Dockerfile");
        fs::write(&file, dockerfile).map_err(EngineError::io("write a Dockerfile"))?;
        if let Some(ignore) = &build.project.ignore_file {
            let own = scratch.join("Dockerfile.dockerignore");
            fs::copy(ignore, own).map_err(EngineError::io("copy the .dockerignore file"))?;
        }
        let repetition = Repetition { engine, builder, input: None, stops_at_fetch: false };
        // Whatever comes of it, the build itself decides what is a hit.
        repetition.run(&words(build, stage, &file, offer))?;
    }
    Ok(())
}

fn words(build: &Coming<'_>, stage: &StageDigest, file: &Path, offer: &Offer) -> Vec<OsString> {
    let mut flag = OsString::from("--file=");
    flag.push(file);
    let mut words: Vec<OsString> =
        vec!["--provenance=false".into(), "--output=type=cacheonly".into(), flag];
    let target = build.project.targets.get(stage.index).into_iter().flatten();
    words.extend(target.map(|target| format!("--target={target}").into()));
    let target_stage = build.project.target_stage.iter();
    words.extend(target_stage.map(|stage| format!("--build-arg=TARGETSTAGE={stage}").into()));
    words.extend(offer.cache_from.iter().map(|offer| format!("--cache-from={offer}").into()));
    words.extend(build.arguments.for_cached_stage());
    words
}
