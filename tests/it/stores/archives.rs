//! Small archives, made without an engine, that are pushed to stores and read from them.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use dockercache::archive::trust::{Scope, Trust};
use dockercache::archive::{ImageNote, LayerBlob, Role, write_image};
use dockercache::oci::digest::Digest;
use dockercache::oci::directory::Layout;
use dockercache::oci::documents::{Descriptor, Index};
use dockercache::oci::live;
use dockercache::oci::writer::Writer;
use dockercache::store::error::PushError;
use dockercache::store::push::{Pushed, There};
use dockercache::store::refs::RefName;
use dockercache::store::remote::Remote;
use tempfile::TempDir;

use crate::harness::{PASSWORD, Server};

/// An archive of one image.
pub(super) struct Archive {
    dir: TempDir,
    index: Index,
}

impl Archive {
    /// An archive of layers of this size; one has the same number in every archive.
    pub(super) fn new(layers: impl IntoIterator<Item = u64>, size: usize) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let layout = Layout::at(dir.path()).lock().expect("a lock");
        let layers: Vec<LayerBlob> =
            layers.into_iter().map(|number| layer(&layout, number, size)).collect();
        let diff_ids: Vec<&Digest> = layers.iter().map(|l| &l.diff_id).collect();
        let config = serde_json::json!({ "rootfs": { "type": "layers", "diff_ids": diff_ids } });
        let config = config.to_string();
        let note = ImageNote::of(Role::Stage);
        let image = write_image(&layout, config.as_bytes(), &layers, "stage", note);
        let index = Index::new(vec![image.expect("an image").descriptor]);
        Self { dir, index }
    }

    /// Saves it under these names.
    pub(super) fn push(&self, remote: &Remote, names: &[&str]) -> Result<Pushed, PushError> {
        let refs: Vec<RefName> = names.iter().map(|name| reference(name)).collect();
        let layout = Layout::at(self.dir.path());
        let there = There { known: &BTreeSet::new(), damaged: &BTreeSet::new() };
        remote.push(&layout, &self.index, &refs, &there, &|_| {})
    }

    /// One of its layers.
    pub(super) fn layer(&self) -> Descriptor {
        let blobs = live::reach(&Layout::at(self.dir.path()), &self.index).blobs.into_values();
        blobs.into_iter().find(Descriptor::is_layer).expect("a layer")
    }

    /// Saves it again, and pushes what the store is known to have corrupt.
    pub(super) fn repair(&self, remote: &Remote, names: &[&str]) -> Result<Pushed, PushError> {
        let refs: Vec<RefName> = names.iter().map(|name| reference(name)).collect();
        let there = There { known: &BTreeSet::new(), damaged: &remote.damaged_blobs() };
        remote.push(&Layout::at(self.dir.path()), &self.index, &refs, &there, &|_| {})
    }
}

/// Opens the store of a server.
pub(super) fn remote_at(server: &dyn Server, address: &str) -> Remote {
    Remote::new(server.open_at(address, PASSWORD).expect("an opened store")).expect("a store")
}

/// Asserts that all is there that a ref names.
#[track_caller]
pub(super) fn assert_whole(remote: &Remote, name: &str) {
    let index = find(remote, name).expect("an answer").expect("a cache");
    fetch(remote, &index).expect("a whole cache");
}

/// What a ref names, if it is there.
pub(super) fn find(remote: &Remote, name: &str) -> Result<Option<Index>, String> {
    let (trust, scope) = (Trust::default(), anyone());
    let found = remote.find(&[reference(name)], &trust, &scope, |reason| panic!("{reason}"));
    Ok(found.map_err(|error| error.to_string())?.map(|found| found.index))
}

/// Fetches all that an index names.
pub(super) fn fetch(remote: &Remote, index: &Index) -> Result<(), String> {
    let dir = tempfile::tempdir().expect("a directory");
    let layout = Layout::at(dir.path()).lock().expect("a lock");
    remote.fetch_documents(index, &layout).map_err(|error| error.to_string())?;
    let blobs = live::reach(&layout, index).blobs.into_values();
    let layers: Vec<_> = blobs.filter(Descriptor::is_layer).collect();
    let failed = remote.fetch(&layers, &layout, &|_| {}).map_err(|error| error.to_string())?;
    failed.first().map_or(Ok(()), |(_, error)| Err(error.to_string()))
}

/// Without keys, it does not matter whose a cache is.
pub(super) fn anyone() -> Scope {
    Scope { project: String::new(), platform: String::new() }
}

pub(super) fn reference(name: &str) -> RefName {
    RefName { level: "exact".to_owned(), name: name.to_owned() }
}

fn layer(layout: &Writer, number: u64, size: usize) -> LayerBlob {
    let mut random = Random(number + 1);
    let mut text = String::with_capacity(size + 40);
    while text.len() < size {
        let _ = writeln!(text, "{number} {:x}", random.next());
    }
    let digest = layout.put(text.as_bytes()).expect("a blob");
    LayerBlob {
        diff_id: digest.clone(),
        blob: digest,
        size: text.len() as u64,
        unpacked_size: text.len() as u64,
        media_type: "application/vnd.oci.image.layer.v1.tar".to_owned(),
    }
}

/// Xorshift: the same numbers for the same seed.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        self.0 ^= self.0 >> 29;
        self.0
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 8) % bound
    }
}
