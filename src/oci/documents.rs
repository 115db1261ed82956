//! The OCI documents that we read and write: descriptors, indexes, manifests, image configs.
//!
//! Follows the OCI image specification 1.1. Reading tolerates fields that we do not know; what
//! we did not make ourselves is kept as bytes and never written back from these types.

use std::collections::BTreeMap;

use serde::de::{Error as _, IgnoredAny};
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::json;

/// Media type of an image index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of an image manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an image config.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Docker's own names for an index and a manifest, which `docker` and `buildx` still write.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// See [`DOCKER_INDEX`].
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Media type of BuildKit's cache records.
pub const CACHE_CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";

/// Annotation with the name of an entry of `index.json`.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Annotation with the diffID of a layer, which BuildKit's importer requires.
pub const UNCOMPRESSED: &str = "containerd.io/uncompressed";
/// Annotation with the creation time that BuildKit puts into the image's history.
pub const CREATED_AT: &str = "buildkit/createdat";
/// Points at a blob: its type, digest, size in bytes, and notes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What kind of blob it is.
    pub media_type: String,
    /// The blob's name.
    pub digest: Digest,
    /// The blob's size in bytes.
    pub size: u64,
    /// Notes by key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The platform of an image, as its writer put it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

/// What an image is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// The architecture, in Go's names.
    #[serde(default)]
    pub architecture: String,
    /// The operating system.
    #[serde(default)]
    pub os: String,
    /// The variant of the architecture.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl Descriptor {
    /// Describes `bytes` as a blob of `media_type`, without notes.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            annotations: BTreeMap::new(),
            platform: None,
        }
    }

    /// The value of an annotation.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }

    /// Whether nothing can hang on the blob where an index lists it: a cache manifest in the form of
    /// an index lists layers and the records.
    pub(crate) fn is_leaf(&self) -> bool {
        self.media_type == CACHE_CONFIG || self.is_layer()
    }

    /// Whether the blob is a layer, not a document.
    pub fn is_layer(&self) -> bool {
        self.media_type.contains(".layer.") || self.media_type.contains(".diff.")
    }

    /// Whether the blob is an index or a manifest, that is, points at more blobs.
    pub fn is_document(&self) -> bool {
        matches!(self.media_type.as_str(), INDEX | MANIFEST | DOCKER_INDEX | DOCKER_MANIFEST)
    }
}

/// What a manifest or an index points at.
pub fn children(document: &Descriptor, bytes: &[u8]) -> serde_json::Result<Vec<Descriptor>> {
    Ok(parts(document, bytes)?.descriptors)
}

/// What a manifest or an index consists of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) descriptors: Vec<Descriptor>,
    /// The manifest that it refers to, which need not be there.
    pub(crate) subject: Option<Descriptor>,
    /// Whether nothing else in it can point at a blob.
    pub(crate) is_understood: bool,
}

/// Reads what a manifest or an index consists of. Which of both it is, its media type's name decides:
/// buildx writes either as a cache manifest.
pub(crate) fn parts(document: &Descriptor, bytes: &[u8]) -> serde_json::Result<Parts> {
    #[derive(Deserialize)]
    struct Document {
        config: Option<Descriptor>,
        layers: Option<Vec<Descriptor>>,
        manifests: Option<Vec<Descriptor>>,
        subject: Option<Descriptor>,
        blobs: Option<IgnoredAny>,
    }
    let document_type = &document.media_type;
    let document: Document = json::parse(bytes)?;
    let Document { config, layers, manifests, subject, blobs } = document;
    if document_type.contains("manifest.v") {
        let config = config.ok_or_else(|| serde_json::Error::missing_field("config"))?;
        let descriptors = std::iter::once(config).chain(layers.unwrap_or_default()).collect();
        let is_understood = manifests.is_none() && blobs.is_none();
        Ok(Parts { descriptors, subject, is_understood })
    } else {
        let is_understood = config.is_none() && layers.is_none() && blobs.is_none();
        Ok(Parts { descriptors: manifests.unwrap_or_default(), subject, is_understood })
    }
}

/// An image index: `index.json`, or a blob that lists manifests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// Always [`INDEX`] where we write it; absent in what buildx writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The entries.
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
    /// Notes by key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Index {
    /// An index of `manifests` without notes.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(INDEX.to_owned()),
            manifests,
            annotations: BTreeMap::new(),
        }
    }
}

/// An image manifest: a config and layers, the base's layer first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Always [`MANIFEST`] where we write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The image config, or BuildKit's cache records.
    pub config: Descriptor,
    /// The layers.
    #[serde(default)]
    pub layers: Vec<Descriptor>,
}

/// The part of an image config that we read.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ImageConfig {
    /// The diffIDs of the layers, the base's first.
    #[serde(default)]
    pub rootfs: RootFs,
    /// One entry for each instruction.
    #[serde(default)]
    pub history: Option<Vec<History>>,
    /// BuildKit's inline cache: base64 of a JSON array of records.
    #[serde(default, rename = "moby.buildkit.cache.v0")]
    pub inline_cache: Option<String>,
    /// The platform's operating system.
    #[serde(default)]
    pub os: String,
    /// The platform's architecture, in Go's names.
    #[serde(default)]
    pub architecture: String,
}

/// The layers of an image by diffID.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct RootFs {
    /// The diffIDs, the base's first.
    #[serde(default)]
    pub diff_ids: Option<Vec<Digest>>,
}

/// One entry of an image's history.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct History {
    /// RFC 3339, kept as text: BuildKit compares it byte for byte.
    #[serde(default)]
    pub created: Option<String>,
    /// The instruction.
    #[serde(default)]
    pub created_by: Option<String>,
    /// Whether the instruction made no layer.
    #[serde(default)]
    pub empty_layer: bool,
}

impl ImageConfig {
    /// The diffIDs of the layers, the base's first; none for an image without layers.
    pub fn diff_ids(&self) -> &[Digest] {
        self.rootfs.diff_ids.as_deref().unwrap_or_default()
    }

    /// The history entries that made a layer, the base's first.
    pub fn layer_history(&self) -> impl Iterator<Item = &History> {
        self.history.iter().flatten().filter(|h| !h.empty_layer)
    }
}
