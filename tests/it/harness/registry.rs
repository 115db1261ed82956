//! A real registry on this machine, for what an engine pulls.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::engine::script;

/// An empty `docker-registry` that runs until it is dropped.
#[derive(Debug)]
pub(crate) struct Registry {
    address: String,
    process: Child,
    _data: TempDir,
}

impl Registry {
    pub(crate) fn start() -> Self {
        let program = script(&["registry"]);
        let data = tempfile::tempdir().expect("a directory");
        // The port is free again before the registry takes it, which is good enough here.
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("an address").to_string();
        drop(free);
        let config = data.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nhttp: {{addr: \"{address}\"}}\n\
             storage: {{filesystem: {{rootdirectory: {:?}}}}}\n",
            data.path().join("data")
        );
        fs::write(&config, text).expect("a configuration");
        let process = Command::new(program.trim())
            .arg("serve")
            .arg(config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a registry");
        let registry = Self { address, process, _data: data };
        let started = Instant::now();
        while TcpStream::connect(&registry.address).is_err() {
            assert!(started.elapsed() < Duration::from_secs(30), "the registry does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }

    /// The reference of an image in it.
    pub(crate) fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
