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
    let mut command = if engine.facts.buildx.is_some() {
        client.command(["buildx", "build"])
    } else {
        client.command(["build"])
    };
    command.args(words).env("DOCKER_BUILDKIT", "1");
    if engine.facts.buildx.is_some() && !named {
        // `docker build` takes the current context's own builder, `docker buildx build` the
        // selected one; we are the former.
        let context = client.output(&["context", "inspect", "--format", "{{.Name}}"])?;
        command.env("BUILDX_BUILDER", context);
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
    /// The phrases are those of BuildKit's cache importer, of its content store, and of the
    /// transfer of a layer from the client. A failing instruction has none of them.
    pub fn failed_in_cache(&self) -> bool {
        const SIGNS: &[&str] = &[
            "cache importer",
            "failed to load cache",
            "failed to configure local cache",
            "importing cache manifest from local",
            "failed to copy: ",
            "failed to extract layer",
            "failed to read expected number of bytes",
            "content digest sha256:",
            "blob sha256:",
            "local content",
            "content store",
            "magic number mismatch",
            "invalid input: magic number",
            "unexpected commit digest",
            "failed size validation",
            "invalid layer",
        ];
        !self.status.success()
            && self.tail.iter().rev().take(40).any(|line| {
                // What an instruction printed is not the builder's word.
                let spoken = !line.starts_with('#') || line.contains(" ERROR: ");
                spoken && SIGNS.iter().any(|sign| line.contains(sign))
            })
    }
}
