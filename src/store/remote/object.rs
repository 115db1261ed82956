//! A prefix of a bucket as a store: S3, Google Cloud Storage, Azure Blob Storage.
