//! A repository of an OCI registry as a store: the OCI distribution specification.
//!
//! Refs are tags. What a descriptor calls an index or a manifest is one in the registry too, so
//! that any OCI tool reads it; all else is a blob. Uploads are `oci-client`'s; what reads is ours, since
//! the library reads answers of any size into memory, and so are HEAD with the size, DELETE, and a
//! mount with the right to read the other repository.

mod answers;
mod connection;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt as _, StreamExt as _, future};
use oci_client::client::Certificate;
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference, RegistryOperation};
use reqwest::header::{CONTENT_LENGTH, HeaderValue};
use reqwest::{Method, Response, StatusCode};
use serde::Deserialize;
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout};

use super::credentials::Credentials;
use super::docker::{self, Login};
use super::error::{StoreError, absent_as_none, unread};
use super::pieces::pieces;
use super::retry::{self, Failure, IDLE, Kind, Pace, in_time, retrying};
use super::tls::use_ring;
use super::url::StoreUrl;
use super::variables::Variables;
use super::{Answer, RemoteStore};
use crate::oci::directory::DOCUMENT_LIMIT;
use crate::oci::documents::{DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, INDEX, Index, MANIFEST};
use answers::{failure, said};
use connection::{Connection, Request, greet};

/// What a tag may name.
const DOCUMENTS: [&str; 4] = [INDEX, MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST];
/// How many tags to ask for at once.
const TAGS: usize = 1000;
/// How much of a file is read at once.
const PIECE: u64 = 256 * 1024;
/// How often the caller learns how far an upload is.
const TICK: Duration = Duration::from_millis(100);
/// How often a registry that fails over a name is asked again before that is taken for no name.
const BROKEN: usize = 2;
/// How long a registry may take for a manifest: it looks whether it has all that is named.
const PUSH: Duration = Duration::from_secs(30);
/// How long a registry may take to check and move a blob that has all arrived.
const COMMIT: Duration = Duration::from_mins(5);

/// A repository of an OCI registry.
pub struct Registry {
    url: String,
    host: String,
    repository: String,
    auth: RegistryAuth,
    credentials: Credentials,
    authorities: Vec<Certificate>,
    /// Repositories of the same registry that may have a blob already.
    mounts: Mutex<Vec<String>>,
    connection: OnceCell<Connection>,
}

impl Registry {
    /// Makes ready to speak to the registry that `url` names. Nothing is sent yet.
    pub fn open(url: &StoreUrl, environment: &Variables) -> Result<Self, StoreError> {
        use_ring();
        let StoreUrl::Registry { host, repository, .. } = url else {
            unreachable!("`{url}` is no registry");
        };
        let Login { auth, name } = docker::login(host, environment)
            .map_err(|reason| StoreError::Denied { url: url.to_string(), reason })?;
        Ok(Self {
            url: url.to_string(),
            host: host.clone(),
            repository: repository.clone(),
            auth,
            credentials: Credentials::new(name),
            authorities: docker::authorities(host, environment),
            mounts: Mutex::default(),
            connection: OnceCell::new(),
        })
    }

    fn tag(&self, name: &str) -> Reference {
        Reference::with_tag(self.host.clone(), self.repository.clone(), name.to_owned())
    }

    fn named(&self, blob: &Descriptor) -> Reference {
        let digest = blob.digest.to_string();
        Reference::with_digest(self.host.clone(), self.repository.clone(), digest)
    }

    /// Repeats what fails in passing. The library asks without credentials when it could not get
    /// a token, and keeps a token that the registry has come to refuse: so what is denied is
    /// tried once more, with a new token.
    async fn ask<'a, T, F>(
        &'a self,
        operation: RegistryOperation,
        what: &str,
        attempt: impl Fn(&'a Connection) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let denied = AtomicBool::new(false);
        let answer = retrying(|| async {
            let connection = self.connection.get_or_try_init(|| self.connect()).await?;
            match attempt(connection).await {
                Err(Failure { kind: Kind::Denied, .. })
                    if !denied.swap(true, Ordering::Relaxed) =>
                {
                    connection.renew(&self.tag(""), operation).await?;
                    attempt(connection).await
                }
                answer => answer,
            }
        });
        let answer = self.credentials.judge(answer.await);
        answer.map_err(|failure| failure.of(&self.url, what))
    }

    /// Finds out how the registry is spoken to. As docker has it, one on this very machine may do
    /// without TLS.
    async fn connect(&self) -> Result<Connection, Failure> {
        let host = self.tag("").resolve_registry().to_owned();
        let requests = connection::requests(&self.authorities)?;
        let scheme = self.scheme(&requests, &host).await?;
        Connection::open(requests, scheme, &host, &self.auth, &self.authorities).await
    }

    async fn scheme(&self, requests: &reqwest::Client, host: &str) -> Result<&str, Failure> {
        if !is_loopback(&self.host) {
            return Ok("https");
        }
        let Err(failure) = greet(requests, "https", host).await else { return Ok("https") };
        match greet(requests, "http", host).await {
            Ok(StatusCode::OK | StatusCode::UNAUTHORIZED) => Ok("http"),
            Ok(status) if status != StatusCode::BAD_REQUEST => {
                Err(Failure::status(status.as_u16(), ""))
            }
            Err(plain) if plain.kind == Kind::Lasting => Err(plain),
            // A server of TLS says to plain HTTP that it is a bad request.
            _ => Err(failure),
        }
    }

    async fn upload(
        &self,
        connection: &Connection,
        blob: &Descriptor,
        from: &Path,
        told: &AtomicU64,
        advance: &(dyn Fn(u64) + Sync),
    ) -> Result<(), Failure> {
        let sent = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&sent);
        let body = pieces(from, PIECE).map(move |piece| {
            let piece = piece.map_err(OciDistributionError::IoError)?;
            counter.fetch_add(piece.len() as u64, Ordering::Relaxed);
            Ok(piece)
        });
        let (reference, digest) = (self.named(blob), blob.digest.as_str());
        let push = connection.client.push_blob_stream(&reference, body, digest, Some(blob.size));
        let mut push = pin!(push);
        let (mut moved, mut before) = (Instant::now(), 0);
        let mut pace = Pace::default();
        loop {
            let start = Instant::now();
            let done = timeout(TICK, &mut push).await;
            let now = sent.load(Ordering::Relaxed);
            // An upload that begins again is not told again.
            advance(now.saturating_sub(told.fetch_max(now, Ordering::Relaxed)));
            if let Ok(answer) = done {
                return answer.map(drop).map_err(failure);
            }
            if now < blob.size {
                pace.note(start.elapsed(), now.saturating_sub(before))?;
            }
            if now != before {
                (moved, before) = (Instant::now(), now);
            }
            if moved.elapsed() > if now < blob.size { IDLE } else { COMMIT } {
                return Err(Failure::new(Kind::Passing(None), "the upload has come to a halt"));
            }
        }
    }

    async fn put_document(&self, blob: &Descriptor, from: &Path) -> Result<(), StoreError> {
        let document = std::fs::read(from).map_err(|error| unread(from, error))?;
        self.push(&self.named(blob), &blob.media_type, document, blob.digest.as_str()).await
    }

    async fn put_blob(
        &self,
        blob: &Descriptor,
        from: &Path,
        advance: &(dyn Fn(u64) + Sync),
    ) -> Result<(), StoreError> {
        std::fs::metadata(from).map_err(|error| unread(from, error))?;
        if self.has(blob).await? || self.mount(blob).await {
            advance(blob.size);
            return Ok(());
        }
        let told = &AtomicU64::new(0);
        let upload = |connection| self.upload(connection, blob, from, told, advance);
        self.ask(RegistryOperation::Push, blob.digest.as_str(), upload).await
    }

    /// Takes the blob over from another repository, if one of them has it and is ours to read.
    async fn mount(&self, blob: &Descriptor) -> bool {
        let repositories = self.mounts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for other in repositories.into_iter().filter(|other| *other != self.repository) {
            let path = format!("blobs/uploads/?mount={}&from={other}", blob.digest);
            let purpose = format!("mount {other}");
            let answer = self.request(RegistryOperation::Push, Method::POST, &path, &purpose).await;
            // Where it can't, a registry begins an upload, and forgets it after a while.
            if answer.is_ok_and(|answer| answer.status() == StatusCode::CREATED) {
                return true;
            }
        }
        false
    }

    async fn push(
        &self,
        reference: &Reference,
        media_type: &str,
        document: Vec<u8>,
        what: &str,
    ) -> Result<(), StoreError> {
        let document = &Bytes::from(document);
        let content_type = &HeaderValue::from_str(media_type)
            .map_err(|error| Failure::new(Kind::Lasting, error.to_string()).of(&self.url, what))?;
        self.ask(RegistryOperation::Push, what, move |connection| async move {
            let push = connection.client.push_manifest_raw(
                reference,
                document.clone(),
                content_type.clone(),
            );
            in_time(PUSH, push.map(|answer| answer.map(drop).map_err(failure))).await
        })
        .await
    }

    /// Reads a manifest or an index, by its tag or digest.
    async fn pull(&self, reference: &str, what: &str) -> Result<Vec<u8>, StoreError> {
        let path = format!("manifests/{reference}");
        self.asked(RegistryOperation::Pull, &Method::GET, 0, &path, "pull", what, |answer| {
            retry::whole(connection::pieces(answer), DOCUMENT_LIMIT)
        })
        .await
    }

    async fn pull_blob(
        &self,
        blob: &Descriptor,
        offset: u64,
    ) -> Result<BoxStream<'static, Result<Bytes, StoreError>>, StoreError> {
        let digest = blob.digest.as_str();
        let path = format!("blobs/{digest}");
        let (pull, get) = (RegistryOperation::Pull, Method::GET);
        let answer = self
            .asked(pull, &get, offset, &path, "pull", digest, |answer| future::ready(Ok(answer)));
        let answer = answer.await?;
        let skip = match answer.status() {
            StatusCode::PARTIAL_CONTENT => 0,
            // The registry knows no ranges.
            _ => offset,
        };
        Ok(retry::body(without(skip, connection::pieces(answer)), &self.url, digest))
    }

    /// Sends a request about the repository, and reads the answer if it is one of success.
    #[expect(clippy::too_many_arguments, reason = "each differs from call to call")]
    async fn asked<T, F>(
        &self,
        operation: RegistryOperation,
        method: &Method,
        offset: u64,
        path: &str,
        purpose: &str,
        what: &str,
        read: impl Fn(Response) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let read = &read;
        self.ask(operation, what, |connection| {
            let path = format!("{}/{path}", self.repository);
            async move {
                let request = Request { method: method.clone(), offset, path, purpose };
                let answer = connection.send(request).await?;
                if answer.status().is_success() {
                    read(answer).await
                } else {
                    Err(refused(answer).await)
                }
            }
        })
        .await
    }

    /// Sends a request about the repository, whose answer is for the caller to read, unless access
    /// is denied.
    async fn request(
        &self,
        operation: RegistryOperation,
        method: Method,
        path: &str,
        purpose: &str,
    ) -> Result<Response, StoreError> {
        let what = path.rsplit('/').next().unwrap_or(path);
        let (method, broken) = (&method, &AtomicUsize::new(0));
        self.ask(operation, what, |connection| {
            let path = format!("{}/{path}", self.repository);
            async move {
                let request = Request { method: method.clone(), offset: 0, path, purpose };
                let answer = match connection.send(request).await {
                    // Docker's keeps an empty name of what its disk had no room for, and fails
                    // over it until that is pushed again.
                    Err(failure)
                        if method == Method::HEAD
                            && failure.reason == Failure::status(500, "").reason
                            && broken.fetch_add(1, Ordering::Relaxed) == BROKEN =>
                    {
                        return Err(Failure::new(Kind::Missing, failure.reason));
                    }
                    answer => answer?,
                };
                match answer.status() {
                    StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(refused(answer).await),
                    _ => Ok(answer),
                }
            }
        })
        .await
    }

    async fn delete(&self, reference: &str) -> Result<(), StoreError> {
        let path = format!("manifests/{reference}");
        let answer = self.request(RegistryOperation::Push, Method::DELETE, &path, "delete").await?;
        let failure = match answer.status() {
            status if status.is_success() => return Ok(()),
            StatusCode::METHOD_NOT_ALLOWED => Failure::new(
                Kind::Lasting,
                "it does not delete: in Docker's registry, REGISTRY_STORAGE_DELETE_ENABLED=true \
                 lets it",
            ),
            _ => refused(answer).await,
        };
        Err(failure.of(&self.url, reference))
    }

    /// Removes a tag and no other. Few registries delete a tag as such, and deleting a manifest
    /// deletes all tags that name it: so the tag is made to name a manifest of its own first.
    async fn remove_tag(&self, name: &str) -> Result<(), StoreError> {
        if self.read_ref(name).await?.is_none() {
            return Ok(());
        }
        if self.delete(name).await.is_ok() {
            return Ok(());
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut last = Index::new(Vec::new());
        last.annotations.insert("removed".to_owned(), format!("{name} {}", now.as_nanos()));
        let last = serde_json::to_vec(&last).unwrap_or_default();
        let blob = Descriptor::of(INDEX, &last);
        // Where nothing is deleted, the tag must stay as it is.
        for reference in [self.named(&blob), self.tag(name)] {
            self.push(&reference, INDEX, last.clone(), &quoted(name)).await?;
            self.delete(blob.digest.as_str()).await?;
        }
        Ok(())
    }

    async fn list_tags(&self) -> Result<Vec<String>, StoreError> {
        let mut tags = BTreeSet::new();
        let mut path = format!("tags/list?n={TAGS}");
        loop {
            let (pull, get) = (RegistryOperation::Pull, Method::GET);
            let page = self.asked(pull, &get, 0, &path, "pull", "the repository", |answer| async {
                serde_json::from_slice(&connection::text(answer).await?)
                    .map_err(|_| Failure::new(Kind::Passing(None), "its answer is no JSON"))
            });
            let Tags { tags: page } = page.await?;
            let page = page.unwrap_or_default();
            // Pages may be shorter than asked for, and some registries know no pages at all: the
            // end is where nothing new comes.
            let before = tags.len();
            if let Some(last) = page.last() {
                path = format!("tags/list?n={TAGS}&last={last}");
            }
            tags.extend(page);
            if tags.len() == before {
                break;
            }
        }
        Ok(tags.into_iter().collect())
    }
}

/// A list of tags; Docker's registry has none for a repository without tags.
#[derive(Deserialize)]
struct Tags {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

/// What an answer of failure says.
async fn refused(answer: Response) -> Failure {
    let status = answer.status().as_u16();
    let words = connection::text(answer).await.unwrap_or_default();
    said(status, &String::from_utf8_lossy(&words))
}

impl RemoteStore for Registry {
    fn mount_from(&self, images: &[&str]) {
        let own =
            images.iter().filter_map(|image| image.strip_prefix(&self.host)?.strip_prefix('/'));
        let repositories = own.map(|rest| rest.split([':', '@']).next().unwrap_or(rest).to_owned());
        *self.mounts.lock().unwrap_or_else(PoisonError::into_inner) = repositories.collect();
    }

    fn url(&self) -> &str {
        &self.url
    }

    fn greet(&self) -> BoxFuture<'_, ()> {
        async move {
            // Whether there is such a thing does not matter: the token for it is good for all reads.
            let (pull, head) = (RegistryOperation::Pull, Method::HEAD);
            let _ = self.request(pull, head, "manifests/latest", "pull").await;
        }
        .boxed()
    }

    fn read_ref<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Vec<u8>>> {
        async move { absent_as_none(self.pull(name, &quoted(name)).await) }.boxed()
    }

    fn write_ref<'a>(&'a self, name: &'a str, index: &'a [u8]) -> Answer<'a, ()> {
        async move {
            let media_type = serde_json::from_slice(index)
                .ok()
                .and_then(|index: Index| index.media_type)
                .unwrap_or_else(|| INDEX.to_owned());
            self.push(&self.tag(name), &media_type, index.to_vec(), &quoted(name)).await
        }
        .boxed()
    }

    fn refs(&self) -> Answer<'_, Vec<String>> {
        self.list_tags().boxed()
    }

    fn remove_ref<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        self.remove_tag(name).boxed()
    }

    fn has<'a>(&'a self, blob: &'a Descriptor) -> Answer<'a, bool> {
        async move {
            let kind = if blob.is_document() { "manifests" } else { "blobs" };
            let path = format!("{kind}/{}", blob.digest);
            let answer = self.request(RegistryOperation::Pull, Method::HEAD, &path, "pull").await;
            let Some(answer) = absent_as_none(answer)? else { return Ok(false) };
            match answer.status() {
                StatusCode::NOT_FOUND => Ok(false),
                status if status.is_success() => {
                    let size = answer.headers().get(CONTENT_LENGTH);
                    let size = size.and_then(|size| size.to_str().ok()?.parse::<u64>().ok());
                    Ok(size.is_none_or(|size| size == blob.size))
                }
                status => {
                    Err(Failure::status(status.as_u16(), "").of(&self.url, blob.digest.as_str()))
                }
            }
        }
        .boxed()
    }

    fn get<'a>(
        &'a self,
        blob: &'a Descriptor,
        offset: u64,
    ) -> Answer<'a, BoxStream<'static, Result<Bytes, StoreError>>> {
        async move {
            if offset >= blob.size {
                return Ok(stream::empty().boxed());
            }
            if !blob.is_document() {
                return self.pull_blob(blob, offset).await;
            }
            let digest = blob.digest.as_str();
            let mut document = Bytes::from(self.pull(digest, digest).await?);
            let offset = usize::try_from(offset).unwrap_or(usize::MAX).min(document.len());
            let rest = document.split_off(offset);
            Ok(stream::once(future::ready(Ok(rest))).boxed())
        }
        .boxed()
    }

    fn put<'a>(
        &'a self,
        blob: &'a Descriptor,
        from: &'a Path,
        advance: &'a (dyn Fn(u64) + Sync),
    ) -> Answer<'a, ()> {
        async move {
            if !blob.is_document() {
                return self.put_blob(blob, from, advance).await;
            }
            self.put_document(blob, from).await?;
            advance(blob.size);
            Ok(())
        }
        .boxed()
    }
}

/// Whether a host is this machine, by its name alone.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || address.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// A body without its first bytes.
fn without(
    skip: u64,
    pieces: BoxStream<'static, Result<Bytes, Failure>>,
) -> BoxStream<'static, Result<Bytes, Failure>> {
    pieces
        .scan(skip, |skip, piece| {
            future::ready(Some(piece.map(|mut piece| {
                let part = usize::try_from(*skip).unwrap_or(usize::MAX).min(piece.len());
                *skip -= part as u64;
                piece.split_off(part)
            })))
        })
        .boxed()
}

fn quoted(name: &str) -> String {
    format!("ref `{name}`")
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt as _;

    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example.com", "128.0.0.1:5000", "registry:5000", "10.0.0.1"] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[tokio::test]
    async fn a_whole_body_is_cut_to_the_rest() {
        for skip in 0..7 {
            let pieces = ["ab", "", "cde", "f"].map(|piece| Ok(Bytes::from(piece)));
            let rest: Vec<_> =
                without(skip, stream::iter(pieces).boxed()).try_collect().await.unwrap();
            assert_eq!(rest.concat(), b"abcdef"[usize::try_from(skip).unwrap()..]);
        }
    }
}
