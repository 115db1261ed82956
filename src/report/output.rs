//! Results, on standard output. A reader that has gone is no error; a full disk is.

use std::io::{self, Write as _};
use std::sync::OnceLock;

use serde::Serialize;

use super::one_line;

/// The first failure to write. Results are printed one by one, and the last word is the exit code.
static FAILURE: OnceLock<io::ErrorKind> = OnceLock::new();

/// Prints one line for scripts, as it is.
pub fn line(text: &str) {
    let mut out = io::stdout();
    if let Err(error) = writeln!(out, "{text}").and_then(|()| out.flush())
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        let _ = FAILURE.set(error.kind());
    }
}

/// Prints one line for people. It may have names in it that come from strangers.
pub fn text(text: &str) {
    line(&one_line(text));
}

/// What was printed has not all arrived, for this reason.
pub fn failure() -> Option<io::ErrorKind> {
    FAILURE.get().copied()
}

/// Prints a line of a program that we ran on standard error, as it is.
pub fn complaint(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Prints one JSON object.
pub fn json<T: Serialize>(value: &T) {
    if let Ok(text) = serde_json::to_string_pretty(value) {
        line(&text);
    }
}

/// Prints a name and a value: for a shell (`DOCKERCACHE_NAME='value'`), or for `$GITHUB_OUTPUT`.
pub fn pair(for_shell: bool, name: &str, value: &str) {
    if for_shell {
        let quoted = value.replace('\'', r"'\''");
        line(&format!("DOCKERCACHE_{}='{quoted}'", name.to_uppercase().replace('-', "_")));
    } else {
        line(&format!("{name}={}", value.replace(['\n', '\r'], " ")));
    }
}
