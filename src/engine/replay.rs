//! Strategy `buildkit-replay`: for an engine whose BuildKit imports a cache directory but can't
//! export one (every engine with a graph driver).
//!
//! Straight after the real build every step is cached. So each changed stage is built once more
//! with `--target` and inline cache, in a fraction of a second, and the engine pushes the images to
//! us, or saves them in one call. Each carries the records of its own layers; merged they are a
//! cache of the whole build. The carrier images have names of their own and are removed again: the
//! user's images and tags are never touched.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::sync::Mutex;
use std::sync::PoisonError;

use super::Engine;
use super::capture::{Captured, Request, Stage};
use super::error::EngineError;
use super::inbox::Inbox;
use super::run::{self, Echo};
use super::saved::{self, SavedImage};
use crate::layout::archive::{Archive, LayerBlob, StoredImage, write_cache};
use crate::layout::carrier::write_carrier;
use crate::layout::codec::{Codec, Compression};
use crate::layout::digest::Digest;
use crate::layout::writer::Writer;
use crate::report::Reporter;

/// How much a push may bring besides twice what is thought to be new (a layer is longer than its
/// files), in bytes. Of smaller layers, engines do not ask whether they are there; an engine that has
/// built known layers itself would send all of them.
const PUSH_SLACK: u64 = 64 << 20;
/// Carrier builds at a time; each is a client that mostly waits.
const AT_ONCE: usize = 4;

/// Takes the changed stages out of the engine and keeps the others from `old`.
pub fn capture(
    engine: &Engine,
    layout: &Writer,
    old: &Archive,
    request: &Request<'_>,
    reporter: Reporter,
) -> Result<Captured, EngineError> {
    let (kept, changed): (Vec<&Stage>, Vec<&Stage>) =
        request.stages.iter().partition(|s| !s.executed && old.stage_image(&s.about).is_some());
    let mut warnings = Vec::new();
    let carriers = if changed.is_empty() {
        Vec::new()
    } else {
        let _task = reporter.task(&format!("building {} stage images from cache", changed.len()));
        build_carriers(engine, request, &changed, &mut warnings)?
    };
    let exported = export(engine, layout, old, &carriers, request.compression(engine), reporter);
    for carrier in &carriers {
        // Left behind, they cost the engine nothing but names.
        let _ = engine.connection.remove_image(&carrier.tag);
    }
    let exported = exported?;

    let mut images: Vec<StoredImage> = Vec::new();
    let mut about = request.about.clone();
    for stage in request.stages {
        let mut stage_about = stage.about.clone();
        let new = exported.iter().find(|(index, _)| *index == stage.index);
        let image = new
            .map(|(_, image)| image.clone())
            .or_else(|| Some(old.stage_image(&stage.about)?.named(&stage.about.name)));
        if let Some(image) = image {
            stage_about.image = Some(image.descriptor.digest.clone());
            if images.iter().all(|i| i.descriptor.digest != image.descriptor.digest) {
                images.push(image);
            }
        }
        about.stages.push(stage_about);
    }
    let cache = write_cache(layout, &images.iter().collect::<Vec<_>>())?;
    for (image, reason) in cache.damaged {
        images.retain(|stored| stored.descriptor.digest != image);
        about.stages.iter_mut().filter(|s| s.image.as_ref() == Some(&image)).for_each(|stage| {
            stage.image = None;
        });
        warnings.push(format!("{reason}: it is dropped, and saved again after the next build"));
    }
    // A stage that is only `FROM` has no records of its own.
    let has_layers =
        |name: &String| request.stages.iter().any(|s| s.has_layers && s.about.name == *name);
    let without_records: Vec<_> =
        cache.without_records.iter().filter(|name| has_layers(name)).cloned().collect();
    warnings.extend(records_warning(engine, &without_records));
    warnings.extend(cut_warning(cache.cut_records));
    let names = |stages: &[&Stage]| stages.iter().map(|s| s.about.name.clone()).collect();
    // A stage that could not be built again is not there to be taken.
    let taken: Vec<&Stage> = changed
        .iter()
        .filter(|stage| exported.iter().any(|(index, _)| *index == stage.index))
        .copied()
        .collect();
    Ok(Captured {
        archive: Archive {
            about: Some(about),
            cache: cache.descriptor,
            images,
            ..Archive::default()
        },
        taken: names(&taken),
        kept: names(&kept),
        warnings,
    })
}

/// What to say of records that an importer would not accept.
pub fn cut_warning(cut_records: usize) -> Option<String> {
    (cut_records > 0).then(|| {
        format!(
            "{cut_records} of the last steps are not in the cache, because builders accept 1 MiB \
             of records at most: they run again next time"
        )
    })
}

fn records_warning(engine: &Engine, without: &[String]) -> Option<String> {
    if without.is_empty() {
        return None;
    }
    let version = engine.facts.version;
    let why = if version.loses_inline_records() {
        format!("Docker {version} exports no cache records (a bug of 27.0.0 to 27.1.2): upgrade")
    } else {
        "the builder exported no cache records".to_owned()
    };
    Some(format!("the cache of stage {} is not saved: {why}", without.join(", ")))
}

struct Carrier {
    index: usize,
    name: String,
    tag: String,
}

/// Builds an image with inline cache of each of `stages`, a few at a time.
fn build_carriers(
    engine: &Engine,
    request: &Request<'_>,
    stages: &[&Stage],
    warnings: &mut Vec<String>,
) -> Result<Vec<Carrier>, EngineError> {
    let dir = tempfile::Builder::new()
        .prefix("dockercache-")
        .tempdir()
        .map_err(EngineError::io("create a temporary directory"))?;
    let file = dir.path().join("Dockerfile");
    fs::write(&file, request.dockerfile).map_err(EngineError::io("write a Dockerfile"))?;
    let mut file_flag = OsString::from("--file=");
    if request.dockerfile.is_empty() {
        file_flag.push(request.arguments.dockerfile().unwrap_or_default());
    } else {
        file_flag.push(&file);
    }
    if let Some(ignore) = &request.ignore_file {
        fs::copy(ignore, dir.path().join("Dockerfile.dockerignore"))
            .map_err(EngineError::io("copy the .dockerignore file"))?;
    }
    let unique = dir.path().file_name().unwrap_or_default().to_string_lossy().to_lowercase();

    let mut common: Vec<OsString> =
        vec!["--progress=plain".into(), "--build-arg=BUILDKIT_INLINE_CACHE=1".into()];
    if engine.client.has_buildx() {
        common.push("--provenance=false".into());
    }
    common.extend(request.target_stage.map(|s| format!("--build-arg=TARGETSTAGE={s}").into()));
    common.extend(request.offer.iter().map(|offer| format!("--cache-from={offer}").into()));
    let rest = request.arguments.for_repetition(&["file", "target"]);
    let named = request.arguments.value("builder").is_some();

    let queue = Mutex::new(stages.iter().enumerate());
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(stages.len()) {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((number, stage)) = next else { return };
                    let tag = format!("dockercache-carrier:{unique}-{number}");
                    let mut words = common.clone();
                    words.push(file_flag.clone());
                    words.extend(stage.target.iter().map(|t| format!("--target={t}").into()));
                    words.push(format!("--tag={tag}").into());
                    words.extend(rest.iter().cloned());
                    let result = run::buildkit(engine, &words, named, Echo::Hidden);
                    results
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push((*stage, tag, result));
                }
            });
        }
    });
    let mut carriers = Vec::new();
    for (stage, tag, result) in results.into_inner().unwrap_or_else(PoisonError::into_inner) {
        let finished = result?;
        if finished.status.success() {
            carriers.push(Carrier { index: stage.index, name: stage.about.name.clone(), tag });
        } else {
            warnings.push(format!(
                "stage `{}` could not be built from cache and is not saved: {}",
                stage.about.name,
                finished.reason()
            ));
        }
    }
    carriers.sort_by_key(|c| c.index);
    Ok(carriers)
}

/// Saves the carriers into the layout; gives their images by stage.
fn export(
    engine: &Engine,
    layout: &Writer,
    old: &Archive,
    carriers: &[Carrier],
    compression: Compression,
    reporter: Reporter,
) -> Result<Vec<(usize, StoredImage)>, EngineError> {
    if carriers.is_empty() {
        return Ok(Vec::new());
    }
    let known = old
        .layers()
        .into_iter()
        .filter(|(_, l)| Codec::from_media_type(&l.media_type).is_some_and(|c| engine.reads(c)))
        .collect();
    let mut by_id = Vec::new();
    let mut weight = Weight::default();
    for carrier in carriers {
        let image = engine.connection.image(&carrier.tag)?.unwrap_or_default();
        let layers = image.root_fs.and_then(|fs| fs.layers).unwrap_or_default();
        // An image without layers is nothing to carry, and engines refuse to export it.
        if !layers.is_empty() {
            weight.add(image.size, &layers, &known);
            by_id.push((image.id.unwrap_or_default(), carrier));
        }
    }
    if by_id.is_empty() {
        return Ok(Vec::new());
    }
    let progress = reporter.progress("exporting stage images", 0);
    let advance = |n| progress.advance(n);
    let pushed = match engine.client.socket() {
        // An engine with a network of its own does not reach us.
        Some(_) if weight.is_mostly_known() => {
            push(engine, layout, compression, &known, weight.new, &by_id, &advance).ok()
        }
        _ => None,
    };
    let saved = if let Some(pushed) = pushed {
        pushed
    } else {
        let tags: Vec<&str> = by_id.iter().map(|(_, c)| c.tag.as_str()).collect();
        let stream = engine.connection.export(&tags);
        saved::ingest(stream, layout, compression, &known, &advance)?
    };
    let mut stored_images = Vec::new();
    for (id, carrier) in by_id {
        let image = saved.iter().find(|s| s.id.as_str() == id).ok_or_else(|| {
            EngineError::failed("export images", format!("stage `{}` is not in it", carrier.name))
        })?;
        let stored = write_carrier(layout, &image.config, &image.layers, &carrier.name)?;
        stored_images.push((carrier.index, stored));
    }
    Ok(stored_images)
}

/// How much of images is known already, in bytes.
#[derive(Default)]
struct Weight {
    known: BTreeMap<Digest, u64>,
    new: u64,
}

impl Weight {
    fn add(&mut self, size: Option<i64>, layers: &[String], known: &BTreeMap<Digest, LayerBlob>) {
        let ids = layers.iter().filter_map(|id| id.parse::<Digest>().ok());
        let known: BTreeMap<_, _> = ids
            .filter_map(|id| known.get_key_value(&id))
            .map(|(id, l)| (id.clone(), l.unpacked_size))
            .collect();
        let size = size.and_then(|size| u64::try_from(size).ok()).unwrap_or_default();
        self.new += size.saturating_sub(known.values().sum());
        self.known.extend(known);
    }

    /// A push compresses on one core, and is slower than an export of as much.
    fn is_mostly_known(&self) -> bool {
        self.known.values().sum::<u64>() > 3 * self.new
    }
}

/// Lets the engine push images to us, without the layers that are known. Each image has an ID and a
/// name.
fn push(
    engine: &Engine,
    layout: &Writer,
    compression: Compression,
    known: &BTreeMap<Digest, LayerBlob>,
    new: u64,
    images: &[(String, &Carrier)],
    advance: &dyn Fn(u64),
) -> Result<Vec<SavedImage>, EngineError> {
    let room = 2 * new + PUSH_SLACK;
    let ids = images.iter().map(|(id, _)| id.clone());
    let inbox = Inbox::open(&engine.connection, layout, compression, room, ids)
        .map_err(EngineError::io("listen on loopback"))?;
    let repository = inbox.repository();
    let numbers: Vec<String> = (0..images.len()).map(|number| number.to_string()).collect();
    let tags = images.iter().zip(&numbers);
    let named: Vec<_> = tags.map(|((_, c), n)| (c.tag.as_str(), n.as_str())).collect();
    for _ in 0..2 {
        engine.connection.push(&repository, &named, &|| advance(inbox.arrived()))?;
        let pushed = numbers.iter().map(|number| inbox.image(number, known));
        let pushed = pushed.collect::<Result<Vec<_>, _>>()?;
        if let Some(pushed) = pushed.into_iter().collect() {
            return Ok(pushed);
        }
    }
    Err(EngineError::failed("push images", "it leaves out layers that it was asked for"))
}
