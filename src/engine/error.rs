//! What can go wrong between us and an engine.

use std::io;
use std::time::Duration;

use crate::oci::directory::LayoutError;

/// Why an engine did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No docker command.
    #[error("failed to run `{program}`: {source}")]
    NoClient {
        /// The program.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// The engine does not answer.
    #[error("the Docker engine is not reachable: {0}")]
    Unreachable(String),
    /// Something hangs: the client, or an engine that can be reached.
    #[error("no answer to {to} within {} s", waited.as_secs())]
    NoAnswer {
        /// What was asked.
        to: String,
        /// For how long we waited.
        waited: Duration,
    },
    /// The engine answered with an error.
    #[error("the engine failed to {action}: {reason}")]
    Failed {
        /// What it was asked.
        action: String,
        /// Its answer.
        reason: String,
    },
    /// The build that is to be saved has not been made on the engine.
    #[error("{0}")]
    NotBuilt(String),
    /// The engine, or its builder, can't do it.
    #[error("{0}")]
    Unsupported(String),
    /// What was asked for is not there, or is not what it should be.
    #[error("{0}")]
    Usage(String),
    /// The archive could not be read or written meanwhile.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A pipe or a temporary file failed.
    #[error("failed to {action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl EngineError {
    /// Makes a function that turns an I/O error into ours.
    pub fn io(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, source }
    }

    /// There is podman where docker should be.
    pub fn podman() -> Self {
        Self::Unsupported("`docker` is podman here, which has no BuildKit cache".to_owned())
    }

    /// The engine's answer to what it was asked.
    pub fn failed(action: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Failed { action: action.into(), reason: reason.to_string() }
    }
}
