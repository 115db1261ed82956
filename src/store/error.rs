//! What can go wrong with a store.

use std::path::Path;

use crate::oci::directory::LayoutError;

/// Why a store did not do what was asked. No message holds credentials.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It can't be reached, or fails again and again.
    #[error("`{url}` is not available: {reason}")]
    Unavailable {
        /// The store.
        url: String,
        /// What it said last.
        reason: String,
    },
    /// It answers, but so slowly that nobody should wait for it.
    #[error("`{url}` is too slow: {reason}")]
    Slow {
        /// The store.
        url: String,
        /// How slow.
        reason: String,
    },
    /// Credentials are missing, wrong or expired, or not good for this.
    #[error("`{url}` denies access: {reason}")]
    Denied {
        /// The store.
        url: String,
        /// What it said.
        reason: String,
    },
    /// What it gave is not what its name promises.
    #[error("`{url}` holds bad data: {what}: {reason}")]
    Damaged {
        /// The store.
        url: String,
        /// The blob or ref.
        what: String,
        /// How it was found out.
        reason: String,
    },
    /// The blob is not there, although a ref names it.
    #[error("`{url}` has lost {what}")]
    Missing {
        /// The store.
        url: String,
        /// The blob.
        what: String,
    },
    /// A file of ours.
    #[error("failed to {action}: {source}")]
    Io {
        /// What was tried, with the path.
        action: String,
        /// The cause.
        source: std::io::Error,
    },
}

/// Why an archive was not pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The directory.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// Takes what is not there for no error.
pub(crate) fn absent_as_none<T>(answer: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(StoreError::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A file of ours that can't be read.
pub(crate) fn unread(path: &Path, source: std::io::Error) -> StoreError {
    StoreError::Io { action: format!("read `{}`", path.display()), source }
}
