//! What is not the build must not hold it up: it has a time, and is given up when that passes.
//!
//! It runs on a thread of its own, since a file system or a program may hang in ways that nobody can
//! interrupt. What is given up says nothing any more, starts no program, and ends with this process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::{parse_duration, variable};
use crate::engine::client::process;
use crate::report::{Reporter, moved};

/// The variable with the time, and its default.
const DEADLINE: &str = "DOCKERCACHE_DEADLINE";
const DEFAULT: Duration = Duration::from_mins(1);
/// How many bytes that are read, fetched or loaded add a second: a large cache may take its time, a
/// store that drips may not.
const BYTES_PER_SECOND: u64 = 4 << 20;
/// Capturing a build may take longer than preparing it: the builder compresses what is new.
const AFTER: u32 = 10;
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// As large as that of the main thread.
const STACK: usize = 8 << 20;

/// How long to wait for what is not the build.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Duration);

/// It took longer than that.
#[derive(Debug, thiserror::Error)]
#[error(
    "{what} took longer than {} (`{DEADLINE}` sets this time)",
    humantime::format_duration(*limit)
)]
pub(crate) struct Late {
    what: &'static str,
    limit: Duration,
}

impl Deadline {
    /// What the user asks for; what is wrong is ignored with a warning.
    pub(crate) fn of_environment(reporter: Reporter) -> Self {
        let Some(text) = variable(DEADLINE) else { return Self(DEFAULT) };
        Self(parse_duration(&text).unwrap_or_else(|| {
            reporter.warn(format!(
                "`{DEADLINE}` is ignored: invalid value `{text}`: expected a time with a unit, such \
                 as `60s`"
            ));
            DEFAULT
        }))
    }

    /// Does what comes before the build.
    pub(crate) fn before<T: Send + 'static>(
        self,
        reporter: Reporter,
        work: impl FnOnce(Reporter) -> T + Send + 'static,
    ) -> Result<T, Late> {
        within(self.0, "what comes before the build", reporter, work)
    }

    /// Does what comes after the build.
    pub(crate) fn after<T: Send + 'static>(
        self,
        reporter: Reporter,
        work: impl FnOnce(Reporter) -> T + Send + 'static,
    ) -> Result<T, Late> {
        within(self.0.saturating_mul(AFTER), "what comes after the build", reporter, work)
    }
}

fn within<T: Send + 'static>(
    limit: Duration,
    what: &'static str,
    reporter: Reporter,
    work: impl FnOnce(Reporter) -> T + Send + 'static,
) -> Result<T, Late> {
    let muted: &'static AtomicBool = Box::leak(Box::default());
    let (sender, receiver) = mpsc::channel();
    let (began, before) = (Instant::now(), moved());
    let heard = reporter.until(muted);
    let started = thread::Builder::new().stack_size(STACK).spawn(move || {
        let _ = sender.send(work(heard));
    });
    let late = || Late { what, limit };
    let thread = started.map_err(|_| late())?;
    loop {
        match receiver.recv_timeout(LOOK) {
            Ok(done) => return Ok(done),
            Err(RecvTimeoutError::Timeout) => {
                let credit = Duration::from_secs((moved() - before) / BYTES_PER_SECOND);
                if began.elapsed() > limit.saturating_add(credit) {
                    muted.store(true, Ordering::Relaxed);
                    process::give_up(thread.thread().id());
                    return Err(late());
                }
            }
            Err(RecvTimeoutError::Disconnected) => match thread.join() {
                Err(panic) => std::panic::resume_unwind(panic),
                Ok(()) => return Err(late()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_too_long_is_given_up_and_says_nothing_any_more() {
        let reporter = Reporter::new(true);
        let done = within(Duration::from_mins(1), "it", reporter, |_| 7);
        assert_eq!(done.unwrap(), 7);
        let start = Instant::now();
        let late = within(Duration::from_millis(300), "it", reporter, |_| {
            thread::sleep(Duration::from_mins(1));
        });
        assert_eq!(
            late.unwrap_err().to_string(),
            "it took longer than 300ms (`DOCKERCACHE_DEADLINE` sets this time)"
        );
        assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    }

    #[test]
    fn bytes_that_move_give_more_time() {
        let reporter = Reporter::new(true);
        let done = within(Duration::from_millis(300), "it", reporter, |reporter| {
            let progress = reporter.progress("reading", 0);
            for _ in 0..5 {
                progress.advance(BYTES_PER_SECOND);
                thread::sleep(Duration::from_millis(200));
            }
        });
        assert!(done.is_ok());
    }
}
