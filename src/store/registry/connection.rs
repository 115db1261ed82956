//! How a registry is spoken to, once that is known: the library's client, and requests that it
//! lacks, with tokens as the registry asks for them.
//!
//! Follows the distribution project's token authentication: an answer of 401 names who gives out
//! a token, and for what.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt as _, StreamExt as _};
use http_auth::ChallengeRef;
use oci_client::client::{Certificate, Client, ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;
use oci_client::{Reference, RegistryOperation};
use reqwest::header::{ACCEPT, RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::DOCUMENTS;
use super::answers::failure;
use crate::oci::directory::DOCUMENT_LIMIT;
use crate::store::retry::{self, CONNECT, Failure, IDLE, Kind, in_time};

/// What we call ourselves.
const AGENT: &str = concat!("dockercache/", env!("CARGO_PKG_VERSION"));
/// How long a token is taken to be good. Registries give out none for less than a minute.
const TOKEN: Duration = Duration::from_secs(45);

/// A registry that has answered.
pub(crate) struct Connection {
    pub(crate) client: Client,
    requests: reqwest::Client,
    /// `https://HOST/v2`
    base: String,
    auth: RegistryAuth,
    /// The tokens for requests of our own, by what they are for.
    tokens: Mutex<BTreeMap<String, (Instant, String)>>,
}

/// A request of our own: what the library lacks, and whatever reads, since it would read answers of
/// any size into memory.
pub(crate) struct Request<'a> {
    pub(crate) method: Method,
    /// The first byte of the answer to ask for.
    pub(crate) offset: u64,
    /// Below the registry's `/v2/`, with a query if need be.
    pub(crate) path: String,
    /// The requests that one token is good for have this in common.
    pub(crate) purpose: &'a str,
}

/// What a registry wants a token for, and from whom.
struct Challenge {
    realm: String,
    query: Vec<(&'static str, String)>,
}

/// The answer of who gives out tokens.
#[derive(Deserialize)]
struct Token {
    #[serde(alias = "access_token")]
    token: String,
}

/// Makes ready to send requests of our own, to whatever host.
pub(crate) fn requests(authorities: &[Certificate]) -> Result<reqwest::Client, Failure> {
    let certificates = authorities
        .iter()
        .map(|authority| reqwest::Certificate::from_pem(&authority.data))
        .collect::<Result<Vec<_>, _>>();
    certificates
        .and_then(|certificates| {
            reqwest::Client::builder()
                .tls_certs_merge(certificates)
                .connect_timeout(CONNECT)
                .user_agent(AGENT)
                .build()
        })
        .map_err(|error| Failure::new(Kind::Lasting, retry::innermost(&error)))
}

/// Asks whether a registry answers in this way.
pub(crate) async fn greet(
    requests: &reqwest::Client,
    scheme: &str,
    host: &str,
) -> Result<StatusCode, Failure> {
    let answer = sent(requests.get(format!("{}/", base(scheme, host)))).await?;
    not_left_alone(&answer)?;
    Ok(answer.status())
}

fn base(scheme: &str, host: &str) -> String {
    format!("{scheme}://{host}/v2")
}

impl Connection {
    /// Makes ready to speak to a registry. Nothing is sent yet.
    pub(crate) async fn open(
        requests: reqwest::Client,
        scheme: &str,
        host: &str,
        auth: &RegistryAuth,
        authorities: &[Certificate],
    ) -> Result<Self, Failure> {
        let protocol = if scheme == "https" { ClientProtocol::Https } else { ClientProtocol::Http };
        let client = Client::try_from(ClientConfig {
            protocol,
            use_monolithic_push: true,
            extra_root_certificates: authorities.to_vec(),
            connect_timeout: Some(CONNECT),
            user_agent: AGENT,
            ..ClientConfig::default()
        })
        .map_err(failure)?;
        // Not every call of the library takes credentials.
        client.store_auth_if_needed(host, auth).await;
        let base = base(scheme, host);
        Ok(Self { client, requests, base, auth: auth.clone(), tokens: Mutex::default() })
    }

    /// Gets a new token for the library.
    pub(crate) async fn renew(
        &self,
        reference: &Reference,
        operation: RegistryOperation,
    ) -> Result<(), Failure> {
        let answer = self.client.auth(reference, &self.auth, operation);
        in_time(IDLE, answer.map(|answer| answer.map(drop).map_err(failure))).await
    }

    /// Sends a request; a registry that wants a token for it gets one.
    pub(crate) async fn send(&self, request: Request<'_>) -> Result<Response, Failure> {
        let Request { method, offset, path, purpose } = request;
        let attempt = |token: Option<String>| {
            let url = format!("{}/{path}", self.base);
            let mut request =
                self.requests.request(method.clone(), url).header(ACCEPT, DOCUMENTS.join(", "));
            if offset > 0 {
                request = request.header(RANGE, format!("bytes={offset}-"));
            }
            answered(match token {
                Some(token) => request.bearer_auth(token),
                None => self.with_login(request),
            })
        };
        let known = self.tokens.lock().await.get(purpose).cloned();
        let known = known.filter(|(since, _)| since.elapsed() < TOKEN).map(|(_, token)| token);
        let answer = attempt(known).await?;
        let Some(challenge) = Challenge::in_answer(&answer) else { return Ok(answer) };
        let token = self.token(challenge).await?;
        let kept = (Instant::now(), token.clone());
        self.tokens.lock().await.insert(purpose.to_owned(), kept);
        attempt(Some(token)).await
    }

    async fn token(&self, challenge: Challenge) -> Result<String, Failure> {
        // A password that came over TLS must not leave without.
        if self.base.starts_with("https:") && !challenge.realm.starts_with("https:") {
            let reason = "it wants the password to be sent over plain HTTP";
            return Err(Failure::new(Kind::Lasting, reason));
        }
        let request = self.requests.get(challenge.realm).query(&challenge.query);
        let answer = answered(self.with_login(request)).await?;
        if !answer.status().is_success() {
            return Err(Failure::status(answer.status().as_u16(), "no token is given"));
        }
        let token = serde_json::from_slice(&text(answer).await?).map(|Token { token }| token);
        token.map_err(|_| Failure::new(Kind::Passing(None), "its token is no JSON"))
    }

    fn with_login(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.auth {
            RegistryAuth::Basic(user, password) => request.basic_auth(user, Some(password)),
            _ => request,
        }
    }
}

async fn sent(request: RequestBuilder) -> Result<Response, Failure> {
    let answer = request.send().map(|answer| answer.map_err(|e| Failure::connection(&e)));
    in_time(IDLE, answer).await
}

/// The bytes of an answer, as they come.
pub(crate) fn pieces(answer: Response) -> BoxStream<'static, Result<Bytes, Failure>> {
    let next = |mut answer: Response| async {
        let piece = answer.chunk().await.map_err(|error| Failure::connection(&error))?;
        Ok(piece.map(|piece| (piece, answer)))
    };
    stream::try_unfold(answer, next).boxed()
}

/// An answer that is a token, a list, or a message.
pub(crate) async fn text(answer: Response) -> Result<Vec<u8>, Failure> {
    retry::whole(pieces(answer), DOCUMENT_LIMIT).await
}

fn retry_after(answer: &Response) -> Option<&str> {
    answer.headers().get(RETRY_AFTER).and_then(|after| after.to_str().ok())
}

/// Fails if the registry asks for more patience than anyone has.
fn not_left_alone(answer: &Response) -> Result<(), Failure> {
    let refusal = retry::left_alone(answer.status().as_u16(), retry_after(answer));
    refusal.map_or(Ok(()), |refusal| Err(Failure::new(Kind::Lasting, refusal.to_string())))
}

/// Sends a request once; an answer that asks to retry later is a failure.
async fn answered(request: RequestBuilder) -> Result<Response, Failure> {
    let answer = sent(request).await?;
    let failure = Failure::status(answer.status().as_u16(), "");
    if !matches!(failure.kind, Kind::Passing(_)) {
        return Ok(answer);
    }
    let after = retry_after(&answer);
    not_left_alone(&answer)?;
    let after = after.and_then(|after| after.parse().ok()).map(Duration::from_secs);
    Err(Failure { kind: Kind::Passing(after), ..failure })
}

impl Challenge {
    /// What a registry wants before it does what it was asked; `None` if it wants no token.
    fn in_answer(answer: &Response) -> Option<Self> {
        if answer.status() != StatusCode::UNAUTHORIZED {
            return None;
        }
        let challenges = answer.headers().get_all(WWW_AUTHENTICATE).into_iter();
        challenges.filter_map(|value| value.to_str().ok()).find_map(Self::read)
    }

    fn read(header: &str) -> Option<Self> {
        let challenges = http_auth::parse_challenges(header).ok()?;
        let is_bearer = |c: &ChallengeRef<'_>| c.scheme.eq_ignore_ascii_case("bearer");
        let challenge = challenges.into_iter().find(is_bearer)?;
        let value = |name: &str| {
            let parameter = challenge.params.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
            parameter.map(|(_, value)| value.to_unescaped())
        };
        let service = value("service").map(|service| ("service", service));
        let scopes = value("scope").unwrap_or_default();
        let scopes = scopes.split_whitespace().map(|scope| ("scope", scope.to_owned()));
        Some(Self { realm: value("realm")?, query: service.into_iter().chain(scopes).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_scope_of_a_challenge_is_asked_for() {
        let header = r#"Bearer realm="https://auth/token",service="registry",scope="repository:a:pull,push repository:b:pull",error="insufficient_scope""#;
        let challenge = Challenge::read(header).unwrap();
        assert_eq!(challenge.realm, "https://auth/token");
        let expected = [
            ("service", "registry"),
            ("scope", "repository:a:pull,push"),
            ("scope", "repository:b:pull"),
        ];
        assert_eq!(challenge.query, expected.map(|(name, value)| (name, value.to_owned())));
        assert!(Challenge::read(r#"Basic realm="test""#).is_none());
    }
}
