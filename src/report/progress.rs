//! Progress of long work: a bar where a person watches, a line now and then in a log.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::{Reporter, bytes};

/// How often a log hears that work goes on; CI systems end a silent step after ten minutes.
const LINE_EVERY: Duration = Duration::from_secs(15);
/// See [`moved`].
static MOVED: AtomicU64 = AtomicU64::new(0);

/// Counts bytes that others move, whose progress nobody sees.
pub(crate) fn moving(bytes: u64) {
    MOVED.fetch_add(bytes, Ordering::Relaxed);
}

/// How many bytes all work of this process has reported so far.
pub(crate) fn moved() -> u64 {
    MOVED.load(Ordering::Relaxed)
}

/// Counts bytes and shows them.
pub struct Progress {
    label: String,
    total: u64,
    done: Arc<AtomicU64>,
    bar: Option<ProgressBar>,
    _beat: Option<Task>,
}

impl Progress {
    pub(super) fn start(label: &str, total: u64, reporter: Reporter) -> Self {
        let Reporter { quiet, bars, .. } = reporter;
        let done = Arc::new(AtomicU64::new(0));
        let bar = bars.then(|| {
            let template = if total == 0 {
                "{msg} {bytes} {bytes_per_sec}"
            } else {
                "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}"
            };
            let bar = if total == 0 { ProgressBar::no_length() } else { ProgressBar::new(total) };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.with_message(label.to_owned())
        });
        let beat = (!bars && !quiet).then(|| {
            let (label, done) = (label.to_owned(), Arc::clone(&done));
            Task::every(LINE_EVERY, reporter, move |_| {
                status(&label, done.load(Ordering::Relaxed), total)
            })
        });
        Self { label: label.to_owned(), total, done, bar, _beat: beat }
    }

    /// Adds bytes.
    pub fn advance(&self, count: u64) {
        self.done.fetch_add(count, Ordering::Relaxed);
        moving(count);
        if let Some(bar) = &self.bar {
            bar.inc(count);
        }
    }

    /// The bytes so far.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// The state as text, as it appears in a log.
    pub fn status(&self) -> String {
        status(&self.label, self.done(), self.total)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn status(label: &str, done: u64, total: u64) -> String {
    if total == 0 {
        format!("{label}: {}", bytes(done))
    } else {
        format!("{label}: {} of {}", bytes(done), bytes(total))
    }
}

/// Says now and then that something is still going on, until it is dropped.
pub struct Task {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Task {
    pub(super) fn start(label: &str, reporter: Reporter) -> Self {
        let label = label.to_owned();
        let every = if reporter.quiet { Duration::MAX } else { LINE_EVERY };
        Self::every(every, reporter, move |elapsed| {
            format!("{label}: {} s so far", elapsed.as_secs())
        })
    }

    fn every(
        period: Duration,
        reporter: Reporter,
        text: impl Fn(Duration) -> String + Send + 'static,
    ) -> Self {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let shared = Arc::clone(&stop);
        let begun = Instant::now();
        let thread = std::thread::spawn(move || {
            let (stopped, changed) = &*shared;
            let mut guard = stopped.lock().unwrap_or_else(PoisonError::into_inner);
            while !*guard {
                let (next, wait) =
                    changed.wait_timeout(guard, period).unwrap_or_else(PoisonError::into_inner);
                guard = next;
                if wait.timed_out() && !*guard {
                    reporter.line("", &text(begun.elapsed()));
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let (stopped, changed) = &*self.stop;
        *stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
