//! Exit codes. Scripts rely on them.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitCode, ExitStatus};

use crate::engine::error::EngineError;
use crate::job::journal::JournalError;
use crate::job::store::SyncError;
use crate::oci::directory::LayoutError;
use crate::store::error::PushError;
use crate::store::error::StoreError;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// A hit, a miss, or nothing to save.
    Ok,
    /// With `--strict`: a miss, or something that is otherwise a warning.
    Strict,
    /// Wrong usage or configuration.
    Usage,
    /// The archive is corrupt.
    Corrupt,
    /// The engine is not reachable, or failed.
    Engine,
    /// A file can't be read or written, or there is no space.
    Io,
    /// What the user's own build ended with.
    Build(u8),
}

impl Exit {
    /// What a client that ran the user's build ended with; as in a shell if it was a signal.
    pub(crate) fn of(status: ExitStatus) -> Self {
        let code = status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(1);
        Self::Build(u8::try_from(code).unwrap_or(1))
    }

    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Strict => 1,
            Self::Usage => 2,
            Self::Corrupt => 3,
            Self::Engine => 4,
            Self::Io => 5,
            Self::Build(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// What stopped a command.
#[derive(Debug)]
pub struct Failure {
    /// How the program ends.
    pub exit: Exit,
    /// What happened, to which file or image.
    pub message: String,
    /// What to do next.
    pub hint: Option<&'static str>,
}

impl Failure {
    /// A mistake in how we were called.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, message: message.into(), hint: None }
    }
}

impl From<LayoutError> for Failure {
    fn from(error: LayoutError) -> Self {
        let (exit, hint) = match &error {
            LayoutError::Damaged { .. } => (
                Exit::Corrupt,
                Some("remove it and save again; builds run without cache until then"),
            ),
            LayoutError::Io { source, .. } => (Exit::Io, io_hint(source)),
            LayoutError::Busy { .. } => {
                (Exit::Io, Some("try again later, or give each job a directory of its own"))
            }
            LayoutError::Foreign { .. } => {
                (Exit::Usage, Some("choose another directory with DOCKERCACHE_DIR or --dir"))
            }
        };
        Self { exit, message: error.to_string(), hint }
    }
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Self {
        Self { exit: Exit::Io, message: error.to_string(), hint: None }
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let (exit, hint) = match error {
            EngineError::Layout(error) => return error.into(),
            EngineError::NoClient { .. } => (Exit::Engine, Some("install the docker client")),
            EngineError::Unreachable(_) | EngineError::NoAnswer { .. } => (
                Exit::Engine,
                Some("check `docker version`, and DOCKER_HOST or the docker context"),
            ),
            EngineError::Failed { .. } => (Exit::Engine, None),
            // No one has typed anything wrong: without cache, the job goes on.
            EngineError::Unsupported(_) | EngineError::NotBuilt(_) => (Exit::Ok, None),
            EngineError::Usage(_) => (Exit::Usage, None),
            EngineError::Io { ref source, .. } => (Exit::Io, io_hint(source)),
        };
        Self { exit, message: error.to_string(), hint }
    }
}

impl From<PushError> for Failure {
    fn from(error: PushError) -> Self {
        match error {
            PushError::Store(error) => error.into(),
            PushError::Layout(error) => error.into(),
        }
    }
}

impl From<SyncError> for Failure {
    fn from(error: SyncError) -> Self {
        match error {
            SyncError::Settings(message) => Self::usage(message),
            SyncError::Store(error) => error.into(),
            SyncError::Layout(error) => error.into(),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let (exit, hint) = match error {
            StoreError::Unavailable { .. } | StoreError::Slow { .. } => {
                (Exit::Io, Some("check the URL and the network"))
            }
            StoreError::Denied { .. } => (Exit::Usage, Some("check the credentials")),
            StoreError::Damaged { .. } | StoreError::Missing { .. } => {
                (Exit::Corrupt, Some("save again; builds run without cache until then"))
            }
            StoreError::Io { .. } => (Exit::Io, None),
        };
        Self { exit, message: error.to_string(), hint }
    }
}

fn io_hint(error: &std::io::Error) -> Option<&'static str> {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            Some("free some space; what was saved before is untouched")
        }
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
            Some("choose another directory with DOCKERCACHE_DIR, or change its permissions")
        }
        _ => None,
    }
}
