//! Reads a Dockerfile as BuildKit does: syntax, variables, and the graph of its stages. Knows no engine.

mod directives;
mod environment;
mod error;
mod expand;
mod file;
mod flags;
mod heredoc;
mod instruction;
mod lines;
mod mount;
mod name;
mod parse;
mod pattern;
mod words;

pub use directives::Directives;
pub use environment::Environment;
pub use error::{DockerfileError, Problem};
pub use file::Dockerfile;
pub use heredoc::Heredoc;
pub use instruction::{Argument, CommandLine, Instruction, InstructionKind, Run, Stage, Transfer};
pub use lines::LineRange;
pub use mount::{Mount, MountKind};
