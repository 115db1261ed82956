//! A server in this process: a port on loopback, with TLS or without, and a service that answers
//! there.

use std::error::Error;
use std::sync::Arc;

use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

use super::certificate::Certified;

/// What a service or a body may fail with.
type Lost = Box<dyn Error + Send + Sync>;

/// A service that listens until it is dropped.
pub(super) struct Listening {
    /// Host and port.
    pub(super) address: String,
    _runtime: Runtime,
}

/// Starts to listen, with TLS if there is a certificate for it.
pub(super) fn listen<S, B>(service: S, certified: Option<&Certified>) -> Listening
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Lost>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Lost>,
{
    let tls = certified.map(acceptor);
    let runtime = Runtime::new().expect("threads");
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    runtime.spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (service, tls) = (service.clone(), tls.clone());
            tokio::spawn(async move {
                let http = http1::Builder::new();
                // A client may break off whenever it likes.
                let _ = match tls {
                    None => http.serve_connection(TokioIo::new(socket), service).await,
                    Some(tls) => {
                        let Ok(socket) = tls.accept(socket).await else { return };
                        http.serve_connection(TokioIo::new(socket), service).await
                    }
                };
            });
        }
    });
    Listening { address, _runtime: runtime }
}

fn acceptor(certified: &Certified) -> TlsAcceptor {
    let certificate = CertificateDer::from_pem_file(&certified.certificate);
    let key = PrivateKeyDer::from_pem_file(&certified.key);
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.expect("a certificate")], key.expect("a key"))
        .expect("a configuration");
    TlsAcceptor::from(Arc::new(config))
}
