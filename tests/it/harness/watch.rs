//! Runs that are watched: how long they take, and how much memory.

use std::fs;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::invocation::Invocation;

/// How many times as long work may take on a busy machine.
const BUSY: u32 = 6;
/// Ticks of the clock by which processes are measured.
const TICKS: u64 = 100;
/// How often the memory is looked at.
const LOOK: Duration = Duration::from_millis(3);

/// When a watched program is killed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    /// When it hangs: it has taken longer than this, beside what its own work takes on a machine
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
    let (mut peak, mut killed) = (0, false);
    let status = loop {
        peak = peak.max(memory(&child).unwrap_or_default());
        if let Some(status) = child.try_wait().expect("a status") {
            break status;
        }
        let limit = match until {
            Until::Moment(moment) => moment,
            Until::Limit(limit) if started.elapsed() < limit => limit,
            Until::Limit(limit) => limit + work(&child).unwrap_or_default() * BUSY,
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

/// How long a process has worked, and those that it has waited for.
fn work(child: &Child) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).ok()?;
    // The name before may have anything in it. Then: the state is the first field.
    let (_, fields) = stat.rsplit_once(") ")?;
    let ticks = fields.split(' ').skip(11).take(4).map(|ticks| ticks.parse::<u64>().ok());
    let ticks = ticks.sum::<Option<u64>>()?;
    Some(Duration::from_millis(ticks * 1000 / TICKS))
}

/// The most memory that a process had until now, in KiB.
fn memory(child: &Child) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}
