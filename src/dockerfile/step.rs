//! What a planned build consists of: stages, and steps with everything expanded.

use super::environment::Environment;
use super::lines::LineRange;
use super::mount::Mount;
use super::platform::Platform;

/// The stages that a build needs, each behind the stages that it depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildGraph {
    /// The stages, in the order of the file.
    pub stages: Vec<PlannedStage>,
    /// The index of the stage that is built, in the file.
    pub target: usize,
}

impl BuildGraph {
    /// Returns the external images that the build reads, each once.
    pub fn images(&self) -> Vec<&Image> {
        let mut images: Vec<&Image> = self.stages.iter().flat_map(|stage| &stage.images).collect();
        images.sort();
        images.dedup();
        images
    }
}

/// One stage of a planned build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedStage {
    /// Which stage of the file it is, counted from zero.
    pub index: usize,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Where its `FROM` stands.
    pub lines: LineRange,
    /// The text of its `FROM`.
    pub text: String,
    /// What it starts from.
    pub base: Base,
    /// What it is built for.
    pub platform: Platform,
    /// The stages that it reads, its base included, in order.
    pub dependencies: Vec<usize>,
    /// The external images that it reads, its base included.
    pub images: Vec<Image>,
    /// Its instructions, behind the `ONBUILD` triggers of its base.
    pub steps: Vec<Step>,
}

/// Where files come from, other than the build context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// Another stage, by its index in the file.
    Stage(usize),
    /// An external image.
    Image(Image),
    /// Nothing.
    Scratch,
    /// A context that `--build-context` gives.
    NamedContext(String),
}

/// An external image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Image {
    /// Its full reference.
    pub reference: String,
    /// The platform of it that is used.
    pub platform: Platform,
}

/// One instruction of a planned stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where it stands; a trigger of the base stands at the stage's `FROM`.
    pub lines: LineRange,
    /// The instruction on one line.
    pub text: String,
    /// Whether it comes from an `ONBUILD` of the base.
    pub on_build: bool,
    /// What the builder does for it.
    pub action: Action,
}

/// What the builder does for an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Runs a command.
    Run(RunAction),
    /// Copies files.
    Copy(CopyAction),
    /// Makes a directory.
    Workdir {
        /// The directory.
        path: String,
        /// The user that it is made for.
        owner: Option<String>,
        /// The time that it bears, in seconds since 1970, if the build sets one.
        time: Option<i64>,
    },
    /// Changes only what later steps see, or the image's config: makes no layer.
    Metadata {
        /// The instruction's words, expanded. The classic builder makes a step of them.
        words: Vec<String>,
    },
}

/// A `RUN`, with the inputs that the builder uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunAction {
    /// The whole command, its shell included.
    pub arguments: Vec<String>,
    /// The body of a heredoc that is run as a script of its own, with its name.
    pub script: Option<(String, String)>,
    /// The environment: every `ENV`, and every `ARG` in scope that has a value.
    pub environment: Environment,
    /// The user, as written.
    pub user: Option<String>,
    /// The working directory.
    pub workdir: String,
    /// The mounts.
    pub mounts: Vec<PlannedMount>,
    /// `--network`.
    pub network: Option<String>,
    /// `--security`.
    pub security: Option<String>,
    /// `--device`.
    pub devices: Vec<String>,
    /// Settings of the whole build that are inputs of each command.
    pub settings: Vec<(String, String)>,
}

/// A mount of a `RUN`, with its target resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedMount {
    /// The mount.
    pub mount: Mount,
    /// Where its files come from; `None` is the build context, where it has files at all.
    pub origin: Option<Base>,
}

/// A `COPY` or an `ADD`, with the inputs that the builder uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyAction {
    /// What is copied.
    pub sources: Vec<CopySource>,
    /// Where files come from; `None` is the build context.
    pub origin: Option<Base>,
    /// The destination, absolute; a trailing slash says that it is a directory.
    pub destination: String,
    /// `--chown`.
    pub owner: Option<String>,
    /// `--chmod`.
    pub mode: Option<String>,
    /// `--link`: the step does not depend on what is below it.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude`.
    pub exclude: Vec<String>,
    /// `--checksum`.
    pub checksum: Option<String>,
    /// `--keep-git-dir`.
    pub keep_git_directory: Option<bool>,
    /// Whether archives are unpacked; `None` is what the kind of source implies.
    pub unpack: Option<bool>,
    /// Whether it is an `ADD`.
    pub is_add: bool,
}

/// One source of a `COPY` or an `ADD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopySource {
    /// Files of the origin.
    Files {
        /// The path or pattern, absolute in the origin and clean.
        path: String,
        /// With `--parents`, what is copied below `path` with its directories.
        below: Option<String>,
    },
    /// A file behind an `http` or `https` URL.
    Url(String),
    /// A git repository.
    Git(String),
    /// A file that is written in the Dockerfile.
    Inline {
        /// Its name.
        name: String,
        /// Its content, expanded.
        content: String,
    },
}
