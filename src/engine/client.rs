//! The user's own `docker` command: the one thing that knows how to reach the user's engine.
//!
//! Sockets, TCP with TLS, SSH and docker contexts are its business, never ours.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use super::error::EngineError;

/// The docker command-line client.
#[derive(Clone, Debug)]
pub struct Client {
    program: String,
}

impl Client {
    /// The `docker` that is found on the path.
    pub fn from_path() -> Self {
        Self { program: "docker".to_owned() }
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
}
