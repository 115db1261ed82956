//! The cache manifest: BuildKit's records of all the stages, in the two forms that importers read.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::image::{DocumentSink, ImageNote, Role, StoredImage};
use super::records::{CacheConfig, CacheLayer, CacheRecord, Fitted, IMPORT_LIMIT, RecordGraph};
use super::to_json;
use crate::oci::digest::Digest;
use crate::oci::directory::{Layout, LayoutError};
use crate::oci::documents::{
    self, CACHE_CONFIG, Descriptor, ImageConfig, Index, Manifest, REF_NAME,
};
use crate::oci::json;
use crate::oci::writer::Writer;

/// The tag under which BuildKit's local importer looks for the cache.
pub(super) const CACHE_TAG: &str = "latest";
/// What a cache manifest has besides layers, in bytes, and some more.
const EMPTY_MANIFEST: usize = 512;

/// For documents that no index will name.
struct Unlocked<'a>(&'a Layout);

impl DocumentSink for Unlocked<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), LayoutError> {
        self.0.add_document(bytes)
    }
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
    /// Records that were cut, because importers refuse more than 1 MiB.
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
pub(super) fn chain<'a>(blobs: impl Iterator<Item = &'a Digest>) -> Vec<CacheLayer> {
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
