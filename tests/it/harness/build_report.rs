//! What a build did, read from its log.
//!
//! Understands BuildKit's `--progress=plain` and the classic builder's log. `FROM` is no step here:
//! builders report it differently, and nothing runs.

use std::collections::{BTreeMap, BTreeSet};

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The builder took the result from its cache.
    Cached,
    /// The builder executed it.
    Ran,
    /// It was executed and failed.
    Failed,
    /// It was under way when another step failed, or never came to an end.
    Unfinished,
}

/// One instruction of the Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// The stage's name, or `stage-N` (BuildKit leaves it empty when there is but one stage).
    pub(crate) stage: String,
    /// The instruction as the builder prints it.
    pub(crate) instruction: String,
    pub(crate) outcome: Outcome,
}

/// The steps of a build, in the order in which the log first names them.
#[derive(Debug, Default)]
pub(crate) struct BuildReport {
    pub(crate) steps: Vec<Step>,
    /// The digests of the blobs that BuildKit read from a cache or a registry.
    pub(crate) pulled: BTreeSet<String>,
}

impl BuildReport {
    pub(crate) fn parse(log: &str) -> Self {
        let mut report = Self::default();
        report.read_classic(log);
        if report.steps.is_empty() {
            report.read_buildkit(log);
        }
        report
    }

    /// The instructions that were cached, sorted.
    pub(crate) fn cached(&self) -> Vec<&str> {
        self.with(Outcome::Cached)
    }

    /// The instructions that were executed, sorted.
    pub(crate) fn ran(&self) -> Vec<&str> {
        self.with(Outcome::Ran)
    }

    /// The instructions that ended so, sorted: BuildKit's own order changes from run to run.
    pub(crate) fn with(&self, outcome: Outcome) -> Vec<&str> {
        let steps = self.steps.iter().filter(|step| step.outcome == outcome);
        let mut instructions: Vec<_> = steps.map(|step| step.instruction.as_str()).collect();
        instructions.sort_unstable();
        instructions
    }

    /// Asserts that there were steps and that none was executed.
    #[track_caller]
    pub(crate) fn assert_all_cached(&self) {
        assert!(!self.steps.is_empty(), "the log names no step");
        let missed: Vec<_> = self.steps.iter().filter(|s| s.outcome != Outcome::Cached).collect();
        assert!(missed.is_empty(), "not cached: {missed:#?}");
    }

    fn read_buildkit(&mut self, log: &str) {
        let mut step_of: BTreeMap<u32, usize> = BTreeMap::new();
        for line in log.lines() {
            let Some((number, rest)) = line.strip_prefix('#').and_then(|l| l.split_once(' '))
            else {
                continue;
            };
            let Ok(number) = number.parse::<u32>() else {
                continue;
            };
            if let Some(digest) = pulled_blob(rest) {
                self.pulled.insert(digest.to_owned());
            }
            if let Some((stage, instruction)) = buildkit_step(rest) {
                // A header is printed again when another step's lines came in between.
                step_of.entry(number).or_insert_with(|| {
                    self.steps.push(Step {
                        stage: stage.to_owned(),
                        instruction: instruction.to_owned(),
                        outcome: Outcome::Unfinished,
                    });
                    self.steps.len() - 1
                });
                continue;
            }
            let Some(step) = step_of.get(&number).map(|&index| &mut self.steps[index]) else {
                continue;
            };
            match rest.split([' ', ':']).next() {
                // The layers of a cached step may have to be fetched; it ends with `DONE`.
                Some("CACHED" | "extracting") => step.outcome = Outcome::Cached,
                // A digest alone is the step's own, which an old client prints.
                Some("sha256") if rest.contains(' ') => step.outcome = Outcome::Cached,
                Some("DONE") if step.outcome != Outcome::Cached => step.outcome = Outcome::Ran,
                Some("ERROR") => step.outcome = Outcome::Failed,
                _ => {}
            }
        }
    }

    fn read_classic(&mut self, log: &str) {
        let mut stages = 0;
        let mut stage = String::new();
        let mut in_step = false;
        for line in log.lines() {
            if let Some(instruction) = classic_step(line) {
                self.finish_classic();
                let words: Vec<_> = instruction.split_whitespace().collect();
                in_step = !words[0].eq_ignore_ascii_case("FROM");
                if in_step && stages == 0 {
                    // An `ARG` before the first stage is listed, but neither run nor cached.
                    in_step = false;
                    continue;
                }
                if in_step {
                    self.steps.push(Step {
                        stage: stage.clone(),
                        instruction: instruction.to_owned(),
                        outcome: Outcome::Unfinished,
                    });
                } else {
                    stage = match words[..] {
                        [.., word, name] if word.eq_ignore_ascii_case("AS") => name.to_owned(),
                        _ => format!("stage-{stages}"),
                    };
                    stages += 1;
                }
            } else if in_step && line.trim() == "---> Using cache" {
                self.steps.last_mut().expect("a step").outcome = Outcome::Cached;
            } else if line.starts_with("Successfully built ") {
                self.finish_classic();
                in_step = false;
            }
        }
    }

    /// The builder has come past the last step: it succeeded.
    fn finish_classic(&mut self) {
        if let Some(step) = self.steps.last_mut()
            && step.outcome == Outcome::Unfinished
        {
            step.outcome = Outcome::Ran;
        }
    }
}

/// Splits `[build 3/4] RUN make` into its stage and instruction.
fn buildkit_step(header: &str) -> Option<(&str, &str)> {
    let (label, instruction) = header.strip_prefix('[')?.split_once("] ")?;
    let (stage, position) = label.rsplit_once(' ').unwrap_or(("", label));
    let (index, count) = position.split_once('/')?;
    index.parse::<u32>().ok()?;
    count.parse::<u32>().ok()?;
    let is_from = instruction.starts_with("FROM ");
    (!is_from).then_some((stage, instruction))
}

/// The digest in `sha256:… 1.2MB / 3.4MB 0.2s done`, or in the graph driver's `pulling sha256:…`.
fn pulled_blob(line: &str) -> Option<&str> {
    let words: Vec<_> = line.split(' ').collect();
    match words[..] {
        ["pulling", digest, ..] | [digest, _, "/", ..] if digest.starts_with("sha256:") => {
            Some(digest)
        }
        _ => None,
    }
}

/// The instruction in `Step 3/7 : COPY a b`.
fn classic_step(line: &str) -> Option<&str> {
    let (position, instruction) = line.strip_prefix("Step ")?.split_once(" : ")?;
    let (index, count) = position.split_once('/')?;
    index.parse::<u32>().ok()?;
    count.parse::<u32>().ok()?;
    Some(instruction.trim())
}

#[test]
fn reads_a_buildkit_log() {
    let report = BuildReport::parse(
        "#0 building with \"default\" instance using docker driver\n\
         #2 [internal] load metadata for docker.io/library/busybox:1\n\
         #2 DONE 0.0s\n\
         #4 [a 1/3] FROM docker.io/library/busybox:1\n\
         #4 DONE 0.0s\n\
         #5 [a 2/3] RUN one\n\
         #5 0.131 CACHED\n\
         #6 [stage-1 2/4] COPY x y\n\
         #6 CACHED\n\
         #5 [a 2/3] RUN one\n\
         #5 DONE 0.1s\n\
         #7 [stage-1 3/4] COPY --from=a /x /y\n\
         #7 sha256:abc 0B / 32B 0.1s\n\
         #7 sha256:abc 32B / 32B 0.2s done\n\
         #7 pulling sha256:def 0.1s done\n\
         #7 CACHED\n\
         #8 [stage-1 4/4] RUN false\n\
         #8 ERROR: process \"/bin/sh -c false\" did not complete successfully\n\
         #9 [a 3/3] RUN sleep 9\n\
         #9 CANCELED\n",
    );
    assert_eq!(report.ran(), ["RUN one"]);
    assert_eq!(report.cached(), ["COPY --from=a /x /y", "COPY x y"]);
    assert_eq!(report.with(Outcome::Failed), ["RUN false"]);
    assert_eq!(report.with(Outcome::Unfinished), ["RUN sleep 9"]);
    assert_eq!(report.steps[0].stage, "a");
    assert_eq!(report.steps[1].stage, "stage-1");
    assert_eq!(report.pulled.iter().collect::<Vec<_>>(), ["sha256:abc", "sha256:def"]);
}

#[test]
fn reads_a_classic_log() {
    let report = BuildReport::parse(
        "Sending build context to Docker daemon  9.728kB\n\
         Step 1/6 : FROM busybox:1 AS a\n ---> 9fd372195bc7\n\
         Step 2/6 : WORKDIR /src\n ---> Using cache\n ---> 0324264998df\n\
         Step 3/6 : RUN id\n ---> Running in 52475c49952d\nuid=0(root)\n ---> bc3bebdcab04\n\
         Step 4/6 : FROM busybox:1\n ---> 9fd372195bc7\n\
         Step 5/6 : COPY --from=a /x /y\n ---> f70d9810854a\n\
         Step 6/6 : RUN false\n ---> Running in 947e31c8cc2e\n\
         The command '/bin/sh -c false' returned a non-zero code: 1\n",
    );
    assert_eq!(report.cached(), ["WORKDIR /src"]);
    assert_eq!(report.ran(), ["COPY --from=a /x /y", "RUN id"]);
    assert_eq!(report.with(Outcome::Unfinished), ["RUN false"]);
    assert_eq!(report.steps[0].stage, "a");
    assert_eq!(report.steps[2].stage, "stage-1");
}
