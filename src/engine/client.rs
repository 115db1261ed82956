//! The user's own `docker` command: the one thing that knows how to reach the user's engine.
//!
//! Sockets, TCP with TLS, SSH and docker contexts are its business, never ours.

use std::ffi::OsStr;
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::thread;

use serde::{Deserialize, Serialize};

use super::error::EngineError;
use super::version::Version;

/// The docker command-line client.
#[derive(Clone, Debug)]
pub struct Client {
    program: String,
    abilities: Arc<OnceLock<Abilities>>,
}

/// What a client can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abilities {
    /// Its version.
    pub version: Version,
    /// Whether it has the buildx plugin.
    pub buildx: bool,
    /// The name of its context, if it can say.
    pub context: Option<String>,
}

/// What the client says of itself in `docker info`.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ClientInfo {
    version: Option<String>,
    context: Option<String>,
    plugins: Option<Vec<Plugin>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Plugin {
    name: String,
    /// Why it can't be used.
    #[serde(default)]
    err: Option<serde_json::Value>,
}

impl Plugin {
    fn is_buildx(&self) -> bool {
        self.name == "buildx" && self.err.is_none()
    }
}

impl Client {
    /// The `docker` that is found on the path.
    pub fn from_path() -> Self {
        Self { program: "docker".to_owned(), abilities: Arc::default() }
    }

    /// The same client, which need not be asked what it can do.
    #[must_use]
    pub fn known(self, abilities: Abilities) -> Self {
        Self { abilities: Arc::new(abilities.into()), ..self }
    }

    /// Begins to find out what the client can do, since each start of it takes a while.
    pub fn ask_ahead(&self) {
        if self.abilities.get().is_none() {
            let client = self.clone();
            thread::spawn(move || {
                client.abilities();
            });
        }
    }

    /// What the client can do. It is asked once.
    pub fn abilities(&self) -> &Abilities {
        self.abilities.get_or_init(|| {
            // Says it all in one start, and without a question to the engine from 23 on.
            let said = self.output(&["info", "--format", "{{json .ClientInfo}}"]);
            let said = said.ok().and_then(|said| serde_json::from_str(&said).ok());
            let ClientInfo { version, context, plugins } = said.unwrap_or_default();
            // Not in what an old client says of itself.
            let version = version.or_else(|| self.output(&["--version"]).ok());
            Abilities {
                version: version.and_then(|said| Version::find(&said)).unwrap_or_default(),
                buildx: plugins.into_iter().flatten().any(|plugin| plugin.is_buildx()),
                context,
            }
        })
    }

    /// A command with these arguments; standard input is closed.
    pub fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).stdin(Stdio::null());
        command
    }

    /// An error for a command that could not be started.
    pub fn no_client(&self, source: std::io::Error) -> EngineError {
        EngineError::NoClient { program: self.program.clone(), source }
    }

    /// Runs a short command and gives its standard output, trimmed.
    pub fn output(&self, args: &[&str]) -> Result<String, EngineError> {
        let output = self.command(args).output().map_err(|e| self.no_client(e))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        } else {
            Err(EngineError::failed(
                format!("answer `docker {}`", args.join(" ")),
                String::from_utf8_lossy(&output.stderr).trim(),
            ))
        }
    }

    /// Why no engine answers, in the client's own words; `otherwise` if it knows of no trouble.
    pub fn trouble(&self, otherwise: EngineError) -> EngineError {
        // Podman's client speaks to no engine.
        if self.output(&["--version"]).is_ok_and(|said| said.contains("podman")) {
            return EngineError::podman();
        }
        match self.command(["version"]).output() {
            Err(error) => self.no_client(error),
            Ok(output) if output.status.success() => otherwise,
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                EngineError::Unreachable(said.trim().to_owned())
            }
        }
    }
}
