//! A bucket that lists more blobs than it has: a list is what a collector must cope with, and
//! files by the hundred thousand would be most of a test's time.

use std::time::SystemTime;

use async_trait::async_trait;
use s3s::dto::{
    DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, GetObjectInput,
    GetObjectOutput, HeadObjectInput, HeadObjectOutput, ListObjectsV2Input, ListObjectsV2Output,
    Object, PutObjectInput, PutObjectOutput, Timestamp,
};
use s3s::{S3, S3Request, S3Response, S3Result};
use s3s_fs::FileSystem;

use dockercache::oci::digest::Digest;

/// Where blobs are listed.
const BLOBS: &str = "team/app/blobs/sha256/";
/// What S3 gives in one answer.
const PAGE: usize = 1000;

/// A bucket.
pub(super) struct Catalogue {
    files: FileSystem,
    /// Sorted, as S3 lists them.
    blobs: Vec<String>,
    written: Timestamp,
}

impl Catalogue {
    /// Lists so many blobs, which were written an age ago; all else is in `files`.
    pub(super) fn new(files: FileSystem, blobs: u32) -> Self {
        let key = |number: u32| format!("{BLOBS}{}", Digest::of(&number.to_be_bytes()).hex());
        let mut blobs: Vec<String> = (0..blobs).map(key).collect();
        blobs.sort_unstable();
        Self { files, blobs, written: SystemTime::UNIX_EPOCH.into() }
    }

    fn object(&self, key: &str) -> Object {
        Object {
            key: Some(key.to_owned()),
            size: Some(1),
            last_modified: Some(self.written.clone()),
            ..Object::default()
        }
    }
}

#[async_trait]
impl S3 for Catalogue {
    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        if request.input.prefix.as_deref() != Some(BLOBS) {
            return self.files.list_objects_v2(request).await;
        }
        let after = request.input.continuation_token.unwrap_or_default();
        let rest = &self.blobs[self.blobs.partition_point(|key| *key <= after)..];
        let (page, more) = rest.split_at(rest.len().min(PAGE));
        Ok(S3Response::new(ListObjectsV2Output {
            is_truncated: Some(!more.is_empty()),
            next_continuation_token: page.last().filter(|_| !more.is_empty()).cloned(),
            contents: Some(page.iter().map(|key| self.object(key)).collect()),
            prefix: request.input.prefix,
            name: Some(request.input.bucket),
            ..ListObjectsV2Output::default()
        }))
    }

    async fn put_object(
        &self,
        request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        self.files.put_object(request).await
    }

    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        self.files.get_object(request).await
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        self.files.head_object(request).await
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.files.delete_object(request).await
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        self.files.delete_objects(request).await
    }
}
