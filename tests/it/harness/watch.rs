//! Runs that are watched: how long they take, and how much memory.

use std::fs;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::invocation::Invocation;

/// How many times as long everything may take on a machine that is busy all the time.
const BUSY: u32 = 6;
/// How often the memory is looked at.
const LOOK: Duration = Duration::from_millis(3);

/// When a watched program is killed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    /// When it hangs: it has taken longer than this, and than what it may have waited for a processor
    /// that others keep busy.
    Limit(Duration),
    /// In the middle of its work.
    Moment(Duration),
}

/// A program that has run under a watch.
#[derive(Debug)]
pub(crate) struct Watched {
    /// The exit code; `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
    /// The most memory that it had, in KiB.
    pub(crate) peak: u64,
    /// Whether it was killed.
    pub(crate) killed: bool,
}

impl Invocation {
    /// Runs the program. Its output goes to files: what it leaves behind holds nobody up.
    pub(crate) fn watched(self, until: Until) -> Watched {
        watched(self.into_command(), until)
    }
}

/// See [`Invocation::watched`].
pub(crate) fn watched(mut command: Command, until: Until) -> Watched {
    let [mut stdout, mut stderr] = [(); 2].map(|()| tempfile::tempfile().expect("a file"));
    let own = |file: &fs::File| Stdio::from(file.try_clone().expect("a file"));
    let started = Instant::now();
    command.stdin(Stdio::null()).stdout(own(&stdout)).stderr(own(&stderr));
    let mut child = command.spawn().expect("the program starts");
    let before = busy().unwrap_or_default();
    let (mut peak, mut killed) = (0, false);
    let status = loop {
        peak = peak.max(memory(&child).unwrap_or_default());
        if let Some(status) = child.try_wait().expect("a status") {
            break status;
        }
        let limit = match until {
            Until::Moment(moment) => moment,
            Until::Limit(limit) if started.elapsed() < limit => limit,
            Until::Limit(limit) => {
                let busy = busy().unwrap_or_default().saturating_sub(before);
                limit + busy.min(limit * (BUSY - 1))
            }
        };
        if started.elapsed() >= limit && !killed {
            killed = true;
            child.kill().expect("a kill");
        }
        thread::sleep(LOOK.min(limit.saturating_sub(started.elapsed()).max(LOOK / 10)));
    };
    let took = started.elapsed();
    let text = |file: &mut fs::File| {
        let mut bytes = Vec::new();
        file.flush().and_then(|()| file.rewind()).expect("a start");
        file.take(1 << 20).read_to_end(&mut bytes).expect("a readable file");
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let (stdout, stderr) = (text(&mut stdout), text(&mut stderr));
    Watched { code: status.code(), signal: status.signal(), stdout, stderr, took, peak, killed }
}

/// For how long anything on this machine has waited for a processor, since it was started.
fn busy() -> Option<Duration> {
    let pressure = fs::read_to_string("/proc/pressure/cpu").ok()?;
    let line = pressure.lines().find(|line| line.starts_with("some "))?;
    let (_, total) = line.split_once("total=")?;
    Some(Duration::from_micros(total.trim().parse().ok()?))
}

/// The most memory that a process had until now, in KiB.
fn memory(child: &Child) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}
