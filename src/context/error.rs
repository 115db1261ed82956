//! What can go wrong when a build context is read.

use std::io;
use std::path::PathBuf;

/// Why the digest of a build context could not be computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContextError {
    /// The context directory does not exist.
    #[error("build context `{path}` does not exist")]
    NoContext {
        /// The directory that was asked for.
        path: PathBuf,
    },

    /// The context is something else than a directory.
    #[error("build context `{path}` is not a directory")]
    NotADirectory {
        /// The path that was asked for.
        path: PathBuf,
    },

    /// A file or directory that counts could not be read.
    #[error("cannot read `{path}`: {source}")]
    Read {
        /// The file on disk.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },

    /// An ignore file holds a pattern that the builder refuses as well.
    #[error("`{file}` line {line}: invalid pattern `{pattern}`: {reason}")]
    IgnorePattern {
        /// The ignore file.
        file: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The pattern as it was written.
        pattern: String,
        /// What is wrong with it.
        reason: &'static str,
    },

    /// An `--exclude` or source pattern that the builder refuses as well.
    #[error("invalid pattern `{pattern}`: {reason}")]
    Pattern {
        /// The pattern as it was written.
        pattern: String,
        /// What is wrong with it.
        reason: &'static str,
    },

    /// A source that names nothing in the context.
    #[error("`{source_path}` is not in the build context (looked for `{path}`)")]
    MissingSource {
        /// The source as it was written.
        source_path: String,
        /// Where it was looked for.
        path: PathBuf,
    },

    /// A source that is on disk but that the ignore file hides.
    #[error(
        "`{source_path}` is not in the build context (it is on disk, but `{ignore_file}` ignores it)"
    )]
    IgnoredSource {
        /// The source as it was written.
        source_path: String,
        /// The ignore file in force.
        ignore_file: PathBuf,
    },

    /// Symbolic links that lead to each other.
    #[error("too many symbolic links on the way to `{source_path}`")]
    LinkLoop {
        /// The path that was followed.
        source_path: String,
    },

    /// A file that was written to during both attempts to read it.
    #[error("`{path}` changes while it is read")]
    Unstable {
        /// The file on disk.
        path: PathBuf,
    },
}

impl ContextError {
    pub(super) fn read(path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Read { path: path.into(), source }
    }
}
