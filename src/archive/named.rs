//! Which blobs of a one-file archive something names, known while it is read.
//!
//! A small file can unpack to any size. So no more is written than the index leads to, but for
//! documents that come before what names them.

use std::collections::BTreeMap;

use crate::oci::digest::Digest;
use crate::oci::directory::Layout;
use crate::oci::documents::{self, Descriptor};
use crate::oci::json::Budget;

/// How many bytes may come before what names them: the configs of some thousand images.
const UNNAMED_LIMIT: u64 = 64 << 20;

/// What has been named so far.
pub(crate) struct Named<'a> {
    layout: &'a Layout,
    sizes: BTreeMap<Digest, u64>,
    /// Manifests and indexes that have been named and are not here yet.
    awaited: BTreeMap<Digest, Descriptor>,
    budget: Budget,
    unnamed: u64,
}

impl<'a> Named<'a> {
    pub(crate) fn new(layout: &'a Layout) -> Self {
        let (sizes, awaited) = (BTreeMap::new(), BTreeMap::new());
        Self { layout, sizes, awaited, budget: Budget::default(), unnamed: 0 }
    }

    /// Takes note of what names these blobs, and of what they name in turn, as far as it is here.
    pub(crate) fn name(&mut self, descriptors: Vec<Descriptor>) -> Result<(), String> {
        let mut queue = descriptors;
        while let Some(descriptor) = queue.pop() {
            let digest = descriptor.digest.clone();
            if self.sizes.insert(digest.clone(), descriptor.size).is_some()
                || !descriptor.is_document()
            {
                continue;
            }
            match self.layout.document(&descriptor) {
                Ok(bytes) => queue.extend(self.children(&descriptor, &bytes)?),
                Err(_) => drop(self.awaited.insert(digest, descriptor)),
            }
        }
        Ok(())
    }

    /// What a document names. One that can't be read is found out in the end.
    fn children(
        &mut self,
        descriptor: &Descriptor,
        bytes: &[u8],
    ) -> Result<Vec<Descriptor>, String> {
        self.budget.take(bytes)?;
        Ok(documents::children(descriptor, bytes).unwrap_or_default())
    }

    /// Whether a blob of this size may be written; why not.
    pub(crate) fn admit(&mut self, digest: &Digest, size: u64, limit: u64) -> Result<(), String> {
        match self.sizes.get(digest) {
            Some(promised) if *promised == size => return Ok(()),
            Some(promised) => {
                return Err(format!("blob {digest}: got {size} bytes, expected {promised}"));
            }
            None if size <= limit => self.unnamed += size,
            None => return Err(format!("nothing in it names a blob {digest} of {size} bytes")),
        }
        if self.unnamed > UNNAMED_LIMIT {
            return Err(format!("nothing in it names blobs of more than {UNNAMED_LIMIT} bytes"));
        }
        Ok(())
    }

    /// A blob has been written.
    pub(crate) fn arrived(&mut self, digest: &Digest) -> Result<(), String> {
        let Some(descriptor) = self.awaited.remove(digest) else { return Ok(()) };
        match self.layout.document(&descriptor) {
            Ok(bytes) => {
                let children = self.children(&descriptor, &bytes)?;
                self.name(children)
            }
            Err(_) => Ok(()),
        }
    }
}
