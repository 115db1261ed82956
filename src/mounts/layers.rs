//! The form of a mount in the archive: an image whose layers are the mount, the first one first.
//!
//! Its config says which mount it is and for how many builds files have not been used. No builder is
//! ever offered it.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use super::inside::{AGES, LAYER};
use super::pack::Packed;
use crate::archive::{Archive, ImageNote, LayerBlob, Role, StoredImage, write_image};
use crate::oci::codec::Codec;
use crate::oci::digest::Digest;
use crate::oci::directory::{Layout, LayoutError};
use crate::oci::writer::Writer;
use crate::predict::cache_mounts::CacheMount;

/// The most bytes of ages that are noted. Where files are more than fit, all of them count as used.
const MOST_AGES: usize = 2 << 20;

/// What the config of a mount's image says of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MountAbout {
    pub(crate) mount: CacheMount,
    pub(crate) packed: Packed,
    /// zstd of the ages, as base64.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    ages: String,
}

impl MountAbout {
    /// The ages of unused files, compressed.
    pub(crate) fn ages(&self) -> Vec<u8> {
        BASE64_STANDARD.decode(&self.ages).unwrap_or_default()
    }
}

#[derive(Deserialize)]
struct Config {
    #[serde(rename = "dev.dockercache.mount")]
    about: MountAbout,
}

/// The images of mounts in an archive, with what they say of themselves.
pub(crate) fn mounts<'a>(
    layout: &'a Layout,
    archive: &'a Archive,
) -> impl Iterator<Item = (&'a StoredImage, MountAbout)> {
    let images = archive.images.iter().filter(|image| image.note.role == Role::Mount);
    images.filter_map(|image| {
        let config: Config = layout.parse(&image.manifest.config).ok()?;
        Some((image, config.about))
    })
}

/// The image of this mount.
pub(crate) fn image<'a>(
    layout: &'a Layout,
    archive: &'a Archive,
    mount: &CacheMount,
) -> Option<(&'a StoredImage, MountAbout)> {
    mounts(layout, archive).find(|(_, about)| about.mount == *mount)
}

/// The layers of an image, if all of them are described as ours are.
pub(crate) fn layers_of(image: &StoredImage) -> Option<Vec<LayerBlob>> {
    image.manifest.layers.iter().map(LayerBlob::from_descriptor).collect()
}

/// Writes the image of a mount that was packed into `result`, on top of these layers unless it
/// stands for itself.
pub(crate) fn write(
    writer: &Writer,
    mount: &CacheMount,
    packed: &Packed,
    below: &[LayerBlob],
    result: &Path,
) -> Result<StoredImage, LayoutError> {
    let mut layers = if packed.full { Vec::new() } else { below.to_vec() };
    if packed.changed {
        let path = result.join(LAYER);
        let mut blob = writer.blob_writer()?;
        let copied = File::open(&path).and_then(|mut file| io::copy(&mut file, &mut blob));
        copied.map_err(LayoutError::io("read", &path))?;
        let (digest, size) = blob.finish()?;
        let diff_id: Digest = packed.diff_id.parse().map_err(|_| LayoutError::Damaged {
            path: path.clone(),
            reason: "its digest is not one".to_owned(),
        })?;
        layers.push(LayerBlob {
            diff_id,
            blob: digest,
            size,
            unpacked_size: packed.unpacked,
            media_type: Codec::Zstd.media_type().to_owned(),
        });
    }
    let ages = fs::read(result.join(AGES)).unwrap_or_default();
    let ages = if ages.len() > MOST_AGES { Vec::new() } else { ages };
    let about = MountAbout {
        mount: mount.clone(),
        packed: packed.clone(),
        ages: BASE64_STANDARD.encode(ages),
    };
    let (os, architecture) = mount.platform.split_once('/').unwrap_or(("linux", &mount.platform));
    let diff_ids: Vec<&Digest> = layers.iter().map(|layer| &layer.diff_id).collect();
    let config = serde_json::json!({
        "architecture": architecture.split('/').next().unwrap_or_default(),
        "os": os,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "dev.dockercache.mount": about,
    });
    let name = format!("mount-{}", mount.key());
    write_image(writer, config.to_string().as_bytes(), &layers, &name, ImageNote::of(Role::Mount))
}
