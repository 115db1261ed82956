//! Which blobs are alive: those that `index.json` reaches. Everything else can go.
//!
//! Works for any OCI image layout, also for the directory of a buildx local cache, which never
//! deletes a blob by itself.

use std::collections::{BTreeMap, BTreeSet};

use super::digest::Digest;
use super::directory::{Layout, LayoutError};
use super::oci::{Descriptor, Index};
use super::writer::Writer;

/// The blobs that an index reaches.
#[derive(Debug, Default)]
pub struct Reach {
    /// What is reached, by digest.
    pub blobs: BTreeMap<Digest, Descriptor>,
    /// Documents that could not be read, and why: what they would reach is unknown.
    pub unreadable: Vec<(Digest, String)>,
}

/// What a prune removed and left.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Number and bytes of blobs that stay.
    pub live: (usize, u64),
    /// Number and bytes of blobs that went.
    pub dead: (usize, u64),
}

/// Follows all descriptors from `index`.
pub fn reach(layout: &Layout, index: &Index) -> Reach {
    let mut reach = Reach::default();
    let mut queue: Vec<Descriptor> = index.manifests.clone();
    let mut seen = BTreeSet::new();
    while let Some(descriptor) = queue.pop() {
        if !seen.insert(descriptor.digest.clone()) {
            continue;
        }
        if descriptor.is_document() {
            match layout.children(&descriptor) {
                Ok(found) => queue.extend(found),
                Err(error) => reach.unreadable.push((descriptor.digest.clone(), error.to_string())),
            }
        }
        reach.blobs.insert(descriptor.digest.clone(), descriptor);
    }
    reach
}

/// Removes what `index.json` does not reach. Nothing is removed while a document is unreadable,
/// since what it reaches would be lost.
pub fn sweep(layout: &Writer) -> Result<Pruned, LayoutError> {
    let index = layout.index()?.unwrap_or_else(|| Index::new(Vec::new()));
    let reach = reach(layout, &index);
    if let Some((_, reason)) = reach.unreadable.first() {
        return Err(LayoutError::Damaged {
            path: layout.root().to_owned(),
            reason: format!("nothing was pruned, because {reason}"),
        });
    }
    let mut pruned = Pruned::default();
    for (digest, size) in layout.blob_files()? {
        let count = if reach.blobs.contains_key(&digest) {
            &mut pruned.live
        } else {
            layout.remove_blob(&digest)?;
            &mut pruned.dead
        };
        count.0 += 1;
        count.1 += size;
    }
    Ok(pruned)
}
