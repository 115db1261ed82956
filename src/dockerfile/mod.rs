//! Reads a Dockerfile as BuildKit does: syntax, variables, and the graph of its stages. Knows no engine.

mod directives;
mod environment;
mod error;
mod expand;
mod file;
mod flags;
mod graph;
mod heredoc;
mod instruction;
mod lines;
mod mount;
mod name;
mod options;
mod parse;
mod path;
mod pattern;
mod platform;
mod reference;
mod resolve;
mod state;
mod step;
mod words;

pub use directives::Directives;
pub use environment::Environment;
pub use error::{DockerfileError, Problem};
pub use file::Dockerfile;
pub use heredoc::Heredoc;
pub use instruction::{Argument, CommandLine, Instruction, InstructionKind, Run, Stage, Transfer};
pub use lines::LineRange;
pub use mount::{Mount, MountKind};
pub use options::{BaseConfig, BuildOptions, NamedContext};
pub use platform::Platform;
pub(crate) use resolve::context_name;
pub use step::{
    Action, Base, BuildGraph, CopyAction, CopySource, Image, PlannedMount, PlannedStage, RunAction,
    Step,
};
