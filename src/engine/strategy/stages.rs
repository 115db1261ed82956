//! Captures the stages of a build right after it, one after the other: each is built again from
//! cache for its cache alone. Later it makes an archive of what was taken.
//!
//! One at a time, because the client sends the build context only once then: builds at the same
//! time would each leave a copy of it on the engine.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cached::{Repeated, Repetition};
use super::capture::{Captured, CapturedStage, Request, Source, Stage, Taken, Word};
use crate::archive::builds::with_parents;
use crate::archive::{About, Archive, Knowledge, StageAbout, StoredImage};
use crate::engine::client::run;
use crate::engine::error::EngineError;
use crate::oci::digest::Digest;
use crate::oci::directory::Layout;
use crate::oci::documents::Descriptor;
use crate::report::Reporter;

/// How long to wait before a stage is repeated once more, next to other builds.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(300),
    Duration::from_millis(700),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(3),
];

/// Where the cache of a stage goes as the stage is built again.
pub(crate) trait Destination {
    /// The arguments that say so for the stage with this number.
    fn words(&self, number: usize) -> Vec<OsString>;
    /// What has come of it.
    fn source(&self, number: usize) -> Result<Source, EngineError>;
}

/// Captures the stages of `request`. One that can't be had is a missing one; only what concerns
/// all of them is an error.
pub(crate) fn capture(
    request: &Request<'_>,
    about: About,
    destination: &dyn Destination,
    reporter: Reporter,
) -> Result<Captured, EngineError> {
    let files = Files::new(request)?;
    let mut captured = Captured { about, failed: request.failed, stages: Vec::new() };
    let open = request.stages.iter().filter(|s| matches!(s.word, Word::Open | Word::Cut(_)));
    let _task = match open.count() {
        0 => None,
        count => Some(reporter.task(&format!("capturing {count} stages from the builder's cache"))),
    };
    for (number, stage) in request.stages.iter().enumerate() {
        let source = match &stage.word {
            Word::FromArchive => Source::Archive,
            Word::Captured(source) => source.clone(),
            Word::Unbuilt => Source::Unbuilt,
            Word::Open => one(request, stage, number, files.named.as_deref(), destination)?,
            Word::Cut(dockerfile) => {
                let file = files.write(&format!("cut-{number}.Dockerfile"), dockerfile)?;
                one(request, stage, number, Some(&file), destination)?
            }
        };
        captured.stages.push(CapturedStage {
            index: stage.index,
            about: stage.about.clone(),
            has_layers: stage.has_layers,
            source,
        });
    }
    Ok(captured)
}

fn one(
    request: &Request<'_>,
    stage: &Stage,
    number: usize,
    file: Option<&Path>,
    destination: &dyn Destination,
) -> Result<Source, EngineError> {
    let mut words = destination.words(number);
    if let Some(file) = file {
        let mut flag = OsString::from("--file=");
        flag.push(file);
        words.push(flag);
    }
    words.extend(stage.target.iter().map(|target| format!("--target={target}").into()));
    words.extend(request.target_stage.map(|s| format!("--build-arg=TARGETSTAGE={s}").into()));
    words.extend(request.offer.iter().map(|offer| format!("--cache-from={offer}").into()));
    words.extend(request.arguments.for_cached_stage());
    let old = request.archive.stage_image(&stage.about);
    let mut repetition = Repetition {
        engine: request.engine,
        builder: request.builder,
        input: request.input,
        stops_at_fetch: old.is_some(),
    };
    let mut repeated = repeat(request, &repetition, &words)?;
    if let (Repeated::Fetching(blob), Some(old)) = (&repeated, old) {
        if layers(old).any(|layer| layer.digest.as_str() == blob) {
            return Ok(Source::Archive);
        }
        repetition.stops_at_fetch = false;
        repeated = repeat(request, &repetition, &words)?;
    }
    match repeated {
        Repeated::Cached | Repeated::Fetching(_) => match destination.source(number)? {
            Source::Missing(_) if !stage.has_layers => Ok(Source::Nothing),
            source => Ok(source),
        },
        Repeated::WouldRun(step) => Ok(Source::Missing(reason_to_run(&step))),
        Repeated::Failed(reason) => {
            Ok(Source::Missing(format!("it can't be built again from cache: {reason}")))
        }
    }
}

/// Repeats a stage. BuildKit misses steps that it has where builds at the same time share what is
/// below them (docker/buildx#3878): next to others, it is asked again. And so it is where two of
/// its own threads were in each other's way.
fn repeat(
    request: &Request<'_>,
    repetition: &Repetition<'_>,
    words: &[OsString],
) -> Result<Repeated, EngineError> {
    let mut pauses = PAUSES.iter();
    loop {
        let was_alone = (request.is_alone)();
        let repeated = repetition.run(words)?;
        let is_sure = match &repeated {
            Repeated::WouldRun(_) => was_alone && (request.is_alone)(),
            Repeated::Failed(reason) => !reason.contains(run::IN_EACH_OTHERS_WAY),
            _ => true,
        };
        match pauses.next() {
            Some(pause) if !is_sure => std::thread::sleep(*pause),
            _ => return Ok(repeated),
        }
    }
}

fn layers(image: &StoredImage) -> impl Iterator<Item = &Descriptor> {
    image.manifest.layers.iter()
}

/// Why a step that was built would run again.
fn reason_to_run(step: &str) -> String {
    let name = step.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
    let why = match name.as_str() {
        "COPY" | "ADD" => "its files, or what is below it, are not those that were built",
        _ => "this builder has not built it with these arguments on this base",
    };
    format!("`{step}` would run again: {why}")
}

/// Copies of the Dockerfile, in a directory with its ignore file.
struct Files<'a> {
    request: &'a Request<'a>,
    /// The one in which every stage has a name; the user's own if that can't be read. None if it is
    /// in a context that is not on this machine.
    named: Option<PathBuf>,
}

impl<'a> Files<'a> {
    fn new(request: &'a Request<'a>) -> Result<Self, EngineError> {
        let own = request.arguments.value("file").map(PathBuf::from);
        let mut files = Self { request, named: own };
        if !request.dockerfile.is_empty() {
            files.named = Some(files.write("Dockerfile", request.dockerfile)?);
        }
        Ok(files)
    }

    fn write(&self, name: &str, dockerfile: &[u8]) -> Result<PathBuf, EngineError> {
        let path = self.request.scratch.join(name);
        fs::write(&path, dockerfile).map_err(EngineError::io("write a Dockerfile"))?;
        if let Some(ignore) = self.request.ignore_file {
            fs::copy(ignore, self.request.scratch.join(format!("{name}.dockerignore")))
                .map_err(EngineError::io("copy the .dockerignore file"))?;
        }
        Ok(path)
    }
}

/// Makes an archive of what was captured. `new` gives the image of a stage that was taken: none
/// within if it has no layers to carry, none at all if it is not there any more. What can't be taken
/// stays in the archive as it was in `old`.
pub(crate) fn take(
    layout: &Layout,
    captured: &Captured,
    old: &Archive,
    new: &dyn Fn(&Source) -> Option<Option<StoredImage>>,
) -> Taken {
    let mut taken = Taken::default();
    let mut about = captured.about.clone();
    let mut knowledge = Knowledge::of(layout, &old.images);
    for stage in &captured.stages {
        let name = &stage.about.name;
        let known = || Some(old.stage_image(&stage.about)?.named(name));
        let found = match &stage.source {
            Source::Archive => {
                known().map(Some).ok_or_else(|| "the archive does not have it any more".to_owned())
            }
            Source::Nothing => Ok(None),
            // What the archive has of it is kept, with the rest of the build that failed.
            Source::Unbuilt => continue,
            Source::Missing(reason) => Err(reason.clone()),
            source => new(source).ok_or_else(|| "the builder does not have it any more".to_owned()),
        };
        match found {
            Ok(image) => {
                // What is the same stays byte for byte: nobody need store it once more.
                let same = known().filter(|old| {
                    image.as_ref().is_some_and(|new| {
                        layers(new).map(|l| &l.digest).eq(layers(old).map(|l| &l.digest))
                            && knowledge.has_all_of(layout, new)
                    })
                });
                let is_kept = same.is_some() || stage.source == Source::Archive;
                let list = if is_kept { &mut taken.kept } else { &mut taken.taken };
                list.push(name.clone());
                let image = same.or(image);
                let digest = image.as_ref().map(|image| image.descriptor.digest.clone());
                taken.archive.images.extend(image);
                let of_failed = captured.failed && stage.source != Source::Archive;
                about.stages.push(StageAbout { image: digest, of_failed, ..stage.about.clone() });
            }
            Err(reason) => {
                let (of_old, consequence) = match kept(old, &stage.about) {
                    Some(kept) => (Some(kept), "the archive keeps what it had of it"),
                    None => (None, "it runs again next time"),
                };
                taken
                    .warnings
                    .push(format!("stage `{name}` is not saved ({reason}): {consequence}"));
                if let Some((old_about, image)) = of_old {
                    taken.kept.push(name.clone());
                    taken.archive.images.push(image);
                    about.stages.push(old_about);
                }
            }
        }
    }
    taken.archive.about = Some(about);
    if captured.failed || !taken.warnings.is_empty() {
        keep_rest(&captured.stages, old, &mut taken);
    }
    let mut seen = BTreeSet::new();
    taken.archive.images.retain(|image| seen.insert(image.descriptor.digest.clone()));
    taken
}

/// Removes images whose records turned out to be of no use, and says so.
pub(crate) fn remove_damaged(taken: &mut Taken, damaged: &[(Digest, String)]) {
    for (image, reason) in damaged {
        taken.archive.images.retain(|stored| stored.descriptor.digest != *image);
        let stages = taken.archive.about.iter_mut().flat_map(|about| &mut about.stages);
        stages.filter(|stage| stage.image.as_ref() == Some(image)).for_each(|stage| {
            stage.image = None;
        });
        taken
            .warnings
            .push(format!("{reason}: it is removed, and saved again after the next build"));
    }
}

/// Keeps what the archive has of the same build besides, since not all of it could be replaced. What
/// came from a build that failed is not kept twice.
pub(crate) fn keep_rest(captured: &[CapturedStage], old: &Archive, taken: &mut Taken) {
    let Some(build) = captured.first().map(|stage| &stage.about.build) else { return };
    let old_stages = old.about.iter().flat_map(|about| &about.stages);
    let good = old_stages.filter(|stage| stage.build == *build && !stage.of_failed);
    let rest: Vec<StageAbout> = {
        let new = || taken.archive.about.iter().flat_map(|about| &about.stages);
        good.filter(|stage| new().all(|new| new.image != stage.image)).cloned().collect()
    };
    let ends = rest.iter().filter_map(|stage| stage.image.as_ref());
    let ends: BTreeSet<_> = old
        .images
        .iter()
        .filter(|image| ends.clone().any(|end| *end == image.descriptor.digest))
        .map(|image| &image.manifest.config.digest)
        .collect();
    for image in with_parents(&old.images, ends) {
        if taken.archive.images.iter().all(|i| i.descriptor.digest != image.descriptor.digest) {
            taken.archive.images.push(image);
        }
    }
    taken.archive.about.get_or_insert_default().stages.extend(rest);
}

/// A stage as the archive has it, by the name of its build and its own.
fn kept(old: &Archive, stage: &StageAbout) -> Option<(StageAbout, StoredImage)> {
    let mut stages = old.about.iter().flat_map(|about| &about.stages);
    let about = stages.find(|s| (&s.build, &s.name) == (&stage.build, &stage.name))?;
    let digest = about.image.as_ref()?;
    let image = old.images.iter().find(|image| image.descriptor.digest == *digest)?;
    Some((about.clone(), image.clone()))
}
