//! A place for trials without an engine: a directory for the archive, and things beside it that must
//! stay as they are.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use dockercache::archive;
use dockercache::oci::digest::Digest;
use dockercache::oci::directory::Layout;
use dockercache::oci::verify;
use tempfile::TempDir;
use walkdir::WalkDir;

use super::Verdict;
use crate::harness::{Until, Watched, watched};

/// How long a command may take, whatever is wrong.
pub(super) const LIMIT: Duration = Duration::from_secs(30);
/// How much memory, in KiB.
const MEMORY: u64 = 200 << 10;
/// What a killed program is ended by.
const KILL: i32 = 9;

pub(super) struct Sandbox {
    dir: TempDir,
    before: BTreeMap<PathBuf, String>,
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let id = Digest::of(self.archive().as_os_str().as_encoded_bytes());
        let _ = fs::remove_dir_all(format!("/tmp/dockercache-journal-{}", &id.hex()[..12]));
    }
}

impl Sandbox {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path();
        for name in ["tmp", "home", "outside/victim", "outside/ingest"] {
            fs::create_dir_all(root.join(name)).expect("a directory");
        }
        fs::write(root.join("outside/file"), "the user's own").expect("a file");
        fs::write(root.join("outside/ingest/file"), "the user's own").expect("a file");
        // Named as blobs are.
        for text in ["a", "b"] {
            let name = Digest::of(text.as_bytes());
            fs::write(root.join("outside/victim").join(name.hex()), text).expect("a file");
        }
        let mut sandbox = Self { dir, before: BTreeMap::new() };
        sandbox.before = sandbox.outside();
        sandbox
    }

    pub(super) fn archive(&self) -> PathBuf {
        self.dir.path().join("archive")
    }

    /// What must stay as it is.
    pub(super) fn outside_file(&self, name: &str) -> PathBuf {
        self.dir.path().join("outside").join(name)
    }

    /// A place for a file of the trial, which may be changed.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("tmp").join(name)
    }

    /// Our program, which finds no engine.
    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dockercache"));
        self.prepare(command.args(words));
        command
    }

    /// Our program, started by another one with these words.
    pub(super) fn command_by(&self, starter: &[&str], words: &[&str]) -> Command {
        let mut command = Command::new(starter[0]);
        command.args(&starter[1..]).arg(env!("CARGO_BIN_EXE_dockercache")).args(words);
        self.prepare(&mut command);
        command
    }

    fn prepare(&self, command: &mut Command) {
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.dir.path().join("home"))
            .env("TMPDIR", self.dir.path().join("tmp"))
            .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
            .env("DOCKERCACHE_DIR", self.archive())
            .current_dir(self.dir.path().join("home"));
    }

    /// Runs a command that may end with one of these codes.
    pub(super) fn run(&self, words: &[&str], allowed: &[i32]) -> Result<Watched, String> {
        self.judged(self.command(words), Until::Limit(LIMIT), allowed)
    }

    pub(super) fn judged(
        &self,
        command: Command,
        until: Until,
        allowed: &[i32],
    ) -> Result<Watched, String> {
        let line = format!("{:?}", command.get_args().collect::<Vec<_>>());
        let run = watched(command, until);
        judge(&run, until, allowed).map_err(|reason| format!("{line}: {reason}"))?;
        let outside = self.outside();
        if outside != self.before {
            return Err(format!("{line}: changed what is outside: {outside:#?}"));
        }
        Ok(run)
    }

    /// Everything beside the archive, with what is in it.
    fn outside(&self) -> BTreeMap<PathBuf, String> {
        let entries = WalkDir::new(self.dir.path()).min_depth(1).into_iter();
        let own = [self.archive(), self.dir.path().join("tmp")];
        let entries = entries.filter_entry(|entry| !own.iter().any(|path| entry.path() == path));
        let entries = entries.map(|entry| entry.expect("an entry").into_path());
        entries.map(|path| (path.clone(), described(&path))).collect()
    }

    /// Whether all that the index names is there and whole.
    pub(super) fn assert_whole(&self) -> Verdict {
        let layout = Layout::at(&self.archive());
        let reach = archive::reach(&layout).map_err(|error| format!("no archive: {error}"))?;
        let bad = verify::verify(&layout, &reach, |_| false, &|_| {});
        if reach.blobs.len() < 4 || !bad.is_empty() {
            return Err(format!("the archive is broken: {bad:?} of {}", reach.blobs.len()));
        }
        Ok(())
    }
}

fn described(path: &Path) -> String {
    let meta = path.symlink_metadata().expect("an entry");
    let kind = meta.file_type();
    if kind.is_file() {
        return format!("{:o} {:?}", meta.mode(), fs::read(path).expect("a file"));
    }
    format!("{:o} {} {}", meta.mode(), kind.is_fifo(), kind.is_symlink())
}

/// What every run of our program is held to.
pub(super) fn judge(run: &Watched, until: Until, allowed: &[i32]) -> Verdict {
    let Watched { code, signal, stdout, stderr, took, peak, killed } = run;
    let said = || format!("\n{stdout}{stderr}");
    if *killed && matches!(until, Until::Limit(_)) {
        return Err(format!("it hangs after {:.1} s{}", took.as_secs_f64(), said()));
    }
    if stderr.contains("panicked at") {
        return Err(format!("it panics{}", said()));
    }
    if *peak > MEMORY {
        return Err(format!("it takes {} MiB{}", peak >> 10, said()));
    }
    match (code, signal) {
        (_, Some(KILL)) if *killed => {}
        (Some(code), _) if allowed.contains(code) => {}
        _ => return Err(format!("it ends with {code:?} or signal {signal:?}{}", said())),
    }
    // The classic builder's log has carriage returns in it.
    let is_control = |c: char| c.is_control() && !"\n\r\t".contains(c);
    if stdout.contains(is_control) || stderr.contains(is_control) {
        return Err(format!("it prints control characters: {stdout:?} {stderr:?}"));
    }
    if stdout.lines().chain(stderr.lines()).any(|line| line.starts_with("::")) {
        return Err(format!("a line is a command of a CI{}", said()));
    }
    Ok(())
}
