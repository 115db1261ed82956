//! Compares a project with the notes of an archive, step by step.

use std::collections::{BTreeMap, HashSet};

use super::cause::{Cause, Change};
use super::{files, notes};
use crate::archive::{About, BaseAbout, StageAbout, StepAbout};
use crate::predict::project::Project;
use crate::predict::{StageDigest, StepDigest};

/// What will become of each step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// The stages, dependencies first.
    pub stages: Vec<ExplainedStage>,
}

/// A stage of the project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedStage {
    /// Its name, or `stage-N`.
    pub name: String,
    /// The build that it is a stage of, where several are explained.
    pub build: String,
    /// The steps that the builder runs or takes from its cache.
    pub steps: Vec<ExplainedStep>,
}

/// A step of the project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedStep {
    /// Where it stands.
    pub line: usize,
    /// The instruction, shortened.
    pub text: String,
    /// Why it is a miss; none if it is a hit.
    pub cause: Option<Cause>,
}

impl Explanation {
    /// How many steps are hits.
    pub fn hits(&self) -> usize {
        self.steps().filter(|step| step.cause.is_none()).count()
    }

    /// How many steps are misses.
    pub fn misses(&self) -> usize {
        self.steps().filter(|step| step.cause.is_some()).count()
    }

    /// The first miss.
    pub fn first_miss(&self) -> Option<(&ExplainedStep, &Cause)> {
        self.steps().find_map(|step| Some((step, step.cause.as_ref()?)))
    }

    /// Two lines: how many steps hit, and why the first one does not.
    pub fn summary(&self) -> [String; 2] {
        let (hits, misses) = (self.hits(), self.misses());
        match self.first_miss() {
            None => [
                format!("explain: all {hits} steps are in the archive"),
                "explain: nothing that counts has changed".to_owned(),
            ],
            Some((step, cause)) => [
                format!(
                    "explain: {hits} of {} steps are in the archive; the first that is not is \
                     line {}, `{}`",
                    hits + misses,
                    step.line,
                    step.text
                ),
                format!("explain: {cause}"),
            ],
        }
    }

    fn steps(&self) -> impl Iterator<Item = &ExplainedStep> {
        self.stages.iter().flat_map(|stage| &stage.steps)
    }
}

/// Compares a project, read with its files, with the archive that `old` tells of. Where that holds
/// a build of the name `build`, causes are looked for in it alone.
pub fn explain(old: &About, build: Option<&str>, project: &Project) -> Explanation {
    let known: HashSet<&str> =
        old.stages.iter().flat_map(|s| &s.steps).map(|s| s.digest.as_str()).collect();
    let of_build = old.stages.iter().filter(|s| Some(s.build.as_str()) == build);
    let mut counterparts: Vec<&StageAbout> = of_build.collect();
    if counterparts.is_empty() {
        counterparts.extend(&old.stages);
    }
    let stages = project.stages.iter().zip(&project.bases);
    let mut explained = Vec::new();
    // Names of stages that have a miss: what stands on them or copies from them has one, too.
    let mut changed: Vec<String> = Vec::new();
    for (stage, base) in stages {
        let name = stage.name.clone().unwrap_or_else(|| format!("stage-{}", stage.index));
        let comparison = Comparison {
            project,
            known: &known,
            old: counterpart(&counterparts, stage, &name),
            changed: &changed,
        };
        let steps = comparison.stage(stage, base);
        if steps.iter().any(|step| step.cause.is_some()) || comparison.moved(base) {
            changed.push(name.clone());
        }
        explained.push(ExplainedStage { name, build: String::new(), steps });
    }
    Explanation { stages: explained }
}

/// The stage as it was: by its name, or by any step that is the same.
fn counterpart<'a>(
    old: &[&'a StageAbout],
    stage: &StageDigest,
    name: &str,
) -> Option<&'a StageAbout> {
    let named = old.iter().find(|about| about.name == name);
    named.or_else(|| old.iter().find(|about| shares_step(about, stage))).copied()
}

/// Whether a step of the stage is one that the archive tells of.
pub(crate) fn shares_step(about: &StageAbout, stage: &StageDigest) -> bool {
    let mut steps = about.steps.iter().map(|step| step.digest.as_str());
    steps.any(|digest| stage.steps.iter().any(|s| s.is_layer && s.digest == digest))
}

/// One stage, then and now.
struct Comparison<'a> {
    project: &'a Project,
    known: &'a HashSet<&'a str>,
    old: Option<&'a StageAbout>,
    changed: &'a [String],
}

impl Comparison<'_> {
    /// Whether the base is another one than it was, by what is known of it.
    fn moved(&self, base: &BaseAbout) -> bool {
        let was = self.old.and_then(|old| old.base.as_ref());
        self.changed.contains(&base.name)
            || was.is_some_and(|was| {
                was.name == base.name
                    && was.identity.is_some()
                    && base.identity.is_some()
                    && was.identity != base.identity
            })
    }

    fn stage(&self, stage: &StageDigest, base: &BaseAbout) -> Vec<ExplainedStep> {
        let mut steps = Vec::new();
        let mut last_hit: Option<&str> = None;
        let mut first_miss = None;
        let moved = self.moved(base);
        let layers: Vec<&StepDigest> = stage.steps.iter().filter(|step| step.is_layer).collect();
        for (at, step) in layers.iter().enumerate() {
            let hit =
                self.known.contains(step.digest.as_str()) && !moved && !self.reads_changed(step);
            let cause = match first_miss {
                _ if hit => None,
                Some(line) => Some(Cause::Earlier { line }),
                None if moved => {
                    Some(Cause::Base { name: base.name.clone(), was: base.name.clone() })
                        .map(|cause| self.of_base(cause, base))
                }
                None => Some(self.cause(stage, base, &layers[at..], last_hit)),
            };
            if hit {
                last_hit = Some(&step.digest);
            } else {
                first_miss = first_miss.or(Some(step.lines.first));
            }
            let text = notes::text(&step.instruction);
            steps.push(ExplainedStep { line: step.lines.first, text, cause });
        }
        steps
    }

    /// A base that is a stage of this build is reported as a stage.
    fn of_base(&self, cause: Cause, base: &BaseAbout) -> Cause {
        if self.changed.contains(&base.name) {
            Cause::Stage { name: base.name.clone() }
        } else {
            cause
        }
    }

    /// Whether a step takes files from a stage that runs, though its own digest is known.
    fn reads_changed(&self, step: &StepDigest) -> bool {
        origin(step).is_some_and(|name| self.changed.iter().any(|c| c.eq_ignore_ascii_case(name)))
    }

    /// The first cause of a miss; `rest` are the steps from there on.
    fn cause(
        &self,
        stage: &StageDigest,
        base: &BaseAbout,
        rest: &[&StepDigest],
        last_hit: Option<&str>,
    ) -> Cause {
        let added = Cause::Instruction { change: Change::Added, was: None };
        let (Some(old), Some(step)) = (self.old, rest.first()) else { return added };
        if last_hit.is_none()
            && let Some(was) = old.base.as_ref().filter(|was| was.name != base.name)
        {
            return Cause::Base { name: base.name.clone(), was: was.name.clone() };
        }
        let has_parts = old.steps.iter().any(|step| !step.parts.is_empty());
        let layers: Vec<&StepAbout> =
            old.steps.iter().filter(|step| !step.parts.is_empty() || !has_parts).collect();
        let next = match last_hit {
            None => 0,
            Some(digest) => layers.iter().position(|s| s.digest == digest).map_or(0, |at| at + 1),
        };
        let text = notes::text(&step.instruction);
        let Some(then) = layers.get(next) else { return added };
        if then.text != text {
            let was = Some(then.text.clone());
            let gone = layers[next..].iter().any(|s| s.text == text);
            let new = rest.iter().any(|s| notes::text(&s.instruction) == then.text);
            return match (gone, new) {
                (true, _) => Cause::Instruction { change: Change::Removed, was },
                (false, true) => added,
                (false, false) => Cause::Instruction { change: Change::Value, was },
            };
        }
        self.part(stage, then, step)
    }

    /// The first part of a step that is different.
    fn part(&self, stage: &StageDigest, then: &StepAbout, step: &StepDigest) -> Cause {
        if then.parts.is_empty() {
            return Cause::Unknown;
        }
        let now = notes::parts(step);
        let (old, new) = (by_name(&then.parts), by_name(&now));
        let names = now.iter().chain(&then.parts).filter_map(|part| Some(part.split_once(' ')?.1));
        for name in names {
            let change = match (old.get(name), new.get(name)) {
                (old, new) if old == new => continue,
                (None, _) => Change::Added,
                (_, None) => Change::Removed,
                _ => Change::Value,
            };
            return match name {
                "content" | "mount content" => {
                    let entries = notes::entries(self.project, step);
                    let found = files::first_change(&then.files, &entries);
                    found.unwrap_or(Cause::Setting { name: "the content that it sees".to_owned() })
                }
                "origin" | "mount origin" => {
                    Cause::Stage { name: origin(step).unwrap_or("what it copies from").to_owned() }
                }
                "argument" | "script" | "word" | "source" | "inline" | "inline name" => {
                    Cause::Instruction { change: Change::Value, was: None }
                }
                _ => match name.strip_prefix("variable ") {
                    Some(name) if is_argument(stage, name) => {
                        Cause::Argument { name: name.to_owned(), change }
                    }
                    Some(name) => Cause::Variable { name: name.to_owned(), change },
                    None => Cause::Setting { name: format!("the {name}") },
                },
            };
        }
        // Nothing of its own: what differs is below it.
        Cause::Unknown
    }
}

/// Whether a stage declares an argument of this name.
fn is_argument(stage: &StageDigest, name: &str) -> bool {
    stage.steps.iter().any(|step| {
        let mut words = step.instruction.split_whitespace();
        words.next().is_some_and(|word| word.eq_ignore_ascii_case("ARG"))
            && words.any(|word| word.split('=').next() == Some(name))
    })
}

/// What `--from` or `from=` in an instruction names.
fn origin(step: &StepDigest) -> Option<&str> {
    let start = step.instruction.find("from=")? + "from=".len();
    let rest = &step.instruction[start..];
    let end = rest.find(|c: char| c.is_whitespace() || c == ',').unwrap_or(rest.len());
    Some(&rest[..end])
}

/// The digests by the name of the part; several where a name comes more than once.
fn by_name(parts: &[String]) -> BTreeMap<&str, Vec<&str>> {
    let mut named: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (digest, name) in parts.iter().filter_map(|part| part.split_once(' ')) {
        named.entry(name).or_default().push(digest);
    }
    named
}
