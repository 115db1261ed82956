//! Connections to buckets: the library's own, except that it would go on trying for long where a
//! certificate is no good.

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
    ReqwestConnector,
};

use super::retry::{Failure, Kind};

/// Makes such connections.
#[derive(Debug)]
pub(crate) struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Client(ReqwestConnector::default().connect(options)?)))
    }
}

#[derive(Debug)]
struct Client(HttpClient);

#[async_trait]
impl HttpService for Client {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.0.execute(request).await.map_err(|error| match Failure::connection(&error).kind {
            // The one kind that the library never tries again.
            Kind::Lasting => HttpError::new(HttpErrorKind::Unknown, error),
            _ => error,
        })
    }
}
