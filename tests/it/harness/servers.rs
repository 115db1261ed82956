//! Real servers, empty, each on a port of its own, for every kind of store.

mod azure;
mod catalogue;
mod certificate;
mod disk;
mod google;
mod registry;
mod roles;
mod s3;
mod service;
mod tokens;

use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::thread;

use dockercache::oci::documents::Descriptor;
use dockercache::store::error::StoreError;
use dockercache::store::variables::Variables;
use dockercache::store::{self, RemoteStore};
use futures_util::TryStreamExt as _;
use tokio::runtime::Runtime;

pub(crate) use azure::AzureServer;
pub(crate) use disk::fill;
pub(crate) use google::GoogleServer;
pub(crate) use registry::{Access, RegistryServer, RegistrySettings};
pub(crate) use s3::{S3Server, S3Settings};

/// The account of every server.
pub(crate) const USER: &str = "ci";
/// Its password: in a message, a leak.
pub(crate) const PASSWORD: &str = "correct horse";
/// The bucket or container of every server that has such.
const BUCKET: &str = "cache-bucket";

/// A server, and how a client reaches it.
pub(crate) trait Server: Send + Sync {
    /// Host and port.
    fn address(&self) -> &str;

    /// The directory of the server's files.
    fn directory(&self) -> &Path;

    /// The store's URL for a client that reaches the server at `address`: its own, or that of a
    /// proxy before it.
    fn url(&self, address: &str) -> String;

    /// What such a client, with this password, finds in its environment.
    fn variables(&self, address: &str, password: &str) -> Vec<(&'static str, String)>;

    /// A file with the certificate of the server's own authority, if it has one.
    fn authority(&self) -> Option<&Path> {
        None
    }

    /// Opens the store at `address`.
    fn open_at(&self, address: &str, password: &str) -> Result<Box<dyn RemoteStore>, StoreError> {
        let url = self.url(address).parse().expect("a URL");
        let environment: Variables = self.variables(address, password).into_iter().collect();
        store::open(&url, &environment)
    }

    /// Opens the store.
    fn open(&self) -> Box<dyn RemoteStore> {
        self.open_at(self.address(), PASSWORD).expect("an opened store")
    }

    /// Deletes every layer.
    fn lose_layers(&self) {
        let store = self.open();
        let shelf = store.shelf().expect("a store that collects nothing by itself");
        Runtime::new().expect("threads").block_on(async {
            let blobs: Vec<_> = shelf.blobs().try_collect().await.expect("blobs");
            let mut layers = Vec::new();
            for blob in blobs {
                let of_any_kind = Descriptor::of("", b"");
                let descriptor =
                    Descriptor { digest: blob.digest.clone(), size: blob.size, ..of_any_kind };
                let pieces = store.get(&descriptor, 0).await.expect("a blob");
                let bytes: Vec<_> = pieces.try_collect().await.expect("a whole blob");
                if !is_document(&bytes.concat()) {
                    layers.push(blob.digest);
                }
            }
            shelf.remove_blobs(&layers).await.expect("blobs to delete");
        });
    }
}

fn is_document(bytes: &[u8]) -> bool {
    bytes.starts_with(b"{")
}

/// One server of each kind.
pub(crate) fn servers() -> Vec<Box<dyn Server>> {
    let mut servers: Vec<Box<dyn Server>> =
        vec![Box::new(RegistryServer::start(RegistrySettings::default()))];
    servers.extend(buckets());
    servers
}

/// One server of each kind that keeps objects in buckets.
pub(crate) fn buckets() -> Vec<Box<dyn Server>> {
    vec![
        Box::new(S3Server::start(S3Settings::default())),
        Box::new(GoogleServer::start()),
        Box::new(AzureServer::start()),
    ]
}

/// Does the same with each server, with all at once: the test lasts as long as the slowest.
pub(crate) fn with_each(servers: &[Box<dyn Server>], test: impl Fn(&dyn Server) + Sync) {
    thread::scope(|scope| {
        for server in servers {
            scope.spawn(|| test(&**server));
        }
    });
}

/// Waits until a server says where it listens, after `words`. What it says later is read, and
/// lost.
fn address_in(output: impl Read + Send + 'static, words: &str) -> String {
    let mut said = String::new();
    let mut lines = BufReader::new(output).lines();
    let address = loop {
        let Some(line) = lines.next() else { panic!("the server did not start:\n{said}") };
        let line = line.expect("a line");
        if let Some((_, rest)) = line.split_once(words) {
            break rest.chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect();
        }
        said = said + &line + "\n";
    };
    thread::spawn(move || lines.for_each(drop));
    address
}
