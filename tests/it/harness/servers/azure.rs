//! Azurite, Microsoft's own emulator of Azure Blob Storage, with one account and one container.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::Request;
use hyper::header::CONTENT_LENGTH;
use object_store::ClientOptions;
use object_store::azure::{AzureAccessKey, AzureAuthorizer, AzureCredential};
use object_store::client::{HttpConnector as _, HttpRequestBody, ReqwestConnector};
use tokio::runtime::Runtime;

use super::disk::Disk;
use super::{BUCKET, PASSWORD, Server, USER, address_in};
use crate::harness::engine::server_program;

/// An Azurite.
pub(crate) struct AzureServer {
    address: String,
    process: Child,
    disk: Disk,
}

impl AzureServer {
    pub(crate) fn start() -> Self {
        let disk = Disk::new(None);
        let mut process = Command::new("setpriv")
            // It ends with the test.
            .args(["--pdeathsig", "KILL"])
            .arg(server_program("azurite"))
            .args(["--blobHost", "127.0.0.1", "--blobPort", "0", "--disableTelemetry", "--silent"])
            .arg("--location")
            .arg(disk.path())
            .env("AZURITE_ACCOUNTS", format!("{USER}:{}", key(PASSWORD)))
            .stdout(Stdio::piped())
            .spawn()
            .expect("a started Azurite");
        let output = process.stdout.take().expect("its standard output");
        let address = address_in(output, "listens on http://");
        create_container(&address);
        Self { address, process, disk }
    }
}

/// The account's key: Azure's are bytes in base64.
fn key(password: &str) -> String {
    BASE64_STANDARD.encode(password)
}

fn create_container(address: &str) {
    let mut request = Request::put(format!("http://{address}/{USER}/{BUCKET}?restype=container"))
        .header(CONTENT_LENGTH, "0")
        .body(HttpRequestBody::empty())
        .expect("a request");
    let key = AzureAccessKey::try_new(&key(PASSWORD)).expect("a key");
    AzureAuthorizer::new(&AzureCredential::AccessKey(key), USER)
        .try_authorize(&mut request)
        .expect("a signed request");
    // Even plain HTTP wants it; an error says that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let options = ClientOptions::new().with_allow_http(true);
    let client = ReqwestConnector::default().connect(&options).expect("a client");
    let runtime = Runtime::new().expect("threads");
    let answer = runtime.block_on(client.execute(request)).expect("an answer");
    assert!(answer.status().is_success(), "no container: {}", answer.status());
}

impl Server for AzureServer {
    fn address(&self) -> &str {
        &self.address
    }

    fn directory(&self) -> &Path {
        self.disk.path()
    }

    fn url(&self, _address: &str) -> String {
        format!("az://{BUCKET}/team/app")
    }

    fn variables(&self, address: &str, password: &str) -> Vec<(&'static str, String)> {
        vec![
            ("AZURE_STORAGE_ENDPOINT", format!("http://{address}/{USER}")),
            ("AZURE_STORAGE_ACCOUNT_NAME", USER.to_owned()),
            ("AZURE_STORAGE_ACCOUNT_KEY", key(password)),
        ]
    }
}

impl Drop for AzureServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
