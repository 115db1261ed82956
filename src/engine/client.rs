//! The user's own `docker` command, which knows how to reach the user's engine.
//!
//! TCP with TLS, SSH and docker contexts are its business, never ours. What it would only hand on,
//! to a socket of this machine or to its buildx plugin, goes there directly: each start of it takes
//! a while.

pub mod process;
pub mod run;
pub mod settings;
pub(crate) mod targets;

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::Deserialize;

use super::error::EngineError;
use crate::builder::Version;
use settings::Settings;

/// By this variable a plugin knows that the client has started it, and which: docker/cli,
/// `cli-plugins/metadata`.
const STARTED_BY: &str = "DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND";
/// How long the client may take to answer a question; some go to a registry.
const ANSWER: Duration = Duration::from_secs(20);

/// The docker command-line client.
#[derive(Clone, Debug)]
pub struct Client {
    program: String,
    /// What can be known without it.
    settings: Option<Arc<Settings>>,
    version: Arc<OnceLock<Version>>,
    info: Arc<OnceLock<Info>>,
    /// Whether it has failed to answer in time: nobody waits for that twice.
    is_silent: Arc<AtomicBool>,
}

/// What the client says of itself in `docker info`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Info {
    pub(super) version: Option<String>,
    pub(super) context: Option<String>,
    pub(super) plugins: Option<Vec<Plugin>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Plugin {
    pub(super) name: String,
    /// Why it can't be used.
    #[serde(default)]
    pub(super) err: Option<serde_json::Value>,
}

impl Client {
    /// The `docker` that is found on the path.
    pub fn from_path() -> Self {
        let settings = Settings::find(&|name| std::env::var(name).ok()).map(Arc::new);
        Self { settings, ..Self::unknown() }
    }

    /// A client of which nothing can be known without it.
    fn unknown() -> Self {
        Self {
            program: "docker".to_owned(),
            settings: None,
            version: Arc::default(),
            info: Arc::default(),
            is_silent: Arc::default(),
        }
    }

    /// A client that has said this of itself.
    #[cfg(test)]
    pub(super) fn saying(info: Info) -> Self {
        Self { info: Arc::new(info.into()), ..Self::unknown() }
    }

    /// Its version. It is asked once.
    pub fn version(&self) -> Version {
        *self.version.get_or_init(|| {
            let asked = || self.output(&["--version"]).ok();
            // Not in what an old client says of itself.
            let said = self.plugin().is_none().then(|| self.info().version.clone()).flatten();
            said.or_else(asked).and_then(|said| Version::find(&said)).unwrap_or_default()
        })
    }

    /// Whether it has the buildx plugin. It is asked at most once.
    pub fn has_buildx(&self) -> bool {
        let is_buildx = |plugin: &Plugin| plugin.name == "buildx" && plugin.err.is_none();
        self.plugin().is_some() || self.info().plugins.iter().flatten().any(is_buildx)
    }

    /// The name of its context, if it can say.
    pub fn context(&self) -> Option<&str> {
        match &self.settings {
            Some(settings) => Some(&settings.context),
            None => self.info().context.as_deref(),
        }
    }

    /// All in one start, and without a question to the engine from 23 on.
    fn info(&self) -> &Info {
        self.info.get_or_init(|| {
            let said = self.output(&["info", "--format", "{{json .ClientInfo}}"]);
            said.ok().and_then(|said| serde_json::from_str(&said).ok()).unwrap_or_default()
        })
    }

    fn plugin(&self) -> Option<&Path> {
        self.settings.as_ref()?.buildx.as_deref()
    }

    /// The engine's socket, if the client would only hand on to it.
    pub fn socket(&self) -> Option<&Path> {
        self.settings.as_ref()?.socket.as_deref()
    }

    /// A command with these arguments; standard input is closed. One of buildx is started as the
    /// client would start it, without the client, where that is possible.
    pub fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut args = args.into_iter().peekable();
        let is_buildx = args.peek().is_some_and(|first| first.as_ref() == "buildx");
        let mut command = match self.settings.as_deref() {
            Some(Settings { buildx: Some(plugin), client, .. }) if is_buildx => {
                let mut command = Command::new(plugin);
                command.env(STARTED_BY, client);
                command
            }
            _ => Command::new(&self.program),
        };
        command.args(args).stdin(Stdio::null());
        command
    }

    /// An error for a command that could not be started.
    pub fn no_client(&self, source: std::io::Error) -> EngineError {
        EngineError::NoClient { program: self.program.clone(), source }
    }

    /// Runs a short command and gives its standard output, trimmed.
    pub fn output(&self, args: &[&str]) -> Result<String, EngineError> {
        let output = self.ask(self.command(args), &args.join(" "))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        } else {
            Err(EngineError::failed(
                format!("answer `docker {}`", args.join(" ")),
                String::from_utf8_lossy(&output.stderr).trim(),
            ))
        }
    }

    /// Runs a command that answers a question, `what` for messages, whatever comes of it.
    pub(crate) fn ask(&self, mut command: Command, what: &str) -> Result<Output, EngineError> {
        let silent = || EngineError::NoAnswer { to: format!("`docker {what}`"), waited: ANSWER };
        if self.is_silent.load(Ordering::Relaxed) {
            return Err(silent());
        }
        process::answer(&mut command, ANSWER).map_err(|error| {
            if error.kind() == ErrorKind::TimedOut {
                self.is_silent.store(true, Ordering::Relaxed);
                return silent();
            }
            self.no_client(error)
        })
    }

    /// Why no engine answers, in the client's own words; `otherwise` if it knows of no trouble.
    pub fn trouble(&self, otherwise: EngineError) -> EngineError {
        if let EngineError::NoAnswer { .. } = otherwise {
            return otherwise;
        }
        // Podman's client speaks to no engine.
        if self.output(&["--version"]).is_ok_and(|said| said.contains("podman")) {
            return EngineError::podman();
        }
        match self.ask(self.command(["version"]), "version") {
            Err(error) => error,
            // A build would reach it.
            Ok(output) if output.status.success() => {
                EngineError::failed("answer a question that was not the client's", otherwise)
            }
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                EngineError::Unreachable(said.trim().to_owned())
            }
        }
    }
}
