//! Moves archives between a layout and a store: only what the other side lacks.
//!
//! Documents (manifests and configs) are small and always fetched; layers are fetched one by one,
//! as the caller wants them. Everything is verified against its digest as it streams. A save
//! writes blobs, then the documents that name them, and last the refs.

use std::collections::BTreeSet;
use std::future::Future;
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use tokio::runtime::Runtime;

use super::commit::{self, Terms};
use super::environment::Environment;
use super::error::StoreError;
use super::reference::RefName;
use super::signature::Trust;
use super::{RemoteStore, url::StoreUrl};
use crate::layout::digest::Digest;
use crate::layout::directory::{DOCUMENT_LIMIT, Layout, LayoutError};
use crate::layout::live;
use crate::layout::oci::{Descriptor, Index};
use crate::layout::writer::Writer;

/// Requests at a time: enough to hide a store's answering time.
pub(super) const AT_ONCE: usize = 6;
/// Uploads at a time: each has some tens of MiB in memory.
const UPLOADS: usize = 3;
/// How often a blob whose stream breaks off is continued from where it stood.
const CONTINUED: usize = 5;
/// The pause before it is.
const PAUSE: Duration = Duration::from_millis(500);

/// A store that can be waited for.
pub struct Remote {
    store: Arc<dyn RemoteStore>,
    runtime: Runtime,
    terms: Terms,
}

/// What a ref named.
#[derive(Debug)]
pub struct Found {
    /// The ref's level.
    pub level: String,
    /// Its index, without a signature.
    pub index: Index,
}

/// What a push did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Number and bytes of blobs that were uploaded.
    pub uploaded: (usize, u64),
    /// Number and bytes of blobs that the store had.
    pub present: (usize, u64),
}

/// Why an archive was not pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The directory.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Dead blobs are being removed, and that takes long.
    #[error("dead blobs are being removed from the store; it was not waited for any longer")]
    Collecting,
}

impl Remote {
    /// Opens a store; nothing is asked of it yet.
    pub fn open(url: &StoreUrl, environment: &Environment) -> Result<Self, StoreError> {
        Self::new(super::open(url, environment)?)
    }

    /// Wraps a store that is open.
    pub fn new(store: Box<dyn RemoteStore>) -> Result<Self, StoreError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|source| StoreError::Io { action: "start threads".to_owned(), source })?;
        Ok(Self { store: store.into(), runtime, terms: Terms::default() })
    }

    /// The same store, with other terms: all savers and collectors of a store must have the same.
    #[must_use]
    pub fn with_terms(self, terms: Terms) -> Self {
        Self { terms, ..self }
    }

    /// What savers and collectors rely on.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The store's URL for messages.
    pub fn url(&self) -> &str {
        self.store.url()
    }

    /// Begins to connect, while the caller has other things to do.
    pub fn greet_ahead(&self) {
        let store = Arc::clone(&self.store);
        self.runtime.spawn(async move { store.greet().await });
    }

    pub(super) fn store(&self) -> &dyn RemoteStore {
        &*self.store
    }

    pub(super) fn wait<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// Reads the first of `refs` that is there and may be trusted. `refused` is told of those
    /// that may not. One that can't be read is passed over where another is found.
    pub fn find(
        &self,
        refs: &[RefName],
        trust: &Trust,
        mut refused: impl FnMut(String),
    ) -> Result<Option<Found>, StoreError> {
        let read = self.wait(futures_util::future::join_all(
            refs.iter().map(|r| self.store.read_ref(&r.name)),
        ));
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
            let checked = match &index {
                Ok(index) => trust.check(index).map_err(str::to_owned),
                Err(e) => Err(format!("it is no index: {e}")),
            };
            match checked {
                // What is left of a name that a registry is about to forget.
                Ok(index) if index.manifests.is_empty() => {}
                Ok(index) => return Ok(Some(Found { level: reference.level.clone(), index })),
                Err(reason) => refused(format!(
                    "`{}` in `{}` is not used: {reason}",
                    reference.name,
                    self.url()
                )),
            }
        }
        failure.map_or(Ok(None), Err)
    }

    /// Fetches all manifests and configs that `index` reaches, but no layers.
    pub fn fetch_documents(&self, index: &Index, layout: &Writer) -> Result<(), PushError> {
        let mut level = index.manifests.clone();
        let mut seen = BTreeSet::new();
        while !level.is_empty() {
            level.retain(|d| !is_layer(d) && seen.insert(d.digest.clone()));
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
    pub(super) fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, StoreError> {
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
            Err(self.damaged(descriptor, "its content has another digest"))
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
        in_parallel(AT_ONCE, blobs, |blob| -> Result<(), LayoutError> {
            if let Err(error) = self.fetch_one(blob, layout, advance)? {
                failed
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push((blob.digest.clone(), error));
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
                Err(got) => Err(self.damaged(blob, &format!("its content has the digest {got}"))),
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
                match self.wait(stream.next()) {
                    Some(Ok(chunk)) => {
                        at += chunk.len() as u64;
                        if at > blob.size {
                            return Err(self.damaged(blob, "it is longer than it should be"));
                        }
                        take(&chunk)?;
                    }
                    Some(Err(error)) => break error,
                    None if at == blob.size => return Ok(()),
                    None => break self.damaged(blob, "it ends too early"),
                }
            };
            if left == 0 {
                return Err(broken);
            }
            left -= 1;
            std::thread::sleep(PAUSE);
        }
    }

    fn damaged(&self, blob: &Descriptor, reason: &str) -> StoreError {
        StoreError::Damaged {
            url: self.url().to_owned(),
            what: format!("blob {}", blob.digest.short()),
            reason: reason.to_owned(),
        }
    }

    /// Names images that may have blobs in common with what is pushed next.
    pub fn mount_from(&self, images: &[&str]) {
        self.store.mount_from(images);
    }

    /// Uploads what `index` reaches and the store lacks, and lets `refs` name the index. Blobs
    /// that are not in the layout must be in the store. A registry looks by itself whether it has
    /// all that a manifest names, so it is not asked for the blobs that are `known` to be there.
    pub fn push(
        &self,
        layout: &Layout,
        index: &Index,
        refs: &[RefName],
        known: &BTreeSet<Digest>,
        trust: &Trust,
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
            None => blobs.iter().filter(|b| !known.contains(&b.digest)).collect(),
        };
        let signed = trust.sign(index);
        let bytes = serde_json::to_vec(&signed).unwrap_or_default();
        let names: Vec<&str> = refs.iter().map(|r| r.name.as_str()).collect();
        let mut pushed = Pushed::default();
        commit::commit(self, &names, &blobs, &bytes, &mut || {
            let (count, size) = match self.upload_missing(layout, &asked, advance) {
                // What was known may be gone.
                Err(_) if asked.len() < blobs.len() => {
                    self.upload_missing(layout, &blobs.iter().collect::<Vec<_>>(), advance)?
                }
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
        advance: &(dyn Fn(u64) + Sync),
    ) -> Result<(usize, u64), PushError> {
        let rank = |blob: &Descriptor| match blob.is_document() {
            false => 0,
            true if blob.media_type.contains("manifest.v") => 1,
            true => 2,
        };
        let missing = Mutex::new(Vec::new());
        in_parallel(AT_ONCE, blobs, |blob| -> Result<(), PushError> {
            if !self.wait(self.store.has(blob))? {
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

/// Whether a blob is a layer, not a document.
pub fn is_layer(descriptor: &Descriptor) -> bool {
    descriptor.media_type.contains(".layer.") || descriptor.media_type.contains(".diff.")
}

/// Does something for each item, several at a time; the first error ends it.
pub(super) fn in_parallel<'a, T: Sync, E: Send>(
    at_once: usize,
    items: &'a [T],
    work: impl Fn(&'a T) -> Result<(), E> + Sync,
) -> Result<(), E> {
    let queue = Mutex::new(items.iter());
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..at_once.min(items.len()) {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(item) = next else { return };
                    if let Err(error) = work(item) {
                        let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                        failure.get_or_insert(error);
                        // The others find nothing left to do.
                        queue
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .by_ref()
                            .for_each(drop);
                        return;
                    }
                }
            });
        }
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Time that has passed between two times of one clock; none if the clock went back.
pub(super) fn between(earlier: SystemTime, later: SystemTime) -> Duration {
    later.duration_since(earlier).unwrap_or_default()
}
