//! Real Docker engines, started and emptied by `tests/engines/engine.sh`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::Duration;

use dockercache::builder::Version;
use tempfile::TempDir;
use walkdir::{DirEntry, WalkDir};

use super::invocation::Invocation;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/engines/engine.sh");

/// A Docker release and the image store that it runs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Generation {
    /// Docker 20.10 with the graph driver; its client builds with the classic builder by default.
    V20_10,
    /// Docker 26.1 with the graph driver.
    V26_1,
    /// Docker 28.5 with the graph driver.
    V28_5,
    /// Docker 28.5 with the containerd image store.
    V28_5Containerd,
}

impl Generation {
    /// The name that `engine.sh` knows.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V20_10 => "20.10",
            Self::V26_1 => "26.1",
            Self::V28_5 => "28.5",
            Self::V28_5Containerd => "28.5-containerd",
        }
    }

    /// The release, as far as what a builder counts depends on it.
    pub(crate) fn version(self) -> Version {
        match self {
            Self::V20_10 => Version::new(20, 10, 24),
            Self::V26_1 => Version::new(26, 1, 5),
            Self::V28_5 | Self::V28_5Containerd => Version::new(28, 5, 2),
        }
    }

    /// Whether `DOCKER_BUILDKIT=0` is a builder whose cache can be carried.
    pub(crate) fn has_classic_builder(self) -> bool {
        self != Self::V28_5Containerd
    }
}

/// A running engine and the environment that its client needs.
#[derive(Debug)]
pub(crate) struct Engine {
    generation: Generation,
    name: String,
    docker_host: String,
    docker_config: PathBuf,
    bin: PathBuf,
    home: TempDir,
    /// Whether something may have been put into the engine since it was empty.
    used: bool,
}

impl Engine {
    /// Starts an empty engine of the caller's own; it is stopped when it is dropped.
    pub(crate) fn start(generation: Generation) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("test-{}-{}", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        let lines = script(&["start", &name, generation.name()]);
        let value = |key: &str| {
            lines
                .lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
                .unwrap_or_else(|| panic!("engine.sh printed no {key}: {lines}"))
        };
        Self {
            generation,
            docker_host: value("DOCKER_HOST").to_owned(),
            docker_config: value("DOCKER_CONFIG").into(),
            bin: value("ENGINE_BIN").into(),
            name,
            home: tempfile::tempdir().expect("a home directory"),
            used: false,
        }
    }

    /// Returns an engine of this generation, empty, that no other test holds.
    ///
    /// Two of a generation are kept, so that a long test does not hold up all others. They outlive
    /// the tests and are stopped when the process ends.
    pub(crate) fn shared(generation: Generation) -> MutexGuard<'static, Self> {
        static ENGINES: [[OnceLock<Mutex<Engine>>; 2]; 4] =
            [const { [const { OnceLock::new() }; 2] }; 4];
        let mut engine = loop {
            let free = ENGINES[generation as usize].iter().find_map(|engine| {
                let engine = engine.get_or_init(|| Mutex::new(Self::start(generation)));
                match engine.try_lock() {
                    Ok(engine) => Some(engine),
                    // A test that failed leaves the engine in any state: it is emptied all the same.
                    Err(TryLockError::Poisoned(engine)) => Some(engine.into_inner()),
                    Err(TryLockError::WouldBlock) => None,
                }
            });
            match free {
                Some(engine) => break engine,
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        if engine.used {
            engine.wipe();
        }
        engine.used = true;
        engine
    }

    /// Empties the engine and its client's state, as on a fresh CI machine.
    pub(crate) fn wipe(&self) {
        script(&["wipe", &self.name]);
        for entry in fs::read_dir(self.home.path()).expect("a home directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }
                .expect("an emptied home directory");
        }
    }

    /// Loads a small busybox image under these tags. It has the same ID on every engine.
    pub(crate) fn base_image(&self, tags: &[&str]) {
        script(&[&["base-image", &self.name], tags].concat());
    }

    /// Loads a directory as an image.
    pub(crate) fn import(&self, tree: &Path, tag: &str) {
        script(&["import", &self.name, tree.to_str().expect("a UTF-8 path"), tag]);
    }

    /// The generation that was asked for.
    pub(crate) fn generation(&self) -> Generation {
        self.generation
    }

    /// The directory of the client's configuration.
    pub(crate) fn docker_config(&self) -> &Path {
        &self.docker_config
    }

    /// Where the engine listens: a `unix://` address.
    pub(crate) fn docker_host(&self) -> &str {
        &self.docker_host
    }

    /// The directory that holds the engine's `docker` client.
    pub(crate) fn bin(&self) -> &Path {
        &self.bin
    }

    /// Returns a command with nothing in its environment but what reaches this engine.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.bin.display()))
            .env("HOME", self.home.path())
            .env("TMPDIR", self.home.path())
            .env("DOCKER_HOST", &self.docker_host)
            .env("DOCKER_CONFIG", &self.docker_config);
        command
    }

    /// Prepares a run of the `docker` client.
    pub(crate) fn docker<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Invocation {
        // By path: `Command` looks programs up in the parent's PATH.
        let docker = self.bin.join("docker");
        Invocation::new(self.command(docker.to_str().expect("a UTF-8 path"))).args(args)
    }

    /// The IDs of all images, those in between included, each once.
    pub(crate) fn image_ids(&self) -> Vec<String> {
        let run = self.docker(["images", "--all", "--quiet", "--no-trunc"]).run();
        let mut ids: Vec<_> = run.success().stdout.lines().map(str::to_owned).collect();
        ids.sort();
        ids.dedup();
        ids
    }

    /// Where the layers that the engine has unpacked hold a file of this name.
    pub(crate) fn files_named(&self, name: &str) -> Vec<PathBuf> {
        let socket = self.docker_host.strip_prefix("unix://").expect("a socket");
        let data = Path::new(socket).with_file_name("data");
        // What the engine deletes meanwhile is no error.
        let entries = WalkDir::new(data).into_iter().flatten();
        entries.filter(|entry| entry.file_name() == name).map(DirEntry::into_path).collect()
    }

    /// Stops the engine's processes, as a machine does that is out of breath; they go on when what is
    /// given is dropped.
    pub(crate) fn freeze(&self) -> Frozen {
        let socket = self.docker_host.strip_prefix("unix://").expect("a socket");
        let holder = fs::read_to_string(Path::new(socket).with_file_name("holder.pid"));
        let mut found = vec![holder.expect("a running engine").trim().to_owned()];
        let mut at = 0;
        while let Some(process) = found.get(at) {
            let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
            let children = children.unwrap_or_default();
            found.extend(children.split_whitespace().map(str::to_owned));
            at += 1;
        }
        // Not its first process, which reaps the others.
        let is_engine = |process: &String| {
            let name = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
            ["dockerd", "containerd"].contains(&name.trim())
        };
        found.retain(is_engine);
        assert!(!found.is_empty(), "the engine has no process");
        let frozen = Frozen(found);
        frozen.signal("-STOP");
        frozen
    }

    /// The ID of the image with this name.
    pub(crate) fn image_id(&self, name: &str) -> String {
        let run = self.docker(["image", "inspect", "--format", "{{.Id}}", name]).run();
        run.success().stdout.trim().to_owned()
    }
}

/// Processes that are stopped.
pub(crate) struct Frozen(Vec<String>);

impl Frozen {
    fn signal(&self, signal: &str) {
        let kill = Command::new("kill").arg(signal).args(&self.0).status();
        assert!(kill.expect("kill runs").success(), "{signal} {:?}", self.0);
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.signal("-CONT");
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // A panic here would hide the one that the test may be failing with.
        if let Err(error) = try_script(&["stop", &self.name]) {
            eprintln!("{error}");
        }
    }
}

/// The directory of a busybox root file system, to make images of.
pub(crate) fn busybox_tree() -> PathBuf {
    script(&["busybox"]).trim().into()
}

/// The path of a server, by the command of `engine.sh` that installs it.
pub(super) fn server_program(command: &'static str) -> String {
    static PROGRAMS: Mutex<BTreeMap<&str, String>> = Mutex::new(BTreeMap::new());
    let mut programs = PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner);
    programs.entry(command).or_insert_with(|| script(&[command]).trim().to_owned()).clone()
}

/// Installs programs on this machine that are missing, each given as `PROGRAM=PACKAGE`.
pub(crate) fn need_programs(programs: &[&str]) {
    script(&[&["programs"], programs].concat());
}

/// Runs `engine.sh` and returns what it printed.
pub(super) fn script(args: &[&str]) -> String {
    try_script(args).unwrap_or_else(|error| panic!("{error}"))
}

fn try_script(args: &[&str]) -> Result<String, String> {
    let Output { status, stdout, stderr } = Command::new(SCRIPT)
        .args(args)
        // The engine is stopped with this process even when nothing drops it.
        .env("DOCKERCACHE_ENGINE_OWNER", std::process::id().to_string())
        .output()
        .map_err(|error| format!("can't run {SCRIPT}: {error}"))?;
    if status.success() {
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    } else {
        Err(format!(
            "engine.sh {} failed ({status}):\n{}",
            args.join(" "),
            String::from_utf8_lossy(&stderr)
        ))
    }
}
