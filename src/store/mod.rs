//! Archives beyond this machine: in an OCI registry, or in an object store.
//!
//! A store keeps blobs, named by their digests and never altered, and refs, each of which names
//! one index. An index is what `index.json` is in a directory; all that it names lies in the same
//! store. Nothing is locked: a ref is replaced in one step, and only after all that its new index
//! names is there.

mod bucket;
pub mod collect;
mod connector;
mod credentials;
mod docker;
pub mod error;
pub mod fetch;
pub mod notes;
pub mod object;
mod pieces;
mod profile;
pub mod push;
pub mod refs;
pub mod registry;
pub mod remote;
mod retry;
mod tls;
pub mod url;
pub mod variables;

use std::path::Path;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use crate::oci::digest::Digest;
use crate::oci::documents::Descriptor;
use error::StoreError;
use object::Object;
use registry::Registry;
use url::StoreUrl;
use variables::Variables;

/// What a store answers, some time later. Every implementation repeats what failed in passing
/// (a connection reset, 429, 5xx) with growing pauses, and gives up after ten seconds, or after two
/// where nobody listens.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// Makes ready to use the store that `url` names. Nothing is sent yet.
pub fn open(url: &StoreUrl, environment: &Variables) -> Result<Box<dyn RemoteStore>, StoreError> {
    Ok(match url {
        StoreUrl::Registry { .. } => Box::new(Registry::open(url, environment)?),
        StoreUrl::Object { .. } => Box::new(Object::open(url, environment)?),
    })
}

/// A store, as it is seen from here.
pub trait RemoteStore: Send + Sync {
    /// The store's URL for messages, without credentials.
    fn url(&self) -> &str;

    /// Connects and logs in, as far as that can be done ahead. Trouble is for the first question
    /// to tell.
    fn greet(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    /// The document that a ref names, byte for byte; `None` if there is no such ref.
    fn read_ref<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Vec<u8>>>;

    /// Lets a ref name `index`, in one step, whatever it named before.
    fn write_ref<'a>(&'a self, name: &'a str, index: &'a [u8]) -> Answer<'a, ()>;

    /// The names of all refs, unordered. An error where not even the repository is there.
    fn refs(&self) -> Answer<'_, Vec<String>>;

    /// Removes a ref. It is no error if there is none.
    fn remove_ref<'a>(&'a self, name: &'a str) -> Answer<'a, ()>;

    /// Whether the blob is there with the size that the descriptor says.
    fn has<'a>(&'a self, blob: &'a Descriptor) -> Answer<'a, bool>;

    /// The blob's bytes from `offset` on, unverified. A stream that breaks off is continued by
    /// the caller, with another `offset`.
    fn get<'a>(
        &'a self,
        blob: &'a Descriptor,
        offset: u64,
    ) -> Answer<'a, BoxStream<'static, Result<Bytes, StoreError>>>;

    /// Stores the file at `from` as the blob; `advance` is told of bytes as they go. The file has
    /// been verified. No reader sees a part of it.
    fn put<'a>(
        &'a self,
        blob: &'a Descriptor,
        from: &'a Path,
        advance: &'a (dyn Fn(u64) + Sync),
    ) -> Answer<'a, ()>;

    /// Names images that may have blobs in common with what is stored next: where they are in the
    /// same registry, such blobs need not be uploaded.
    fn mount_from(&self, _images: &[&str]) {}

    /// What a collector of dead blobs needs; `None` where the store collects them itself, as
    /// registries do.
    fn shelf(&self) -> Option<&dyn Shelf> {
        None
    }
}

/// A store that does not know which of its objects are dead.
pub trait Shelf: Send + Sync {
    /// All blobs, as they are listed: a list may be longer than memory should hold.
    fn blobs(&self) -> BoxStream<'_, Result<Shelved, StoreError>>;

    /// Removes blobs, with few requests where the store has such. It is no error if one is not
    /// there.
    fn remove_blobs<'a>(&'a self, digests: &'a [Digest]) -> Answer<'a, ()>;

    /// When the ref was last written, by the store's clock.
    fn ref_time<'a>(&'a self, name: &'a str) -> Answer<'a, Option<SystemTime>>;

    /// Writes a note: what savers and collectors tell each other. Gives the store's time.
    fn write_note<'a>(&'a self, name: &'a str, text: &'a [u8]) -> Answer<'a, SystemTime>;

    /// The notes whose names begin so, with the time at which they were written.
    fn notes<'a>(&'a self, prefix: &'a str) -> Answer<'a, Vec<Note>>;

    /// Removes a note. It is no error if there is none.
    fn remove_note<'a>(&'a self, name: &'a str) -> Answer<'a, ()>;
}

/// A blob in a list.
#[derive(Clone, Debug)]
pub struct Shelved {
    /// The blob.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// When it was written, by the store's clock.
    pub written: SystemTime,
}

/// A note.
#[derive(Clone, Debug)]
pub struct Note {
    /// Its name.
    pub name: String,
    /// When it was written, by the store's clock.
    pub written: SystemTime,
    /// What it says.
    pub text: Vec<u8>,
}
