//! The machine that a job runs on, as far as it needs one of its own.
//!
//! A job has a /tmp, a home, and a /usr/local/bin of its own, in a mount namespace, so that its
//! absolute paths are nobody else's.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::harness::Engine;

/// Where a job's steps run.
pub(crate) const PROJECT: &str = "/tmp/project";

/// What a job's image has for a shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shell {
    /// `bash -eo pipefail`, with `BASH_ENV`.
    Bash,
    /// Debian's POSIX shell, which knows no `pipefail`.
    Dash,
    /// Alpine's shell, with Alpine's programs and no others.
    Busybox,
}

/// The directories of one job, and what its programs get to see.
pub(crate) struct Sandbox<'a> {
    engine: &'a Engine,
    root: TempDir,
    shell: Shell,
    /// Whether the engine can be reached.
    pub(crate) has_engine: bool,
    pub(crate) environment: BTreeMap<String, String>,
    /// More directories of programs.
    pub(crate) programs: Vec<PathBuf>,
}

impl<'a> Sandbox<'a> {
    pub(crate) fn new(engine: &'a Engine, shell: Shell) -> Self {
        let root = tempfile::tempdir().expect("a directory");
        for dir in ["bin", "tmp/home", "tmp/project"] {
            fs::create_dir_all(root.path().join(dir)).expect("a directory");
        }
        fs::write(root.path().join("tmp/bash_env"), "").expect("a file");
        Self {
            engine,
            root,
            shell,
            has_engine: true,
            environment: BTreeMap::new(),
            programs: Vec::new(),
        }
    }

    /// Where a path of the job is, seen from outside: one in /tmp or in /usr/local/bin.
    pub(crate) fn outside(&self, path: &str) -> PathBuf {
        outside(self.root.path(), path)
    }

    pub(crate) fn into_root(self) -> TempDir {
        self.root
    }

    /// Puts a program into /usr/local/bin.
    pub(crate) fn program(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.outside("/usr/local/bin").join(name);
        fs::write(&path, content).expect("a program");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
    }

    /// Copies a project to where the job runs.
    pub(crate) fn checkout(&self, project: &Path) {
        let source = format!("{}/.", project.display());
        let copied = Command::new("cp").arg("-R").arg(source).arg(self.outside(PROJECT)).status();
        assert!(copied.expect("cp").success());
    }

    /// Prepares a script for the shell. All of its output goes to standard output.
    pub(crate) fn script(&self, text: &str, dir: &str) -> Command {
        let file = tempfile::NamedTempFile::with_prefix_in("step-", self.outside("/tmp"));
        let (_, path) = file.expect("a file").keep().expect("a file");
        fs::write(&path, text).expect("a script");
        let name = path.file_name().expect("a name").to_string_lossy();
        let file = format!("/tmp/{name}");
        let busybox = format!("{}/busybox", busybox_programs());
        let words = match self.shell {
            Shell::Bash => vec!["bash", "-eo", "pipefail", &file],
            Shell::Dash => vec!["dash", "-e", &file],
            Shell::Busybox => vec![&busybox, "sh", "-eo", "pipefail", &file],
        };
        self.enter("2>&1", self.shell, &words, dir)
    }

    /// Prepares a program of the agent's own: the image need not have it.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        self.enter("", Shell::Bash, words, PROJECT)
    }

    fn enter(&self, redirection: &str, shell: Shell, words: &[&str], dir: &str) -> Command {
        let enter = format!(
            "mount --bind \"$1/bin\" /usr/local/bin && mount --bind \"$1/tmp\" /tmp && \
             cd \"$2\" && PATH=$3 && shift 3 && exec \"$@\" {redirection}"
        );
        let mut command = self.engine.command("unshare");
        let path = command.get_envs().find(|(name, _)| *name == "PATH").and_then(|(_, path)| path);
        let path = path.expect("a PATH").to_string_lossy().into_owned();
        let (client, system) = path.split_once(':').expect("two directories");
        let system = match shell {
            Shell::Busybox => busybox_programs().clone(),
            Shell::Bash | Shell::Dash => system.to_owned(),
        };
        let own = self.programs.iter().map(|dir| dir.display().to_string());
        let path = std::iter::once("/usr/local/bin".to_owned())
            .chain(own)
            .chain([client.to_owned(), system])
            .collect::<Vec<_>>()
            .join(":");
        command.args(["--mount", "--propagation", "private", "sh", "-c", &enter, "sandbox"]);
        command.arg(self.root.path()).args([dir, &path]).args(words);
        command.env("HOME", "/tmp/home").env("BASH_ENV", "/tmp/bash_env").env("CI", "true");
        command.env("TMPDIR", "/tmp").envs(&self.environment);
        if !self.has_engine {
            command.env_remove("DOCKER_HOST");
        }
        command
    }
}

/// Where a path of a job is, after the job.
pub(crate) fn outside(root: &Path, path: &str) -> PathBuf {
    match path.strip_prefix("/usr/local/bin") {
        Some(rest) => root.join(format!("bin{rest}")),
        None => root.join(path.strip_prefix('/').expect("an absolute path")),
    }
}

/// The directory of busybox's programs, which `engine.sh` has made for base images.
fn busybox_programs() -> String {
    let home = std::env::var("DOCKERCACHE_ENGINES");
    let home = home.unwrap_or_else(|_| "/var/lib/dockercache-engines".to_owned());
    format!("{home}/busybox/bin")
}
