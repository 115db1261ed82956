//! What our archives hold: one cache manifest, the images that it is made from, and who made it.
//!
//! `index.json` lists the cache manifest under the tag `latest`, where BuildKit's local importer
//! looks, and one image manifest for each live stage, which any OCI tool can read. The cache
//! manifest is derived: it merges the inline records of the stage images. So what is live is
//! decided by the images alone, and a stage that goes takes its records and layers along.

pub mod builds;
pub mod carrier;
pub mod file;
mod named;
pub mod records;
pub mod tarball;
pub mod trust;

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use crate::oci::digest::Digest;
use crate::oci::directory::{Layout, LayoutError};
use crate::oci::documents::{
    self, CACHE_CONFIG, CREATED_AT, Descriptor, ImageConfig, Index, Manifest, Platform, REF_NAME,
    UNCOMPRESSED,
};
use crate::oci::json::{self, Budget};
use crate::oci::live::{self, Reach};
use crate::oci::verify::BadBlob;
use crate::oci::writer::Writer;
use records::{CacheConfig, CacheLayer, CacheRecord, Fitted, IMPORT_LIMIT, RecordGraph};

/// The version of the annotations below. A reader refuses a newer one as a miss.
pub const FORMAT: u32 = 1;
/// The tag under which BuildKit's local importer looks for the cache.
const CACHE_TAG: &str = "latest";

const ABOUT: &str = "dev.dockercache.about";
const IMAGE: &str = "dev.dockercache.image";
/// What a cache manifest has besides layers, in bytes, and some more.
const EMPTY_MANIFEST: usize = 512;
/// The most stages and steps of all builds that an archive may tell of, and the most images.
const MOST_STAGES: usize = 2_000;
const MOST_STEPS: usize = 20_000;
const MOST_IMAGES: usize = 5_000;
/// Annotation with the size of a layer before compression, in bytes.
const UNPACKED_SIZE: &str = "dev.dockercache.unpacked-size";

/// Who made an archive, and of what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// [`FORMAT`] of the writer.
    pub format: u32,
    /// The engine's version.
    pub engine: String,
    /// The strategy by which the cache was taken.
    pub strategy: String,
    /// The platform that was built for.
    pub platform: String,
    /// RFC 3339.
    pub created: String,
    /// The live stages, dependencies first.
    pub stages: Vec<StageAbout>,
}

impl About {
    /// Reads what an index says of itself; `None` if it says nothing that we understand.
    pub fn of(index: &Index) -> Option<Self> {
        let about: Self = json::parse(index.annotations.get(ABOUT)?.as_bytes()).ok()?;
        let steps = about.stages.iter().map(|stage| stage.steps.len()).sum::<usize>();
        // Stages are compared with one another, and steps with those of a project.
        (about.stages.len() <= MOST_STAGES && steps <= MOST_STEPS).then_some(about)
    }
}

/// A stage as it was when the archive was written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageAbout {
    /// The stage's name, or `stage-N`.
    pub name: String,
    /// The name of the build that it is a stage of; empty where images were saved without one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub build: String,
    /// Predicted digest of all that the stage is made from.
    pub digest: String,
    /// The stage image's manifest; none where the builder exported the cache itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Digest>,
    /// One digest for each step, as predicted, with its text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepAbout>,
    /// What the stage starts from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseAbout>,
    /// Whether it was captured of a build that failed: it is kept beside what earlier builds left,
    /// until the next build.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub of_failed: bool,
}

/// What a stage started from when the archive was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseAbout {
    /// The image, the stage, or the context, by its name.
    pub name: String,
    /// What tells images of one name apart, where the engine had the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
}

/// A step of a stage, as it was when the archive was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepAbout {
    /// The instruction, shortened.
    pub text: String,
    /// Predicted digest of the step and all before it.
    pub digest: String,
    /// What counted for the step: the first digits of a digest, and a name. Never a value: they
    /// may be secret.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<String>,
    /// The files that counted, or the directories that they are in where they are many.
    #[serde(default, skip_serializing_if = "FileList::is_empty")]
    pub files: FileList,
}

/// The files of a step, each in one short text: mode, kind, first digits of a digest, path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileList {
    /// How many levels of directories are told apart; 0 if all files are listed.
    #[serde(default)]
    pub depth: usize,
    /// The files.
    #[serde(default)]
    pub files: Vec<String>,
}

impl FileList {
    fn is_empty(&self) -> bool {
        self.files.is_empty()
    }
}

/// What an image is there for; of several purposes, the first one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The last image of a stage.
    Stage,
    /// An image that a stage starts from.
    Base,
    /// An image between two instructions, which the classic builder finds by its parent.
    Step,
}

/// What we note about an image beside its manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageNote {
    /// What it is there for.
    pub role: Role,
    /// The tags that it had on the engine. A one-file archive names it so; no engine is ever given
    /// them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The names by digest that it had on the engine, where a registry has it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub digests: Vec<String>,
    /// The image that it was built on: its config's digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Digest>,
    /// The config's digest, and so the ID, that the image had on the engine; none where it is the
    /// same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carrier: Option<Digest>,
}

impl ImageNote {
    /// A note of this alone.
    pub fn of(role: Role) -> Self {
        Self { role, tags: Vec::new(), digests: Vec::new(), parent: None, carrier: None }
    }
}

/// An image in the archive.
#[derive(Clone, Debug)]
pub struct StoredImage {
    /// The entry of `index.json`.
    pub descriptor: Descriptor,
    /// The manifest behind it.
    pub manifest: Manifest,
    /// Our note.
    pub note: ImageNote,
}

impl StoredImage {
    /// Whether it is an image, not a stage's cache as the builder itself exported it.
    pub fn is_image(&self) -> bool {
        self.manifest.config.media_type != CACHE_CONFIG
    }

    /// The same image under another name: a stage can be renamed and its content stay.
    #[must_use]
    pub fn named(&self, name: &str) -> Self {
        self.noted(name, self.note.clone())
    }

    /// The same image with another name and note.
    #[must_use]
    pub fn noted(&self, name: &str, note: ImageNote) -> Self {
        let Self { mut descriptor, manifest, .. } = self.clone();
        descriptor.annotations.insert(REF_NAME.to_owned(), name.to_owned());
        descriptor
            .annotations
            .insert(IMAGE.to_owned(), serde_json::to_string(&note).unwrap_or_default());
        Self { descriptor, manifest, note }
    }
}

/// An archive's content.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    /// Who made it; absent in a directory that buildx wrote.
    pub about: Option<About>,
    /// The cache manifest.
    pub cache: Option<Descriptor>,
    /// The images whose documents are readable; where the builder exports its cache by itself, what it
    /// exported for each stage stands in their place.
    pub images: Vec<StoredImage>,
}

/// A layer that has been written as a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerBlob {
    /// Digest of the uncompressed layer.
    pub diff_id: Digest,
    /// The blob.
    pub blob: Digest,
    /// The blob's size in bytes.
    pub size: u64,
    /// The layer's size before compression, in bytes.
    pub unpacked_size: u64,
    /// The blob's media type.
    pub media_type: String,
}

impl LayerBlob {
    /// The layer that a descriptor of ours describes.
    pub fn from_descriptor(descriptor: &Descriptor) -> Option<Self> {
        Some(Self {
            diff_id: descriptor.annotation(UNCOMPRESSED)?.parse().ok()?,
            blob: descriptor.digest.clone(),
            size: descriptor.size,
            unpacked_size: descriptor.annotation(UNPACKED_SIZE)?.parse().ok()?,
            media_type: descriptor.media_type.clone(),
        })
    }

    /// Describes the layer; `created` is its time in the image's history. With exactly that
    /// time, an image that is built from the cache is the same image.
    pub fn descriptor(&self, created: Option<&str>) -> Descriptor {
        let mut annotations = BTreeMap::from([
            (UNCOMPRESSED.to_owned(), self.diff_id.to_string()),
            (UNPACKED_SIZE.to_owned(), self.unpacked_size.to_string()),
        ]);
        annotations.extend(created.map(|c| (CREATED_AT.to_owned(), c.to_owned())));
        Descriptor {
            media_type: self.media_type.clone(),
            digest: self.blob.clone(),
            size: self.size,
            annotations,
            platform: None,
        }
    }
}

impl Archive {
    /// Reads what `layout` holds; `None` if there is no archive.
    pub fn read(layout: &Layout) -> Result<Option<Self>, LayoutError> {
        layout.index()?.map(|index| Self::of(layout, index)).transpose()
    }

    /// What an index of `layout` names.
    pub fn of(layout: &Layout, index: Index) -> Result<Self, LayoutError> {
        let mut archive = Self { about: About::of(&index), ..Self::default() };
        let mut budget = Budget::default();
        for descriptor in index.manifests {
            let note = descriptor.annotation(IMAGE).and_then(|n| json::parse(n.as_bytes()).ok());
            if let Some(note) = note {
                // An image that can't be read is as good as absent: its stage is saved again.
                let Ok(bytes) = layout.document(&descriptor) else { continue };
                budget.take(&bytes).map_err(|reason| layout.damaged(reason))?;
                let Ok(manifest) = json::parse(&bytes) else { continue };
                if archive.images.len() == MOST_IMAGES {
                    return Err(layout.damaged(format!("it has more than {MOST_IMAGES} images")));
                }
                archive.images.push(StoredImage { descriptor, manifest, note });
            } else if descriptor.annotation(REF_NAME) == Some(CACHE_TAG) {
                archive.cache = Some(descriptor);
            }
        }
        Ok(archive)
    }

    /// Whether a newer version of this program wrote the archive.
    pub fn is_from_the_future(&self) -> bool {
        self.about.as_ref().is_some_and(|a| a.format > FORMAT)
    }

    /// The image of a stage with the same predicted digest, by preference of the same build and
    /// of the same name: stages that differ only in their settings have equal digests.
    pub fn stage_image(&self, stage: &StageAbout) -> Option<&StoredImage> {
        let equal = self.about.as_ref()?.stages.iter().filter(|s| s.digest == stage.digest);
        let found = equal.min_by_key(|s| (s.name != stage.name, s.build != stage.build))?;
        let image = found.image.as_ref()?;
        self.images.iter().find(|i| i.descriptor.digest == *image)
    }

    /// The names of the builds, in order.
    pub fn builds(&self) -> Vec<&str> {
        let mut builds: Vec<&str> = Vec::new();
        for stage in self.about.iter().flat_map(|about| &about.stages) {
            if !builds.contains(&stage.build.as_str()) {
                builds.push(&stage.build);
            }
        }
        builds
    }

    /// The layers that the images hold, by diffID.
    pub fn layers(&self) -> BTreeMap<Digest, LayerBlob> {
        self.images
            .iter()
            .flat_map(|i| &i.manifest.layers)
            .filter_map(LayerBlob::from_descriptor)
            .map(|layer| (layer.diff_id.clone(), layer))
            .collect()
    }

    /// The `index.json` with this content.
    pub fn to_index(&self) -> Index {
        let mut index = Index::new(Vec::new());
        if let Some(about) = &self.about {
            let json = serde_json::to_string(about).unwrap_or_default();
            index.annotations.insert(ABOUT.to_owned(), json);
        }
        index.manifests.extend(self.cache.clone());
        index.manifests.extend(self.images.iter().map(|i| i.descriptor.clone()));
        index
    }
}

/// Takes the documents that are made here: a directory, or a list on the way into a tar.
pub trait DocumentSink {
    /// Keeps a document under its digest.
    fn put(&mut self, bytes: &[u8]) -> Result<(), LayoutError>;
}

impl DocumentSink for &Writer {
    fn put(&mut self, bytes: &[u8]) -> Result<(), LayoutError> {
        Writer::put(self, bytes).map(drop)
    }
}

/// For documents that no index will name.
struct Unlocked<'a>(&'a Layout);

impl DocumentSink for Unlocked<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), LayoutError> {
        self.0.add_document(bytes)
    }
}

impl DocumentSink for &mut Vec<Vec<u8>> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), LayoutError> {
        self.push(bytes.to_vec());
        Ok(())
    }
}

/// Writes an image's config, byte for byte, and a manifest for it.
///
/// `layers` are the image's layers, the base's first; `ref_name` names it for other tools.
pub fn write_image(
    mut sink: impl DocumentSink,
    config_bytes: &[u8],
    layers: &[LayerBlob],
    ref_name: &str,
    note: ImageNote,
) -> Result<StoredImage, LayoutError> {
    let config: ImageConfig =
        serde_json::from_slice(config_bytes).map_err(|e| LayoutError::Damaged {
            path: ref_name.into(),
            reason: format!("the image's config is not readable: {e}"),
        })?;
    sink.put(config_bytes)?;
    let mut history = config.layer_history();
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(documents::MANIFEST.to_owned()),
        config: Descriptor::of(documents::CONFIG, config_bytes),
        layers: layers
            .iter()
            .map(|l| l.descriptor(history.next().and_then(|h| h.created.as_deref())))
            .collect(),
    };
    let bytes = to_json(&manifest);
    sink.put(&bytes)?;
    let mut descriptor = Descriptor::of(documents::MANIFEST, &bytes);
    descriptor.platform = Some(Platform {
        architecture: config.architecture.clone(),
        os: config.os.clone(),
        variant: String::new(),
    });
    let image = StoredImage { descriptor, manifest, note: note.clone() };
    Ok(image.noted(ref_name, note))
}

/// Writes the cache of one stage, as the builder exported it, in the form of an image manifest whose
/// config are the records.
pub fn write_stage_cache(
    mut sink: impl DocumentSink,
    config: &CacheConfig,
    layers: &BTreeMap<Digest, Descriptor>,
    ref_name: &str,
) -> Result<StoredImage, LayoutError> {
    let bytes = to_json(&config);
    sink.put(&bytes)?;
    let mut listed = BTreeSet::new();
    let in_order = config.layers.iter().filter(|layer| listed.insert(&layer.blob));
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(documents::MANIFEST.to_owned()),
        config: Descriptor::of(CACHE_CONFIG, &bytes),
        layers: in_order.filter_map(|layer| layers.get(&layer.blob).cloned()).collect(),
    };
    let bytes = to_json(&manifest);
    sink.put(&bytes)?;
    let descriptor = Descriptor::of(documents::MANIFEST, &bytes);
    let note = ImageNote::of(Role::Stage);
    let image = StoredImage { descriptor, manifest, note: note.clone() };
    Ok(image.noted(ref_name, note))
}

/// What [`write_cache`] wrote.
#[derive(Debug)]
pub struct WrittenCache {
    /// The entry for `index.json`; none if the images hold no records at all.
    pub descriptor: Option<Descriptor>,
    /// Names of images that came without records, though they have layers.
    pub without_records: Vec<String>,
    /// Images whose records can't be read, by their manifests, and why. They are of no use.
    pub damaged: Vec<(Digest, String)>,
    /// Records that had to be left out, because importers refuse more than 1 MiB.
    pub cut_records: usize,
}

/// Merges the inline records of `images` into one cache manifest and writes it.
pub fn write_cache(layout: &Writer, images: &[&StoredImage]) -> Result<WrittenCache, LayoutError> {
    let mut graph = RecordGraph::default();
    let mut descriptors = BTreeMap::new();
    let mut without_records = Vec::new();
    let mut damaged = Vec::new();
    for image in images {
        let name = image.descriptor.annotation(REF_NAME).unwrap_or_default();
        let has_records = match add_records(&mut graph, layout, image) {
            Ok(has_records) => has_records,
            // Its digest is right: as an error, it would end every save to come.
            Err(reason) => {
                let reason = format!("the cache records of stage `{name}` are damaged: {reason}");
                damaged.push((image.descriptor.digest.clone(), reason));
                continue;
            }
        };
        for layer in &image.manifest.layers {
            // Equal layers of several images have one descriptor, and so one time of creation:
            // that of the last image, which is the one that the user builds.
            descriptors.insert(layer.digest.clone(), layer.clone());
        }
        if !has_records && !image.manifest.layers.is_empty() {
            without_records.push(name.to_owned());
        }
    }
    let written = write_records(layout, &graph, &descriptors)?;
    Ok(WrittenCache {
        descriptor: written.as_ref().map(|(d, _)| d.clone()),
        without_records,
        damaged,
        cut_records: written.map_or(0, |(_, cut)| cut),
    })
}

/// What the images of an archive know of steps.
#[derive(Debug, Default)]
pub struct Knowledge {
    graph: RecordGraph,
}

impl Knowledge {
    /// What these images know. One that can't be read knows nothing.
    pub fn of<'a>(layout: &Layout, images: impl IntoIterator<Item = &'a StoredImage>) -> Self {
        let mut knowledge = Self::default();
        for image in images.into_iter().filter(|image| image.note.role == Role::Stage) {
            let _ = add_records(&mut knowledge.graph, layout, image);
        }
        knowledge
    }

    /// Whether nothing that an image knows is new, but for times. It is known from then on.
    pub fn has_all_of(&mut self, layout: &Layout, image: &StoredImage) -> bool {
        let before = self.graph.size();
        add_records(&mut self.graph, layout, image).is_ok() && self.graph.size() == before
    }
}

/// The records that a stage's image carries, with its layers; `None` if it has none.
fn records_of(layout: &Layout, image: &StoredImage) -> Result<Option<CacheConfig>, String> {
    if !image.is_image() {
        return layout.parse(&image.manifest.config).map(Some).map_err(|e| e.to_string());
    }
    let config = layout.parse(&image.manifest.config).map_err(|e| e.to_string())?;
    let layers = || chain(image.manifest.layers.iter().map(|l| &l.digest));
    Ok(inline_records(&config)?.map(|records| CacheConfig { layers: layers(), records }))
}

/// Adds the records that a stage's image carries; says whether it has any.
fn add_records(
    graph: &mut RecordGraph,
    layout: &Layout,
    image: &StoredImage,
) -> Result<bool, String> {
    let Some(config) = records_of(layout, image)? else { return Ok(false) };
    graph.add(&config).map_err(|e| e.to_string())?;
    Ok(true)
}

/// The records in an image config; `None` if it has none.
fn inline_records(config: &ImageConfig) -> Result<Option<Vec<CacheRecord>>, String> {
    let Some(text) = &config.inline_cache else {
        return Ok(None);
    };
    let json = BASE64_STANDARD.decode(text).map_err(|e| format!("not base64: {e}"))?;
    let records: Option<Vec<CacheRecord>> = json::parse(&json).map_err(|e| e.to_string())?;
    Ok(records.filter(|r| !r.is_empty()))
}

/// One layer on top of the other.
fn chain<'a>(blobs: impl Iterator<Item = &'a Digest>) -> Vec<CacheLayer> {
    blobs.zip(-1..).map(|(blob, parent)| CacheLayer { blob: blob.clone(), parent }).collect()
}

/// Writes records, and a manifest in the index form, which all importers read. `descriptors`
/// has the layers that may be listed.
pub fn write_records(
    mut sink: impl DocumentSink,
    graph: &RecordGraph,
    descriptors: &BTreeMap<Digest, Descriptor>,
) -> Result<Option<(Descriptor, usize)>, LayoutError> {
    let all = fitted(graph, |blob| descriptors.contains_key(blob));
    let wanted = all.config.steps() + all.cut_records;
    // Thousands of layers: the last ones go until the list is accepted. What is left of the others
    // is less, and in the same order.
    let mut room = IMPORT_LIMIT - EMPTY_MANIFEST;
    let mut accepted = BTreeSet::new();
    for layer in &all.config.layers {
        let Some(descriptor) = descriptors.get(&layer.blob) else { continue };
        if !accepted.contains(&layer.blob) {
            let Some(left) = room.checked_sub(to_json(descriptor).len() + 1) else { break };
            room = left;
            accepted.insert(layer.blob.clone());
        }
    }
    let is_whole = all.config.layers.iter().all(|layer| accepted.contains(&layer.blob));
    let Fitted { config, bytes, .. } =
        if is_whole { all } else { fitted(graph, |blob| accepted.contains(blob)) };
    if config.records.is_empty() {
        return Ok(None);
    }
    let mut listed = BTreeSet::new();
    let mut manifests: Vec<Descriptor> = config
        .layers
        .iter()
        .filter(|l| listed.insert(l.blob.clone()))
        .filter_map(|l| descriptors.get(&l.blob).cloned())
        .collect();
    manifests.push(Descriptor::of(CACHE_CONFIG, &bytes));
    let manifest = to_json(&Index::new(manifests));
    sink.put(&bytes)?;
    sink.put(&manifest)?;
    let entry = cache_entry(&Descriptor::of(documents::INDEX, &manifest));
    Ok(Some((entry, wanted - config.steps())))
}

/// The records whose layers may be listed.
fn fitted(graph: &RecordGraph, may_be_listed: impl Fn(&Digest) -> bool) -> Fitted {
    graph.to_config(|blob| may_be_listed(blob).then(|| blob.clone()))
}

/// The entry of `index.json` under which importers find a cache manifest.
pub fn cache_entry(manifest: &Descriptor) -> Descriptor {
    let annotations = BTreeMap::from([(REF_NAME.to_owned(), CACHE_TAG.to_owned())]);
    Descriptor { annotations, ..manifest.clone() }
}

/// Reads a cache manifest of either form: the records, and the layers' descriptors.
pub fn read_cache(
    layout: &Layout,
    cache: &Descriptor,
) -> Result<(CacheConfig, BTreeMap<Digest, Descriptor>), LayoutError> {
    let parts: Vec<Descriptor> = if cache.media_type.contains("manifest.v") {
        let manifest: Manifest = layout.parse(cache)?;
        std::iter::once(manifest.config).chain(manifest.layers).collect()
    } else {
        layout.parse::<Index>(cache)?.manifests
    };
    let (configs, layers): (Vec<_>, Vec<_>) =
        parts.into_iter().partition(|d| d.media_type == CACHE_CONFIG);
    let config = configs.first().ok_or_else(|| LayoutError::Damaged {
        path: layout.root().to_owned(),
        reason: format!("cache manifest {} names no cache records", cache.digest),
    })?;
    Ok((layout.parse(config)?, layers.into_iter().map(|l| (l.digest.clone(), l)).collect()))
}

/// Writes a cache manifest in the form of an image manifest, which every registry takes. Builders
/// read that form from Docker 25 on.
pub fn cache_as_image(layout: &Writer, cache: &Descriptor) -> Result<Descriptor, LayoutError> {
    if cache.media_type.contains("manifest.v") {
        return Ok(cache.clone());
    }
    let parts = layout.parse::<Index>(cache)?.manifests;
    let (mut configs, layers): (Vec<_>, Vec<_>) =
        parts.into_iter().partition(|d| d.media_type == CACHE_CONFIG);
    let Some(config) = configs.pop() else { return Ok(cache.clone()) };
    let media_type = Some(documents::MANIFEST.to_owned());
    let bytes = to_json(&Manifest { schema_version: 2, media_type, config, layers });
    layout.put(&bytes)?;
    Ok(cache_entry(&Descriptor::of(documents::MANIFEST, &bytes)))
}

/// Writes a cache manifest that promises only results whose layers are `present`; `None` if
/// there is none. It is for one build, and needs no lock.
pub fn write_partial_cache(
    layout: &Layout,
    cache: &Descriptor,
    present: impl Fn(&Digest) -> bool,
) -> Result<Option<Descriptor>, LayoutError> {
    let (config, mut descriptors) = read_cache(layout, cache)?;
    descriptors.retain(|digest, _| present(digest));
    let mut graph = RecordGraph::default();
    graph.add(&config).map_err(|e| LayoutError::Damaged {
        path: layout.root().to_owned(),
        reason: format!("cache manifest {}: {e}", cache.digest),
    })?;
    Ok(write_records(Unlocked(layout), &graph, &descriptors)?.map(|(descriptor, _)| descriptor))
}

/// Takes what is bad out of the archive, so that the rest can be offered to a builder: images
/// and cache results that need a bad blob go, the bad files are removed.
pub fn heal(layout: &Writer, bad: &[BadBlob]) -> Result<Archive, LayoutError> {
    let digests: BTreeSet<&Digest> = bad.iter().map(|b| &b.digest).collect();
    let is_bad = |digest: &Digest| digests.contains(digest);
    // First of all: what is made anew below may have the name of what is bad.
    for blob in bad {
        layout.remove_blob(&blob.digest)?;
    }
    let mut archive = Archive::read(layout)?.unwrap_or_default();
    let cache = archive.cache.take();
    archive.images.retain(|image| {
        let manifest = &image.manifest;
        !is_bad(&image.descriptor.digest)
            && !is_bad(&manifest.config.digest)
            && !manifest.layers.iter().any(|l| is_bad(&l.digest))
    });
    archive.cache = match cache.map(|c| read_cache(layout, &c)) {
        Some(Ok((config, mut descriptors))) => {
            descriptors.retain(|digest, _| !is_bad(digest));
            let mut graph = RecordGraph::default();
            match graph.add(&config) {
                Ok(()) => write_records(layout, &graph, &descriptors)?.map(|(d, _)| d),
                Err(_) => None,
            }
        }
        // The cache manifest itself is bad: what the images know is left.
        Some(Err(_)) => {
            let stages: Vec<_> =
                archive.images.iter().filter(|i| i.note.role == Role::Stage).collect();
            write_cache(layout, &stages)?.descriptor
        }
        None => None,
    };
    layout.commit(&archive.to_index())?;
    live::sweep(layout)?;
    Ok(archive)
}

/// What `index.json` reaches; nothing if there is no archive.
pub fn reach(layout: &Layout) -> Result<Reach, LayoutError> {
    Ok(layout.index()?.map(|index| live::reach(layout, &index)).unwrap_or_default())
}

fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    // Our own types have string keys only, so this can't fail.
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::records::CacheResult;
    use super::*;
    use crate::oci::codec::Codec;

    /// A stage image of one layer, made at `created`.
    fn image(layout: &Writer, name: &str, layer: &LayerBlob, created: &str) -> StoredImage {
        let records = format!(r#"[{{"digest":"sha256:{name}","layers":[{{"layer":0}}]}}]"#);
        let config = serde_json::json!({
            "rootfs": { "type": "layers", "diff_ids": [layer.diff_id] },
            "history": [{ "created": created }],
            "moby.buildkit.cache.v0": BASE64_STANDARD.encode(records),
        });
        let note = ImageNote::of(Role::Stage);
        let layers = std::slice::from_ref(layer);
        write_image(layout, config.to_string().as_bytes(), layers, name, note).unwrap()
    }

    fn layer(layout: &Writer) -> LayerBlob {
        let digest = layout.put(b"a layer").unwrap();
        LayerBlob {
            diff_id: digest.clone(),
            blob: digest,
            size: 7,
            unpacked_size: 7,
            media_type: Codec::Gzip.media_type().to_owned(),
        }
    }

    #[test]
    fn a_layer_of_two_stages_has_the_time_that_the_last_one_gives_it() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::at(dir.path()).lock().unwrap();
        let layer = layer(&layout);
        let first = image(&layout, "first", &layer, "2020-01-01T00:00:00Z");
        let last = image(&layout, "last", &layer, "2020-01-01T00:00:01Z");
        let cache = write_cache(&layout, &[&first, &last]).unwrap().descriptor.unwrap();
        let (_, descriptors) = read_cache(&layout, &cache).unwrap();
        let created = descriptors[&layer.blob].annotation(CREATED_AT);
        assert_eq!(created, Some("2020-01-01T00:00:01Z"));
    }

    #[test]
    fn damaged_records_of_one_stage_cost_only_that_stage() {
        for records in
            ["not base64!", "bm90IEpTT04=", "W3siZGlnZXN0IjoiYSIsImxheWVycyI6W3sibGF5ZXIiOjl9XX1d"]
        {
            let dir = tempfile::tempdir().unwrap();
            let layout = Layout::at(dir.path()).lock().unwrap();
            let layer = layer(&layout);
            let good = image(&layout, "good", &layer, "2020-01-01T00:00:00Z");
            let config = serde_json::json!({
                "rootfs": { "type": "layers", "diff_ids": [layer.diff_id] },
                "moby.buildkit.cache.v0": records,
            });
            let (config, note) = (config.to_string(), ImageNote::of(Role::Stage));
            let bad = write_image(&layout, config.as_bytes(), &[layer], "bad", note).unwrap();
            let cache = write_cache(&layout, &[&bad, &good]).unwrap();
            assert_eq!(cache.damaged.len(), 1, "{records}");
            assert_eq!(cache.damaged[0].0, bad.descriptor.digest);
            let (config, _) = read_cache(&layout, &cache.descriptor.unwrap()).unwrap();
            assert_eq!(config.records.len(), 1);
        }
    }

    #[test]
    fn notes_of_more_stages_than_can_be_compared_are_not_understood() {
        let of = |count| {
            let stages = (0..count).map(|number| StageAbout {
                name: String::new(),
                build: format!("{number}"),
                digest: String::new(),
                image: None,
                steps: Vec::new(),
                base: None,
                of_failed: false,
            });
            let about = Some(About { stages: stages.collect(), ..About::default() });
            About::of(&Archive { about, ..Archive::default() }.to_index())
        };
        assert!(of(MOST_STAGES).is_some());
        assert!(of(MOST_STAGES + 1).is_none());
    }

    #[test]
    fn many_entries_for_one_large_manifest_are_refused_before_they_fill_the_memory() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::at(dir.path()).lock().unwrap();
        let layer = layer(&layout);
        let layers = vec![layer; 10_000];
        let note = ImageNote::of(Role::Stage);
        let large = write_image(&layout, b"{}", &layers, "large", note).unwrap();
        layout.commit(&Index::new(vec![large.descriptor; 1000])).unwrap();
        let error = Archive::read(&layout).unwrap_err().to_string();
        assert!(error.contains("its manifests have more than"), "{error}");
    }

    #[test]
    fn stages_that_differ_in_their_settings_have_each_its_own_image() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::at(dir.path()).lock().unwrap();
        let layer = layer(&layout);
        let images = ["one", "two"].map(|name| image(&layout, name, &layer, name));
        let stage = |image: &StoredImage, name: &str| StageAbout {
            name: name.to_owned(),
            build: "app".to_owned(),
            digest: "equal".to_owned(),
            image: Some(image.descriptor.digest.clone()),
            steps: Vec::new(),
            base: None,
            of_failed: false,
        };
        let stages = vec![stage(&images[0], "one"), stage(&images[1], "two")];
        let about = About { stages: stages.clone(), ..About::default() };
        let archive = Archive { about: Some(about), images: images.into(), ..Archive::default() };
        for stage in &stages {
            let found = archive.stage_image(stage).unwrap();
            assert_eq!(Some(&found.descriptor.digest), stage.image.as_ref(), "{}", stage.name);
        }
        let renamed = StageAbout { name: "three".to_owned(), ..stages[1].clone() };
        assert!(archive.stage_image(&renamed).is_some());
    }

    #[test]
    fn thousands_of_layers_are_cut_to_a_list_that_importers_accept() {
        let blob = |n: usize| Digest::of(n.to_string().as_bytes());
        let mut graph = RecordGraph::default();
        let mut descriptors = BTreeMap::new();
        for stage in 0..60 {
            let steps = 80 * stage..80 * (stage + 1);
            let records = steps.clone().map(|n| CacheRecord {
                digest: format!("step {n}"),
                results: vec![CacheResult { layer: n % 80, created_at: None }],
                ..CacheRecord::default()
            });
            let blobs: Vec<Digest> = steps.clone().map(blob).collect();
            let config = CacheConfig { layers: chain(blobs.iter()), records: records.collect() };
            graph.add(&config).unwrap();
            descriptors.extend(blobs.into_iter().map(|digest| {
                let layer = LayerBlob {
                    diff_id: digest.clone(),
                    blob: digest.clone(),
                    size: 32,
                    unpacked_size: 1024,
                    media_type: "application/vnd.oci.image.layer.v1.tar+zstd".to_owned(),
                };
                (digest, layer.descriptor(Some("2024-01-01T00:00:00.000000001Z")))
            }));
        }
        let mut documents = Vec::new();
        let (descriptor, cut) =
            write_records(&mut documents, &graph, &descriptors).unwrap().unwrap();
        assert!(documents.iter().all(|d| d.len() <= IMPORT_LIMIT));
        let manifest: Index = serde_json::from_slice(&documents[1]).unwrap();
        assert_eq!(descriptor.digest, Digest::of(&documents[1]));
        let config: CacheConfig = serde_json::from_slice(&documents[0]).unwrap();
        let listed: BTreeSet<_> = manifest.manifests.iter().map(|d| &d.digest).collect();
        assert!(config.layers.iter().all(|l| listed.contains(&l.blob)));
        assert_eq!(config.steps() + cut, 60 * 80, "what is cut must be said");
        assert!(config.records.len() > 1500, "only {} are left", config.records.len());
    }
}
