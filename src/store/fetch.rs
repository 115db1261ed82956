//! Fetches from a store what the layout lacks.
//!
//! Documents (manifests and configs) are small and always fetched; layers are fetched one by one,
//! as the caller wants them. Everything is verified against its digest as it streams.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;

use super::error::{PushError, StoreError};
use super::refs::RefName;
use super::remote::{AT_ONCE, Remote, in_parallel, lock};
use crate::archive::trust::{Scope, Trust};
use crate::oci::digest::Digest;
use crate::oci::directory::{DOCUMENT_LIMIT, LayoutError};
use crate::oci::documents::{Descriptor, Index};
use crate::oci::writer::Writer;

/// How often a blob whose stream breaks off is continued from where it stood.
const CONTINUED: usize = 5;
/// The pause before it is.
const PAUSE: Duration = Duration::from_millis(500);

/// What a ref named.
#[derive(Debug)]
pub struct Found {
    /// The ref's level.
    pub level: String,
    /// Its index, without a signature.
    pub index: Index,
    /// Its index as it was read.
    pub signed: Index,
}

impl Remote {
    /// Reads the first of `refs` that is there and may be trusted. `refused` is told of those
    /// that may not, in a line for each reason. One that can't be read is passed over where another
    /// is found.
    pub fn find(
        &self,
        refs: &[RefName],
        trust: &Trust,
        scope: &Scope,
        mut refused: impl FnMut(String),
    ) -> Result<Option<Found>, StoreError> {
        let reads = refs.iter().map(|r| self.limited(self.store.read_ref(&r.name)));
        let read = self.runtime().block_on(futures_util::future::join_all(reads));
        let mut reasons: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        let found = Self::first_trusted(refs, read, trust, scope, |name, reason| {
            reasons.entry(reason).or_default().push(name);
        });
        for (reason, names) in reasons {
            let url = self.url();
            refused(match names[..] {
                [name] => format!("`{name}` in `{url}` is not used: {reason}"),
                _ => format!(
                    "{} caches in `{url}` are not used, such as `{}`: {reason}",
                    names.len(),
                    names[0]
                ),
            });
        }
        found
    }

    fn first_trusted<'a>(
        refs: &'a [RefName],
        read: Vec<Result<Option<Vec<u8>>, StoreError>>,
        trust: &Trust,
        scope: &Scope,
        mut refused: impl FnMut(&'a str, String),
    ) -> Result<Option<Found>, StoreError> {
        let mut failure = None;
        for (reference, document) in refs.iter().zip(read) {
            let bytes = match document {
                Ok(Some(bytes)) => bytes,
                Ok(None) => continue,
                Err(error) => {
                    failure.get_or_insert(error);
                    continue;
                }
            };
            let index: Result<Index, _> = serde_json::from_slice(&bytes);
            let signed = match index {
                // What is left of a name that a registry is about to forget.
                Ok(index) if index.manifests.is_empty() => continue,
                Ok(index) => index,
                Err(e) => {
                    refused(&reference.name, format!("it is no index: {e}"));
                    continue;
                }
            };
            match trust.check(&signed, scope) {
                Ok(index) => {
                    return Ok(Some(Found { level: reference.level.clone(), index, signed }));
                }
                Err(reason) => refused(&reference.name, reason),
            }
        }
        failure.map_or(Ok(None), Err)
    }

    /// Fetches all manifests and configs that `index` reaches, but no layers.
    pub fn fetch_documents(&self, index: &Index, layout: &Writer) -> Result<(), PushError> {
        let mut level = index.manifests.clone();
        let mut seen = BTreeSet::new();
        while !level.is_empty() {
            level.retain(|d| !d.is_layer() && seen.insert(d.digest.clone()));
            let missing: Vec<&Descriptor> =
                level.iter().filter(|d| layout.document(d).is_err()).collect();
            in_parallel(AT_ONCE, &missing, |descriptor| -> Result<(), PushError> {
                layout.put(&self.document(descriptor)?)?;
                Ok(())
            })?;
            let mut next = Vec::new();
            for descriptor in level.iter().filter(|d| d.is_document()) {
                next.extend(layout.children(descriptor)?);
            }
            level = next;
        }
        Ok(())
    }

    /// Reads a document whole.
    pub(crate) fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, StoreError> {
        if descriptor.size > DOCUMENT_LIMIT {
            return Err(self.damaged(descriptor, "it is too large for a document"));
        }
        let mut bytes = Vec::new();
        self.stream(descriptor, |chunk| {
            bytes.extend_from_slice(chunk);
            Ok(())
        })?;
        if Digest::of(&bytes) == descriptor.digest {
            Ok(bytes)
        } else {
            Err(self.corrupt(descriptor, "its content has another digest"))
        }
    }

    /// Fetches blobs into the layout, several at a time; gives those that could not be had, and
    /// why. `advance` is told of bytes as they arrive.
    pub fn fetch(
        &self,
        blobs: &[Descriptor],
        layout: &Writer,
        advance: &(dyn Fn(u64) + Sync),
    ) -> Result<Vec<(Digest, StoreError)>, LayoutError> {
        let failed = Mutex::new(Vec::new());
        let given_up: Mutex<Option<String>> = Mutex::default();
        in_parallel(AT_ONCE, blobs, |blob| -> Result<(), LayoutError> {
            let known = lock(&given_up).clone();
            let fetched = match known {
                // It would be as slow for all the others, one after the other.
                Some(reason) => Err(StoreError::Slow { url: self.url().to_owned(), reason }),
                None => self.fetch_one(blob, layout, advance)?,
            };
            if let Err(error) = fetched {
                if let StoreError::Slow { reason, .. } | StoreError::Unavailable { reason, .. } =
                    &error
                {
                    lock(&given_up).get_or_insert_with(|| reason.clone());
                }
                lock(&failed).push((blob.digest.clone(), error));
            }
            Ok(())
        })?;
        Ok(failed.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn fetch_one(
        &self,
        blob: &Descriptor,
        layout: &Writer,
        advance: &(dyn Fn(u64) + Sync),
    ) -> Result<Result<(), StoreError>, LayoutError> {
        let mut writer = layout.blob_writer()?;
        let path = layout.blob_path(&blob.digest);
        let mut refused = None;
        let streamed = self.stream(blob, |chunk| {
            advance(chunk.len() as u64);
            writer.write_all(chunk).map_err(|source| {
                let kind = source.kind();
                refused = Some(LayoutError::io("write", &path)(source));
                StoreError::Io {
                    action: format!("write `{}`", path.display()),
                    source: kind.into(),
                }
            })
        });
        match (streamed, refused) {
            // Our own disk: no other blob will fare better.
            (_, Some(error)) => Err(error),
            (Err(error), None) => Ok(Err(error)),
            (Ok(()), None) => Ok(match writer.finish_as(&blob.digest)? {
                Ok(()) => Ok(()),
                Err(got) => Err(self.corrupt(blob, &format!("its content has the digest {got}"))),
            }),
        }
    }

    /// Streams a blob; a stream that breaks off is continued. Never takes more than the
    /// descriptor's size.
    fn stream(
        &self,
        blob: &Descriptor,
        mut take: impl FnMut(&[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut at = 0;
        let mut left = CONTINUED;
        loop {
            let mut stream = self.wait(self.store.get(blob, at))?;
            let broken = loop {
                match self.wait(async { stream.next().await.transpose() }) {
                    Ok(Some(chunk)) => {
                        at += chunk.len() as u64;
                        if at > blob.size {
                            return Err(self.damaged(blob, "it is longer than it should be"));
                        }
                        take(&chunk)?;
                    }
                    Err(error) => break error,
                    Ok(None) if at == blob.size => return Ok(()),
                    Ok(None) => break self.damaged(blob, "it ends too early"),
                }
            };
            if left == 0 || matches!(broken, StoreError::Slow { .. }) {
                return Err(broken);
            }
            left -= 1;
            std::thread::sleep(PAUSE);
        }
    }

    /// As [`Remote::damaged`], and notes that it must be pushed again.
    fn corrupt(&self, blob: &Descriptor, reason: &str) -> StoreError {
        lock(&self.damaged).insert(blob.digest.clone());
        self.damaged(blob, reason)
    }

    fn damaged(&self, blob: &Descriptor, reason: &str) -> StoreError {
        StoreError::Damaged {
            url: self.url().to_owned(),
            what: format!("blob {}", blob.digest.short()),
            reason: reason.to_owned(),
        }
    }
}
