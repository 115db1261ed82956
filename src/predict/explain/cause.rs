//! Why a step is a miss, as data and as a sentence.

use std::fmt;

use serde::Serialize;

/// The first thing that has changed for a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Cause {
    /// A file that the step sees.
    File {
        /// Relative to the context; a directory, with a slash at its end, where files are many.
        path: String,
        /// What became of it.
        change: Change,
        /// How many other files have changed.
        others: usize,
    },
    /// An `ARG` that a command sees.
    Argument {
        /// Its name.
        name: String,
        /// What became of it.
        change: Change,
    },
    /// An `ENV` that a command sees, of the Dockerfile or of a base image.
    Variable {
        /// Its name.
        name: String,
        /// What became of it.
        change: Change,
    },
    /// The instruction itself.
    Instruction {
        /// What became of it.
        change: Change,
        /// The instruction that stood there.
        #[serde(skip_serializing_if = "Option::is_none")]
        was: Option<String>,
    },
    /// What the stage starts from.
    Base {
        /// The image or the stage.
        name: String,
        /// What it was; the same where another image is behind the name.
        was: String,
    },
    /// Another stage, or an image, that the step takes files from.
    Stage {
        /// Its name.
        name: String,
    },
    /// Another input, such as the user or the working directory.
    Setting {
        /// What it is.
        name: String,
    },
    /// An earlier step of the same stage, which is reported there.
    Earlier {
        /// The line of that step.
        line: usize,
    },
    /// The archive knows too little of the step.
    Unknown,
}

/// What became of a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// A file has changed, or is of another kind.
    Content,
    /// A file has a different mode.
    Mode,
    /// It has a different value, or says something else.
    Value,
    /// It is new.
    Added,
    /// It is gone.
    Removed,
}

impl Change {
    fn words(self) -> &'static str {
        match self {
            Self::Content => "has other content",
            Self::Mode => "has another mode",
            Self::Value => "has another value",
            Self::Added => "is new",
            Self::Removed => "is gone",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, change, others } => {
                write!(f, "file `{path}` {}", change.words())?;
                match others {
                    0 => Ok(()),
                    1 => f.write_str(", and 1 more file has changed"),
                    others => write!(f, ", and {others} more files have changed"),
                }
            }
            Self::Argument { name, change } => write!(f, "argument `{name}` {}", change.words()),
            Self::Variable { name, change } => write!(f, "variable `{name}` {}", change.words()),
            Self::Instruction { change, was } => match (change, was) {
                (Change::Added, _) => f.write_str("the instruction is new"),
                (Change::Removed, Some(was)) => write!(f, "`{was}` before it is gone"),
                (_, Some(was)) => write!(f, "the instruction was `{was}`"),
                (_, None) => f.write_str("the instruction has changed"),
            },
            Self::Base { name, was } if name == was => {
                write!(f, "base `{name}` is another image now")
            }
            Self::Base { name, was } => write!(f, "the base is `{name}` and was `{was}`"),
            Self::Stage { name } => write!(f, "`{name}`, which it takes files from, has changed"),
            Self::Setting { name } => write!(f, "{name} has changed"),
            Self::Earlier { line } => write!(f, "the step in line {line} runs"),
            Self::Unknown => f.write_str("the archive does not say what it was made from"),
        }
    }
}
