//! The instructions of a Dockerfile as data. Nothing in them is expanded yet.

use super::heredoc::Heredoc;
use super::lines::LineRange;

/// One stage: a `FROM`, and what follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// What stands behind `FROM`: an image, another stage, or an expression.
    pub base: String,
    /// The name given with `AS`, lower-cased.
    pub name: Option<String>,
    /// The value of `--platform`.
    pub platform: Option<String>,
    /// Where the `FROM` instruction stands.
    pub lines: LineRange,
    /// The text of the `FROM` instruction.
    pub text: String,
    /// The instructions of the stage, in order.
    pub instructions: Vec<Instruction>,
    /// Where in the file the `FROM` instruction's last word ends.
    pub(crate) end_of_from: usize,
}

/// One instruction, its place, and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Where it stands.
    pub lines: LineRange,
    /// The instruction on one line, without comments and heredoc bodies.
    pub text: String,
    /// What it asks for.
    pub kind: InstructionKind,
}

/// What an instruction asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the Dockerfile instruction of that name")]
pub enum InstructionKind {
    Add(Transfer),
    Arg(Vec<Argument>),
    Cmd(CommandLine),
    Copy(Transfer),
    Entrypoint(CommandLine),
    Env(Vec<(String, String)>),
    Expose(Vec<String>),
    Healthcheck(Option<CommandLine>),
    Label(Vec<(String, String)>),
    Maintainer(String),
    /// The trigger as text; it is parsed in the stage that runs it.
    Onbuild(String),
    Run(Run),
    Shell(Vec<String>),
    StopSignal(String),
    User(String),
    Volume(Vec<String>),
    Workdir(String),
}

/// One name of an `ARG`, with its default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    /// The name.
    pub name: String,
    /// The default, if one is given.
    pub default: Option<String>,
}

/// A `COPY` or an `ADD`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transfer {
    /// Paths, URLs, and git references.
    pub sources: Vec<String>,
    /// Files that are written in the Dockerfile itself.
    pub heredocs: Vec<Heredoc>,
    /// Where they go.
    pub destination: String,
    /// `--from`: the stage or image to copy from, in place of the build context.
    pub from: Option<String>,
    /// `--chown`.
    pub owner: Option<String>,
    /// `--chmod`.
    pub mode: Option<String>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude`, once for each pattern.
    pub exclude: Vec<String>,
    /// `--checksum`.
    pub checksum: Option<String>,
    /// `--keep-git-dir`.
    pub keep_git_directory: Option<bool>,
    /// `--unpack`.
    pub unpack: Option<bool>,
}

/// A `RUN`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// What to run.
    pub command: CommandLine,
    /// `--mount`, once for each mount, as written.
    pub mounts: Vec<String>,
    /// `--network`.
    pub network: Option<String>,
    /// `--security`.
    pub security: Option<String>,
    /// `--device`, once for each device.
    pub devices: Vec<String>,
}

/// A command in one of its two forms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// The words of the JSON form, or the text of the shell form as one word.
    pub words: Vec<String>,
    /// Whether a shell runs it: it was not written as JSON.
    pub shell_form: bool,
    /// The heredocs of the shell form.
    pub heredocs: Vec<Heredoc>,
}
