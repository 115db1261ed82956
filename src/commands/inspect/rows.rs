//! What is in an archive, as `inspect` shows it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::origin::{Origin, origins};
use crate::archive::trust::{Scope, Signature};
use crate::archive::{self, Archive, LayerBlob, Role, StoredImage};
use crate::mounts::layers::{self, MountAbout};
use crate::oci::digest::Digest;
use crate::oci::directory::{Layout, LayoutError};
use crate::oci::documents::Index;
use crate::oci::live;

/// The JSON form of the result.
#[derive(Serialize)]
pub(super) struct Inspected {
    pub(super) schema: &'static str,
    pub(super) path: String,
    pub(super) engine: Option<String>,
    pub(super) strategy: Option<String>,
    pub(super) platform: Option<String>,
    pub(super) created: Option<String>,
    pub(super) signature: SignatureRow,
    pub(super) stages: Vec<StageRow>,
    pub(super) cache: Option<CacheRow>,
    pub(super) mounts: Vec<MountRow>,
    pub(super) blobs: Vec<BlobRow>,
    pub(super) live: Total,
    pub(super) dead: Total,
}

/// Whether it is signed, and by a key that this job trusts.
#[derive(Serialize)]
pub(super) struct SignatureRow {
    pub(super) state: &'static str,
    /// The public key, and what is covered, if that could be checked.
    pub(super) key: Option<String>,
    pub(super) project: Option<String>,
    pub(super) platform: Option<String>,
}

impl From<Signature> for SignatureRow {
    fn from(signature: Signature) -> Self {
        let (state, good) = match signature {
            Signature::Missing => ("unsigned", None),
            Signature::Unchecked => ("unchecked", None),
            Signature::Foreign => ("foreign", None),
            Signature::Good { key, scope } => ("good", Some((key, scope))),
        };
        let (key, scope) = good.unzip();
        let (project, platform) =
            scope.map(|Scope { project, platform }| (project, platform)).unzip();
        Self { state, key, project, platform }
    }
}

#[derive(Serialize)]
pub(super) struct StageRow {
    pub(super) name: String,
    /// The build that it is a stage of.
    pub(super) build: String,
    pub(super) digest: String,
    /// The stage image's manifest; none where the builder exported the cache itself.
    pub(super) image: Option<Digest>,
    pub(super) layers: Vec<LayerRow>,
    /// Of the layers as they are stored.
    pub(super) bytes: u64,
    /// What it starts from.
    #[serde(skip)]
    pub(super) base: Option<String>,
}

/// A cache mount, as the last build that has used it left it.
#[derive(Serialize)]
pub(super) struct MountRow {
    pub(super) id: String,
    pub(super) namespace: String,
    pub(super) platform: String,
    pub(super) image: Digest,
    pub(super) layers: usize,
    /// Of the layers as they are stored.
    pub(super) bytes: u64,
    pub(super) files: u64,
    pub(super) unpacked_bytes: u64,
    /// What that build has used, as far as that is known.
    pub(super) used_files: u64,
    pub(super) used_bytes: u64,
    /// What that build has dropped.
    pub(super) dropped_files: u64,
    pub(super) dropped_bytes: u64,
}

#[derive(Serialize)]
pub(super) struct LayerRow {
    pub(super) diff_id: Digest,
    pub(super) blob: Digest,
    pub(super) bytes: u64,
    pub(super) unpacked_bytes: u64,
    /// How many stages have this layer.
    pub(super) stages: usize,
    /// The instruction that made it, as far as that is known.
    pub(super) instruction: Option<String>,
    /// Whether it is the base's.
    pub(super) base: bool,
}

#[derive(Serialize)]
pub(super) struct CacheRow {
    pub(super) manifest: Digest,
    pub(super) layers: usize,
    pub(super) records: usize,
    /// The layers, with their sizes.
    #[serde(skip)]
    pub(super) sizes: Vec<(Digest, u64)>,
}

#[derive(Serialize)]
pub(super) struct BlobRow {
    pub(super) digest: Digest,
    pub(super) bytes: u64,
    pub(super) media_type: Option<String>,
    pub(super) live: bool,
}

#[derive(Default, Serialize)]
pub(super) struct Total {
    pub(super) blobs: usize,
    pub(super) bytes: u64,
}

/// Looks at an archive whose index has been read.
pub(super) fn look(
    layout: &Layout,
    index: Index,
    signature: Signature,
) -> Result<Inspected, LayoutError> {
    let reach = live::reach(layout, &index);
    let archive = Archive::of(layout, index)?;
    let mut users: BTreeMap<Digest, BTreeSet<Digest>> = BTreeMap::new();
    for image in archive.images.iter().filter(|i| i.note.role == Role::Stage) {
        for layer in image.manifest.layers.iter().filter_map(LayerBlob::from_descriptor) {
            users.entry(layer.diff_id).or_default().insert(image.descriptor.digest.clone());
        }
    }
    let stages = archive.about.iter().flat_map(|a| &a.stages).map(|stage| {
        let image = archive.image_of(stage);
        let layers: Vec<LayerBlob> = image
            .iter()
            .flat_map(|i| &i.manifest.layers)
            .filter_map(LayerBlob::from_descriptor)
            .collect();
        let config = image.and_then(|i| layout.parse(&i.manifest.config).ok()).unwrap_or_default();
        let layers: Vec<LayerRow> = origins(stage, &config, layers.len())
            .into_iter()
            .zip(layers)
            .map(|(origin, layer)| LayerRow {
                stages: users.get(&layer.diff_id).map_or(0, BTreeSet::len),
                diff_id: layer.diff_id,
                blob: layer.blob,
                bytes: layer.size,
                unpacked_bytes: layer.unpacked_size,
                base: origin == Origin::Base,
                instruction: match origin {
                    Origin::Instruction(text) => Some(text),
                    Origin::Base | Origin::Unknown => None,
                },
            })
            .collect();
        StageRow {
            name: stage.name.clone(),
            build: stage.build.clone(),
            digest: stage.digest.clone(),
            image: stage.image.clone(),
            bytes: layers.iter().map(|l| l.bytes).sum(),
            layers,
            base: stage.base.as_ref().map(|base| base.name.clone()),
        }
    });
    let cache = archive.cache.as_ref().map(|cache| {
        let (config, layers) = archive::read_cache(layout, cache).unwrap_or_default();
        CacheRow {
            manifest: cache.digest.clone(),
            layers: config.layers.len(),
            records: config.steps(),
            sizes: layers.into_iter().map(|(digest, layer)| (digest, layer.size)).collect(),
        }
    });
    let mut inspected = Inspected {
        schema: "dockercache.inspect.v1",
        path: layout.root().display().to_string(),
        engine: archive.about.as_ref().map(|a| a.engine.clone()),
        strategy: archive.about.as_ref().map(|a| a.strategy.clone()),
        platform: archive.about.as_ref().map(|a| a.platform.clone()),
        created: archive.about.as_ref().map(|a| a.created.clone()),
        signature: signature.into(),
        stages: stages.collect(),
        cache,
        mounts: mounts(layout, &archive),
        blobs: Vec::new(),
        live: Total::default(),
        dead: Total::default(),
    };
    for (digest, size) in layout.blob_files()? {
        let descriptor = reach.blobs.get(&digest);
        let total = if descriptor.is_some() { &mut inspected.live } else { &mut inspected.dead };
        total.blobs += 1;
        total.bytes += size;
        inspected.blobs.push(BlobRow {
            media_type: descriptor.map(|d| d.media_type.clone()),
            live: descriptor.is_some(),
            digest,
            bytes: size,
        });
    }
    Ok(inspected)
}

fn mounts(layout: &Layout, archive: &Archive) -> Vec<MountRow> {
    let row = |(image, about): (&StoredImage, MountAbout)| MountRow {
        id: about.mount.id,
        namespace: about.mount.namespace,
        platform: about.mount.platform,
        image: image.descriptor.digest.clone(),
        layers: image.manifest.layers.len(),
        bytes: image.manifest.layers.iter().map(|layer| layer.size).sum(),
        files: about.packed.files,
        unpacked_bytes: about.packed.bytes,
        used_files: about.packed.used_files,
        used_bytes: about.packed.used_bytes,
        dropped_files: about.packed.dropped_files,
        dropped_bytes: about.packed.dropped_bytes,
    };
    layers::mounts(layout, archive).map(row).collect()
}
