//! What the builder did with each step, by its own word.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::harness::{BuildReport, Engine, Outcome};

/// A step by its stage, as the builder calls it, and how many of its steps come after it; with the
/// classic builder, how many came before it in the whole build.
pub(super) type Place = (String, usize);

/// What became of a build.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) succeeded: bool,
    /// Whether each step was a hit.
    pub(super) steps: BTreeMap<Place, bool>,
    pub(super) log: String,
}

/// One object of `--progress=rawjson`.
#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    vertexes: Option<Vec<Vertex>>,
}

#[derive(Deserialize)]
struct Vertex {
    name: String,
    #[serde(default)]
    inputs: Option<Vec<String>>,
    #[serde(default)]
    cached: bool,
    started: Option<String>,
    completed: Option<String>,
    #[serde(default)]
    error: String,
}

/// All that was told of one step.
#[derive(Default)]
struct Told {
    cached: bool,
    ended: bool,
    has_inputs: bool,
    started: BTreeSet<String>,
}

impl Told {
    fn add(&mut self, vertex: Vertex) {
        // A step of two builds at once, or one whose layer is fetched, is told of twice.
        self.cached |= vertex.cached;
        self.ended |= vertex.completed.is_some() && vertex.error.is_empty();
        self.has_inputs |= vertex.inputs.is_some_and(|inputs| !inputs.is_empty());
        self.started.extend(vertex.started);
    }

    /// Whether the step was a hit; nothing if the builder did not come to it.
    ///
    /// A step without input, such as the first one on `scratch`, starts and ends once when its cache
    /// key is computed, and again if it runs. If all steps on it are hits nothing more is told of it.
    fn is_hit(&self) -> Option<bool> {
        let has_only_its_key = !self.has_inputs && self.started.len() == 1;
        (self.ended || self.cached).then_some(self.cached || has_only_its_key)
    }
}

/// Builds with BuildKit, whose own record of each step is read.
pub(super) fn buildkit(engine: &Engine, arguments: &[String]) -> Built {
    let run = engine
        .docker(["buildx", "build", "--progress=rawjson", "--output=type=cacheonly"])
        .args(arguments.iter().map(String::as_str))
        .silently()
        .run();
    let mut told: BTreeMap<Place, Told> = BTreeMap::new();
    // One object after the other, on one line or on many; last comes a message if it failed.
    let objects = serde_json::Deserializer::from_str(&run.stderr).into_iter::<Status>();
    for status in objects.map_while(Result::ok) {
        for vertex in status.vertexes.into_iter().flatten() {
            if let Some(place) = place(&vertex.name) {
                told.entry(place).or_default().add(vertex);
            }
        }
    }
    let steps =
        told.into_iter().filter_map(|(place, told)| Some((place, told.is_hit()?))).collect();
    Built { succeeded: run.code == Some(0), steps, log: format!("{}{}", run.stdout, run.stderr) }
}

/// The place in a name such as `[build 2/4] RUN make`. `FROM` is no step: it has a number, but not
/// where it names a stage, which is why numbers are taken from the end.
fn place(name: &str) -> Option<Place> {
    let (label, instruction) = name.strip_prefix('[')?.split_once("] ")?;
    let (stage, number) = label.rsplit_once(' ').unwrap_or(("", label));
    let (at, count) = number.split_once('/')?;
    let (at, count): (usize, usize) = (at.parse().ok()?, count.parse().ok()?);
    let stage = stage.rsplit(' ').next().unwrap_or_default();
    (!instruction.starts_with("FROM ")).then(|| (stage.to_owned(), count - at))
}

/// Builds with the classic builder, which numbers all instructions in the order of the file.
pub(super) fn classic(engine: &Engine, arguments: &[String]) -> Built {
    let run = engine
        .docker(["build"])
        .args(arguments.iter().map(String::as_str))
        .env("DOCKER_BUILDKIT", "0")
        .silently()
        .run();
    let report: BuildReport = run.build_report();
    let steps = report
        .steps
        .iter()
        // Before the first stage there are arguments, which make no step.
        .filter(|step| !step.stage.is_empty())
        .filter(|step| matches!(step.outcome, Outcome::Cached | Outcome::Ran))
        .enumerate()
        .map(|(at, step)| ((String::new(), at), step.outcome == Outcome::Cached))
        .collect();
    Built { succeeded: run.code == Some(0), steps, log: format!("{}{}", run.stdout, run.stderr) }
}
