//! The digest of each stage: that of its last step, which covers its base and all steps.

use super::chain::{Chain, ChainStep, Rules};
use super::encoding::{ChainDigest, Encoder};
use super::query::ContextQuery;
use crate::dockerfile::{BuildGraph, LineRange};
use std::collections::{BTreeMap, HashMap};

/// The digests of one stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageDigest {
    /// Which stage of the file it is, counted from zero.
    pub index: usize,
    /// Its name, if it has one. It is not in the digest.
    pub name: Option<String>,
    /// The digest of what the stage starts from, as 64 hexadecimal digits.
    pub base: String,
    /// The digest of the stage's file system, as 64 hexadecimal digits.
    pub digest: String,
    /// The digests of its steps.
    pub steps: Vec<StepDigest>,
}

/// The digest of one instruction, and what went into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepDigest {
    /// Where the instruction stands.
    pub lines: LineRange,
    /// The instruction on one line.
    pub instruction: String,
    /// Equal for two builds if the builder would take the one's step for the other's. A step that
    /// makes no layer has the digest of the step before it.
    pub digest: String,
    /// Whether the builder runs the step or takes it from its cache: it makes a layer, or the
    /// builder is the classic one.
    pub is_layer: bool,
    /// The files that are part of its key.
    pub queries: Vec<ContextQuery>,
    /// What was counted, in order; `parent` is all that came before.
    pub parts: Vec<StepPart>,
}

/// One input of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepPart {
    /// What it is, such as `argument` or `variable HOME`.
    pub name: String,
    /// The first 16 digits of its digest.
    pub digest: String,
}

/// An instruction whose question for files was not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unanswered<E> {
    /// Where the instruction stands.
    pub lines: LineRange,
    /// The instruction on one line.
    pub instruction: String,
    /// Why there is no answer.
    pub error: E,
}

/// Digests all stages of a planned build.
///
/// `context` answers for files, and `bases` holds the digests of external images by their full
/// reference; an image that is not in it counts by its reference.
pub fn digest_build<E>(
    graph: &BuildGraph,
    rules: Rules,
    context: &mut dyn FnMut(&ContextQuery) -> Result<String, E>,
    bases: &BTreeMap<String, String>,
) -> Result<Vec<StageDigest>, Unanswered<E>> {
    let (stages, asked) = (HashMap::new(), Vec::new());
    let mut chain = Chain { rules, context, bases, stages, asked };
    let mut digests = Vec::with_capacity(graph.stages.len());
    for stage in &graph.stages {
        let unanswered = |lines, text: &str, error| {
            let instruction = text.to_owned();
            Unanswered { lines, instruction, error }
        };
        let base =
            chain.base(stage).map_err(|error| unanswered(stage.lines, &stage.text, error))?;
        let mut state = base;
        let mut steps = Vec::with_capacity(stage.steps.len());
        for step in &stage.steps {
            let ChainStep { own, state: after, parts, queries } = chain
                .step(state, step, &stage.platform)
                .map_err(|error| unanswered(step.lines, &step.text, error))?;
            state = after;
            steps.push(StepDigest {
                lines: step.lines,
                instruction: step.text.clone(),
                digest: own.hex(),
                is_layer: !parts.is_empty(),
                queries,
                parts: parts.into_iter().map(|(name, value)| part(name, &value)).collect(),
            });
        }
        chain.stages.insert(stage.index, state);
        digests.push(StageDigest {
            index: stage.index,
            name: stage.name.clone(),
            base: base.hex(),
            digest: state.hex(),
            steps,
        });
    }
    Ok(digests)
}

/// Digests the value of a part, so that digests can be stored without what they were made of.
fn part(name: String, value: &str) -> StepPart {
    let mut encoder = Encoder::new("part");
    encoder.field(&name, value);
    let digest: ChainDigest = encoder.digest();
    let mut digest = digest.hex();
    digest.truncate(16);
    StepPart { name, digest }
}
