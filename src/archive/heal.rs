//! Takes what is damaged out of an archive, so that the rest can be offered.

use std::collections::BTreeSet;

use super::image::Role;
use super::records::RecordGraph;
use super::{Archive, read_cache, write_cache, write_records};
use crate::oci::digest::Digest;
use crate::oci::directory::LayoutError;
use crate::oci::live;
use crate::oci::verify::BadBlob;
use crate::oci::writer::Writer;

/// Takes what is bad out of the archive, so that the rest can be offered to a builder: images
/// and cache results that need a bad blob go, the bad files are removed.
pub fn heal(layout: &Writer, bad: &[BadBlob]) -> Result<Archive, LayoutError> {
    let digests: BTreeSet<&Digest> = bad.iter().map(|b| &b.digest).collect();
    let is_bad = |digest: &Digest| digests.contains(digest);
    // First: what is made again below may have the name of a corrupt blob.
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
