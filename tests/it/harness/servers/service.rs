//! A server in this process: a port on loopback, and a service that answers there.

use std::error::Error;

use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// What goes wrong is told to whoever drops the connection.
type Lost = Box<dyn Error + Send + Sync>;

/// A service that listens until it is dropped.
pub(super) struct Listening {
    /// Host and port.
    pub(super) address: String,
    _runtime: Runtime,
}

/// Starts to listen.
pub(super) fn listen<S, B>(service: S) -> Listening
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Lost>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Lost>,
{
    let runtime = Runtime::new().expect("threads");
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    runtime.spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let socket = TokioIo::new(socket);
            tokio::spawn(http1::Builder::new().serve_connection(socket, service.clone()));
        }
    });
    Listening { address, _runtime: runtime }
}
