//! Pushes an archive to a store: only what it lacks, blobs first, then the documents that name
//! them, and last the refs.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use super::error::{PushError, StoreError};
use super::notes;
use super::refs::RefName;
use super::remote::{AT_ONCE, Remote, in_parallel};
use crate::oci::digest::Digest;
use crate::oci::directory::{Layout, LayoutError};
use crate::oci::documents::{Descriptor, Index};
use crate::oci::live;

/// Uploads at a time: each has some tens of MiB in memory.
const UPLOADS: usize = 3;

/// What a push did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Number and bytes of blobs that were uploaded.
    pub uploaded: (usize, u64),
    /// Number and bytes of blobs that the store had.
    pub present: (usize, u64),
}

/// What is thought of a store before a push.
pub struct There<'a> {
    /// What it has.
    pub known: &'a BTreeSet<Digest>,
    /// What it has, but not as its digest promises.
    pub damaged: &'a BTreeSet<Digest>,
}

impl Remote {
    /// Names images that may have blobs in common with what is pushed next.
    pub fn mount_from(&self, images: &[&str]) {
        self.store.mount_from(images);
    }

    /// Uploads what `index` reaches and the store lacks, and lets `refs` name the index. Blobs
    /// that are not in the layout must be in the store. A registry looks by itself whether it has
    /// all that a manifest names, so it is not asked for the blobs that are known to be there. The
    /// index is pushed as it is: whoever signs has done so.
    pub fn push(
        &self,
        layout: &Layout,
        index: &Index,
        refs: &[RefName],
        there: &There<'_>,
        advance: &(dyn Fn(u64) + Sync),
    ) -> Result<Pushed, PushError> {
        let reach = live::reach(layout, index);
        if let Some((digest, reason)) = reach.unreadable.first() {
            return Err(LayoutError::Damaged {
                path: layout.root().to_owned(),
                reason: format!("blob {digest}: {reason}"),
            }
            .into());
        }
        let blobs: Vec<Descriptor> = reach.blobs.into_values().collect();
        let asked: Vec<&Descriptor> = match self.store.shelf() {
            Some(_) => blobs.iter().collect(),
            None => blobs.iter().filter(|b| !there.known.contains(&b.digest)).collect(),
        };
        let bytes = serde_json::to_vec(index).unwrap_or_default();
        let names: Vec<&str> = refs.iter().map(|r| r.name.as_str()).collect();
        let mut pushed = Pushed::default();
        notes::commit(self, &names, &blobs, &bytes, &mut || {
            let upload =
                |blobs: &[&Descriptor]| self.upload_missing(layout, blobs, there.damaged, advance);
            let (count, size) = match upload(&asked) {
                // What was known may be gone.
                Err(_) if asked.len() < blobs.len() => upload(&blobs.iter().collect::<Vec<_>>())?,
                uploaded => uploaded?,
            };
            pushed.uploaded = (pushed.uploaded.0 + count, pushed.uploaded.1 + size);
            Ok(())
        })?;
        let total = blobs.iter().map(|b| b.size).sum::<u64>();
        pushed.present = (blobs.len() - pushed.uploaded.0, total - pushed.uploaded.1);
        Ok(pushed)
    }

    /// Uploads what is missing, and gives its number and bytes: layers and configs, then manifests,
    /// then indexes, since a registry takes nothing whose parts it has not.
    fn upload_missing(
        &self,
        layout: &Layout,
        blobs: &[&Descriptor],
        damaged: &BTreeSet<Digest>,
        advance: &(dyn Fn(u64) + Sync),
    ) -> Result<(usize, u64), PushError> {
        let rank = |blob: &Descriptor| match blob.is_document() {
            false => 0,
            true if blob.media_type.contains("manifest.v") => 1,
            true => 2,
        };
        let missing = Mutex::new(Vec::new());
        in_parallel(AT_ONCE, blobs, |blob| -> Result<(), PushError> {
            // A blob that is corrupt has the size that it should have.
            let is_damaged =
                damaged.contains(&blob.digest) && layout.blob_size(&blob.digest) == Some(blob.size);
            if is_damaged || !self.wait(self.store.has(blob))? {
                missing.lock().unwrap_or_else(PoisonError::into_inner).push(*blob);
            }
            Ok(())
        })?;
        let missing = missing.into_inner().unwrap_or_else(PoisonError::into_inner);
        for now in 0..=2 {
            let some: Vec<&Descriptor> =
                missing.iter().copied().filter(|b| rank(b) == now).collect();
            in_parallel(UPLOADS, &some, |blob| -> Result<(), PushError> {
                if layout.blob_size(&blob.digest) != Some(blob.size) {
                    return Err(StoreError::Missing {
                        url: self.url().to_owned(),
                        what: format!("blob {}", blob.digest),
                    }
                    .into());
                }
                self.wait(self.store.put(blob, &layout.blob_path(&blob.digest), advance))?;
                Ok(())
            })?;
        }
        Ok((missing.len(), missing.iter().map(|blob| blob.size).sum()))
    }

    /// The blobs that are neither in the layout nor in the store.
    pub fn lost(&self, layout: &Layout, blobs: &[Descriptor]) -> Result<Vec<Digest>, StoreError> {
        let lost = Mutex::new(Vec::new());
        in_parallel(AT_ONCE, blobs, |blob| -> Result<(), StoreError> {
            let here = layout.blob_size(&blob.digest) == Some(blob.size);
            if !here && !self.wait(self.store.has(blob))? {
                let mut lost = lost.lock().unwrap_or_else(PoisonError::into_inner);
                lost.push(blob.digest.clone());
            }
            Ok(())
        })?;
        Ok(lost.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets one more ref name a manifest that is in the store already.
    pub fn tag(&self, name: &str, manifest: &[u8]) -> Result<(), StoreError> {
        self.wait(self.store.write_ref(name, manifest))
    }
}
