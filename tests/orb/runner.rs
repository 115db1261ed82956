//! Runs an expanded job, as CircleCI's agent does: each step in a shell of its own.
//!
//! In a docker executor the engine is out of reach until `setup_remote_docker`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_yaml::{Mapping, Value};
use tempfile::TempDir;

use crate::cache::Cache;
use crate::expand::{Job, Step, plain};
use crate::harness::{BuildReport, Engine};
use crate::keys::{self, Facts};
use crate::sandbox::{PROJECT, Sandbox, Shell};

/// What the image of the job's first container has.
fn shell_of(job: &Job) -> Shell {
    let image = job.settings.get("docker").and_then(|d| d.get(0)).and_then(|d| d.get("image"));
    match image.and_then(Value::as_str) {
        Some(image) if image.starts_with("docker:") || image.contains("alpine") => Shell::Busybox,
        _ => Shell::Bash,
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
    /// Directories of programs that the image has besides.
    pub(crate) programs: Vec<PathBuf>,
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
    let shell = machine.shell.unwrap_or_else(|| shell_of(job));
    let mut sandbox = Sandbox::new(machine.engine, shell);
    sandbox.has_engine = job.settings.contains_key("machine");
    sandbox.programs.clone_from(&machine.programs);
    sandbox.environment.extend(machine.environment.clone());
    sandbox.environment.insert("CIRCLECI".to_owned(), "true".to_owned());
    sandbox
        .environment
        .extend(job.settings.get("environment").map(environment).unwrap_or_default());
    let mut running = Running { machine, sandbox };
    let mut finished = Vec::new();
    let mut succeeded = true;
    for step in &job.steps {
        let when = step.arguments.get("when").and_then(Value::as_str).unwrap_or("on_success");
        let due = when == "always" || (when == "on_success") == succeeded;
        if !due {
            continue;
        }
        let done = running.step(step);
        eprintln!("--- {} ({})\n{}", done.name, job.name, done.output);
        succeeded &= done.succeeded;
        finished.push(done);
    }
    Finished { steps: finished, succeeded, root: running.sandbox.into_root() }
}

/// A job that is under way.
struct Running<'a> {
    machine: &'a Machine<'a>,
    sandbox: Sandbox<'a>,
}

impl Running<'_> {
    fn step(&mut self, step: &Step) -> Done {
        let text = |key: &str| step.arguments.get(key).and_then(Value::as_str);
        let name = text("name").unwrap_or(&step.kind).to_owned();
        let done = |output: String| Done { name: name.clone(), output, succeeded: true };
        match step.kind.as_str() {
            "run" => {
                let (output, succeeded) = self.script(&step.arguments);
                Done { name, output, succeeded }
            }
            "checkout" => {
                self.sandbox.checkout(self.machine.project);
                done(String::new())
            }
            "setup_remote_docker" => {
                self.sandbox.has_engine = true;
                done(String::new())
            }
            "restore_cache" => {
                let one = step.arguments.get("key").into_iter();
                let many = step.arguments.get("keys").and_then(Value::as_sequence);
                let templates = one.chain(many.into_iter().flatten()).map(plain);
                // A key that can't be computed loses the cache, not the job.
                match templates.map(|t| self.key(&t)).collect::<Result<Vec<_>, _>>() {
                    Ok(keys) => {
                        let tar = self.sandbox.command(&["tar", "-xPf", "-"]);
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
                    done(self.machine.cache.save(&key, self.sandbox.command(&words)))
                }
                Err(error) => done(error),
            },
            other => panic!("the runner has no `{other}`"),
        }
    }

    fn key(&self, template: &str) -> Result<String, String> {
        let read = |file: &str| {
            let command = self.sandbox.command(&["cat", file]).output();
            let output = command.map_err(|e| e.to_string())?;
            if output.status.success() { Ok(output.stdout) } else { Err("missing".to_owned()) }
        };
        keys::key(template, &Facts { environment: &self.machine.environment, read: &read })
    }

    fn script(&self, arguments: &Mapping) -> (String, bool) {
        let text = arguments.get("command").map(plain).expect("a command");
        let dir = arguments.get("working_directory").map(plain);
        let mut command = self.sandbox.script(&text, dir.as_deref().unwrap_or(PROJECT));
        command.envs(arguments.get("environment").map(environment).unwrap_or_default());
        let output = command.output().expect("a shell");
        (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.success())
    }
}

/// A mapping of variables.
pub(crate) fn environment(map: &Value) -> BTreeMap<String, String> {
    let entries = map.as_mapping().into_iter().flatten();
    entries.map(|(name, value)| (plain(name), plain(value))).collect()
}
