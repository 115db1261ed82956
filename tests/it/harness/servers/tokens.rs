//! Who gives out tokens for a registry: for what was asked, and for nothing else.

use std::convert::Infallible;
use std::fs;
use std::future::ready;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use hyper::body::Incoming;
use hyper::header::AUTHORIZATION;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};

use super::service::{Listening, listen};
use super::{PASSWORD, USER};

/// Who gives the tokens, and for which registry: the same in its configuration.
pub(super) const ISSUER: &str = "tokens";

/// A server of tokens, as the distribution project specifies them.
pub(super) struct TokenServer {
    listening: Listening,
    signer: Arc<Signer>,
}

/// What signs tokens.
struct Signer {
    key: EcdsaKeyPair,
    certificate: Vec<u8>,
    life: Duration,
    issued: AtomicUsize,
}

/// For how many seconds after its end a registry takes a token.
const LEEWAY: u64 = 60;

impl TokenServer {
    /// Starts a server; a registry that has its certificate takes its tokens, for as long as they
    /// live.
    pub(super) fn start(certificate: &Path, life: Duration) -> Self {
        let signer = Arc::new(Signer::new(certificate, life));
        let answering = Arc::clone(&signer);
        let answer = move |request| ready(Ok::<_, Infallible>(answering.answer(&request)));
        Self { listening: listen(service_fn(answer), None), signer }
    }

    /// How many tokens were given out.
    pub(super) fn issued(&self) -> usize {
        self.signer.issued.load(Ordering::Relaxed)
    }

    pub(super) fn realm(&self) -> String {
        format!("http://{}/token", self.listening.address)
    }
}

impl Signer {
    fn new(certificate: &Path, life: Duration) -> Self {
        let pair = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let signed = params.self_signed(&pair).expect("a certificate");
        fs::write(certificate, signed.pem()).expect("a written file");
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let key = EcdsaKeyPair::from_pkcs8(algorithm, &pair.serialize_der(), &random);
        let (key, certificate) = (key.expect("a key"), signed.der().to_vec());
        Self { key, certificate, life, issued: AtomicUsize::new(0) }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<String> {
        let login = format!("Basic {}", BASE64_STANDARD.encode(format!("{USER}:{PASSWORD}")));
        if request.headers().get(AUTHORIZATION).is_none_or(|given| *given != login) {
            let mut refused = Response::new(String::new());
            *refused.status_mut() = StatusCode::UNAUTHORIZED;
            return refused;
        }
        let query = request.uri().query().unwrap_or_default().replace("%3A", ":");
        let scopes = query.replace("%2F", "/").replace("%2C", ",");
        let access: Vec<Value> = scopes.split('&').filter_map(access).collect();
        Response::new(json!({"token": self.token(&access)}).to_string())
    }

    fn token(&self, access: &[Value]) -> String {
        let encode = |json: Value| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
        self.issued.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time");
        let (begin, end) = (now.as_secs() - 2 * LEEWAY, (now + self.life).as_secs() - LEEWAY);
        let header = encode(json!({
            "typ": "JWT",
            "alg": "ES256",
            "x5c": [BASE64_STANDARD.encode(&self.certificate)],
        }));
        let claims = encode(json!({
            "iss": ISSUER, "aud": ISSUER, "sub": USER, "jti": "1",
            "iat": begin, "nbf": begin, "exp": end,
            "access": access,
        }));
        let text = format!("{header}.{claims}");
        let signature = self.key.sign(&SystemRandom::new(), text.as_bytes()).expect("a signature");
        format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }
}

/// Reads `scope=repository:NAME:ACTION,ACTION`.
fn access(parameter: &str) -> Option<Value> {
    let mut parts = parameter.strip_prefix("scope=")?.splitn(3, ':');
    let (kind, name, actions) = (parts.next()?, parts.next()?, parts.next()?);
    let actions: Vec<&str> = actions.split(',').collect();
    Some(json!({"type": kind, "name": name, "actions": actions}))
}
