//! A registry that this process is for a moment, on loopback: an engine of this machine pushes
//! images to it.
//!
//! `docker save` writes images whole. A push skips what the registry has, so an image of a few
//! new layers upon large known ones takes no longer than the new ones. Speaks what the OCI
//! distribution specification wants for a push, and no more. Layers go straight into the layout.
//!
//! An engine asks for layers by the digests under which it once got them, which say nothing here. So
//! it is told that all are there. Which they are is known in the end, by the image's config: what was
//! not there after all is asked for in a second push.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::future::poll_fn;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_LENGTH, LOCATION, RANGE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_blocking};

use crate::archive::LayerBlob;
use crate::engine::api::connection::{CHUNKS_AHEAD, ChannelReader, Connection};
use crate::engine::api::saved::{self, Failure, SavedImage};
use crate::engine::error::EngineError;
use crate::oci::codec::Compression;
use crate::oci::digest::Digest;
use crate::oci::directory::DOCUMENT_LIMIT;
use crate::oci::documents::ImageConfig;
use crate::oci::writer::Writer;

/// What the names of all inboxes begin with.
pub(crate) const INBOX: &str = "dockercache-inbox-";

/// An inbox that engines can push to, until it is dropped.
pub struct Inbox {
    address: SocketAddr,
    contents: Arc<Contents>,
    _server: JoinSet<()>,
}

/// What lies in an inbox, and what it takes.
struct Contents {
    layout: Writer,
    compression: Compression,
    /// A name that nobody else on this machine knows.
    repository: String,
    /// How many more bytes will be taken.
    room: AtomicU64,
    /// How many have arrived and are not yet reported.
    arrived: AtomicU64,
    /// The digests of blobs that are not here.
    lacking: Mutex<BTreeSet<String>>,
    /// What has arrived, by the digests that the engine gave; manifests by their tags.
    layers: Mutex<BTreeMap<String, LayerBlob>>,
    documents: Mutex<BTreeMap<String, Vec<u8>>>,
    /// How many uploads were begun.
    begun: AtomicU64,
    /// What has arrived of which the digest is not known yet, by the number of the upload.
    uploads: Mutex<BTreeMap<String, Upload>>,
}

enum Upload {
    Layer(LayerBlob),
    Document(Vec<u8>),
}

/// What an image consists of: the image manifest, version 2, schema 2.
#[derive(Deserialize)]
struct Manifest {
    config: Part,
    layers: Vec<Part>,
}

#[derive(Deserialize)]
struct Part {
    digest: String,
}

impl Inbox {
    /// Opens an inbox for the images with these IDs, which takes at most `room` bytes into the layout.
    pub fn open(
        connection: &Connection,
        layout: &Writer,
        compression: Compression,
        room: u64,
        ids: impl IntoIterator<Item = String>,
    ) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let contents = Arc::new(Contents {
            layout: layout.clone(),
            compression,
            repository: format!("{INBOX}{}", secret()?),
            room: room.into(),
            arrived: AtomicU64::default(),
            // An image's ID is the digest of its config.
            lacking: Mutex::new(ids.into_iter().collect()),
            layers: Mutex::default(),
            documents: Mutex::default(),
            begun: AtomicU64::default(),
            uploads: Mutex::default(),
        });
        let mut server = JoinSet::new();
        let _runtime = connection.runtime().enter();
        let listener = TcpListener::from_std(listener)?;
        server.spawn(serve(listener, Arc::clone(&contents)));
        Ok(Self { address, contents, _server: server })
    }

    /// The repository to push to.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.address, self.contents.repository)
    }

    /// How many bytes have arrived since this was last asked.
    pub fn arrived(&self) -> u64 {
        self.contents.arrived.swap(0, Ordering::Relaxed)
    }

    /// The image that was pushed with this tag, with layers that have arrived or are `known`; `None` if
    /// it must be pushed once more, since there are others.
    pub fn image(
        &self,
        tag: &str,
        known: &BTreeMap<Digest, LayerBlob>,
    ) -> Result<Option<SavedImage>, EngineError> {
        let wrong = |reason: String| EngineError::failed("push images", reason);
        let documents = lock(&self.contents.documents);
        let document = |name: &str| {
            documents.get(name).ok_or_else(|| wrong(format!("`{name}` has not arrived")))
        };
        let no_document = |e| wrong(format!("a document that it pushed: {e}"));
        let manifest: Manifest = serde_json::from_slice(document(tag)?).map_err(no_document)?;
        let bytes = document(&manifest.config.digest)?;
        let config: ImageConfig = serde_json::from_slice(bytes).map_err(no_document)?;
        if config.diff_ids().len() != manifest.layers.len() {
            return Err(wrong("an image and its layers do not match".to_owned()));
        }
        let arrived = lock(&self.contents.layers);
        let mut lacking = lock(&self.contents.lacking);
        let mut layers = Vec::new();
        for (part, diff_id) in manifest.layers.into_iter().zip(config.diff_ids()) {
            let layer = arrived.get(&part.digest).filter(|layer| layer.diff_id == *diff_id);
            match layer.or_else(|| known.get(diff_id)) {
                Some(layer) => layers.push(layer.clone()),
                None => {
                    lacking.insert(part.digest);
                }
            }
        }
        let is_whole = layers.len() == config.diff_ids().len();
        let (id, config) = (Digest::of(bytes), bytes.clone());
        Ok(is_whole.then_some(SavedImage { id, config, layers, parent: None }))
    }
}

async fn serve(listener: TcpListener, contents: Arc<Contents>) {
    // Dropped together, with all that is going on.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let contents = Arc::clone(&contents);
        connections.spawn(async move {
            let service = service_fn(|request| answer(Arc::clone(&contents), request));
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

type Answer = Result<Response<String>, hyper::http::Error>;

async fn answer(contents: Arc<Contents>, request: Request<Incoming>) -> Answer {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    let base = format!("/v2/{}/", contents.repository);
    let Some(rest) = path.strip_prefix(&base) else {
        // The greeting, and strangers.
        return status(if path == "/v2/" { StatusCode::OK } else { StatusCode::NOT_FOUND });
    };
    match (parts.method, &rest.split('/').collect::<Vec<_>>()[..]) {
        (Method::HEAD, ["blobs", digest]) => {
            if lock(&contents.lacking).contains(*digest) {
                return status(StatusCode::NOT_FOUND);
            }
            // Engines want a size, but do nothing with it.
            Response::builder().header(CONTENT_LENGTH, 1).body(String::new())
        }
        (Method::POST, ["blobs", "uploads", ""]) => {
            let number = contents.begun.fetch_add(1, Ordering::Relaxed);
            going_on(&format!("{path}{number}"), 0)
        }
        (Method::PATCH, ["blobs", "uploads", number]) => {
            let Ok((size, arrived)) = contents.take(body).await else { return denied() };
            if let Some(arrived) = arrived {
                lock(&contents.uploads).insert((*number).to_owned(), arrived);
            }
            going_on(path, size)
        }
        (Method::PUT, ["blobs", "uploads", number]) => {
            let Ok((_, arrived)) = contents.take(body).await else { return denied() };
            let upload = arrived.or_else(|| lock(&contents.uploads).remove(*number));
            match (parts.uri.query().and_then(digest_in), upload) {
                (Some(digest), Some(upload)) => contents.keep(digest, upload),
                _ => return status(StatusCode::BAD_REQUEST),
            }
            status(StatusCode::CREATED)
        }
        (Method::PUT, ["manifests", tag]) => {
            let Ok((_, Some(Upload::Document(document)))) = contents.take(body).await else {
                return denied();
            };
            let digest = Digest::of(&document);
            contents.keep((*tag).to_owned(), Upload::Document(document));
            let created = Response::builder().status(StatusCode::CREATED);
            created.header("Docker-Content-Digest", digest.as_str()).body(String::new())
        }
        _ => status(StatusCode::NOT_FOUND),
    }
}

fn status(status: StatusCode) -> Answer {
    Response::builder().status(status).body(String::new())
}

/// An upload that goes on there, and has so many bytes.
fn going_on(location: &str, size: u64) -> Answer {
    Response::builder()
        .status(StatusCode::ACCEPTED)
        .header(LOCATION, location)
        .header(RANGE, format!("0-{}", size.saturating_sub(1)))
        .body(String::new())
}

/// For this reason, engines don't try again.
fn denied() -> Answer {
    Response::builder()
        .status(StatusCode::FORBIDDEN)
        .body(r#"{"errors":[{"code":"DENIED","message":"not taken"}]}"#.to_owned())
}

fn digest_in(query: &str) -> Option<String> {
    let digest = query.split('&').find_map(|pair| pair.strip_prefix("digest="))?;
    Some(digest.replace("%3A", ":"))
}

impl Contents {
    /// Takes what a request brings: its size in bytes, and what it is, if it is anything.
    async fn take(self: &Arc<Self>, mut body: Incoming) -> io::Result<(u64, Option<Upload>)> {
        let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
        let contents = Arc::clone(self);
        let taking = spawn_blocking(move || contents.sort(ChannelReader::new(receiver)));
        let mut size = 0;
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            let chunk = frame.map(|frame| frame.into_data().unwrap_or_default());
            let chunk = chunk.map_err(io::Error::other).and_then(|chunk| self.admit(chunk));
            size += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
            if sender.send(chunk).await.is_err() {
                break;
            }
        }
        drop(sender);
        Ok((size, taking.await.map_err(io::Error::other)??))
    }

    fn keep(&self, name: String, upload: Upload) {
        lock(&self.lacking).remove(&name);
        match upload {
            Upload::Layer(layer) => drop(lock(&self.layers).insert(name, layer)),
            Upload::Document(document) => drop(lock(&self.documents).insert(name, document)),
        }
    }

    fn admit(&self, chunk: Bytes) -> io::Result<Bytes> {
        self.arrived.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        let left = |room: u64| room.checked_sub(chunk.len() as u64);
        let enough = self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
        enough.map(|_| chunk).map_err(|_| io::ErrorKind::QuotaExceeded.into())
    }

    /// Tells a document from a layer, which goes into the layout.
    fn sort(&self, mut input: impl Read) -> io::Result<Option<Upload>> {
        let mut head = Vec::new();
        (&mut input).take(saved::TAR_BLOCK).read_to_end(&mut head)?;
        if head.is_empty() {
            return Ok(None);
        }
        let input = head.as_slice().chain(input);
        if saved::is_json(&head) {
            let mut document = Vec::new();
            input.take(DOCUMENT_LIMIT).read_to_end(&mut document)?;
            return Ok(Some(Upload::Document(document)));
        }
        let layer = saved::store_layer(input, &self.layout, self.compression, &|_| {});
        layer.map(|layer| Some(Upload::Layer(layer))).map_err(|failure| match failure {
            Failure::Stream(error) => error,
            Failure::Engine(error) => io::Error::other(error),
        })
    }
}

/// Nobody can guess it.
fn secret() -> io::Result<String> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("no randomness"))?;
    Ok(Digest::of(&bytes).hex().to_owned())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
