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
use super::packs;
use crate::cli::CircleciStep;
use crate::packs::{SLOTS, disk};
use crate::report::{Reporter, output};
use crate::settings::DIRECTORY;
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
        CircleciStep::Packs => step_of_job.choose_packs(),
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
            "" => DIRECTORY,
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
        packs::write_neutral_keys(&self.keys, false)?;
        fs::write(self.variant(), "first\n")
    }

    /// Chooses the packs that CircleCI is to restore, by the index that it has restored.
    fn choose_packs(&self) -> Result<Exit, Failure> {
        let mut packs = self.verb("packs")?;
        packs.arg("--write").arg(&self.keys).arg("--").args(self.parameters.all_builds()?);
        self.finish("packs", packs.stdout(Stdio::null()).status());
        Ok(Exit::Ok)
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
        let place = self.saved_directory();
        let restored = fs::read_to_string(place.join(KEY_FILE)).unwrap_or_default();
        let mut changed = self.said("save", &mut save).contains("DOCKERCACHE_SAVED='true'");
        if self.has_packs() {
            match self.save_packs() {
                Ok(packs_changed) => changed |= packs_changed,
                Err(error) => self.reporter.warn(format!("the cache may not be saved: {error}")),
            }
        }
        if let Err(error) = self.choose_key(&place, restored.trim(), changed) {
            self.reporter.warn(format!("the cache may not be saved: {error}"));
        }
        Ok(Exit::Ok)
    }

    /// Lays out packs and index. Without them, no step of CircleCI has anything to save.
    fn save_packs(&self) -> io::Result<bool> {
        packs::write_neutral_keys(&self.keys, true)?;
        let mut save = self.verb("packs").map_err(|failure| io::Error::other(failure.message))?;
        save.args(["--save", "--format", "env", "--write"]).arg(&self.keys);
        let said = self.said("packs", save.stderr(Stdio::inherit()));
        if !said.contains("DOCKERCACHE_CHANGED=") {
            // It is not whole.
            let index = disk::index_directory(&self.dir);
            match fs::remove_dir_all(index) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        let slots = (1..=SLOTS).map(|slot| disk::slot_directory(&self.dir, slot));
        slots.into_iter().try_for_each(fs::create_dir_all)?;
        Ok(said.contains("DOCKERCACHE_CHANGED='true'"))
    }

    /// Runs a verb and prints what it prints, which is also given.
    fn said(&self, verb: &str, command: &mut Command) -> String {
        let finished = command.output();
        let said = finished.as_ref().map(|f| String::from_utf8_lossy(&f.stdout).into_owned());
        let said = said.unwrap_or_default();
        said.lines().for_each(output::line);
        self.finish(verb, finished.map(|finished| finished.status));
        said
    }

    fn has_packs(&self) -> bool {
        // In a text, CircleCI writes a boolean as a number.
        matches!(self.parameters.raw("PACKS"), "packs=1" | "packs=true")
    }

    /// The directory that CircleCI restores by the levels of the key.
    fn saved_directory(&self) -> PathBuf {
        if self.has_packs() { disk::index_directory(&self.dir) } else { self.dir.clone() }
    }

    /// Decides which key CircleCI saves the directory under.
    ///
    /// It is the exact key, and a second upload of the same build is skipped. Where an archive came
    /// from that very key and was not good enough (damaged, made from another base image, or about to
    /// expire), the key gets another end: CircleCI restores the newest match. Without an archive it is a
    /// key that no job restores.
    fn choose_key(&self, place: &Path, restored: &str, changed: bool) -> io::Result<()> {
        let Ok(exact) = fs::read_to_string(self.level(1)) else { return Ok(()) };
        let index = place.join("index.json");
        if !index.is_file() {
            fs::create_dir_all(place)?;
            return LEVELS
                .into_iter()
                .try_for_each(|level| fs::write(self.level(level), "empty\n"));
        }
        fs::write(place.join(KEY_FILE), format!("{}\n", exact.trim()))?;
        if restored == exact.trim() && changed {
            let mut variant = fs::read(index)?;
            variant.extend(fs::read(place.join(disk::TABLE)).unwrap_or_default());
            return fs::write(self.variant(), variant);
        }
        Ok(())
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
