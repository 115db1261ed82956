//! Strategy `buildkit-replay`: for an engine whose BuildKit imports a cache directory but can't
//! export one (every engine with a graph driver).
//!
//! Straight after the real build every step is cached. So each changed stage is built once more
//! with `--target` and inline cache, in a fraction of a second. `save` lets the engine push these
//! images to us, or saves them in one call. Each carries the records of its own layers; merged they
//! are a cache of the whole build. The carrier images have names of their own and are removed again:
//! the user's images and tags are never touched.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::capture::{Captured, CapturedStage, Request, Source, Taken};
use super::inbox::Inbox;
use super::stages::{self, Destination};
use crate::archive::carrier::write_carrier;
use crate::archive::{About, Archive, LayerBlob, StoredImage, write_cache};
use crate::engine::Engine;
use crate::engine::api::saved::{self, SavedImage};
use crate::engine::error::EngineError;
use crate::oci::codec::{Codec, Compression};
use crate::oci::digest::Digest;
use crate::oci::writer::Writer;
use crate::report::Reporter;

/// How much a push may bring besides twice what is thought to be new (a layer is longer than its
/// files), in bytes. Of smaller layers, engines do not ask whether they are there; an engine that has
/// built known layers itself would send all of them.
const PUSH_SLACK: u64 = 64 << 20;

/// The name of all images that carry a cache.
pub(crate) const CARRIER: &str = "dockercache-carrier";

/// Makes an image with inline cache of each stage that the archive does not have.
pub fn capture(
    request: &Request<'_>,
    about: About,
    reporter: Reporter,
) -> Result<Captured, EngineError> {
    let has_buildx = request.engine.client.has_buildx();
    let images = Images { request, has_buildx };
    stages::capture(request, about, &images, reporter)
}

/// Stages become images of the engine.
struct Images<'a> {
    request: &'a Request<'a>,
    has_buildx: bool,
}

impl Images<'_> {
    fn tag(&self, number: usize) -> String {
        format!("{CARRIER}:{}{}-{number}", self.request.mark, self.request.name)
    }
}

impl Destination for Images<'_> {
    fn words(&self, number: usize) -> Vec<OsString> {
        let mut words = vec![
            "--build-arg=BUILDKIT_INLINE_CACHE=1".into(),
            format!("--tag={}", self.tag(number)).into(),
        ];
        if self.has_buildx {
            words.push("--provenance=false".into());
        }
        words
    }

    fn source(&self, number: usize) -> Result<Source, EngineError> {
        Ok(Source::Carrier(self.tag(number)))
    }
}

/// Takes the stages that were captured in images out of the engine and keeps the others from `old`.
/// `mark` begins the tags of what is pushed.
pub fn take(
    engine: &Engine,
    layout: &Writer,
    old: &Archive,
    captured: &Captured,
    compression: Compression,
    mark: &str,
    reporter: Reporter,
) -> Result<Taken, EngineError> {
    let carriers: Vec<Carrier<'_>> = captured.stages.iter().filter_map(Carrier::of).collect();
    let new = export(engine, layout, old, &carriers, compression, mark, reporter)?;
    let mut taken = stages::take(layout, captured, old, &|source| match source {
        Source::Carrier(tag) => new.get(tag.as_str()).cloned(),
        _ => None,
    });
    let images: Vec<&StoredImage> = taken.archive.images.iter().collect();
    let cache = write_cache(layout, &images)?;
    stages::remove_damaged(&mut taken, &cache.damaged);
    // A stage that is only `FROM` has no records of its own.
    let has_layers =
        |name: &String| captured.stages.iter().any(|s| s.has_layers && s.about.name == *name);
    let without_records: Vec<_> =
        cache.without_records.iter().filter(|name| has_layers(name)).cloned().collect();
    taken.warnings.extend(records_warning(engine, &without_records));
    taken.warnings.extend(cut_warning(cache.cut_records));
    taken.archive.cache = cache.descriptor;
    Ok(taken)
}

/// Removes the images that were captured: what is in them is in the archive.
pub fn release(engine: &Engine, captured: &Captured) {
    for carrier in captured.stages.iter().filter_map(Carrier::of) {
        // Left behind, they cost the engine nothing but names, and the next command removes them.
        let _ = engine.connection.remove_image(carrier.tag);
    }
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

struct Carrier<'a> {
    name: &'a str,
    tag: &'a str,
}

impl<'a> Carrier<'a> {
    fn of(stage: &'a CapturedStage) -> Option<Self> {
        match &stage.source {
            Source::Carrier(tag) => Some(Self { name: &stage.about.name, tag }),
            _ => None,
        }
    }
}

/// Saves the carriers into the layout. Gives the image of each that is still there, by its tag; none
/// for one without layers.
fn export<'a>(
    engine: &Engine,
    layout: &Writer,
    old: &Archive,
    carriers: &[Carrier<'a>],
    compression: Compression,
    mark: &str,
    reporter: Reporter,
) -> Result<BTreeMap<&'a str, Option<StoredImage>>, EngineError> {
    let mut stored = BTreeMap::new();
    let known = old
        .layers()
        .into_iter()
        .filter(|(_, l)| Codec::from_media_type(&l.media_type).is_some_and(|c| engine.reads(c)))
        .collect();
    let mut by_id = Vec::new();
    let mut weight = Weight::default();
    for carrier in carriers {
        let Some(image) = engine.connection.image(carrier.tag)? else { continue };
        let layers = image.root_fs.and_then(|fs| fs.layers).unwrap_or_default();
        // An image without layers is nothing to carry, and engines refuse to export it.
        if layers.is_empty() {
            stored.insert(carrier.tag, None);
        } else {
            weight.add(image.size, &layers, &known);
            by_id.push((image.id.unwrap_or_default(), carrier));
        }
    }
    if by_id.is_empty() {
        return Ok(stored);
    }
    let progress = reporter.progress("exporting stage images", 0);
    let advance = |n| progress.advance(n);
    let pushed = match engine.client.socket() {
        // An engine with a network of its own does not reach us.
        Some(_) if weight.is_mostly_known() => {
            let room = 2 * weight.new + PUSH_SLACK;
            let ids = by_id.iter().map(|(id, _)| id.clone());
            let inbox = Inbox::open(&engine.connection, layout, compression, room, ids).ok();
            inbox.and_then(|inbox| push(engine, &inbox, mark, &known, &by_id, &advance).ok())
        }
        _ => None,
    };
    let saved = if let Some(pushed) = pushed {
        pushed
    } else {
        let tags: Vec<&str> = by_id.iter().map(|(_, c)| c.tag).collect();
        let stream = engine.connection.export(&tags);
        saved::ingest(stream, layout, compression, &known, &advance)?
    };
    for (id, carrier) in by_id {
        let image = saved.iter().find(|s| s.id.as_str() == id).ok_or_else(|| {
            EngineError::failed("export images", format!("stage `{}` is not in it", carrier.name))
        })?;
        let image = write_carrier(layout, &image.config, &image.layers, carrier.name)?;
        stored.insert(carrier.tag, Some(image));
    }
    Ok(stored)
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

/// Lets the engine push images to the inbox, without the layers that are known. Each image has an ID and a
/// name.
fn push(
    engine: &Engine,
    inbox: &Inbox,
    mark: &str,
    known: &BTreeMap<Digest, LayerBlob>,
    images: &[(String, &Carrier<'_>)],
    advance: &dyn Fn(u64),
) -> Result<Vec<SavedImage>, EngineError> {
    let repository = inbox.repository();
    let tags: Vec<String> = (0..images.len()).map(|number| format!("{mark}{number}")).collect();
    let named = images.iter().zip(&tags);
    let named: Vec<_> = named.map(|((_, c), tag)| (c.tag, tag.as_str())).collect();
    for _ in 0..2 {
        engine.connection.push(&repository, &named, &|| advance(inbox.arrived()))?;
        let pushed = tags.iter().map(|tag| inbox.image(tag, known));
        let pushed = pushed.collect::<Result<Vec<_>, _>>()?;
        if let Some(pushed) = pushed.into_iter().collect() {
            return Ok(pushed);
        }
    }
    Err(EngineError::failed("push images", "it leaves out layers that it was asked for"))
}
