//! A store that can be waited for, several requests at a time.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::runtime::Runtime;

use super::RemoteStore;
use super::error::StoreError;
use super::url::StoreUrl;
use super::variables::Variables;
use crate::oci::digest::Digest;

/// Requests at a time: enough to hide a store's answering time.
pub(crate) const AT_ONCE: usize = 6;

/// A store that can be waited for.
pub struct Remote {
    pub(super) store: Arc<dyn RemoteStore>,
    /// Only empty when it is dropped.
    runtime: Option<Runtime>,
    terms: Terms,
    /// Until when to wait, and how long that was in all.
    deadline: Mutex<Option<(Instant, Duration)>>,
    /// Blobs of which the store gave something else than what their digests promise.
    pub(super) damaged: Mutex<BTreeSet<Digest>>,
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
        // A name lookup can't be interrupted, and must not delay anybody.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

    pub(super) fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().unwrap_or_else(|| unreachable!("the store is in use"))
    }

    pub(crate) fn wait<T>(
        &self,
        future: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.runtime().block_on(self.limited(future))
    }

    /// Ends with the deadline, if there is one.
    pub(super) async fn limited<T>(
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
}

/// How long savers and collectors rely on what they have told each other.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// For how long after it was last written a collector's note says that it is at work.
    pub collector: Duration,
    /// How old a saver lets its note become. Must be far below the grace, so that no collector takes
    /// the note for that of a dead process.
    pub saver: Duration,
    /// For how long after it was condemned a blob may still be removed. The longest time for which
    /// a saver waits, if it needs the blob.
    pub removal: Duration,
}

impl Default for Terms {
    fn default() -> Self {
        let [collector, saver, removal] = [120, 20, 15].map(Duration::from_secs);
        Self { collector, saver, removal }
    }
}

impl Terms {
    /// The shortest grace that is safe.
    pub fn shortest_grace(&self) -> Duration {
        self.saver * 3
    }
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
