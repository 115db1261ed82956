//! What people see while we work: messages and progress, all on standard error.
//!
//! Results for scripts go to standard output and are none of this module's business.

mod amount;
pub mod output;
mod progress;
mod sanitize;
mod time;

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};

pub use amount::{bytes, count};
pub use progress::{Progress, Task};
pub(crate) use progress::{moved, moving};
pub use sanitize::{one_line, sanitized};
pub use time::timestamp;

/// Where messages go and how much of them.
#[derive(Clone, Copy, Debug)]
pub struct Reporter {
    quiet: bool,
    bars: bool,
    /// Whether nothing is to be heard any more of what it was given to.
    muted: &'static AtomicBool,
}

/// For those who are never muted.
static NEVER: AtomicBool = AtomicBool::new(false);

impl Reporter {
    /// For a program at work: bars on a terminal that a person watches, lines elsewhere.
    pub fn new(quiet: bool) -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|v| !v.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|t| t == "dumb");
        // CI systems give steps a terminal, and a bar floods their logs.
        let bars = io::stderr().is_terminal() && !set("CI") && !dumb && !quiet;
        Self { quiet, bars, muted: &NEVER }
    }

    /// For work that may be given up: from when `muted` is set, it says nothing.
    #[must_use]
    pub(crate) fn until(self, muted: &'static AtomicBool) -> Self {
        Self { muted, ..self }
    }

    fn line(self, prefix: &str, message: &str) {
        if !self.muted.load(Ordering::Relaxed) {
            line(prefix, message);
        }
    }

    /// Says what happens.
    pub fn info(&self, message: impl AsRef<str>) {
        if !self.quiet {
            self.line("", message.as_ref());
        }
    }

    /// Says what is wrong but does not stop us.
    pub fn warn(&self, message: impl AsRef<str>) {
        self.line("warning: ", message.as_ref());
    }

    /// Says what stopped us.
    pub fn error(&self, message: impl AsRef<str>) {
        self.line("error: ", message.as_ref());
    }

    /// Shows how many bytes have passed; `total` is 0 if it is not known.
    pub fn progress(&self, label: &str, total: u64) -> Progress {
        Progress::start(label, total, *self)
    }

    /// Shows that something of unknown length is going on.
    pub fn task(&self, label: &str) -> Task {
        Task::start(label, *self)
    }
}

/// Writes one message; nothing to be done if standard error is gone. Each line of it bears our
/// name: it may quote a stranger, and CI systems take commands from the beginnings of lines.
fn line(prefix: &str, message: &str) {
    let message = sanitized(message);
    let text = message.trim_end().replace('\n', "\ndockercache:   ");
    let _ = writeln!(io::stderr(), "dockercache: {prefix}{text}");
}
