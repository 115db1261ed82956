//! Runs a build with the user's client, shows its log, and notes what became of each step.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::ops::ControlFlow;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::Client;
use super::process::Running;
use crate::build::build_log::{BuildkitLog, ClassicLog, ClassicStep, LoggedStep};
use crate::engine::error::EngineError;

/// Enough of a log's end to find the cause of a failure in.
const TAIL_LINES: usize = 200;

/// What BuildKit says with the containerd store if a layer is written again before the lock of an
/// earlier attempt is released (moby/buildkit#7166). What was written is there the next time.
pub(crate) const IN_EACH_OTHERS_WAY: &str = "failed to open writer";

/// What the builder says when it can't read the cache.
const CACHE_FAULTS: &[&str] = &[
    "cache importer",
    "failed to load cache",
    "failed to configure local cache",
    "importing cache manifest from local",
    "failed to copy: ",
    IN_EACH_OTHERS_WAY,
    "failed to extract layer",
    "failed to read expected number of bytes",
    "short read: expected",
    "content digest sha256:",
    "desc = content sha256:",
    "parent snapshot sha256:",
    "blob sha256:",
    "local content",
    "content store",
    "magic number mismatch",
    "invalid input: magic number",
    "unexpected commit digest",
    "failed size validation",
    "invalid layer",
];

/// Whether the user sees the builder's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echo {
    /// As it comes.
    Shown,
    /// Not at all: only we read it.
    Hidden,
    /// The log is hidden, and what else the client prints is shown.
    Muted,
    /// The client has the terminal to itself, and we see nothing.
    Terminal,
}

/// What the client reads from standard input.
pub enum Input {
    /// Nothing.
    None,
    /// What we were given.
    Inherited,
    /// A file, from its start.
    File(File),
    /// What we pass on.
    Passed(Box<dyn Read + Send>),
}

/// A build that has ended.
#[derive(Debug)]
pub struct Finished {
    /// How the client ended.
    pub status: ExitStatus,
    /// What became of the steps, as far as the log says.
    pub steps: Vec<LoggedStep>,
    /// The classic builder's steps with their images; empty for BuildKit.
    pub images: Vec<ClassicStep>,
    /// The log's last lines.
    pub tail: Vec<String>,
}

impl Finished {
    /// Why the build failed, in the builder's or the client's own words.
    pub fn reason(&self) -> String {
        reason(&self.tail)
    }

    /// What the client would have said of a failure that it was not asked to show the log of.
    pub fn last_words(&self) -> &[String] {
        let rule = |line: &String| line.chars().all(|c| c == '-') && line.len() == 6;
        let after_log = self.tail.iter().rposition(rule).map(|at| at + 1);
        let error = || self.tail.iter().rposition(|line| line.starts_with("ERROR"));
        let start = after_log.or_else(error).unwrap_or(0);
        &self.tail[start..]
    }
}

/// Why a build failed, in the builder's or the client's own words.
pub fn reason(tail: &[String]) -> String {
    let lines = || tail.iter().rev().filter(|line| !line.trim().is_empty());
    let error = lines().find(|line| line.to_lowercase().contains("error"));
    let said = error.or_else(|| lines().next_back()).map(|line| line.trim().to_owned());
    said.unwrap_or_else(|| "it gave no reason".to_owned())
}

/// The command that builds with BuildKit: by buildx, or by the client itself where it has no
/// buildx. `words` are its arguments; `builder` is what `BUILDX_BUILDER` must be set to for the
/// build to go where the user's own would.
pub fn buildkit_command(client: &Client, words: &[OsString], builder: Option<&str>) -> Command {
    let mut command = if client.has_buildx() {
        client.command(["buildx", "build"])
    } else {
        client.command(["build"])
    };
    command.args(words).env("DOCKER_BUILDKIT", "1");
    command.envs(builder.map(|builder| ("BUILDX_BUILDER", builder)));
    command
}

/// Runs a build with BuildKit.
pub fn buildkit(
    client: &Client,
    words: &[OsString],
    builder: Option<&str>,
    echo: Echo,
    input: Input,
) -> Result<Finished, EngineError> {
    own_command(client, buildkit_command(client, words, builder), echo, input)
}

/// Runs `docker build` with the classic builder. `words` are its arguments.
pub fn classic(
    client: &Client,
    words: &[OsString],
    echo: Echo,
    input: Input,
) -> Result<Finished, EngineError> {
    let mut command = client.command(["build"]);
    command.args(words).env("DOCKER_BUILDKIT", "0");
    let mut log = ClassicLog::default();
    let ended = run(client, command, Stream::Stdout, echo, input, None, &mut |line| {
        log.line(line);
        ControlFlow::Continue(())
    })?;
    let (status, tail) = ended.status();
    Ok(Finished { status, steps: log.logged_steps(), images: log.steps().to_vec(), tail })
}

/// Runs a command of the user's own that builds with BuildKit, and reads its log.
pub fn own_command(
    client: &Client,
    command: Command,
    echo: Echo,
    input: Input,
) -> Result<Finished, EngineError> {
    let mut log = BuildkitLog::default();
    let ended = run(client, command, Stream::Stderr, echo, input, None, &mut |line| {
        log.line(line);
        ControlFlow::Continue(())
    })?;
    let (status, tail) = ended.status();
    Ok(Finished { status, steps: log.into_steps(), images: Vec::new(), tail })
}

/// Runs a build of our own with BuildKit, whose log nobody sees.
pub(crate) fn helper(
    client: &Client,
    words: &[OsString],
    builder: Option<&str>,
    patience: &Patience<'_>,
) -> Result<Finished, EngineError> {
    let command = buildkit_command(client, words, builder);
    let mut log = BuildkitLog::default();
    let (log_in, patience) = (Stream::Stderr, Some(patience));
    let ended = run(client, command, log_in, Echo::Hidden, Input::None, patience, &mut |line| {
        log.line(line);
        ControlFlow::Continue(())
    })?;
    let (status, tail) = ended.status();
    Ok(Finished { status, steps: log.into_steps(), images: Vec::new(), tail })
}

/// Runs the user's build as it is, when there is no cache to be had. All output is its own.
pub(crate) fn plain(
    client: &Client,
    mut command: Command,
    input: Input,
) -> Result<ExitStatus, EngineError> {
    let mut running = start(client, &mut command, input)?;
    running.wait().map_err(EngineError::io("wait for the build"))
}

/// When a client that says nothing is given up.
pub(crate) struct Patience<'a> {
    /// How long it may say nothing.
    pub(crate) silence: Duration,
    /// Whether the engine answers at all; asked now and then while the client says nothing.
    pub(crate) is_alive: &'a dyn Fn() -> bool,
}

/// How often that is.
const LOOK: Duration = Duration::from_secs(5);

impl Patience<'_> {
    /// Waits for the next line, or until the client is given up. Without patience, forever.
    pub(crate) fn next<T>(
        patience: Option<&Self>,
        lines: &mpsc::Receiver<T>,
    ) -> Result<T, RecvTimeoutError> {
        let Some(patience) = patience else {
            return lines.recv().map_err(|_| RecvTimeoutError::Disconnected);
        };
        let since = Instant::now();
        loop {
            match lines.recv_timeout(LOOK.min(patience.silence)) {
                Err(RecvTimeoutError::Timeout)
                    if since.elapsed() < patience.silence && (patience.is_alive)() => {}
                said => return said,
            }
        }
    }
}

/// Where a builder writes its log.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// How a client's run ended.
pub(crate) enum Ended {
    /// By itself, with the log's last lines.
    Itself(ExitStatus, Vec<String>),
    /// We had seen enough.
    Stopped(ExitStatus),
    /// It said nothing for too long.
    Silent(ExitStatus),
}

impl Ended {
    /// The status and the log's last lines.
    fn status(self) -> (ExitStatus, Vec<String>) {
        match self {
            Self::Itself(status, tail) => (status, tail),
            Self::Stopped(status) | Self::Silent(status) => (status, Vec::new()),
        }
    }
}

/// Runs a client and hands its log on, line by line, until `line` breaks off, or `patience` ends.
pub(crate) fn run(
    client: &Client,
    mut command: Command,
    log: Stream,
    echo: Echo,
    input: Input,
    patience: Option<&Patience<'_>>,
    line: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Ended, EngineError> {
    let other = || if echo == Echo::Hidden { Stdio::null() } else { Stdio::inherit() };
    let own = || if echo == Echo::Terminal { Stdio::inherit() } else { Stdio::piped() };
    match log {
        Stream::Stdout => command.stdout(own()).stderr(other()),
        Stream::Stderr => command.stderr(own()).stdout(other()),
    };
    let mut running = start(client, &mut command, input)?;
    let (pipe, output): (Option<Box<dyn Read + Send>>, Box<dyn Write>) = match log {
        Stream::Stdout => (running.stdout().map(|p| Box::new(p) as _), Box::new(io::stdout())),
        Stream::Stderr => (running.stderr().map(|p| Box::new(p) as _), Box::new(io::stderr())),
    };
    let waiting = EngineError::io("wait for the build");
    let Some(pipe) = pipe else {
        let status = running.wait().map_err(waiting)?;
        return Ok(Ended::Itself(status, Vec::new()));
    };
    let mut output = if echo == Echo::Shown { output } else { Box::new(io::sink()) };
    let mut tail = VecDeque::new();
    let lines = lines_of(pipe);
    loop {
        let bytes = match Patience::next(patience, &lines) {
            Ok(bytes) => bytes.map_err(EngineError::io("read the build's log"))?,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                return Ok(Ended::Silent(running.end().map_err(waiting)?));
            }
        };
        // Whoever reads our output may have gone; the build goes on.
        let _ = output.write_all(&bytes).and_then(|()| output.flush());
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_end_matches(['\n', '\r']);
        if line(text).is_break() {
            return Ok(Ended::Stopped(running.end().map_err(waiting)?));
        }
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(text.to_owned());
    }
    let status = running.wait().map_err(waiting)?;
    Ok(Ended::Itself(status, tail.into()))
}

/// Starts a client that reads `input`.
fn start(client: &Client, command: &mut Command, input: Input) -> Result<Running, EngineError> {
    let mut passed = None;
    match input {
        Input::None => command.stdin(Stdio::null()),
        Input::Inherited => command.stdin(Stdio::inherit()),
        Input::File(file) => command.stdin(file),
        Input::Passed(reader) => {
            passed = Some(reader);
            command.stdin(Stdio::piped())
        }
    };
    let mut running = Running::start(command).map_err(|e| client.no_client(e))?;
    if let Some(reader) = passed {
        running.feed(reader);
    }
    Ok(running)
}

/// Reads lines in a thread, so that waiting for them can end.
pub(crate) fn lines_of(pipe: impl Read + Send + 'static) -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::sync_channel(256);
    thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        loop {
            let mut bytes = Vec::new();
            // A line without end is taken in pieces, so that memory stays bounded.
            let read = (&mut pipe).take(4 << 20).read_until(b'\n', &mut bytes);
            let sent = match read {
                Ok(0) => return,
                Ok(_) => sender.send(Ok(bytes)),
                Err(error) => sender.send(Err(error)),
            };
            if sent.is_err() {
                return;
            }
        }
    });
    receiver
}

impl Finished {
    /// Whether the build failed because of the cache it was offered, not by its own fault.
    ///
    /// Only the builder's last word counts, since instructions may print anything before it, and
    /// it quotes an instruction that failed. Graph drivers run a step again if its layer is corrupt;
    /// with the containerd store the whole build fails, in the words that are tested below.
    pub fn failed_in_cache(&self) -> bool {
        self.failed_with(CACHE_FAULTS)
    }

    /// Whether the builder's threads were in each other's way as they used the cache.
    pub fn failed_by_chance(&self) -> bool {
        self.failed_with(&[IN_EACH_OTHERS_WAY])
    }

    fn failed_with(&self, signs: &[&str]) -> bool {
        let is_verdict = |line: &&String| {
            line.get(..7).is_some_and(|l| l.eq_ignore_ascii_case("error: "))
                || line.starts_with("failed to solve")
        };
        let verdict = self.tail.iter().rev().find(is_verdict);
        !self.status.success()
            && verdict.is_some_and(|line| {
                !line.contains("did not complete successfully")
                    && !line.contains("executor failed running")
                    && signs.iter().any(|sign| line.contains(sign))
            })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    fn failed_in_cache(log: &str) -> bool {
        let status = ExitStatus::from_raw(1 << 8);
        let tail = log.lines().map(str::to_owned).collect();
        Finished { status, steps: Vec::new(), images: Vec::new(), tail }.failed_in_cache()
    }

    /// What Docker 28.5 with the containerd store prints of layers that are missing, truncated,
    /// and altered.
    #[test]
    fn a_bad_layer_is_told_from_the_builders_last_word() {
        for words in [
            "failed to compute cache key: NotFound: rpc error: code = NotFound desc = content \
             sha256:3ef1c39b836b: not found",
            "failed to prepare sha256:83339a1d0097 as 7zyhm5216sgl6kcynbkszbwlk: parent snapshot \
             sha256:83339a1d0097 does not exist: not found",
            "failed to compute cache key: short read: expected 1000878 bytes but got 0: \
             unexpected EOF",
            "failed to compute cache key: failed commit on ref \"layer-sha256:3ef1c39b836b\": \
             commit failed: unexpected commit digest sha256:5bbfc0e95978, expected \
             sha256:3ef1c39b836b: failed precondition",
            "failed to extract layer sha256:4a78d603fc9f: failed to get reader from content \
             store: content digest sha256:ddf2c2057eab: not found",
            "mount callback failed on /mnt/m1: mount callback failed on /mnt/m2: failed to open \
             writer: ref moby/1/jmzv782fbi01 locked for 9.7ms: unavailable",
        ] {
            let log =
                format!("   8 | >>> RUN wc\nERROR: failed to build: failed to solve: {words}\n");
            assert!(failed_in_cache(&log), "{words}");
        }
    }

    #[test]
    fn an_instruction_that_fails_is_no_fault_of_the_cache_whatever_it_says() {
        for log in [
            "#9 0.1 ERROR: failed to copy: blob sha256:00 is not in the content store\n\
             #9 ERROR: process \"/bin/sh -c echo failed to copy: it; exit 1\" did not complete \
             successfully: exit code: 1\n\
             ------\n > [2/2] RUN echo failed to copy: it; exit 1:\n\
             0.1 ERROR: failed to copy: blob sha256:00 is not in the content store\n------\n\
             ERROR: failed to build: failed to solve: process \"/bin/sh -c echo failed to copy: \
             it; exit 1\" did not complete successfully: exit code: 1\n",
            "ERROR: failed to build: failed to solve: failed to compute cache key: failed to \
             calculate checksum of ref x: \"/input\": not found\n",
            "failed to solve: executor failed running [/bin/sh -c false failed to copy: it]: \
             exit code: 1\n",
        ] {
            assert!(!failed_in_cache(log), "{log}");
        }
    }
}
