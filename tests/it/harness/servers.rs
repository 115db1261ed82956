//! Real servers, empty, each on a port of its own: Debian's docker-registry, and an S3 server.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use dockercache::store::remote::environment::Environment;
use dockercache::store::remote::object::Object;
use dockercache::store::remote::registry::Registry;
use dockercache::store::remote::url::StoreUrl;
use dockercache::store::remote::{self, RemoteStore, error::StoreError};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::engine::registry_program;
use super::tokens::{ISSUER, TokenServer};

/// The account of both servers.
pub(crate) const USER: &str = "ci";
/// Its password: in a message, a leak.
pub(crate) const PASSWORD: &str = "correct horse";
/// The line of an htpasswd file that has the two.
const HTPASSWD: &str = "ci:$2y$04$abcdefghijklmnopqrstuujydOTSfIH/d5oUHpsygqV5X9xJLQc6e\n";
/// The bucket of the S3 server.
const BUCKET: &str = "cache-bucket";

/// A server, and how a client reaches it.
pub(crate) trait Server {
    /// Host and port.
    fn address(&self) -> &str;

    /// Opens the store at `address`: the server's own, or that of a proxy before it.
    fn open_at(&self, address: &str, password: &str) -> Result<Box<dyn RemoteStore>, StoreError>;

    /// Deletes every layer, behind the server's back.
    fn lose_layers(&self);

    /// Opens the store.
    fn open(&self) -> Box<dyn RemoteStore> {
        self.open_at(self.address(), PASSWORD).expect("an opened store")
    }
}

/// What a registry is started with.
#[derive(Clone, Copy, Default)]
pub(crate) struct RegistrySettings {
    pub(crate) tls: bool,
    pub(crate) keeps_all: bool,
    pub(crate) access: Access,
}

/// Who may use a registry.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Access {
    /// Who sends the password.
    #[default]
    Password,
    /// Who sends a token that the password was given for, as with most registries.
    Tokens,
    /// Anyone, such as an engine that pulls an image.
    Public,
}

/// A docker-registry with one account.
pub(crate) struct RegistryServer {
    address: String,
    process: Child,
    directory: TempDir,
    authority: Option<String>,
    _tokens: Option<TokenServer>,
}

impl RegistryServer {
    pub(crate) fn start(settings: RegistrySettings) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        fs::write(at("htpasswd"), HTPASSWD).expect("a written file");
        let mut http = json!({"addr": "127.0.0.1:0", "secret": "only here"});
        let authority = settings.tls.then(|| {
            http["tls"] = json!({"certificate": at("server.crt"), "key": at("server.key")});
            certify(&at("server.crt"), &at("server.key"))
        });
        let mut config = json!({
            "version": "0.1",
            "log": {"level": "info", "accesslog": {"disabled": true}},
            "storage": {
                "filesystem": {"rootdirectory": at("storage")},
                "delete": {"enabled": !settings.keeps_all},
            },
            "http": http,
        });
        let tokens =
            (settings.access == Access::Tokens).then(|| TokenServer::start(&at("tokens.crt")));
        if let Some(tokens) = &tokens {
            config["auth"] = json!({"token": {
                "realm": tokens.realm(),
                "service": ISSUER,
                "issuer": ISSUER,
                "rootcertbundle": at("tokens.crt"),
            }});
        } else if settings.access == Access::Password {
            config["auth"] = json!({"htpasswd": {"realm": "test", "path": at("htpasswd")}});
        }
        fs::write(at("config.yml"), config.to_string()).expect("a written file");
        let mut process = Command::new("setpriv")
            // It ends with the test.
            .args(["--pdeathsig", "KILL"])
            .arg(registry_program())
            .arg("serve")
            .arg(at("config.yml"))
            .stderr(Stdio::piped())
            .spawn()
            .expect("a started registry");
        let address = listens(&mut process);
        Self { address, process, directory, authority, _tokens: tokens }
    }

    /// A docker configuration that knows the account at `address`, and the authority.
    pub(crate) fn environment(&self, address: &str, password: &str) -> Environment {
        let port = address.rsplit(':').next().unwrap_or_default();
        let config = self.directory.path().join(format!("docker-{port}-{}", password.len()));
        configure(&config, address, password, self.authority.as_deref())
    }

    /// Opens the store of a server that another process started.
    pub(crate) fn open_client(address: &str, config: &Path) -> Box<dyn RemoteStore> {
        remote::open(&Self::url(address), &configure(config, address, PASSWORD, None))
            .expect("an opened store")
    }

    fn url(address: &str) -> StoreUrl {
        format!("registry://{address}/team/app-cache").parse().expect("a URL")
    }

    /// Opens a repository.
    pub(crate) fn repository(&self, address: &str, name: &str) -> Registry {
        let url = format!("registry://{address}/{name}").parse().expect("a URL");
        Registry::open(&url, &self.environment(address, PASSWORD)).expect("an opened store")
    }
}

impl Server for RegistryServer {
    fn address(&self) -> &str {
        &self.address
    }

    fn open_at(&self, address: &str, password: &str) -> Result<Box<dyn RemoteStore>, StoreError> {
        remote::open(&Self::url(address), &self.environment(address, password))
    }

    fn lose_layers(&self) {
        delete_layers(&self.directory.path().join("storage/docker/registry/v2/blobs"));
    }
}

impl Drop for RegistryServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Waits until a registry says where it listens. What it says later is read, and lost.
fn listens(process: &mut Child) -> String {
    let mut said = String::new();
    let mut lines = BufReader::new(process.stderr.take().expect("its standard error")).lines();
    let address = loop {
        let Some(line) = lines.next() else { panic!("the registry did not start:\n{said}") };
        let line = line.expect("a line");
        if let Some((_, rest)) = line.split_once("listening on ") {
            break rest.chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect();
        }
        said = said + &line + "\n";
    };
    thread::spawn(move || lines.for_each(drop));
    address
}

/// Writes a docker configuration that knows the account at `address`, and the authority.
fn configure(config: &Path, address: &str, password: &str, authority: Option<&str>) -> Environment {
    let authorities = config.join("certs.d").join(address);
    fs::create_dir_all(&authorities).expect("a directory");
    let auth = BASE64_STANDARD.encode(format!("{USER}:{password}"));
    let json = json!({"auths": {address: {"auth": auth}}});
    fs::write(config.join("config.json"), json.to_string()).expect("a written file");
    if let Some(authority) = authority {
        fs::write(authorities.join("ca.crt"), authority).expect("a written file");
    }
    Environment::from([("DOCKER_CONFIG", config.to_str().expect("a path in UTF-8"))])
}

/// Writes a certificate for 127.0.0.1 with its key, and gives the certificate of its authority.
fn certify(certificate: &Path, key: &Path) -> String {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let own = KeyPair::generate().expect("a key");
    let authority = CertifiedIssuer::self_signed(authority, own).expect("an authority");
    let pair = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("parameters");
    let signed = params.signed_by(&pair, &authority).expect("a certificate");
    fs::write(certificate, signed.pem()).expect("a written file");
    fs::write(key, pair.serialize_pem()).expect("a written file");
    authority.pem()
}

/// An S3 server with one account and one bucket.
pub(crate) struct S3Server {
    address: String,
    directory: TempDir,
    _runtime: Runtime,
}

impl S3Server {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        fs::create_dir(directory.path().join(BUCKET)).expect("a directory");
        let files = FileSystem::new(directory.path()).expect("a file system");
        let mut service = S3ServiceBuilder::new(files);
        service.set_auth(SimpleAuth::from_single(USER, PASSWORD));
        let service = service.build();
        let runtime = Runtime::new().expect("threads");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let socket = TokioIo::new(socket);
                tokio::spawn(http1::Builder::new().serve_connection(socket, service.clone()));
            }
        });
        Self { address, directory, _runtime: runtime }
    }

    /// The directory that holds the objects of the store.
    pub(crate) fn objects(&self) -> PathBuf {
        self.directory.path().join(BUCKET).join("team/app")
    }

    /// What a client finds in the environment.
    pub(crate) fn environment(address: &str, password: &str) -> Environment {
        Environment::from([
            ("AWS_ACCESS_KEY_ID", USER),
            ("AWS_SECRET_ACCESS_KEY", password),
            ("AWS_ENDPOINT_URL", &format!("http://{address}")),
        ])
    }

    /// Opens the store of a server that another process started.
    pub(crate) fn open_client(address: &str) -> Box<dyn RemoteStore> {
        let environment = Self::environment(address, PASSWORD);
        remote::open(&Self::url(), &environment).expect("an opened store")
    }

    fn url() -> StoreUrl {
        format!("s3://{BUCKET}/team/app").parse().expect("a URL")
    }

    /// Opens the store, with what a collector needs.
    pub(crate) fn object(&self) -> Object {
        Object::open(&Self::url(), &Self::environment(&self.address, PASSWORD))
            .expect("an opened store")
    }
}

impl Server for S3Server {
    fn address(&self) -> &str {
        &self.address
    }

    fn open_at(&self, address: &str, password: &str) -> Result<Box<dyn RemoteStore>, StoreError> {
        remote::open(&Self::url(), &Self::environment(address, password))
    }

    fn lose_layers(&self) {
        delete_layers(&self.objects().join("blobs"));
    }
}

/// Deletes every file below `blobs` that is no JSON document.
fn delete_layers(blobs: &Path) {
    for file in walkdir::WalkDir::new(blobs) {
        let file = file.expect("a file");
        let is_layer = |path| !fs::read(path).expect("a blob").starts_with(b"{");
        if file.file_type().is_file() && file.file_name() != "link" && is_layer(file.path()) {
            fs::remove_file(file.path()).expect("a blob to delete");
        }
    }
}

/// Both kinds of servers, each of which a test must pass on.
pub(crate) fn servers() -> Vec<Box<dyn Server>> {
    vec![Box::new(RegistryServer::start(RegistrySettings::default())), Box::new(S3Server::start())]
}
