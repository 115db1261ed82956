//! What can be wrong with a Dockerfile, worded as BuildKit words it.

use thiserror::Error;

/// A Dockerfile that BuildKit would refuse, with the file and, where there is one, the line.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DockerfileError {
    /// One instruction or directive is at fault.
    #[error("{file}: dockerfile parse error on line {line}: {problem}")]
    Line {
        /// The name that the caller gave to the Dockerfile.
        file: String,
        /// The line on which the instruction starts, counted from one.
        line: usize,
        /// What is wrong.
        problem: Problem,
    },
    /// The Dockerfile as a whole, or what was asked of it, is at fault.
    #[error("{file}: {problem}")]
    File {
        /// The name that the caller gave to the Dockerfile.
        file: String,
        /// What is wrong.
        problem: Problem,
    },
}

impl DockerfileError {
    /// Returns what is wrong, without the place.
    pub fn problem(&self) -> &Problem {
        match self {
            Self::Line { problem, .. } | Self::File { problem, .. } => problem,
        }
    }
}

/// What is wrong, without the place.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[expect(missing_docs, reason = "the message of each variant is its documentation")]
#[non_exhaustive]
pub enum Problem {
    #[error("the Dockerfile cannot be empty")]
    Empty,
    #[error("file with no instructions")]
    NoInstructions,
    #[error("dockerfile contains no stages to build (expected a FROM instruction)")]
    NoStages,
    #[error("dockerfile line greater than max allowed size of 65535")]
    LineTooLong,
    #[error("only one {name} parser directive can be used")]
    DuplicateDirective { name: String },
    #[error("invalid escape token '{value}' does not match ` or \\")]
    InvalidEscape { value: String },
    #[error("unterminated heredoc (expected `{name}` on a line of its own)")]
    UnterminatedHeredoc { name: String },

    #[error("unknown instruction: {name}{}", did_you_mean(suggestion.as_deref()))]
    UnknownInstruction { name: String, suggestion: Option<String> },
    #[error("no build stage in current context ({instruction} must come after a FROM)")]
    NoCurrentStage { instruction: String },
    #[error("{instruction} requires at least one argument")]
    AtLeastOneArgument { instruction: &'static str },
    #[error("{instruction} requires exactly one argument")]
    ExactlyOneArgument { instruction: &'static str },
    #[error(
        "{instruction} requires at least two arguments, but only one was provided. Destination could not be determined"
    )]
    NoDestination { instruction: &'static str },
    #[error("{instruction} cannot accept a heredoc as a destination")]
    HeredocDestination { instruction: &'static str },
    #[error("{instruction} names can not be blank")]
    BlankName { instruction: &'static str },
    #[error("{instruction} must have two arguments")]
    TwoArguments { instruction: &'static str },
    #[error("Syntax error - can't find = in {word:?}. Must be of the form: name=value")]
    NoEquals { word: String },
    #[error("when using JSON array syntax, arrays must be comprised of strings only")]
    JsonNotStrings,
    #[error("{instruction} requires the arguments to be in JSON form")]
    NotJson { instruction: &'static str },
    #[error("FROM requires either one or three arguments")]
    FromArguments,
    #[error(
        "invalid name for build stage: {name:?}, name can't start with a number or contain symbols"
    )]
    StageName { name: String },
    #[error("unknown flag: --{flag}{}", did_you_mean(suggestion.as_deref()))]
    UnknownFlag { flag: String, suggestion: Option<String> },
    #[error("duplicate flag specified: --{flag}")]
    DuplicateFlag { flag: String },
    #[error("missing a value on flag: --{flag}")]
    FlagWithoutValue { flag: String },
    #[error("expecting boolean value for flag --{flag}, not: {value}")]
    FlagNotBoolean { flag: String, value: String },
    #[error("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")]
    OnbuildChain,
    #[error("{instruction} isn't allowed as an ONBUILD trigger")]
    OnbuildForbidden { instruction: String },
    #[error("onbuild trigger should be a single expression")]
    OnbuildNotSingle,
    #[error("{reason}")]
    Healthcheck { reason: String },
    #[error("VOLUME specified can not be an empty string")]
    EmptyVolume,

    #[error("failed to process {word:?}: {reason}")]
    Expansion { word: String, reason: String },
    #[error("with its variables, the Dockerfile expands to more than 64 MiB up to here")]
    TooMuch,
    #[error("the variables that all `RUN` up to here see are larger than 1 GiB together")]
    TooManyVariables,
    #[error("base name ({expression}) should not be blank")]
    BlankBase { expression: String },
    #[error("empty platform value from expression {expression}")]
    EmptyPlatform { expression: String },
    #[error("failed to parse platform {value}: expected os, arch, os/arch, or os/arch/variant")]
    Platform { value: String },
    #[error("failed to parse stage name {name:?}: invalid reference format{reason}")]
    Reference { name: String, reason: String },
    #[error("target stage {name:?} could not be found{}", did_you_mean(suggestion.as_deref()))]
    Target { name: String, suggestion: Option<String> },
    #[error("invalid stage index {index}")]
    StageIndex { index: String },
    #[error(
        "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround"
    )]
    FromExpansion,
    #[error("circular dependency detected on stage: {stage}")]
    Circular { stage: String },
    #[error(
        "cannot copy from stage {from:?}, it needs to be defined before current stage {stage:?}"
    )]
    LaterStage { from: String, stage: String },
    #[error("{reason}")]
    Mount { reason: String },
    #[error("{reason}")]
    Copy { reason: String },
    #[error("unsupported {flag} value {value:?} (expected one of {expected})")]
    FlagChoice { flag: &'static str, value: String, expected: &'static str },
}

fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion.map(|word| format!(" (did you mean {word}?)")).unwrap_or_default()
}

/// Finds the option that is at most two edits away from `word`, the nearest first.
pub(crate) fn suggest<'a>(
    word: &str,
    options: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    let word = word.to_lowercase();
    let mut best: Option<(usize, &str)> = None;
    for option in options {
        let distance = edit_distance(&word, &option.to_lowercase());
        if distance == 0 {
            return None;
        }
        if distance < best.map_or(3, |(nearest, _)| nearest) {
            best = Some((distance, option));
        }
    }
    best.map(|(_, option)| option.to_owned())
}

fn edit_distance(left: &str, right: &str) -> usize {
    // A long word is never near an option, and the table below is quadratic.
    if left.len().abs_diff(right.len()) > 2 {
        return usize::MAX;
    }
    let right: Vec<char> = right.chars().collect();
    let mut previous: Vec<usize> = (0..=right.len()).collect();
    for (row, a) in left.chars().enumerate() {
        let mut current = vec![row + 1];
        for (column, b) in right.iter().enumerate() {
            let substituted = previous[column] + usize::from(a != *b);
            current.push(substituted.min(previous[column + 1] + 1).min(current[column] + 1));
        }
        previous = current;
    }
    previous[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_word_is_suggested() {
        let options = ["ADD", "FROM", "RUN"];
        assert_eq!(suggest("FORM", options), Some("FROM".to_owned()));
        assert_eq!(suggest("form", options), Some("FROM".to_owned()));
        assert_eq!(suggest("RUN", options), None);
        assert_eq!(suggest("CONTAINER", options), None);
    }
}
