//! Connections to buckets: the library's own client would follow a redirect to another host with
//! all headers that it does not know, session tokens and keys among them, would read an answer of
//! any size into memory, and would go on trying where nobody is there or a certificate is no good.

use std::pin::Pin;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
    HttpResponse, HttpResponseBody, HttpService,
};
use object_store::{ClientConfigKey, ClientOptions};
use reqwest::header::{ACCEPT, HeaderMap, HeaderName, LOCATION, RANGE, RETRY_AFTER, USER_AGENT};
use reqwest::{Certificate, Method, NoProxy, Proxy, StatusCode, Url, redirect};

use super::retry::{self, Failure, Kind, Refusal};

/// The largest answer that is not a blob: a list has some MB at most.
const LIMIT: u64 = 16 << 20;
/// How many redirects are followed.
const HOPS: usize = 5;
/// Whatever else a request has may be a credential, so no other host gets it.
const HARMLESS: [HeaderName; 3] = [ACCEPT, RANGE, USER_AGENT];

/// Makes such connections.
#[derive(Debug, Default)]
pub(crate) struct Connector {
    /// Authorities to trust besides the system's.
    pub(crate) authorities: Vec<Certificate>,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = self.client(options).map_err(|error| object_store::Error::Generic {
            store: "HTTP client",
            source: Box::new(error),
        })?;
        Ok(HttpClient::new(Client(HttpClient::new(client))))
    }
}

impl Connector {
    /// As the library makes it from the same options, except that it follows no redirect.
    fn client(&self, options: &ClientOptions) -> reqwest::Result<reqwest::Client> {
        let value = |key| options.get_config_value(&key);
        let is_set = |key| value(key).is_some_and(|value: String| is_true(&value));
        let duration = |key| value(key).and_then(|text| humantime::parse_duration(&text).ok());
        let mut builder = reqwest::Client::builder()
            .redirect(redirect::Policy::none())
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .user_agent(concat!("dockercache/", env!("CARGO_PKG_VERSION")))
            .https_only(!is_set(ClientConfigKey::AllowHttp))
            .tls_danger_accept_invalid_certs(is_set(ClientConfigKey::AllowInvalidCertificates));
        if let Some(headers) = options.get_default_headers() {
            builder = builder.default_headers(headers.clone());
        }
        builder = if is_set(ClientConfigKey::NoSystemCertificates) {
            builder.tls_certs_only(self.authorities.iter().cloned())
        } else {
            builder.tls_certs_merge(self.authorities.iter().cloned())
        };
        if let Some(url) = value(ClientConfigKey::ProxyUrl) {
            let mut proxy = Proxy::all(url)?;
            if let Some(excludes) = value(ClientConfigKey::ProxyExcludes) {
                proxy = proxy.no_proxy(NoProxy::from_string(&excludes));
            }
            if let Some(pem) = value(ClientConfigKey::ProxyCaCertificate) {
                builder = builder.tls_certs_merge([Certificate::from_pem(pem.as_bytes())?]);
            }
            builder = builder.proxy(proxy);
        }
        if let Some(limit) = duration(ClientConfigKey::Timeout) {
            builder = builder.timeout(limit);
        }
        if let Some(limit) = duration(ClientConfigKey::ConnectTimeout) {
            builder = builder.connect_timeout(limit);
        }
        if let Some(limit) = duration(ClientConfigKey::ReadTimeout) {
            builder = builder.read_timeout(limit);
        }
        if is_set(ClientConfigKey::Http1Only) {
            builder = builder.http1_only();
        }
        builder.build()
    }
}

fn is_true(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "1" | "true" | "on" | "yes" | "y")
}

#[derive(Debug)]
struct Client(HttpClient);

#[async_trait]
impl HttpService for Client {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let is_blob = names_blob(request.uri().path());
        let follows = matches!(*request.method(), Method::GET | Method::HEAD);
        let mut again = Again::of(&request);
        let mut answer = self.once(request).await?;
        for _ in 0..HOPS {
            let Some(next) = again.redirected(&answer).filter(|_| follows) else { break };
            answer = self.once(next).await?;
        }
        let after = answer.headers().get(RETRY_AFTER).and_then(|after| after.to_str().ok());
        if let Some(refusal) = retry::left_alone(answer.status().as_u16(), after) {
            return Err(HttpError::new(HttpErrorKind::Unknown, refusal));
        }
        // Whoever reads a blob knows how large it may be.
        let limit = if is_blob && answer.status().is_success() { u64::MAX } else { LIMIT };
        Ok(answer.map(|inner| HttpResponseBody::new(Bounded { inner, left: limit })))
    }
}

impl Client {
    async fn once(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.0.execute(request).await.map_err(|error| match Failure::connection(&error).kind {
            // The one kind that the library never tries again.
            Kind::Lasting | Kind::NoServer => HttpError::new(HttpErrorKind::Unknown, error),
            _ => error,
        })
    }
}

/// Whether it is a blob that a path names: all else of ours has a name of another form.
fn names_blob(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let name = name.rsplit_once("%2F").map_or(name, |(_, name)| name);
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

/// A request, as it is sent to where it is redirected.
struct Again {
    method: Method,
    at: Option<Url>,
    headers: HeaderMap,
}

impl Again {
    fn of(request: &HttpRequest) -> Self {
        Self {
            method: request.method().clone(),
            at: Url::parse(&request.uri().to_string()).ok(),
            headers: request.headers().clone(),
        }
    }

    /// What to ask next. Another host is asked without credentials, and never over plain HTTP
    /// instead of TLS.
    fn redirected(&mut self, answer: &HttpResponse) -> Option<HttpRequest> {
        let redirects = [
            StatusCode::MOVED_PERMANENTLY,
            StatusCode::FOUND,
            StatusCode::TEMPORARY_REDIRECT,
            StatusCode::PERMANENT_REDIRECT,
        ];
        if !redirects.contains(&answer.status()) {
            return None;
        }
        let at = self.at.take()?;
        let next = at.join(answer.headers().get(LOCATION)?.to_str().ok()?).ok()?;
        if next.scheme() != at.scheme() && next.scheme() != "https" {
            return None;
        }
        if next.origin() != at.origin() {
            let harmless = HARMLESS
                .iter()
                .filter_map(|name| Some((name.clone(), self.headers.get(name)?.clone())));
            self.headers = harmless.collect();
        }
        let mut request = hyper::Request::builder()
            .method(self.method.clone())
            .uri(next.as_str())
            .body(HttpRequestBody::empty())
            .ok()?;
        *request.headers_mut() = self.headers.clone();
        self.at = Some(next);
        Some(request)
    }
}

/// A body that ends with an error where it is too large. What it says of its own size is not
/// handed on: memory would be set aside for it.
struct Bounded {
    inner: HttpResponseBody,
    left: u64,
}

impl Body for Bounded {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(context));
        if let Some(Ok(frame)) = &frame {
            let length = frame.data_ref().map_or(0, |data| data.len() as u64);
            let Some(left) = self.left.checked_sub(length) else {
                let refusal = Refusal(format!("its answer is larger than {} MiB", LIMIT >> 20));
                return Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Unknown, refusal))));
            };
            self.left = left;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.left == u64::MAX { self.inner.size_hint() } else { SizeHint::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_names_of_blobs_are_those_of_blobs() {
        let hex = "0123456789abcdef".repeat(4);
        for path in [format!("/b/x/blobs/sha256/{hex}"), format!("/b/x%2Fblobs%2Fsha256%2F{hex}")] {
            assert!(names_blob(&path), "{path}");
        }
        for path in ["/b/blobs/refs/main", "/b", "/b/blobs/sha256/README"] {
            assert!(!names_blob(path), "{path}");
        }
    }
}
