//! Runs a build with the user's client, shows its log, and notes what became of each step.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Command, ExitStatus, Stdio};

use super::Engine;
use super::build_log::{BuildkitLog, ClassicLog, ClassicStep, LoggedStep};
use super::client::Client;
use super::error::EngineError;

/// Enough of a log's end to find the cause of a failure in.
const TAIL_LINES: usize = 200;

/// Whether the user sees the builder's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echo {
    /// As it comes.
    Shown,
    /// Not at all: only we read it.
    Hidden,
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
        let lines = || self.tail.iter().rev().filter(|line| !line.trim().is_empty());
        let error = lines().find(|line| line.to_lowercase().contains("error"));
        let said = error.or_else(|| lines().next_back()).map(|line| line.trim().to_owned());
        said.unwrap_or_else(|| "it gave no reason".to_owned())
    }
}

/// Runs a build with BuildKit: by buildx, or by the client itself where it has no buildx.
/// `words` are its arguments.
pub fn buildkit(
    engine: &Engine,
    words: &[OsString],
    builder_is_named: bool,
    echo: Echo,
) -> Result<Finished, EngineError> {
    let client = &engine.client;
    let named =
        builder_is_named || std::env::var_os("BUILDX_BUILDER").is_some_and(|b| !b.is_empty());
    let has_buildx = client.has_buildx();
    let mut command =
        if has_buildx { client.command(["buildx", "build"]) } else { client.command(["build"]) };
    command.args(words).env("DOCKER_BUILDKIT", "1");
    // `docker build` takes the current context's own builder, `docker buildx build` the selected
    // one; we are the former.
    if has_buildx && !named {
        command.envs(client.context().map(|context| ("BUILDX_BUILDER", context)));
    }
    let mut log = BuildkitLog::default();
    let (status, tail) = run(client, command, Stream::Stderr, echo, &mut |line| log.line(line))?;
    Ok(Finished { status, steps: log.into_steps(), images: Vec::new(), tail })
}

/// Runs `docker build` with the classic builder. `words` are its arguments.
pub fn classic(client: &Client, words: &[OsString], echo: Echo) -> Result<Finished, EngineError> {
    let mut command = client.command(["build"]);
    command.args(words).env("DOCKER_BUILDKIT", "0");
    let mut log = ClassicLog::default();
    let (status, tail) = run(client, command, Stream::Stdout, echo, &mut |line| log.line(line))?;
    Ok(Finished { status, steps: log.logged_steps(), images: log.steps().to_vec(), tail })
}

/// Runs the user's build as it is, when there is no cache to be had. All output is its own.
pub fn plain(client: &Client, words: &[OsString]) -> Result<ExitStatus, EngineError> {
    let mut command = client.command(["build"]);
    command.args(words).stdin(Stdio::inherit());
    command.status().map_err(|e| client.no_client(e))
}

/// Where a builder writes its log.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stream {
    Stdout,
    Stderr,
}

fn run(
    client: &Client,
    mut command: Command,
    log: Stream,
    echo: Echo,
    line: &mut dyn FnMut(&str),
) -> Result<(ExitStatus, Vec<String>), EngineError> {
    let other = |echo| if echo == Echo::Shown { Stdio::inherit() } else { Stdio::null() };
    match log {
        Stream::Stdout => command.stdout(Stdio::piped()).stderr(other(echo)),
        Stream::Stderr => command.stderr(Stdio::piped()).stdout(other(echo)),
    };
    if echo == Echo::Shown {
        command.stdin(Stdio::inherit());
    }
    let mut child = command.spawn().map_err(|e| client.no_client(e))?;
    let (input, output): (Option<Box<dyn Read>>, Box<dyn Write>) = match log {
        Stream::Stdout => (child.stdout.take().map(|p| Box::new(p) as _), Box::new(io::stdout())),
        Stream::Stderr => (child.stderr.take().map(|p| Box::new(p) as _), Box::new(io::stderr())),
    };
    let output = if echo == Echo::Shown { output } else { Box::new(io::sink()) };
    let tail = match input {
        Some(input) => tee(input, output, line).map_err(EngineError::io("read the build's log"))?,
        None => Vec::new(),
    };
    let status = child.wait().map_err(EngineError::io("wait for the build"))?;
    Ok((status, tail))
}

/// Copies a log line by line; gives its last lines.
fn tee(
    input: impl Read,
    mut output: impl Write,
    line: &mut dyn FnMut(&str),
) -> io::Result<Vec<String>> {
    let mut input = BufReader::new(input);
    let mut tail = std::collections::VecDeque::new();
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        // A line without end is taken in pieces, so that memory stays bounded.
        let n = (&mut input).take(4 << 20).read_until(b'\n', &mut bytes)?;
        if n == 0 {
            return Ok(tail.into());
        }
        // Whoever reads our output may have gone; the build goes on.
        let _ = output.write_all(&bytes).and_then(|()| output.flush());
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_end_matches(['\n', '\r']);
        line(text);
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(text.to_owned());
    }
}

impl Finished {
    /// Whether the build failed because of the cache it was offered, not by its own fault.
    ///
    /// Only the builder's last word counts, since instructions may print anything before it, and
    /// it quotes an instruction that failed. Graph drivers build a step whose layer is bad anew;
    /// with the containerd store the whole build fails, in the words that are tested below.
    pub fn failed_in_cache(&self) -> bool {
        const SIGNS: &[&str] = &[
            "cache importer",
            "failed to load cache",
            "failed to configure local cache",
            "importing cache manifest from local",
            "failed to copy: ",
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
        let is_verdict = |line: &&String| {
            line.get(..7).is_some_and(|l| l.eq_ignore_ascii_case("error: "))
                || line.starts_with("failed to solve")
        };
        let verdict = self.tail.iter().rev().find(is_verdict);
        !self.status.success()
            && verdict.is_some_and(|line| {
                !line.contains("did not complete successfully")
                    && !line.contains("executor failed running")
                    && SIGNS.iter().any(|sign| line.contains(sign))
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
