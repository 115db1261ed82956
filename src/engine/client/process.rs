//! Programs that we start: they end when we are told to end, and when they say nothing for too
//! long.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

/// How long a program may take to end after it was asked to.
const GRACE: Duration = Duration::from_secs(3);

/// The programs that run.
static RUNNING: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());
/// The signal that has told us to end; 0 for none.
static TOLD: AtomicI32 = AtomicI32::new(0);

fn running() -> MutexGuard<'static, BTreeSet<u32>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on, what ends us ends the programs that we started first. Without any, we end at once:
/// what is left behind is removed by the next command.
pub fn pass_signals_on() {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_io().build() else {
        return;
    };
    let watch = async |kind: SignalKind| {
        if let Ok(mut signals) = signal(kind) {
            signals.recv().await;
            return kind.as_raw_value();
        }
        std::future::pending().await
    };
    thread::spawn(move || {
        runtime.block_on(async {
            let told = tokio::select! {
                number = watch(SignalKind::interrupt()) => number,
                number = watch(SignalKind::terminate()) => number,
                number = watch(SignalKind::hangup()) => number,
            };
            TOLD.store(told, Ordering::SeqCst);
            let programs = running().clone();
            for &program in &programs {
                tell(program, told);
            }
            if !programs.is_empty() {
                thread::sleep(GRACE);
                running().iter().for_each(|&program| tell(program, Signal::KILL.as_raw()));
                thread::sleep(GRACE);
            }
            #[expect(clippy::exit, reason = "we were told to end")]
            std::process::exit(128 + told);
        });
    });
}

/// Whether we were told to end.
pub fn is_told_to_end() -> bool {
    TOLD.load(Ordering::SeqCst) != 0
}

fn tell(program: u32, signal: i32) {
    let pid = i32::try_from(program).ok().and_then(Pid::from_raw);
    if let (Some(pid), Some(signal)) = (pid, Signal::from_named_raw(signal)) {
        // It may have ended meanwhile.
        let _ = kill_process(pid, signal);
    }
}

/// A program that runs. It does not outlive this value.
#[derive(Debug)]
pub struct Running {
    child: Child,
}

impl Running {
    /// Starts it.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let child = command.spawn()?;
        running().insert(child.id());
        let started = Self { child };
        if is_told_to_end() {
            tell(started.child.id(), Signal::TERM.as_raw());
        }
        Ok(started)
    }

    /// Its standard output, if that is a pipe that nobody has taken.
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Its standard error, if that is a pipe that nobody has taken.
    pub fn stderr(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    /// Feeds its standard input, if that is a pipe, from a thread of its own.
    pub fn feed(&mut self, mut input: impl Read + Send + 'static) {
        if let Some(mut pipe) = self.child.stdin.take() {
            thread::spawn(move || {
                // A program need not read all of it.
                let _ = io::copy(&mut input, &mut pipe).and_then(|_| pipe.flush());
            });
        }
    }

    /// Asks it to end, and insists.
    pub fn end(&mut self) -> io::Result<ExitStatus> {
        tell(self.child.id(), Signal::TERM.as_raw());
        let asked = Instant::now();
        while asked.elapsed() < GRACE {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.child.kill()?;
        self.child.wait()
    }

    /// Waits until it ends.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.end();
        }
        running().remove(&self.child.id());
    }
}
