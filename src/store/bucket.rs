//! Clients for a bucket, made from what the cloud's own tools find in the environment.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::{BackoffConfig, ClientConfigKey, ClientOptions, ObjectStore, RetryConfig};
use reqwest::Certificate;

use super::connector::Connector;
use super::credentials::Credentials;
use super::profile::profile;
use super::retry::{self, CONNECT, FIRST_PAUSE, Failure, IDLE, Kind, LONGEST_PAUSE, PATIENCE};
use super::variables::Variables;

/// How long one request of an upload may take, at most 8 MiB of it: while a body is sent, the
/// library does not tell slow from idle.
const UPLOAD: Duration = Duration::from_mins(2);
/// How long a request may take as long as bytes come.
const EVER: Duration = Duration::from_hours(24);

/// A bucket.
pub(crate) struct Bucket {
    /// For what may take as long as it likes.
    pub(crate) reads: Arc<dyn ObjectStore>,
    /// For what has a body.
    pub(crate) writes: Arc<dyn ObjectStore>,
    pub(crate) credentials: Credentials,
}

/// Makes the clients. Nothing is sent yet.
pub(crate) fn open(scheme: &str, name: &str, environment: &Variables) -> Result<Bucket, Failure> {
    let reads = [(ClientConfigKey::Timeout, EVER), (ClientConfigKey::ReadTimeout, IDLE)];
    let writes = [(ClientConfigKey::Timeout, UPLOAD)];
    let open = match scheme {
        "s3" => return s3(name, environment, &reads, &writes),
        "gs" => google,
        _ => azure,
    };
    Ok(Bucket {
        reads: open(name, environment, &reads)?,
        writes: open(name, environment, &writes)?,
        credentials: Credentials::new("with the credentials from the environment"),
    })
}

type Limits<'a> = &'a [(ClientConfigKey, Duration)];

fn s3(
    name: &str,
    environment: &Variables,
    reads: Limits<'_>,
    writes: Limits<'_>,
) -> Result<Bucket, Failure> {
    let profile = profile(environment).map_err(|reason| Failure::new(Kind::Denied, reason))?;
    let authorities = environment.get("AWS_CA_BUNDLE").or(profile.authorities.as_deref());
    let authorities = authorities.map_or_else(|| Ok(Vec::new()), certificates)?;
    let open = |limits: Limits<'_>| {
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(name)
            .with_retry(repeats())
            .with_http_connector(Connector { authorities: authorities.clone() })
            .with_client_options(ClientOptions::new());
        for (key, value) in client(limits) {
            builder = builder.with_config(AmazonS3ConfigKey::Client(key), value);
        }
        for (key, value) in &profile.settings {
            builder = builder.with_config(*key, value);
        }
        for (key, value) in settings(environment, "AWS_") {
            builder = builder.with_config(key, value);
        }
        let endpoints = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint];
        let endpoint = endpoints.iter().find_map(|key| builder.get_config_value(key));
        if is_plain_here(endpoint, environment, "AWS_ALLOW_HTTP")? {
            builder = builder.with_allow_http(true);
        }
        built(builder.build())
    };
    let credentials = Credentials::new(match &profile.name {
        Some(name) => name,
        None if environment.get("AWS_ACCESS_KEY_ID").is_some() => {
            "with AWS_ACCESS_KEY_ID from the environment"
        }
        None => "with the role that the environment gives",
    });
    Ok(Bucket { reads: open(reads)?, writes: open(writes)?, credentials })
}

fn google(
    name: &str,
    environment: &Variables,
    limits: Limits<'_>,
) -> Result<Arc<dyn ObjectStore>, Failure> {
    let mut builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name(name)
        .with_retry(repeats())
        .with_http_connector(Connector::default())
        // The library's own allow plain HTTP to anywhere.
        .with_client_options(ClientOptions::new());
    for (key, value) in client(limits) {
        builder = builder.with_config(GoogleConfigKey::Client(key), value);
    }
    for (key, value) in settings(environment, "GOOGLE_") {
        builder = builder.with_config(key, value);
    }
    let endpoint = builder.get_config_value(&GoogleConfigKey::BaseUrl);
    if is_plain_here(endpoint, environment, "GOOGLE_ALLOW_HTTP")? {
        let allow = GoogleConfigKey::Client(ClientConfigKey::AllowHttp);
        builder = builder.with_config(allow, "true");
    }
    built(builder.build())
}

fn azure(
    name: &str,
    environment: &Variables,
    limits: Limits<'_>,
) -> Result<Arc<dyn ObjectStore>, Failure> {
    let mut builder = MicrosoftAzureBuilder::new()
        .with_container_name(name)
        .with_retry(repeats())
        .with_http_connector(Connector::default());
    for (key, value) in client(limits) {
        builder = builder.with_config(AzureConfigKey::Client(key), value);
    }
    for (key, value) in settings(environment, "AZURE_") {
        builder = builder.with_config(key, value);
    }
    // Where a managed identity gets its tokens.
    if let Some(endpoint) = environment.get("IDENTITY_ENDPOINT") {
        builder = builder.with_config(AzureConfigKey::MsiEndpoint, endpoint);
    }
    let endpoint = builder.get_config_value(&AzureConfigKey::Endpoint);
    if is_plain_here(endpoint, environment, "AZURE_ALLOW_HTTP")? {
        builder = builder.with_allow_http(true);
    }
    built(builder.build())
}

/// The variables that the library knows, by their prefix.
fn settings<'a, K: std::str::FromStr>(
    environment: &'a Variables,
    prefix: &'a str,
) -> impl Iterator<Item = (K, &'a str)> {
    let ours = environment.iter().filter(move |(name, _)| name.starts_with(prefix));
    ours.filter_map(|(name, value)| Some((name.to_ascii_lowercase().parse().ok()?, value)))
}

fn client(limits: Limits<'_>) -> impl Iterator<Item = (ClientConfigKey, String)> {
    let connect = [(ClientConfigKey::ConnectTimeout, CONNECT)];
    let limits = limits.iter().copied().chain(connect);
    limits.map(|(key, limit)| (key, format!("{} seconds", limit.as_secs())))
}

/// The certificates of authorities in a file.
fn certificates(file: &str) -> Result<Vec<Certificate>, Failure> {
    let unusable =
        |reason| Failure::new(Kind::Lasting, format!("the authorities in `{file}`: {reason}"));
    let pem = std::fs::read(file).map_err(|error| unusable(error.to_string()))?;
    let certificates =
        Certificate::from_pem_bundle(&pem).map_err(|error| unusable(retry::innermost(&error)))?;
    if certificates.is_empty() {
        return Err(unusable("there is no certificate".to_owned()));
    }
    Ok(certificates)
}

/// The policy of [`retry`], in the library's words.
fn repeats() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig { init_backoff: FIRST_PAUSE, max_backoff: LONGEST_PAUSE, base: 2.0 },
        max_retries: usize::MAX,
        retry_timeout: PATIENCE,
    }
}

fn built<S: ObjectStore>(built: object_store::Result<S>) -> Result<Arc<dyn ObjectStore>, Failure> {
    match built {
        Ok(store) => Ok(Arc::new(store)),
        Err(error) => Err(Failure::new(Kind::Lasting, retry::innermost(&error))),
    }
}

/// Whether an endpoint is one of plain HTTP that is as good as HTTPS, as it is on this machine.
/// The variable allows others.
fn is_plain_here(
    endpoint: Option<String>,
    environment: &Variables,
    variable: &str,
) -> Result<bool, Failure> {
    let endpoint = endpoint.unwrap_or_default();
    let Some(rest) = endpoint.strip_prefix("http://") else { return Ok(false) };
    let here = super::registry::is_loopback(rest.split('/').next().unwrap_or(rest));
    if here || environment.get(variable).is_some() {
        return Ok(here);
    }
    let reason = format!("plain HTTP to another machine hides nothing: {variable}=true allows it");
    Err(Failure::new(Kind::Lasting, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_to_other_machines_must_be_allowed() {
        let [key, token] = ["c2VjcmV0", "secret"];
        for (scheme, endpoint, allow, credentials) in [
            ("s3", "AWS_ENDPOINT_URL", "AWS_ALLOW_HTTP", [("AWS_REGION", "x"); 2]),
            ("gs", "GOOGLE_BASE_URL", "GOOGLE_ALLOW_HTTP", [("GOOGLE_BEARER_TOKEN", token); 2]),
            (
                "az",
                "AZURE_STORAGE_ENDPOINT",
                "AZURE_ALLOW_HTTP",
                [("AZURE_STORAGE_ACCOUNT_NAME", "x"), ("AZURE_STORAGE_ACCOUNT_KEY", key)],
            ),
        ] {
            let opened = |more: &[(&str, &str)]| {
                super::super::tls::use_ring();
                let environment = credentials.iter().chain(more).copied().collect();
                open(scheme, "bucket", &environment).map(drop)
            };
            opened(&[(endpoint, "http://127.0.0.1:1/x")]).unwrap();
            opened(&[(endpoint, "https://store.example.com")]).unwrap();
            let plain = (endpoint, "http://store.example.com");
            let refused = opened(&[plain]).unwrap_err().reason;
            assert!(refused.contains(allow), "{refused}");
            opened(&[plain, (allow, "true")]).unwrap();
        }
    }

    #[test]
    fn authorities_that_can_t_be_read_are_said() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let empty = file.path().to_str().unwrap();
        for (bundle, words) in [(empty, "there is no certificate"), ("/absent", "No such file")] {
            let environment = Variables::from_iter([("AWS_CA_BUNDLE", bundle)]);
            let reason = open("s3", "bucket", &environment).map(drop).unwrap_err().reason;
            assert!(reason.contains(bundle) && reason.contains(words), "{reason}");
        }
    }
}
