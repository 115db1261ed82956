//! Debian's docker-registry, with one account.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use dockercache::store::registry::Registry;
use serde_json::json;

use super::certificate::{Certified, certify};
use super::disk::Disk;
use super::tokens::{ISSUER, TokenServer};
use super::{PASSWORD, Server, USER, address_in, is_document};
use crate::harness::engine::server_program;

/// The line of an htpasswd file that has the account.
const HTPASSWD: &str = "ci:$2y$04$abcdefghijklmnopqrstuujydOTSfIH/d5oUHpsygqV5X9xJLQc6e\n";

/// What a registry is started with.
#[derive(Clone, Copy, Default)]
pub(crate) struct RegistrySettings {
    pub(crate) tls: bool,
    pub(crate) keeps_all: bool,
    pub(crate) access: Access,
    /// How much the server's disk holds, if that is little.
    pub(crate) megabytes: Option<u32>,
}

/// Who may use a registry.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Access {
    /// Who sends the password.
    #[default]
    Password,
    /// Who sends a token that the password was given for, as with most registries.
    Tokens { life: Duration },
    /// Anyone, such as an engine that pulls an image.
    Public,
}

/// A docker-registry.
pub(crate) struct RegistryServer {
    address: String,
    process: Child,
    disk: Disk,
    certified: Option<Certified>,
    tokens: Option<TokenServer>,
}

impl RegistryServer {
    pub(crate) fn start(settings: RegistrySettings) -> Self {
        let disk = Disk::new(settings.megabytes);
        let at = |name: &str| disk.path().join(name);
        fs::write(at("htpasswd"), HTPASSWD).expect("a written file");
        let mut http = json!({"addr": "127.0.0.1:0", "secret": "only here"});
        let certified = settings.tls.then(|| certify(disk.path()));
        if let Some(Certified { certificate, key, .. }) = &certified {
            http["tls"] = json!({"certificate": certificate, "key": key});
        }
        let mut config = json!({
            "version": "0.1",
            "log": {"level": "info", "accesslog": {"disabled": true}},
            "storage": {
                "filesystem": {"rootdirectory": at("storage")},
                "delete": {"enabled": !settings.keeps_all},
            },
            "http": http,
        });
        let tokens = match settings.access {
            Access::Tokens { life } => Some(TokenServer::start(&at("tokens.crt"), life)),
            _ => None,
        };
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
            .arg(server_program("registry"))
            .arg("serve")
            .arg(at("config.yml"))
            .stderr(Stdio::piped())
            .spawn()
            .expect("a started registry");
        let output = process.stderr.take().expect("its standard error");
        let address = address_in(output, "listening on ");
        Self { address, process, disk, certified, tokens }
    }

    /// How many tokens were given out for it.
    pub(crate) fn tokens_issued(&self) -> usize {
        self.tokens.as_ref().map_or(0, TokenServer::issued)
    }

    /// Opens a repository.
    pub(crate) fn repository(&self, address: &str, name: &str) -> Registry {
        let url = format!("registry://{address}/{name}").parse().expect("a URL");
        let environment = self.variables(address, PASSWORD).into_iter().collect();
        Registry::open(&url, &environment).expect("an opened store")
    }
}

impl Server for RegistryServer {
    fn address(&self) -> &str {
        &self.address
    }

    fn directory(&self) -> &Path {
        self.disk.path()
    }

    fn url(&self, address: &str) -> String {
        format!("registry://{address}/team/app-cache")
    }

    fn authority(&self) -> Option<&Path> {
        self.certified.as_ref().map(|certified| &*certified.authority)
    }

    /// A docker configuration that knows the account at `address`, and the authority.
    fn variables(&self, address: &str, password: &str) -> Vec<(&'static str, String)> {
        let port = address.rsplit(':').next().unwrap_or_default();
        let config = self.disk.path().join(format!("docker-{port}-{}", password.len()));
        // Another process may be reading it.
        if !config.exists() {
            let authorities = config.join("certs.d").join(address);
            fs::create_dir_all(&authorities).expect("a directory");
            let auth = BASE64_STANDARD.encode(format!("{USER}:{password}"));
            let json = json!({"auths": {address: {"auth": auth}}});
            fs::write(config.join("config.json"), json.to_string()).expect("a written file");
            if let Some(authority) = self.authority() {
                fs::copy(authority, authorities.join("ca.crt")).expect("a written file");
            }
        }
        vec![("DOCKER_CONFIG", config.display().to_string())]
    }

    /// Behind the registry's back, which has no list of its blobs.
    fn lose_layers(&self) {
        delete_layers(&self.disk.path().join("storage/docker/registry/v2/blobs"));
    }
}

impl Drop for RegistryServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn delete_layers(blobs: &Path) {
    for file in walkdir::WalkDir::new(blobs) {
        let file = file.expect("a file");
        let is_layer = |path| !is_document(&fs::read(path).expect("a blob"));
        if file.file_type().is_file() && file.file_name() != "link" && is_layer(file.path()) {
            fs::remove_file(file.path()).expect("a blob to delete");
        }
    }
}
