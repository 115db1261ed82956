//! A stand-in for Google Cloud Storage, in this process.
//!
//! Emulators of it that can be had speak its JSON API. What we send is its XML API, which shares
//! with S3 the requests and answers for objects, lists, and uploads in parts: so an S3 server
//! answers, behind a guard that wants a token as Google does. What only Google has, such as
//! generations, is not here, nor sent.

use std::fs;
use std::path::Path;

use hyper::body::Incoming;
use hyper::header::AUTHORIZATION;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, HttpError};
use s3s_fs::FileSystem;

use super::disk::Disk;
use super::service::{Listening, listen};
use super::{BUCKET, PASSWORD, Server};

/// What Google says to who has no good token.
const REFUSED: &str = "<?xml version='1.0' encoding='UTF-8'?><Error><Code>AuthenticationRequired\
                       </Code><Message>Authentication required.</Message></Error>";

/// A server of Google's XML API.
pub(crate) struct GoogleServer {
    server: Listening,
    disk: Disk,
}

impl GoogleServer {
    pub(crate) fn start() -> Self {
        let disk = Disk::new(None);
        fs::create_dir(disk.path().join(BUCKET)).expect("a directory");
        let files = FileSystem::new(disk.path()).expect("a file system");
        let service = S3ServiceBuilder::new(files).build();
        let guarded = service_fn(move |request| guard(service.clone(), request));
        Self { server: listen(guarded, None), disk }
    }
}

/// Lets a request with the right token pass, without it: S3's own credentials are others.
async fn guard(
    service: S3Service,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, HttpError> {
    let token = request.headers_mut().remove(AUTHORIZATION);
    if token.is_some_and(|token| token == format!("Bearer {PASSWORD}")) {
        return service.call(request.map(Body::from)).await;
    }
    let mut refused = Response::new(Body::from(REFUSED.to_owned()));
    *refused.status_mut() = StatusCode::UNAUTHORIZED;
    Ok(refused)
}

impl Server for GoogleServer {
    fn address(&self) -> &str {
        &self.server.address
    }

    fn directory(&self) -> &Path {
        self.disk.path()
    }

    fn url(&self, _address: &str) -> String {
        format!("gs://{BUCKET}/team/app")
    }

    fn variables(&self, address: &str, password: &str) -> Vec<(&'static str, String)> {
        vec![
            ("GOOGLE_BASE_URL", format!("http://{address}")),
            ("GOOGLE_BEARER_TOKEN", password.to_owned()),
        ]
    }
}
