//! Who gives out keys for an S3 server that live for seconds, as a container's role does.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::ready;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use hyper::Response;
use hyper::service::service_fn;
use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Result, s3_error};
use serde_json::json;

use super::PASSWORD;
use super::service::{Listening, listen};

/// How long a key is good.
const LIFE: Duration = Duration::from_secs(1);

/// The keys that were given out, and when.
#[derive(Clone, Default)]
pub(super) struct Roles(Arc<Mutex<BTreeMap<String, Instant>>>);

impl Roles {
    /// Starts to give out keys.
    pub(super) fn listen(&self) -> Listening {
        let roles = self.clone();
        let answer = move |_| ready(Ok::<_, Infallible>(Response::new(roles.issue())));
        listen(service_fn(answer), None)
    }

    /// How many keys were given out.
    pub(super) fn issued(&self) -> usize {
        self.keys().len()
    }

    fn issue(&self) -> String {
        let mut keys = self.keys();
        let name = format!("key-{}", keys.len());
        keys.insert(name.clone(), Instant::now());
        let end = humantime::format_rfc3339(SystemTime::now() + LIFE).to_string();
        json!({
            "AccessKeyId": name,
            "SecretAccessKey": PASSWORD,
            "Token": "of the session",
            "Expiration": end,
        })
        .to_string()
    }

    fn keys(&self) -> impl std::ops::DerefMut<Target = BTreeMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl S3Auth for Roles {
    async fn get_secret_key(&self, name: &str) -> S3Result<SecretKey> {
        let issued = self.keys().get(name).copied();
        match issued.map(|issued| issued.elapsed() < LIFE) {
            Some(true) => Ok(PASSWORD.into()),
            Some(false) => Err(s3_error!(ExpiredToken, "The provided token has expired.")),
            None => Err(s3_error!(InvalidAccessKeyId)),
        }
    }
}
