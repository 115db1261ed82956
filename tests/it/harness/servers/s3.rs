//! An S3 server in this process, with one account and one bucket.

use std::fs;
use std::path::PathBuf;

use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tempfile::TempDir;

use super::service::{Listening, listen};
use super::{BUCKET, PASSWORD, Server, USER};

/// An S3 server.
pub(crate) struct S3Server {
    server: Listening,
    directory: TempDir,
}

impl S3Server {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        fs::create_dir(directory.path().join(BUCKET)).expect("a directory");
        let files = FileSystem::new(directory.path()).expect("a file system");
        let mut service = S3ServiceBuilder::new(files);
        service.set_auth(SimpleAuth::from_single(USER, PASSWORD));
        Self { server: listen(service.build()), directory }
    }

    /// The directory that holds the objects of the store.
    pub(crate) fn objects(&self) -> PathBuf {
        self.directory.path().join(BUCKET).join("team/app")
    }
}

impl Server for S3Server {
    fn address(&self) -> &str {
        &self.server.address
    }

    fn url(&self, _address: &str) -> String {
        format!("s3://{BUCKET}/team/app")
    }

    fn variables(&self, address: &str, password: &str) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ACCESS_KEY_ID", USER.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", password.to_owned()),
            ("AWS_ENDPOINT_URL", format!("http://{address}")),
        ]
    }
}
