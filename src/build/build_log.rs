//! What a builder's log says of each step: taken from the cache, or executed.
//!
//! Reads BuildKit's `--progress=plain` and `--progress=rawjson`, and the classic builder's
//! output, line by line.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Nothing was said of its end: the build failed before.
    Unfinished,
    /// Taken from the cache.
    Cached,
    /// Run.
    Executed,
}

impl Outcome {
    /// What became of a step that is listed twice.
    fn of_both(self, other: Self) -> Self {
        match (self, other) {
            (Self::Cached, _) | (_, Self::Cached) => Self::Cached,
            (Self::Unfinished, _) | (_, Self::Unfinished) => Self::Unfinished,
            (Self::Executed, Self::Executed) => Self::Executed,
        }
    }
}

/// A step of a stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedStep {
    /// The stage's name, `stage-N` for one without, and empty in a Dockerfile of one stage.
    pub stage: String,
    /// Its place in the stage, counted from one as the builder counts; 0 if it does not say.
    #[serde(default)]
    pub place: u32,
    /// The instruction as the builder prints it.
    pub text: String,
    /// What became of it.
    pub outcome: Outcome,
}

impl LoggedStep {
    /// Whether this is the stage's base, not an instruction that runs.
    pub fn is_from(&self) -> bool {
        is_from(&self.text)
    }
}

/// A BuildKit log as it comes in.
#[derive(Clone, Debug, Default)]
pub struct BuildkitLog {
    steps: BTreeMap<usize, LoggedStep>,
    /// The numbers of the steps that `rawjson` names by digest.
    numbers: HashMap<String, usize>,
    /// A `rawjson` object that is not complete yet: buildx before 0.14 prints it in many lines.
    raw: String,
}

/// A line of `--progress=rawjson`.
#[derive(Deserialize)]
struct RawStatus {
    #[serde(default)]
    vertexes: Vec<RawVertex>,
}

#[derive(Deserialize)]
struct RawVertex {
    digest: String,
    name: String,
    #[serde(default)]
    cached: bool,
    #[serde(default)]
    completed: Option<String>,
    #[serde(default)]
    error: Option<String>,
}

impl BuildkitLog {
    /// Takes one line, without its end.
    pub fn line(&mut self, line: &str) {
        if line.starts_with('{') || !self.raw.is_empty() {
            self.raw_line(line);
            return;
        }
        let Some((number, rest)) = line.strip_prefix('#').and_then(|l| l.split_once(' ')) else {
            return;
        };
        let Ok(number) = number.parse::<usize>() else { return };
        if rest.starts_with('[') {
            self.named(number, rest);
        } else if let Some(step) = self.steps.get_mut(&number) {
            // The layers of a cached step may have to be fetched; it ends with `DONE` then. What a
            // command prints comes after a time, so it can't be taken for that.
            if rest == "CACHED" || is_fetch(rest) {
                step.outcome = Outcome::Cached;
            } else if rest.starts_with("DONE ") && step.outcome == Outcome::Unfinished {
                step.outcome = Outcome::Executed;
            }
        }
    }

    /// Takes a step's name, such as `[build 2/4] RUN make`.
    fn named(&mut self, number: usize, name: &str) {
        let Some((label, text)) = name.strip_prefix('[').and_then(|r| r.split_once("] ")) else {
            return;
        };
        if let Some((stage, at)) = stage_of(label) {
            self.steps.entry(number).or_insert_with(|| LoggedStep {
                stage: stage.to_owned(),
                place: at,
                text: text.to_owned(),
                outcome: Outcome::Unfinished,
            });
        }
    }

    fn raw_line(&mut self, line: &str) {
        self.raw.push_str(line);
        // Only an object's first and last line are not indented.
        if !(line.ends_with('}') && (line == "}" || line.starts_with('{'))) {
            return;
        }
        let text = std::mem::take(&mut self.raw);
        let Ok(status) = serde_json::from_str::<RawStatus>(&text) else { return };
        for vertex in status.vertexes {
            let next = self.numbers.len();
            let number = *self.numbers.entry(vertex.digest).or_insert(next);
            self.named(number, &vertex.name);
            let Some(step) = self.steps.get_mut(&number) else { continue };
            if vertex.cached {
                step.outcome = Outcome::Cached;
            } else if vertex.completed.is_some()
                && vertex.error.is_none_or(|e| e.is_empty())
                && step.outcome == Outcome::Unfinished
            {
                step.outcome = Outcome::Executed;
            }
        }
    }

    /// The steps in the order of their numbers.
    pub fn into_steps(mut self) -> Vec<LoggedStep> {
        self.correct_first_steps();
        let mut steps: Vec<LoggedStep> = Vec::new();
        for step in self.steps.into_values() {
            // `ADD` of a URL is two to the builder, of the same name: the download, which it always
            // begins, and the step.
            let is_same = |s: &&mut LoggedStep| {
                step.place != 0
                    && (&s.stage, s.place, &s.text) == (&step.stage, step.place, &step.text)
            };
            match steps.iter_mut().rev().find(is_same) {
                Some(same) => same.outcome = same.outcome.of_both(step.outcome),
                None => steps.push(step),
            }
        }
        steps
    }

    /// Corrects the first step of a stage on `scratch`: a step without input is reported as done
    /// when its cache key is known. If the next one is a hit, nothing has asked for its result.
    fn correct_first_steps(&mut self) {
        let idle: BTreeSet<String> = self
            .steps
            .values()
            .filter(|step| step.place == 2 && step.outcome == Outcome::Cached)
            .map(|step| step.stage.clone())
            .collect();
        for step in self.steps.values_mut() {
            // Nothing can run on `scratch`.
            let is_file = !step.is_from() && !step.text.to_ascii_uppercase().starts_with("RUN ");
            let done = step.outcome == Outcome::Executed;
            if step.place == 1 && is_file && done && idle.contains(&step.stage) {
                step.outcome = Outcome::Cached;
            }
        }
    }
}

/// Whether a line such as `extracting sha256:…`, `pulling sha256:…` or `sha256:… 1.2MB / 3.4MB` is
/// about a layer.
fn is_fetch(line: &str) -> bool {
    // A digest alone is the step's own: the client that is built into docker prints it.
    let fetched = line.starts_with("sha256:") && line.contains(' ');
    fetched || line.starts_with("extracting sha256:") || line.starts_with("pulling sha256:")
}

/// The stage in a label such as `linux/amd64 build 2/4`, `build 2/4` or `2/4`, and the place in it;
/// `None` for other labels, such as `internal`.
pub(crate) fn stage_of(label: &str) -> Option<(&str, u32)> {
    let (before, count) = label.rsplit_once(' ').unwrap_or(("", label));
    let (at, of) = count.split_once('/')?;
    of.parse::<u32>().ok()?;
    Some((before.rsplit(' ').next().unwrap_or_default(), at.parse().ok()?))
}

/// A step of the classic builder, with the image that it gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassicStep {
    /// The instruction as the builder prints it.
    pub text: String,
    /// The image after the step: the first 12 digits of its ID. Empty until it is known.
    pub image: String,
    /// Whether it came from the cache, with all triggers.
    pub cached: bool,
    /// The `ONBUILD` instructions of its base that a `FROM` has executed.
    #[serde(default)]
    pub triggers: usize,
}

impl ClassicStep {
    /// Whether a stage begins with it.
    pub fn is_from(&self) -> bool {
        is_from(&self.text)
    }
}

/// The classic builder's log as it comes in.
#[derive(Clone, Debug, Default)]
pub struct ClassicLog {
    steps: Vec<ClassicStep>,
    /// How many times the last step's result came from the cache: once for each trigger.
    hits: usize,
}

impl ClassicLog {
    /// Takes one line, without its end.
    pub fn line(&mut self, line: &str) {
        if let Some(text) = line.strip_prefix("Step ").and_then(|l| l.split_once(" : ")) {
            // An `ARG` before the first stage is listed, but neither run nor cached.
            if is_from(text.1) || !self.steps.is_empty() {
                self.hits = 0;
                self.steps.push(ClassicStep {
                    text: text.1.to_owned(),
                    image: String::new(),
                    cached: false,
                    triggers: 0,
                });
            }
            return;
        }
        let Some(step) = self.steps.last_mut() else { return };
        if let Some(count) = line.strip_prefix("# Executing ").filter(|_| step.is_from()) {
            let count = count.split(' ').next().and_then(|n| n.parse().ok());
            step.triggers = count.unwrap_or_default();
            return;
        }
        match line.strip_prefix(" ---> ") {
            Some("Using cache") => {
                self.hits += 1;
                step.cached = self.hits >= step.triggers;
            }
            Some(id) if is_image_id(id) => id.clone_into(&mut step.image),
            _ => {}
        }
    }

    /// The steps in order; a stage begins with each `FROM`.
    pub fn steps(&self) -> &[ClassicStep] {
        &self.steps
    }

    /// The steps as BuildKit's log would give them; stages are numbered.
    pub fn logged_steps(&self) -> Vec<LoggedStep> {
        let mut stage = 0;
        let mut begun = false;
        self.steps
            .iter()
            .map(|step| {
                let mut logged = LoggedStep {
                    stage: String::new(),
                    place: 0,
                    text: step.text.clone(),
                    outcome: match (step.cached, step.image.is_empty()) {
                        (true, _) => Outcome::Cached,
                        (false, true) => Outcome::Unfinished,
                        (false, false) => Outcome::Executed,
                    },
                };
                if logged.is_from() {
                    stage += usize::from(begun);
                    begun = true;
                }
                logged.stage = format!("stage-{stage}");
                logged
            })
            .collect()
    }
}

pub(crate) fn is_from(text: &str) -> bool {
    text.get(..5).is_some_and(|t| t.eq_ignore_ascii_case("FROM "))
}

fn is_image_id(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buildkit_steps_are_told_apart_from_their_output() {
        let mut log = BuildkitLog::default();
        for line in [
            "#1 [internal] load build definition from Dockerfile",
            "#1 DONE 0.0s",
            "#5 [build 1/3] FROM docker.io/library/busybox:1",
            "#5 DONE 0.0s",
            "#6 [build 2/3] RUN make all",
            "#6 sha256:263f6bf5877a9979d99c035a8d9ea395",
            "#6 0.312 CACHED",
            "#6 DONE 1.2s",
            "#7 [stage-1 2/2] COPY --from=build /a /a",
            "#7 CACHED",
            "#8 [linux/arm64 build 3/3] RUN [ -e /x ] && echo",
            "#8 ERROR: process failed",
            "#9 [build 4/4] RUN strip",
            "#9 sha256:eccc6d10619287a9ce01be24dc5ad140 104B / 104B done",
            "#9 extracting sha256:eccc6d10619287a9ce01be24dc5ad140 done",
            "#9 DONE 0.1s",
            "#10 exporting to image",
            "#10 DONE 0.1s",
        ] {
            log.line(line);
        }
        let steps: Vec<_> =
            log.into_steps().into_iter().map(|s| (s.stage, s.text, s.outcome)).collect();
        let step = |s: &str, t: &str, o| (s.to_owned(), t.to_owned(), o);
        assert_eq!(
            steps,
            [
                step("build", "FROM docker.io/library/busybox:1", Outcome::Executed),
                step("build", "RUN make all", Outcome::Executed),
                step("stage-1", "COPY --from=build /a /a", Outcome::Cached),
                step("build", "RUN [ -e /x ] && echo", Outcome::Unfinished),
                step("build", "RUN strip", Outcome::Cached),
            ]
        );
    }

    /// Found by `prediction::docker_26_1` with the seed 652291466.
    #[test]
    fn the_first_step_on_scratch_is_done_before_it_is_known_to_be_a_hit() {
        let outcome = |second: &str| {
            let mut log = BuildkitLog::default();
            for line in ["#4 [a 1/2] WORKDIR /x", "#4 DONE 0.0s", "#7 [a 2/2] COPY a /a", second] {
                log.line(line);
            }
            log.into_steps().swap_remove(0).outcome
        };
        assert_eq!(outcome("#7 CACHED"), Outcome::Cached);
        assert_eq!(outcome("#7 DONE 0.0s"), Outcome::Executed);
    }

    #[test]
    fn raw_json_says_the_same() {
        let mut log = BuildkitLog::default();
        for line in [
            r#"{"vertexes":[{"digest":"sha256:1","name":"[internal] load metadata"}]}"#,
            r#"{"vertexes":[{"digest":"sha256:2","name":"[a 1/2] RUN x","started":"t"}]}"#,
            r#"{"vertexes":[{"digest":"sha256:2","name":"[a 1/2] RUN x","completed":"t"}]}"#,
            r#"{"vertexes":[{"digest":"sha256:3","name":"[a 2/2] RUN y","completed":"t","cached":true}]}"#,
            r#"{"vertexes":[{"digest":"sha256:4","name":"[b 1/1] RUN z","completed":"t","error":"no"}]}"#,
            r#"{"logs":[{"vertex":"sha256:2","data":"e30="}]}"#,
            "{",
            r#"  "vertexes": [{"digest":"sha256:5","name":"[b 2/2] RUN {}","#,
            r#"    "completed":"t","cached":true}"#,
            "  ]",
            "}",
        ] {
            log.line(line);
        }
        let outcomes: Vec<_> = log.into_steps().into_iter().map(|s| (s.stage, s.outcome)).collect();
        let step = |stage: &str, outcome| (stage.to_owned(), outcome);
        assert_eq!(
            outcomes,
            [
                step("a", Outcome::Executed),
                step("a", Outcome::Cached),
                step("b", Outcome::Unfinished),
                step("b", Outcome::Cached),
            ]
        );
    }

    #[test]
    fn a_classic_log_names_the_image_of_each_step() {
        let mut log = ClassicLog::default();
        for line in [
            "Step 1/4 : FROM busybox:1 AS a",
            " ---> 0123456789ab",
            "Step 2/4 : RUN echo ' ---> Using cache'",
            " ---> Running in ffffffffffff",
            " ---> Using cache?",
            "Removing intermediate container ffffffffffff",
            " ---> aaaaaaaaaaaa",
            "Step 3/4 : FROM a",
            " ---> aaaaaaaaaaaa",
            "Step 4/4 : COPY --from=a /x /x",
            " ---> Using cache",
            " ---> bbbbbbbbbbbb",
            "Successfully built bbbbbbbbbbbb",
        ] {
            log.line(line);
        }
        let images: Vec<_> = log.steps().iter().map(|s| s.image.as_str()).collect();
        assert_eq!(images, ["0123456789ab", "aaaaaaaaaaaa", "aaaaaaaaaaaa", "bbbbbbbbbbbb"]);
        let logged = log.logged_steps();
        assert_eq!(logged[1].outcome, Outcome::Executed);
        assert_eq!((logged[3].stage.as_str(), logged[3].outcome), ("stage-1", Outcome::Cached));
    }

    #[test]
    fn a_classic_log_tells_triggers_and_global_arguments_from_steps() {
        let mut log = ClassicLog::default();
        for line in [
            "Step 1/3 : ARG BASE=busybox",
            "Step 2/3 : FROM ${BASE} AS a",
            "# Executing 2 build triggers",
            " ---> Using cache",
            " ---> Running in ffffffffffff",
            " ---> aaaaaaaaaaaa",
            "Step 3/3 : FROM ${BASE}",
            "# Executing 1 build trigger",
            " ---> Using cache",
            " ---> bbbbbbbbbbbb",
        ] {
            log.line(line);
        }
        let steps: Vec<_> = log.steps().iter().map(|s| (s.triggers, s.cached)).collect();
        assert_eq!(steps, [(2, false), (1, true)]);
    }
}
