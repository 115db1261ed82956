//! Runs of real programs, with a transcript for the reader of a failed test.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::build_report::BuildReport;
use super::engine::Engine;

/// Prepares a run of the `dockercache` binary against an engine.
pub(crate) fn dockercache<'a>(
    engine: &Engine,
    args: impl IntoIterator<Item = &'a str>,
) -> Invocation {
    Invocation::new(engine.command(env!("CARGO_BIN_EXE_dockercache"))).args(args)
}

/// A program that is about to run.
#[must_use = "run it"]
#[derive(Debug)]
pub(crate) struct Invocation {
    command: Command,
    stdin: Vec<u8>,
    silent: bool,
}

impl Invocation {
    pub(crate) fn new(command: Command) -> Self {
        Self { command, stdin: Vec::new(), silent: false }
    }

    /// Leaves the transcript out of the test's output, for runs by the thousand.
    pub(crate) fn silently(mut self) -> Self {
        self.silent = true;
        self
    }

    pub(crate) fn args<'a>(mut self, args: impl IntoIterator<Item = &'a str>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    pub(crate) fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Sets environment variables.
    pub(crate) fn envs<'a, V: AsRef<OsStr>>(
        mut self,
        variables: impl IntoIterator<Item = (&'a str, V)>,
    ) -> Self {
        self.command.envs(variables);
        self
    }

    /// Sets the working directory.
    pub(crate) fn in_dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Sets what the program reads from its standard input.
    pub(crate) fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// The command itself, for a caller that wants to end it early.
    pub(crate) fn into_command(self) -> Command {
        self.command
    }

    /// Runs the program to its end and echoes it.
    pub(crate) fn run(mut self) -> Run {
        let line = self.line();
        let started = Instant::now();
        let mut child = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("can't run `{line}`: {error}"));
        let mut pipe = child.stdin.take().expect("a piped stdin");
        // On a thread of its own: the program may fill its output before it has read all of this.
        let writer = std::thread::spawn(move || pipe.write_all(&self.stdin));
        let output = child.wait_with_output().expect("the program's output");
        // A program that doesn't read its input closes the pipe, which is its right.
        let _ = writer.join().expect("the writer doesn't panic");
        let run = Run {
            line,
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            took: started.elapsed(),
        };
        if !self.silent {
            eprintln!("{}", run.transcript());
        }
        run
    }

    /// The command as one would type it, without the directories that differ from run to run.
    fn line(&self) -> String {
        let program = Path::new(self.command.get_program()).file_name();
        let words = program.into_iter().chain(self.command.get_args());
        let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
        shlex::try_join(words.iter().map(AsRef::as_ref)).unwrap_or_else(|_| words.join(" "))
    }
}

/// A program that has run.
#[must_use = "assert how it ended"]
#[derive(Debug)]
pub(crate) struct Run {
    /// The command as one would type it.
    pub(crate) line: String,
    /// The exit code; `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

impl Run {
    /// Asserts that the program exited with 0.
    #[track_caller]
    pub(crate) fn success(&self) -> &Self {
        self.code(0)
    }

    /// Asserts the exit code.
    #[track_caller]
    pub(crate) fn code(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "unexpected exit code of {}", self.transcript());
        self
    }

    /// Reads what a program that succeeded printed as JSON.
    #[track_caller]
    pub(crate) fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_str(&self.success().stdout).expect("JSON on standard output")
    }

    /// Reads both outputs as a build log: builders differ in which one they write to.
    pub(crate) fn build_report(&self) -> BuildReport {
        BuildReport::parse(&format!("{}\n{}", self.stdout, self.stderr))
    }

    fn transcript(&self) -> String {
        let Self { line, code, stdout, stderr, took } = self;
        let code = code.map_or_else(|| "a signal".to_owned(), |code| code.to_string());
        let mut text = format!("$ {line}\n{stdout}{stderr}");
        if !text.ends_with('\n') {
            text.push('\n');
        }
        format!("{text}[{code} after {:.1} s]", took.as_secs_f64())
    }
}
