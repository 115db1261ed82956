//! Runs an expanded job, as CircleCI's agent does: each step in a shell of its own.
//!
//! A job has a /tmp, a home, and a /usr/local/bin of its own, in a mount namespace, so that its
//! absolute paths are nobody else's. In a docker executor the engine is out of reach until
//! `setup_remote_docker`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use serde_yaml::{Mapping, Value};
use tempfile::TempDir;

use crate::cache::Cache;
use crate::expand::{Job, Step, plain};
use crate::harness::{BuildReport, Engine};
use crate::keys::{self, Facts};

const WORKING_DIRECTORY: &str = "/tmp/project";

/// What the job's image has for a shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shell {
    /// `bash -eo pipefail`, with `BASH_ENV`.
    Bash,
    /// Debian's POSIX shell, which knows no `pipefail`.
    Dash,
    /// Alpine's shell, with Alpine's programs and no others.
    Busybox,
}

impl Shell {
    /// What the image of the job's first container has.
    fn of(job: &Job) -> Self {
        let image = job.settings.get("docker").and_then(|d| d.get(0)).and_then(|d| d.get("image"));
        match image.and_then(Value::as_str) {
            Some(image) if image.starts_with("docker:") || image.contains("alpine") => {
                Self::Busybox
            }
            _ => Self::Bash,
        }
    }
}

/// Where and how a job runs.
pub(crate) struct Machine<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) cache: &'a Cache,
    /// What `checkout` gets.
    pub(crate) project: &'a Path,
    /// Overrides the image's shell.
    pub(crate) shell: Option<Shell>,
    /// What CircleCI exports, besides what every job has.
    pub(crate) environment: BTreeMap<String, String>,
}

/// A job that has run.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) steps: Vec<Done>,
    pub(crate) succeeded: bool,
    /// The job's own directories, as the last step left them.
    pub(crate) root: TempDir,
}

/// A step that has run.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) name: String,
    pub(crate) output: String,
    pub(crate) succeeded: bool,
}

impl Finished {
    /// Asserts that no step failed.
    #[track_caller]
    pub(crate) fn success(&self) -> &Self {
        assert!(self.succeeded, "the job failed");
        self
    }

    /// The output of the only step with this name.
    #[track_caller]
    pub(crate) fn output(&self, name: &str) -> &str {
        let mut found = self.steps.iter().filter(|step| step.name == name);
        let step = found.next().unwrap_or_else(|| panic!("no step `{name}` has run"));
        assert!(found.next().is_none(), "`{name}` has run twice");
        &step.output
    }

    /// What the build did in the step with this name.
    #[track_caller]
    pub(crate) fn build(&self, name: &str) -> BuildReport {
        BuildReport::parse(self.output(name))
    }
}

/// Runs the job to its end.
pub(crate) fn run(job: &Job, machine: &Machine<'_>) -> Finished {
    let root = tempfile::tempdir().expect("a directory");
    let bin = root.path().join("bin");
    for dir in [&bin, &root.path().join("tmp/home"), &root.path().join("tmp/project")] {
        fs::create_dir_all(dir).expect("a directory");
    }
    fs::write(root.path().join("tmp/bash_env"), "").expect("a file");
    let agent = bin.join("circleci");
    fs::write(&agent, include_str!("circleci.sh")).expect("a program");
    fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).expect("a mode");
    let mut running = Running {
        machine,
        root,
        shell: machine.shell.unwrap_or_else(|| Shell::of(job)),
        has_engine: job.settings.contains_key("machine"),
        environment: job.settings.get("environment").map(environment).unwrap_or_default(),
    };
    let mut finished = Vec::new();
    let mut succeeded = true;
    for (number, step) in job.steps.iter().enumerate() {
        let when = step.arguments.get("when").and_then(Value::as_str).unwrap_or("on_success");
        let due = when == "always" || (when == "on_success") == succeeded;
        if !due {
            continue;
        }
        let done = running.step(step, number);
        eprintln!("--- {} ({})\n{}", done.name, job.name, done.output);
        succeeded &= done.succeeded;
        finished.push(done);
    }
    Finished { steps: finished, succeeded, root: running.root }
}

/// A job that is under way.
struct Running<'a> {
    machine: &'a Machine<'a>,
    root: TempDir,
    shell: Shell,
    has_engine: bool,
    environment: BTreeMap<String, String>,
}

impl Running<'_> {
    fn step(&mut self, step: &Step, number: usize) -> Done {
        let text = |key: &str| step.arguments.get(key).and_then(Value::as_str);
        let name = text("name").unwrap_or(&step.kind).to_owned();
        let done = |output: String| Done { name: name.clone(), output, succeeded: true };
        match step.kind.as_str() {
            "run" => {
                let (output, succeeded) = self.script(&step.arguments, number);
                Done { name, output, succeeded }
            }
            "checkout" => {
                let source = format!("{}/.", self.machine.project.display());
                let target = self.root.path().join("tmp/project");
                let copied = Command::new("cp").arg("-R").arg(source).arg(target).status();
                assert!(copied.expect("cp").success());
                done(String::new())
            }
            "setup_remote_docker" => {
                self.has_engine = true;
                done(String::new())
            }
            "restore_cache" => {
                let one = step.arguments.get("key").into_iter();
                let many = step.arguments.get("keys").and_then(Value::as_sequence);
                let templates = one.chain(many.into_iter().flatten()).map(plain);
                // A key that can't be computed loses the cache, not the job.
                match templates.map(|t| self.key(&t)).collect::<Result<Vec<_>, _>>() {
                    Ok(keys) => {
                        let tar = self.command(&["tar", "-xPf", "-"], WORKING_DIRECTORY);
                        done(self.machine.cache.restore(&keys, tar))
                    }
                    Err(error) => done(error),
                }
            }
            "save_cache" => match self.key(text("key").expect("a key")) {
                Ok(key) => {
                    let paths = step.arguments.get("paths").and_then(Value::as_sequence);
                    let paths: Vec<_> = paths.expect("paths").iter().map(plain).collect();
                    let mut words = vec!["tar", "-cPf", "-"];
                    words.extend(paths.iter().map(String::as_str));
                    done(self.machine.cache.save(&key, self.command(&words, WORKING_DIRECTORY)))
                }
                Err(error) => done(error),
            },
            other => panic!("the runner has no `{other}`"),
        }
    }

    fn key(&self, template: &str) -> Result<String, String> {
        let read = |file: &str| {
            let command = self.command(&["cat", file], WORKING_DIRECTORY).output();
            let output = command.map_err(|e| e.to_string())?;
            if output.status.success() { Ok(output.stdout) } else { Err("missing".to_owned()) }
        };
        keys::key(template, &Facts { environment: &self.machine.environment, read: &read })
    }

    fn script(&self, arguments: &Mapping, number: usize) -> (String, bool) {
        let command = arguments.get("command").map(plain).expect("a command");
        let file = format!("/tmp/step-{number}");
        fs::write(self.root.path().join(&file[1..]), command).expect("a script");
        let busybox = format!("{}/busybox", busybox_programs());
        let words = match self.shell {
            Shell::Bash => vec!["bash", "-eo", "pipefail", &file],
            Shell::Dash => vec!["dash", "-e", &file],
            Shell::Busybox => vec![&busybox, "sh", "-eo", "pipefail", &file],
        };
        let dir = arguments.get("working_directory").map(plain);
        let mut command = self.command(&words, dir.as_deref().unwrap_or(WORKING_DIRECTORY));
        command.envs(arguments.get("environment").map(environment).unwrap_or_default());
        let output = command.output().expect("a shell");
        (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.success())
    }

    /// A program that sees the job's own directories; all of its output goes to one place.
    fn command(&self, words: &[&str], dir: &str) -> Command {
        const ENTER: &str = "mount --bind \"$1/bin\" /usr/local/bin && \
            mount --bind \"$1/tmp\" /tmp && cd \"$2\" && PATH=$3 && shift 3 && exec \"$@\"";
        let merged = if words[0] == "tar" { ENTER.to_owned() } else { format!("{ENTER} 2>&1") };
        let mut command = self.machine.engine.command("unshare");
        let path = command.get_envs().find(|(name, _)| *name == "PATH").and_then(|(_, path)| path);
        let path = path.expect("a PATH").to_string_lossy().into_owned();
        let (client, system) = path.split_once(':').expect("two directories");
        let path = match self.shell {
            Shell::Busybox => format!("/usr/local/bin:{client}:{}", busybox_programs()),
            _ => format!("/usr/local/bin:{client}:{system}"),
        };
        command.args(["--mount", "--propagation", "private", "sh", "-c", &merged, "sandbox"]);
        command.arg(self.root.path()).args([dir, &path]).args(words);
        command.env("HOME", "/tmp/home").env("BASH_ENV", "/tmp/bash_env").env("CI", "true");
        command.env("CIRCLECI", "true").envs(&self.machine.environment).envs(&self.environment);
        if !self.has_engine {
            command.env_remove("DOCKER_HOST");
        }
        command
    }
}

/// The directory of busybox's programs, which `engine.sh` has made for base images.
fn busybox_programs() -> String {
    let home = std::env::var("DOCKERCACHE_ENGINES");
    let home = home.unwrap_or_else(|_| "/var/lib/dockercache-engines".to_owned());
    format!("{home}/busybox/bin")
}

fn environment(map: &Value) -> BTreeMap<String, String> {
    let entries = map.as_mapping().into_iter().flatten();
    entries.map(|(name, value)| (plain(name), plain(value))).collect()
}
