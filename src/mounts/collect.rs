//! Makes the mounts of an archive from what was packed after each build of a job.

use std::collections::BTreeSet;

use super::carry::NotedMount;
use super::layers;
use super::policy::{Choice, Settings};
use crate::archive::{Archive, LayerBlob, Role, StoredImage};
use crate::oci::digest::Digest;
use crate::oci::directory::LayoutError;
use crate::oci::writer::Writer;
use crate::predict::cache_mounts::CacheMount;
use crate::report::bytes;

/// Adds the mounts of the job's builds to `archive`: what was packed, on top of what `old` has. A mount
/// that no step has used stays as it is in `old`, and so do those of other builds if `keeps_others`.
/// Gives what the user should know.
pub(crate) fn collect(
    writer: &Writer,
    archive: &mut Archive,
    old: &Archive,
    noted: &[NotedMount],
    keeps_others: bool,
    settings: &Settings,
) -> Result<Vec<String>, LayoutError> {
    if settings.choice == Choice::Nothing {
        return Ok(Vec::new());
    }
    let mut warnings = Vec::new();
    let mut images: Vec<(CacheMount, StoredImage)> = layers::mounts(writer, old)
        .filter(|(_, about)| keeps_others || noted.iter().any(|note| note.mount == about.mount))
        .map(|(image, about)| (about.mount, image.clone()))
        .collect();
    for note in noted {
        let Some(packed) = &note.packed else { continue };
        let mut below = Vec::new();
        if !packed.packed.full {
            let from = note.filled.as_ref().map(|filled| &filled.from);
            let base = old.images.iter().find(|i| Some(&i.descriptor.digest) == from);
            let Some(layers) = base.and_then(layers::layers_of) else {
                warnings.push(format!(
                    "cache mount `{}` stays as it was: what it was filled from is no longer in the \
                     archive",
                    note.mount.id
                ));
                continue;
            };
            below = layers;
        }
        let image = layers::write(writer, &note.mount, &packed.packed, &below, &packed.result)?;
        images.retain(|(mount, _)| *mount != note.mount);
        images.push((note.mount.clone(), image));
    }
    images.sort_by(|(a, _), (b, _)| a.cmp(b));
    let size = |image: &StoredImage| image.manifest.layers.iter().map(|l| l.size).sum::<u64>();
    while images.iter().map(|(_, image)| size(image)).sum::<u64>() > settings.all {
        let largest = (0..images.len()).max_by_key(|&at| size(&images[at].1)).unwrap_or_default();
        let (mount, image) = images.remove(largest);
        warnings.push(format!(
            "cache mount `{}` of {} is not saved: all mounts are larger than {}; see \
             DOCKERCACHE_MOUNTS_ALL",
            mount.id,
            bytes(size(&image)),
            bytes(settings.all)
        ));
    }
    archive.images.retain(|image| image.note.role != Role::Mount);
    archive.images.extend(images.into_iter().map(|(_, image)| image));
    Ok(warnings)
}

/// The blobs of the layers that only mounts have: no builder reads them.
pub(crate) fn layers_of_mounts(archive: &Archive) -> BTreeSet<Digest> {
    let mounts = archive.images.iter().filter(|image| image.note.role == Role::Mount);
    let layers = mounts.flat_map(|image| &image.manifest.layers);
    layers.filter_map(LayerBlob::from_descriptor).map(|layer| layer.blob).collect()
}
