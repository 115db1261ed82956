//! The images of an archive: their documents, and what we note of each.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::to_json;
use crate::oci::digest::Digest;
use crate::oci::directory::LayoutError;
use crate::oci::documents::{
    self, CACHE_CONFIG, CREATED_AT, Descriptor, ImageConfig, Manifest, Platform, REF_NAME,
    UNCOMPRESSED,
};
use crate::oci::writer::Writer;

/// The annotation with our note.
pub(super) const IMAGE: &str = "dev.dockercache.image";
/// Annotation with the size of a layer before compression, in bytes.
const UNPACKED_SIZE: &str = "dev.dockercache.unpacked-size";

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
    /// The content of a cache mount, which no builder is offered.
    Mount,
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
