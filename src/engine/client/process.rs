//! Programs that we start: they end when we are told to end, when they take too long, and when what
//! they were started for is given up.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

/// How long a program may take to end after it was asked to.
const GRACE: Duration = Duration::from_secs(3);

/// The programs that run, and the thread that has started each.
static RUNNING: Mutex<BTreeMap<u32, ThreadId>> = Mutex::new(BTreeMap::new());
/// The signal that has told us to end; 0 for none.
static TOLD: AtomicI32 = AtomicI32::new(0);
/// Threads that start no program any more.
static GIVEN_UP: Mutex<Vec<ThreadId>> = Mutex::new(Vec::new());
/// The longest answer that is read, in bytes. What is longer is cut off.
const MOST_SAID: u64 = 16 << 20;
/// How often a program is looked at that may take no longer than a time.
const LOOK: Duration = Duration::from_millis(10);

fn running() -> MutexGuard<'static, BTreeMap<u32, ThreadId>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The programs that were started by this thread.
fn of_thread(thread: ThreadId) -> Vec<u32> {
    running().iter().filter(|(_, by)| **by == thread).map(|(program, _)| *program).collect()
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
            for &program in programs.keys() {
                tell(program, told);
            }
            if !programs.is_empty() {
                thread::sleep(GRACE);
                running().keys().for_each(|&program| tell(program, Signal::KILL.as_raw()));
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

/// Ends the programs of a thread, which starts no more: what it works on is given up.
pub(crate) fn give_up(thread: ThreadId) {
    GIVEN_UP.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
    for program in of_thread(thread) {
        tell(program, Signal::TERM.as_raw());
    }
    let asked = Instant::now();
    // The thread waits for them, unless it hangs itself.
    while asked.elapsed() < GRACE && !of_thread(thread).is_empty() {
        thread::sleep(LOOK);
    }
    for program in of_thread(thread) {
        tell(program, Signal::KILL.as_raw());
    }
}

/// Runs a program that answers a question, and ends it if it takes longer than `limit`. What it has
/// started itself may hold its pipes open: nobody waits for that.
pub(crate) fn answer(command: &mut Command, limit: Duration) -> io::Result<Output> {
    let deadline = Instant::now() + limit;
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut program = Running::start(command)?;
    let stdout = read_aside(program.stdout());
    let stderr = read_aside(program.stderr());
    let rest = || deadline.saturating_duration_since(Instant::now());
    let said = stdout.recv_timeout(rest()).and_then(|out| Ok((out, stderr.recv_timeout(rest())?)));
    let Ok((stdout, stderr)) = said else {
        program.end()?;
        return Err(io::ErrorKind::TimedOut.into());
    };
    while Instant::now() < deadline {
        if let Some(status) = program.child.try_wait()? {
            return Ok(Output { status, stdout: stdout?, stderr: stderr? });
        }
        thread::sleep(LOOK);
    }
    program.end()?;
    Err(io::ErrorKind::TimedOut.into())
}

/// Reads all of a pipe in a thread, so that waiting for it can end.
fn read_aside(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = pipe.map_or(Ok(0), |pipe| pipe.take(MOST_SAID).read_to_end(&mut bytes));
        let _ = sender.send(read.map(|_| bytes));
    });
    receiver
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
        let own = thread::current().id();
        if GIVEN_UP.lock().unwrap_or_else(PoisonError::into_inner).contains(&own) {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "it is given up"));
        }
        let child = command.spawn()?;
        running().insert(child.id(), own);
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

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null());
        command
    }

    #[test]
    fn a_program_that_hangs_is_ended_and_its_children_are_not_waited_for() {
        for script in ["sleep 60", "trap '' TERM; while :; do sleep 1; done", "sleep 60 & exit 0"] {
            let start = Instant::now();
            let error = answer(&mut shell(script), Duration::from_millis(200)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{script}");
            assert!(start.elapsed() < GRACE * 2, "{script}: {:?}", start.elapsed());
        }
    }

    #[test]
    fn a_program_that_answers_is_heard_out() {
        let long = "head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2; exit 3";
        let output = answer(&mut shell(long), Duration::from_secs(20)).unwrap();
        assert_eq!(
            (output.status.code(), output.stdout.len(), output.stderr.len()),
            (Some(3), 300_000, 300_000)
        );
    }
}
