//! Moves archives between a layout and a store: only what the other side lacks.
//!
//! Documents (manifests and configs) are small and always fetched; layers are fetched one by one,
//! as the caller wants them. Everything is verified against its digest as it streams. A save
//! writes blobs, then the documents that name them, and last the refs.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt as _;
use tokio::runtime::Runtime;

use super::error::StoreError;
use super::notes::{self, Terms};
use super::refs::RefName;
use super::variables::Variables;

use super::{RemoteStore, url::StoreUrl};
use crate::archive::trust::{Scope, Trust};
use crate::oci::digest::Digest;
use crate::oci::directory::{DOCUMENT_LIMIT, Layout, LayoutError};
use crate::oci::documents::{Descriptor, Index};
use crate::oci::live;
use crate::oci::writer::Writer;

/// Requests at a time: enough to hide a store's answering time.
pub(crate) const AT_ONCE: usize = 6;
/// Uploads at a time: each has some tens of MiB in memory.
const UPLOADS: usize = 3;
/// How often a blob whose stream breaks off is continued from where it stood.
const CONTINUED: usize = 5;
/// The pause before it is.
const PAUSE: Duration = Duration::from_millis(500);

/// A store that can be waited for.
pub struct Remote {
    store: Arc<dyn RemoteStore>,
    /// Only empty when it is dropped.
    runtime: Option<Runtime>,
    terms: Terms,
    /// Until when to wait, and how long that was in all.
    deadline: Mutex<Option<(Instant, Duration)>>,
    /// Blobs of which the store gave something else than what their digests promise.
    damaged: Mutex<BTreeSet<Digest>>,
}

/// While it lives, a store is waited for until a moment at most.
pub struct Limited<'a>(&'a Remote);

impl Drop for Limited<'_> {
    fn drop(&mut self) {
        *lock(&self.0.deadline) = None;
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // A name that is being looked up can't be interrupted, and shall hold nobody up.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

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

/// Why an archive was not pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The directory.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

impl Remote {
    /// Opens a store; nothing is asked of it yet.
    pub fn open(url: &StoreUrl, environment: &Variables) -> Result<Self, StoreError> {
        Self::new(super::open(url, environment)?)
    }

    /// Wraps a store that is open.
    pub fn new(store: Box<dyn RemoteStore>) -> Result<Self, StoreError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|source| StoreError::Io { action: "start threads".to_owned(), source })?;
        Ok(Self {
            store: store.into(),
            runtime: Some(runtime),
            terms: Terms::default(),
            deadline: Mutex::default(),
            damaged: Mutex::default(),
        })
    }

    /// The same store, with other terms: all savers and collectors of a store must have the same.
    #[must_use]
    pub fn with_terms(mut self, terms: Terms) -> Self {
        self.terms = terms;
        self
    }

    /// Waits for the store no longer than `limit` in all, until what is given is dropped.
    pub fn within(&self, limit: Duration) -> Limited<'_> {
        *lock(&self.deadline) = Some((Instant::now() + limit, limit));
        Limited(self)
    }

    /// Blobs that the store has given, but not as their digests promise: whoever pushes next should
    /// push them again.
    pub fn damaged_blobs(&self) -> BTreeSet<Digest> {
        lock(&self.damaged).clone()
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
        self.runtime().spawn(async move { store.greet().await });
    }

    pub(crate) fn store(&self) -> &dyn RemoteStore {
        &*self.store
    }

    /// The store, for a task of its own.
    pub(crate) fn shared(&self) -> Arc<dyn RemoteStore> {
        Arc::clone(&self.store)
    }

    pub(crate) fn spawn(
        &self,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> tokio::task::JoinHandle<()> {
        self.runtime().spawn(task)
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().unwrap_or_else(|| unreachable!("the store is in use"))
    }

    pub(crate) fn wait<T>(
        &self,
        future: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.runtime().block_on(self.limited(future))
    }

    /// Ends with the deadline, if there is one.
    async fn limited<T>(
        &self,
        future: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let deadline = *lock(&self.deadline);
        let Some((deadline, limit)) = deadline else { return future.await };
        tokio::time::timeout_at(deadline.into(), future).await.unwrap_or_else(|_| {
            let reason = format!("it took longer than {}", humantime::format_duration(limit));
            Err(StoreError::Slow { url: self.url().to_owned(), reason })
        })
    }

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

/// Whether a blob is a layer, not a document.
pub fn is_layer(descriptor: &Descriptor) -> bool {
    descriptor.media_type.contains(".layer.") || descriptor.media_type.contains(".diff.")
}

/// Does something for each item, several at a time; the first error ends it.
pub(crate) fn in_parallel<'a, T: Sync, E: Send>(
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
pub(crate) fn between(earlier: SystemTime, later: SystemTime) -> Duration {
    later.duration_since(earlier).unwrap_or_default()
}
