//! Builds again what is cached, and nothing else.
//!
//! A build is repeated to get at its cache. It must never run a step: by then the builder may know
//! less than it did, or the context may have changed, and what it would make is not what was built.
//! So the builder's events are followed, and the first step that would run ends the repetition.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::ops::ControlFlow;
use std::time::Duration;

use serde::Deserialize;

use crate::build::build_log::{is_from, stage_of};
use crate::engine::Engine;
use crate::engine::client::run::{self, Echo, Ended, Input, Patience, Stream};
use crate::engine::error::EngineError;

/// How long a builder may say nothing before it is given up, although its engine answers: it says
/// nothing while it compresses a layer.
const PATIENCE: Duration = Duration::from_mins(3);

/// How a repetition ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repeated {
    /// Every step was cached, and the result is where it was wanted.
    Cached,
    /// Every step was cached, and the builder began to fetch these blobs of the cache that it was
    /// offered, at which it was stopped.
    Fetching(String),
    /// This step would have run.
    WouldRun(String),
    /// It failed, for this reason.
    Failed(String),
}

/// How a build is repeated.
pub struct Repetition<'a> {
    /// The engine, and its client.
    pub engine: &'a Engine,
    /// What `BUILDX_BUILDER` is set to, if to anything.
    pub builder: Option<&'a str>,
    /// What the build reads from standard input.
    pub input: Option<&'a File>,
    /// Whether to stop where the builder fetches a layer of the cache that it was offered: it
    /// has none of its own then.
    pub stops_at_fetch: bool,
}

impl Repetition<'_> {
    /// Builds with these arguments, among which none is about progress.
    pub fn run(&self, words: &[OsString]) -> Result<Repeated, EngineError> {
        let client = &self.engine.client;
        let form = if client.has_buildx() { "rawjson" } else { "plain" };
        let mut all: Vec<OsString> = vec![format!("--progress={form}").into()];
        all.extend_from_slice(words);
        let command = run::buildkit_command(client, &all, self.builder);
        let input = match self.input {
            Some(file) => Input::File(from_start(file)?),
            None => Input::None,
        };
        let mut watch = Watch::default();
        let mut verdict = None;
        let is_alive = || self.engine.connection.answers();
        let patience = Patience { silence: PATIENCE, is_alive: &is_alive };
        let ended = run::run(
            client,
            command,
            Stream::Stderr,
            Echo::Hidden,
            input,
            Some(&patience),
            &mut |line| {
                verdict = match watch.line(line) {
                    Some(Sign::Runs(step)) => Some(Repeated::WouldRun(step)),
                    Some(Sign::Fetches(blob)) if self.stops_at_fetch => {
                        Some(Repeated::Fetching(blob))
                    }
                    _ => return ControlFlow::Continue(()),
                };
                ControlFlow::Break(())
            },
        )?;
        Ok(match (verdict, ended) {
            (Some(verdict), _) => verdict,
            (None, Ended::Itself(status, _)) if status.success() => Repeated::Cached,
            (None, Ended::Itself(_, tail)) => Repeated::Failed(run::reason(&tail)),
            (None, _) => Repeated::Failed("the builder, or its engine, answers no more".to_owned()),
        })
    }
}

fn from_start(file: &File) -> Result<File, EngineError> {
    let again = EngineError::io("read the build's input again");
    // A descriptor of its own, but one position in the file: no two repetitions run at once.
    let rewound = file.try_clone().and_then(|mut file| {
        std::io::Seek::rewind(&mut file)?;
        Ok(file)
    });
    rewound.map_err(again)
}

/// What an event may be a sign of.
#[derive(Debug, PartialEq, Eq)]
enum Sign {
    /// A step runs.
    Runs(String),
    /// A layer is fetched.
    Fetches(String),
}

/// Follows `--progress=rawjson`, or `--progress=plain` of a client without buildx.
#[derive(Debug, Default)]
struct Watch {
    /// An object that is not complete yet: buildx before 0.14 prints it in many lines.
    raw: String,
    /// The digests of the vertexes that are steps: what is fetched for others is no cache.
    steps: HashSet<String>,
    /// Of `plain`: the step that was named last, by its number.
    named: Option<(String, String)>,
}

#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    vertexes: Vec<Vertex>,
    #[serde(default)]
    statuses: Vec<Status>,
}

#[derive(Deserialize)]
struct Vertex {
    digest: String,
    name: String,
    #[serde(default)]
    inputs: Option<Vec<String>>,
    #[serde(default)]
    started: Option<String>,
    #[serde(default)]
    cached: bool,
    #[serde(default)]
    error: Option<String>,
}

#[derive(Deserialize)]
struct Status {
    id: String,
    vertex: String,
}

impl Vertex {
    /// The step, if it runs. One without inputs (a download, a directory on `scratch`) is begun
    /// to find out what it is.
    fn runs(&self) -> Option<&str> {
        let begun = self.started.is_some() && !self.cached;
        let has_inputs = self.inputs.as_ref().is_some_and(|inputs| !inputs.is_empty());
        let failed = self.error.as_ref().is_some_and(|error| !error.is_empty());
        step_in(&self.name).filter(|_| begun && has_inputs && !failed)
    }
}

/// The instruction in a vertex's name, such as `[build 2/4] RUN make`.
fn step_in(name: &str) -> Option<&str> {
    let (label, text) = name.strip_prefix('[')?.split_once("] ")?;
    (stage_of(label).is_some() && !is_from(text)).then_some(text)
}

/// The blob that a status such as `pulling sha256:…`, `extracting sha256:…` or `sha256:…` is about.
fn fetched(id: &str) -> Option<&str> {
    let id = id.strip_prefix("pulling ").or_else(|| id.strip_prefix("extracting ")).unwrap_or(id);
    id.starts_with("sha256:").then_some(id)
}

impl Watch {
    /// Takes one line, without its end.
    fn line(&mut self, line: &str) -> Option<Sign> {
        if line.starts_with('{') || !self.raw.is_empty() {
            return self.raw_line(line);
        }
        let (number, rest) = line.strip_prefix('#')?.split_once(' ')?;
        if let Some(step) = step_in(rest) {
            self.named = Some((number.to_owned(), step.to_owned()));
            return None;
        }
        let (named, step) = self.named.as_ref()?;
        if named != number || rest == "CACHED" || rest.starts_with("sha256:") {
            return None;
        }
        let is_output = rest.as_bytes().first().is_some_and(u8::is_ascii_digit);
        (is_output || rest.starts_with("DONE")).then(|| Sign::Runs(step.clone()))
    }

    fn raw_line(&mut self, line: &str) -> Option<Sign> {
        self.raw.push_str(line);
        // Only an object's first and last line are not indented.
        if !(line.ends_with('}') && (line == "}" || line.starts_with('{'))) {
            return None;
        }
        let event: Event = serde_json::from_str(&std::mem::take(&mut self.raw)).ok()?;
        let steps = event.vertexes.iter().filter(|vertex| step_in(&vertex.name).is_some());
        self.steps.extend(steps.map(|vertex| vertex.digest.clone()));
        let runs = event.vertexes.iter().find_map(Vertex::runs);
        let of_steps = || event.statuses.iter().filter(|s| self.steps.contains(&s.vertex));
        let fetches = || of_steps().find_map(|status| fetched(&status.id));
        runs.map(|step| Sign::Runs(step.to_owned()))
            .or_else(|| fetches().map(|blob| Sign::Fetches(blob.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sign(lines: &[&str]) -> Option<Sign> {
        let mut watch = Watch::default();
        lines.iter().find_map(|line| watch.line(line))
    }

    #[test]
    fn a_step_that_runs_is_told_from_one_that_is_cached() {
        let vertex = |rest: &str| {
            format!(
                r#"{{"vertexes":[{{"digest":"sha256:1","name":"[build 2/3] RUN make"{rest}}}]}}"#
            )
        };
        for idle in [
            "",
            r#","inputs":["sha256:0"]"#,
            r#","inputs":["sha256:0"],"started":"t","cached":true"#,
            r#","inputs":["sha256:0"],"started":"t","completed":"t","cached":true"#,
            // It has only been looked at.
            r#","started":"t""#,
        ] {
            assert_eq!(sign(&[&vertex(idle)]), None, "{idle}");
        }
        let runs = Some(Sign::Runs("RUN make".to_owned()));
        assert_eq!(sign(&[&vertex(r#","inputs":["sha256:0"],"started":"t""#)]), runs);
        let done = r#","inputs":["sha256:0"],"started":"t","completed":"t""#;
        assert_eq!(sign(&[&vertex(done)]), runs);
    }

    #[test]
    fn what_belongs_to_no_step_may_run() {
        for name in ["[internal] load build context", "exporting to image", "[a 1/2] FROM bb:1"] {
            let line = format!(
                r#"{{"vertexes":[{{"digest":"d","name":"{name}","inputs":["x"],"started":"t"}}]}}"#
            );
            assert_eq!(sign(&[&line]), None, "{name}");
        }
    }

    #[test]
    fn a_layer_that_is_fetched_is_seen_whatever_the_builder_calls_it() {
        let vertexes = r#"{"vertexes":[{"digest":"step","name":"[a 2/2] RUN make"},
            {"digest":"base","name":"[a 1/2] FROM bb:1"}]}"#;
        let vertexes = vertexes.replace('\n', "");
        let sign = |id: &str, vertex: &str| {
            let line = format!(r#"{{"statuses":[{{"id":"{id}","vertex":"{vertex}"}}]}}"#);
            sign(&[&vertexes, &line])
        };
        for id in ["pulling sha256:ab", "extracting sha256:ab", "sha256:ab"] {
            assert_eq!(sign(id, "step"), Some(Sign::Fetches("sha256:ab".to_owned())), "{id}");
            assert_eq!(sign(id, "base"), None, "{id}");
        }
        assert_eq!(sign("transferring context:", "step"), None);
    }

    #[test]
    fn an_old_clients_log_says_the_same() {
        let named = "#6 [build 2/3] RUN make";
        assert_eq!(sign(&[named, "#6 sha256:ab", "#6 CACHED"]), None);
        assert_eq!(sign(&[named, "#7 DONE 0.1s"]), None);
        for runs in ["#6 0.212 cc -c x.c", "#6 DONE 0.3s"] {
            assert_eq!(sign(&[named, runs]), Some(Sign::Runs("RUN make".to_owned())), "{runs}");
        }
    }
}
