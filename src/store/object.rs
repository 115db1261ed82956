//! A prefix of a bucket as a store: S3, Google Cloud Storage, Azure Blob Storage.
//!
//! Below the prefix lie `blobs/sha256/HEX`, `refs/NAME`, and `notes/NAME`. All else there is
//! someone else's, and left alone.

use std::path::Path as FilePath;
use std::pin::pin;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, FuturesUnordered};
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, future};
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt as _,
};

use super::bucket::{self, Bucket};
use super::error::{StoreError, absent_as_none, unread};
use super::pieces::pieces;
use super::retry::{self, Failure, Kind, one_line, retrying};
use super::tls::use_ring;
use super::url::StoreUrl;
use super::variables::Variables;
use super::{Answer, Note, RemoteStore, Shelf, Shelved};
use crate::oci::digest::Digest;
use crate::oci::directory::DOCUMENT_LIMIT;
use crate::oci::documents::Descriptor;

/// The size of a part of an upload, and of the largest upload that has no parts.
const PART: u64 = 8 << 20;
/// How many parts an object may have: 10,000 in S3.
const PARTS: u64 = 9_000;
/// How many parts of a blob are in memory at once.
const FLYING: usize = 3;
/// How many notes are read at once.
const NOTES: usize = 16;

/// A prefix of a bucket.
pub struct Object {
    url: String,
    prefix: String,
    bucket: Bucket,
}

impl Object {
    /// Makes ready to speak to the bucket that `url` names. Nothing is sent yet.
    pub fn open(url: &StoreUrl, environment: &Variables) -> Result<Self, StoreError> {
        use_ring();
        let StoreUrl::Object { scheme, bucket, prefix } = url else {
            unreachable!("`{url}` is no bucket");
        };
        let bucket = bucket::open(scheme, bucket, environment)
            .map_err(|failure| failure.of(&url.to_string(), "the bucket"))?;
        Ok(Self { url: url.to_string(), prefix: prefix.clone(), bucket })
    }

    fn path(&self, directory: &str, name: &str) -> Path {
        Path::from(format!("{}/{directory}/{name}", self.prefix))
    }

    fn blob(&self, digest: &Digest) -> Path {
        self.path("blobs/sha256", digest.hex())
    }

    /// An answer, with the error to show.
    fn answer<T>(&self, answer: object_store::Result<T>, what: &str) -> Result<T, StoreError> {
        let answer = answer.map_err(|error| failure(&error));
        self.bucket.credentials.judge(answer).map_err(|failure| failure.of(&self.url, what))
    }

    /// Repeats what fails in passing. The library does so by itself where no answer came; this
    /// is for answers that broke off.
    async fn ask<T, F>(&self, what: &str, attempt: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let answer = retrying(|| attempt().map(|answer| answer.map_err(|error| failure(&error))));
        let answer = self.bucket.credentials.judge(answer.await);
        answer.map_err(|failure| failure.of(&self.url, what))
    }

    async fn head(&self, path: &Path) -> Result<Option<ObjectMeta>, StoreError> {
        absent_as_none(self.ask(path.as_ref(), || self.bucket.reads.head(path)).await)
    }

    /// Reads a document, if it is there and not larger than documents are.
    async fn read(&self, path: &Path) -> Result<Option<(ObjectMeta, Vec<u8>)>, StoreError> {
        let read = || async {
            let answer = self.bucket.reads.get(path).await.map_err(|error| failure(&error))?;
            let meta = answer.meta.clone();
            let pieces = answer.into_stream().map_err(|error| failure(&error)).boxed();
            Ok((meta, retry::whole(pieces, DOCUMENT_LIMIT).await?))
        };
        let answer = self.bucket.credentials.judge(retrying(read).await);
        absent_as_none(answer.map_err(|failure| failure.of(&self.url, path.as_ref())))
    }

    async fn write(&self, path: &Path, bytes: Bytes) -> Result<(), StoreError> {
        self.ask(path.as_ref(), || self.bucket.writes.put(path, bytes.clone().into()))
            .await
            .map(drop)
    }

    async fn remove(&self, path: &Path) -> Result<(), StoreError> {
        absent_as_none(self.ask(path.as_ref(), || self.bucket.reads.delete(path)).await).map(drop)
    }

    /// The objects in a directory below the prefix, with their names.
    fn list(&self, directory: &str) -> BoxStream<'_, Result<(String, ObjectMeta), StoreError>> {
        let directory = self.path(directory, "");
        let listed = self.bucket.reads.list(Some(&directory));
        listed
            .map(move |meta| {
                let meta = self.answer(meta, directory.as_ref())?;
                let start = directory.as_ref().len() + 1;
                let name = meta.location.as_ref().get(start..).unwrap_or_default().to_owned();
                Ok((name, meta))
            })
            .boxed()
    }

    async fn upload(
        &self,
        path: &Path,
        blob: &Descriptor,
        from: &FilePath,
        advance: &(dyn Fn(u64) + Sync),
    ) -> Result<(), StoreError> {
        let mut upload = self.ask(path.as_ref(), || self.bucket.writes.put_multipart(path)).await?;
        let sent = self.send_parts(&mut *upload, path, blob, from, advance).await;
        if sent.is_err() {
            // The store's own rules remove what is left of an upload; this is only faster.
            let _ = upload.abort().await;
        }
        sent
    }

    async fn send_parts(
        &self,
        upload: &mut dyn MultipartUpload,
        path: &Path,
        blob: &Descriptor,
        from: &FilePath,
        advance: &(dyn Fn(u64) + Sync),
    ) -> Result<(), StoreError> {
        let mut pieces = pin!(pieces(from, PART.max(blob.size / PARTS)));
        let mut flying = FuturesUnordered::new();
        let mut more = true;
        while more || !flying.is_empty() {
            if more && flying.len() < FLYING {
                let piece = pieces.try_next().await.map_err(|error| unread(from, error))?;
                more = piece.is_some();
                if let Some(piece) = piece {
                    let length = piece.len() as u64;
                    let part = upload.put_part(piece.into());
                    flying.push(part.map(move |done| done.map(|()| length)));
                }
            } else if let Some(length) = self.answer(flying.try_next().await, path.as_ref())? {
                advance(length);
            }
        }
        self.answer(upload.complete().await, path.as_ref()).map(drop)
    }
}

impl RemoteStore for Object {
    fn url(&self) -> &str {
        &self.url
    }

    fn read_ref<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Vec<u8>>> {
        async move {
            let found = self.read(&self.path("refs", name)).await?;
            Ok(found.map(|(_, bytes)| bytes))
        }
        .boxed()
    }

    fn write_ref<'a>(&'a self, name: &'a str, index: &'a [u8]) -> Answer<'a, ()> {
        async move { self.write(&self.path("refs", name), Bytes::copy_from_slice(index)).await }
            .boxed()
    }

    fn refs(&self) -> Answer<'_, Vec<String>> {
        self.list("refs").map_ok(|(name, _)| name).try_collect().boxed()
    }

    fn remove_ref<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        async move { self.remove(&self.path("refs", name)).await }.boxed()
    }

    fn has<'a>(&'a self, blob: &'a Descriptor) -> Answer<'a, bool> {
        async move {
            let found = self.head(&self.blob(&blob.digest)).await?;
            Ok(found.is_some_and(|meta| meta.size == blob.size))
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
            let path = &self.blob(&blob.digest);
            let range = (offset > 0).then_some(GetRange::Offset(offset));
            let options = GetOptions { range, ..GetOptions::default() };
            let get = || self.bucket.reads.get_opts(path, options.clone());
            let pieces = self
                .ask(blob.digest.as_str(), get)
                .await?
                .into_stream()
                .map_err(|error| failure(&error));
            Ok(retry::body(pieces.boxed(), &self.url, blob.digest.as_str()))
        }
        .boxed()
    }

    /// A blob that is there is written again: that is how one of the wrong size is mended, and
    /// how a collector learns that the blob is wanted.
    fn put<'a>(
        &'a self,
        blob: &'a Descriptor,
        from: &'a FilePath,
        advance: &'a (dyn Fn(u64) + Sync),
    ) -> Answer<'a, ()> {
        async move {
            let path = &self.blob(&blob.digest);
            if blob.size > PART {
                return self.upload(path, blob, from, advance).await;
            }
            let bytes = std::fs::read(from).map_err(|error| unread(from, error))?;
            self.write(path, bytes.into()).await?;
            advance(blob.size);
            Ok(())
        }
        .boxed()
    }

    fn shelf(&self) -> Option<&dyn Shelf> {
        Some(self)
    }
}

impl Shelf for Object {
    fn blobs(&self) -> BoxStream<'_, Result<Shelved, StoreError>> {
        let shelved = |(name, meta): (String, ObjectMeta)| {
            let digest = Digest::from_hex(&name).ok()?;
            Some(Shelved { digest, size: meta.size, written: meta.last_modified.into() })
        };
        self.list("blobs/sha256")
            .try_filter_map(move |listed| future::ready(Ok(shelved(listed))))
            .boxed()
    }

    fn remove_blobs<'a>(&'a self, digests: &'a [Digest]) -> Answer<'a, ()> {
        let remove = || async {
            let paths: Vec<_> = digests.iter().map(|digest| Ok(self.blob(digest))).collect();
            let mut removed = self.bucket.reads.delete_stream(stream::iter(paths).boxed());
            while let Some(removed) = removed.next().await {
                match removed {
                    Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        };
        async move { self.ask("blobs", remove).await }.boxed()
    }

    fn ref_time<'a>(&'a self, name: &'a str) -> Answer<'a, Option<SystemTime>> {
        async move {
            let found = self.head(&self.path("refs", name)).await?;
            Ok(found.map(|meta| meta.last_modified.into()))
        }
        .boxed()
    }

    fn write_note<'a>(&'a self, name: &'a str, text: &'a [u8]) -> Answer<'a, SystemTime> {
        async move {
            let path = &self.path("notes", name);
            self.write(path, Bytes::copy_from_slice(text)).await?;
            let lost = || Failure::new(Kind::Missing, "").of(&self.url, path.as_ref());
            Ok(self.head(path).await?.ok_or_else(lost)?.last_modified.into())
        }
        .boxed()
    }

    fn notes<'a>(&'a self, prefix: &'a str) -> Answer<'a, Vec<Note>> {
        let read = async |name: String| {
            let found = self.read(&self.path("notes", &name)).await?;
            Ok(found.map(|(meta, text)| Note { name, written: meta.last_modified.into(), text }))
        };
        self.list("notes")
            .try_filter_map(move |(name, _)| {
                future::ready(Ok(name.starts_with(prefix).then_some(name)))
            })
            .map_ok(read)
            .try_buffer_unordered(NOTES)
            // One that is gone by now.
            .try_filter_map(future::ok)
            .try_collect()
            .boxed()
    }

    fn remove_note<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        async move { self.remove(&self.path("notes", name)).await }.boxed()
    }
}

/// What the library's error means. Its text names the URL, so only its parts are used.
fn failure(error: &object_store::Error) -> Failure {
    use object_store::Error;
    let reason = retry::innermost(error);
    if let Some(failure) = said(&reason) {
        return failure;
    }
    match error {
        Error::NotFound { .. } => Failure::new(Kind::Missing, reason),
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
            Failure::new(Kind::Denied, reason)
        }
        Error::Generic { .. } if error.to_string().contains("//169.254.169.254/") => {
            Failure::new(Kind::Denied, "no credentials are set, and no role of an instance answers")
        }
        Error::Generic { .. } | Error::JoinError { .. } => Failure::connection(error),
        _ => Failure::new(Kind::Lasting, reason),
    }
}

/// What the store said with a status: all three kinds give a code and a message in XML.
fn said(reason: &str) -> Option<Failure> {
    let status = reason.strip_prefix("Server returned non-2xx status code: ")?;
    let code = status.get(..3)?.parse().ok()?;
    let element = |name: &str| {
        let (_, rest) = status.split_once(&format!("<{name}>"))?;
        rest.split('<').next()
    };
    let name = element("Code").unwrap_or_default();
    let message = element("Message").unwrap_or_default().trim_end_matches('.');
    let mut failure = Failure::status(code, &one_line(&format!("{name} {message}")));
    match name {
        _ if name.contains("Expired") || name == "InvalidToken" => failure.kind = Kind::Denied,
        // Nothing is missing from a store that is not there.
        "NoSuchBucket" | "ContainerNotFound" => failure.kind = Kind::Lasting,
        _ if (300..400).contains(&code) => {
            failure.reason += ": it redirects to another host, which is given no credentials; check \
                               the endpoint and the region";
        }
        _ => {}
    }
    Some(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_s_words_are_read() {
        let expired = said(
            "Server returned non-2xx status code: 400 Bad Request: <Error><Code>ExpiredToken\
             </Code><Message>The provided token has expired.</Message></Error>",
        )
        .unwrap();
        assert_eq!(expired.kind, Kind::Denied);
        assert_eq!(expired.reason, "HTTP status 400: ExpiredToken The provided token has expired");
        let gone = said(
            "Server returned non-2xx status code: 404 Not Found: <Error><Code>ContainerNotFound\
             </Code><Message>The specified container does not exist.</Message></Error>",
        );
        assert_eq!(gone.unwrap().kind, Kind::Lasting);
        let busy = said("Server returned non-2xx status code: 503 Service Unavailable: ").unwrap();
        assert_eq!((busy.kind, busy.reason.as_str()), (Kind::Passing(None), "HTTP status 503"));
        assert!(said("Connection refused").is_none());
    }
}
