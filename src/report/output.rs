//! Results for scripts, on standard output. A reader that has gone is no error.

use std::io::{self, Write as _};

use serde::Serialize;

/// Prints one line.
pub fn line(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
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
