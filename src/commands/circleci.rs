//! `circleci`: the steps of the CircleCI orb, whose parameters arrive as `PARAM_…` variables.
//!
//! A step turns parameters into one of the verbs and runs this program again with it. A cache
//! problem is a warning: only a parameter that can't be right and the build itself fail a job.

mod install;
mod parameters;
mod shim;
mod substitute;

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use super::exit::{Exit, Failure};
use crate::cli::CircleciStep;
use crate::report::{Reporter, output};
use parameters::Parameters;

/// CircleCI's keys are checksums of these, and a missing file would lose the cache.
const LEVELS: std::ops::RangeInclusive<usize> = 1..=8;
/// Goes with the archive, since CircleCI tells nobody which key it has restored.
const KEY_FILE: &str = "dockercache.key";

pub(super) fn run(step: CircleciStep) -> Result<Exit, Failure> {
    let step_of_job = Step::new(Parameters::of_process());
    match step {
        CircleciStep::Install => install::run(&step_of_job.parameters),
        CircleciStep::Keys => step_of_job.keys(),
        CircleciStep::Restore => step_of_job.restore(),
        CircleciStep::Build => step_of_job.build(),
        CircleciStep::Save => step_of_job.save(),
        CircleciStep::Wrap => Ok(shim::install(&step_of_job)),
    }
}

/// One step of a job.
struct Step {
    parameters: Parameters,
    reporter: Reporter,
    /// The archive's directory.
    dir: PathBuf,
    /// The directory of the key files, beside it.
    keys: PathBuf,
}

impl Step {
    fn new(parameters: Parameters) -> Self {
        let dir = match parameters.raw("CACHE_DIR") {
            "" => "/tmp/dockercache",
            dir => dir,
        };
        let keys = PathBuf::from(format!("{dir}.keys"));
        Self { dir: dir.into(), keys, reporter: Reporter::new(false), parameters }
    }

    /// Writes a file for each level of the key, whatever happens to the helper's own keys.
    fn keys(&self) -> Result<Exit, Failure> {
        let arguments = self.parameters.all_builds()?;
        let salt = self.parameters.salt()?;
        let project = self.parameters.project()?;
        if let Err(error) = self.write_neutral_keys() {
            let keys = self.keys.display();
            self.reporter.warn(format!("no cache for this job: failed to write `{keys}`: {error}"));
            return Ok(Exit::Ok);
        }
        let mut key = self.verb("key")?;
        key.arg("--write").arg(&self.keys).args(["--salt", &salt]);
        if let Some(project) = project {
            key.args(["--project", &project]);
        }
        key.arg("--").args(arguments);
        self.finish("key", key.status());
        Ok(Exit::Ok)
    }

    fn write_neutral_keys(&self) -> io::Result<()> {
        fs::create_dir_all(&self.keys)?;
        LEVELS.into_iter().try_for_each(|level| fs::write(self.level(level), "none\n"))?;
        fs::write(self.variant(), "first\n")
    }

    /// Verifies what CircleCI has restored. The flags for a plain build are left in a file.
    fn restore(&self) -> Result<Exit, Failure> {
        let mut restore = self.verb("restore")?;
        let flags = fs::File::create(self.keys.join("flags"));
        restore.stdout(flags.map_or_else(|_| Stdio::null(), Stdio::from));
        self.finish("restore", restore.status());
        Ok(Exit::Ok)
    }

    fn build(&self) -> Result<Exit, Failure> {
        let arguments = self.parameters.build()?;
        // Signals and the exit code are the build's own.
        let error = self.verb("build")?.args(arguments).exec();
        Err(failed("run", OsStr::new("dockercache build"), &error))
    }

    fn save(&self) -> Result<Exit, Failure> {
        let mut save = self.verb("save")?;
        save.args(["--format", "env"]).stderr(Stdio::inherit());
        let compression = self.parameters.raw("COMPRESSION");
        if !compression.is_empty() {
            save.env("DOCKERCACHE_COMPRESSION", compression);
        }
        let finished = save.output();
        let said = finished.as_ref().map(|f| String::from_utf8_lossy(&f.stdout).into_owned());
        let said = said.unwrap_or_default();
        said.lines().for_each(output::line);
        self.finish("save", finished.map(|finished| finished.status));
        if let Err(error) = self.choose_key(said.contains("DOCKERCACHE_SAVED='true'")) {
            self.reporter.warn(format!("the cache may not be saved: {error}"));
        }
        Ok(Exit::Ok)
    }

    /// Decides which key CircleCI saves under.
    ///
    /// It is the exact key, and a second upload of the same build is skipped. Where an archive came
    /// from that very key and was not good enough (damaged, or made from another base image), the
    /// key gets another end: CircleCI restores the newest match. Without an archive it is a key
    /// that no job restores.
    fn choose_key(&self, saved: bool) -> io::Result<()> {
        let Ok(exact) = fs::read_to_string(self.level(1)) else { return Ok(()) };
        let index = self.dir.join("index.json");
        if !index.is_file() {
            fs::create_dir_all(&self.dir)?;
            return LEVELS
                .into_iter()
                .try_for_each(|level| fs::write(self.level(level), "empty\n"));
        }
        let file = self.dir.join(KEY_FILE);
        let restored = fs::read_to_string(&file).unwrap_or_default();
        if restored.trim() != exact.trim() {
            return fs::write(file, format!("{}\n", exact.trim()));
        }
        if saved { fs::copy(index, self.variant()).map(drop) } else { Ok(()) }
    }

    /// This program with a verb, and with the directory and the strategy of the parameters.
    fn verb(&self, verb: &str) -> Result<Command, Failure> {
        let mut command = Command::new(this_program()?);
        command.arg(verb).env("DOCKERCACHE_DIR", &self.dir);
        let strategy = self.parameters.raw("STRATEGY");
        if !strategy.is_empty() {
            command.env("DOCKERCACHE_STRATEGY", strategy);
        }
        Ok(command)
    }

    /// Tells of a verb that has failed. It costs time, not the job.
    fn finish(&self, verb: &str, status: io::Result<ExitStatus>) {
        let how = match status {
            Ok(status) if status.success() => return,
            Ok(status) => status.code().map_or_else(|| status.to_string(), |c| c.to_string()),
            Err(error) => error.to_string(),
        };
        self.reporter.warn(format!("`dockercache {verb}` ended with {how}; the job goes on"));
    }

    fn level(&self, number: usize) -> PathBuf {
        self.keys.join(format!("level-{number}"))
    }

    fn variant(&self) -> PathBuf {
        self.keys.join("variant")
    }
}

/// The file that runs: the one that was verified, not whatever has its name in `PATH`.
fn this_program() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|e| failed("find", OsStr::new("dockercache"), &e))
}

fn failed(what: &str, name: impl AsRef<Path>, error: &io::Error) -> Failure {
    let message = format!("failed to {what} `{}`: {error}", name.as_ref().display());
    Failure { exit: Exit::Io, message, hint: None }
}
