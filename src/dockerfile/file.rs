//! A whole Dockerfile: its directives, its global arguments, and its stages.

use super::directives::Directives;
use super::error::{DockerfileError, Problem};
use super::instruction::{Argument, InstructionKind, Stage};
use super::lines::{self, LineRange};
use super::parse::{self, Parsed};

/// A parsed Dockerfile.
#[derive(Clone, Debug)]
pub struct Dockerfile {
    name: String,
    source: Vec<u8>,
    directives: Directives,
    global_arguments: Vec<(LineRange, Vec<Argument>)>,
    stages: Vec<Stage>,
}

impl Dockerfile {
    /// Parses the bytes of a Dockerfile; `name` is what error messages call it.
    pub fn parse(source: &[u8], name: &str) -> Result<Self, DockerfileError> {
        let whole = |problem| DockerfileError::File { file: name.to_owned(), problem };
        let at = |line, problem| DockerfileError::Line { file: name.to_owned(), line, problem };
        if source.is_empty() {
            return Err(whole(Problem::Empty));
        }
        let (directives, lines) =
            lines::read(source).map_err(|(line, problem)| at(line, problem))?;
        if lines.is_empty() {
            return Err(whole(Problem::NoInstructions));
        }
        let mut global_arguments = Vec::new();
        let mut stages: Vec<Stage> = Vec::new();
        for line in lines {
            let first = line.lines.first;
            let instruction_name = line.command.name.to_uppercase();
            let parsed = parse::instruction(&line, directives.escape);
            match (parsed.map_err(|problem| at(first, problem))?, stages.last_mut()) {
                (Parsed::From(stage), _) => stages.push(stage),
                (Parsed::Other(instruction), Some(stage)) => stage.instructions.push(instruction),
                (Parsed::Other(instruction), None) => match instruction.kind {
                    InstructionKind::Arg(arguments) => {
                        global_arguments.push((instruction.lines, arguments));
                    }
                    _ => {
                        return Err(at(
                            first,
                            Problem::NoCurrentStage { instruction: instruction_name },
                        ));
                    }
                },
            }
        }
        if stages.is_empty() {
            return Err(whole(Problem::NoStages));
        }
        Ok(Self {
            name: name.to_owned(),
            source: source.to_owned(),
            directives,
            global_arguments,
            stages,
        })
    }

    /// Returns what error messages call this Dockerfile.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the bytes that were parsed.
    pub fn source(&self) -> &[u8] {
        &self.source
    }

    /// Returns the parser directives.
    pub fn directives(&self) -> &Directives {
        &self.directives
    }

    /// Returns the arguments that stand before the first stage.
    pub fn global_arguments(&self) -> impl Iterator<Item = (LineRange, &Argument)> {
        self.global_arguments
            .iter()
            .flat_map(|(lines, arguments)| arguments.iter().map(|argument| (*lines, argument)))
    }

    /// Returns the stages in the order of the file.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// Says that something is wrong with the instruction on the given lines.
    pub(crate) fn error_at(&self, lines: LineRange, problem: Problem) -> DockerfileError {
        DockerfileError::Line { file: self.name.clone(), line: lines.first, problem }
    }
}
