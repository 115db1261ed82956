//! A CI's cache that moves packs: only what is new goes there, only what a build reads comes back, and
//! whatever is wrong with it costs time alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use tempfile::TempDir;

use crate::harness::{BuildReport, Builder, Machine, on_buildkit};
use crate::words::{FILES, OUTPUT};

on_buildkit! {
    a_change_moves_what_is_new_and_what_is_read,
    packs_that_are_lost_cost_a_build_alone,
    packs_that_are_not_whole_cost_a_build_alone,
    packs_with_something_else_cost_a_build_alone,
}

/// More than all layers of the project but the toolchain.
const SMALL: u64 = 200_000;

/// What `dockercache packs --format json` says.
#[derive(Debug, Deserialize)]
struct Packs {
    packs: Vec<Pack>,
    changed: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Pack {
    key: String,
    path: PathBuf,
}

/// What `dockercache save --format json` says.
#[derive(Debug, Deserialize)]
struct Saved {
    changed: bool,
}

/// A CI's cache: directories under keys that never change.
struct Cache {
    dir: TempDir,
    entries: BTreeMap<String, PathBuf>,
    index: Option<PathBuf>,
    saves: usize,
}

/// A job, and the bytes that its packs had.
struct Done {
    report: BuildReport,
    up: u64,
    down: u64,
    /// Whether the index was saved.
    changed: bool,
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    let from = from.join(".");
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp");
    assert!(status.success());
}

fn size(dir: &Path) -> u64 {
    let files = fs::read_dir(dir).expect("a directory");
    files.map(|file| file.expect("a file").metadata().expect("a file").len()).sum()
}

impl Cache {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self { dir, entries: BTreeMap::new(), index: None, saves: 0 }
    }

    fn keep(&mut self, from: &Path) -> PathBuf {
        self.saves += 1;
        let to = self.dir.path().join(self.saves.to_string());
        copy(from, &to);
        to
    }

    /// A job on a fresh machine.
    #[track_caller]
    fn job(&mut self, machine: &Machine) -> Done {
        machine.replace();
        let (archive, packs) = (machine.carried.archive(), machine.carried.file("archive.packs"));
        for left in [&archive, &packs] {
            let _ = fs::remove_dir_all(left);
        }
        if let Some(index) = &self.index {
            copy(index, &packs.join("index"));
        }
        let mut words = vec!["packs", "--format", "json", "--"];
        words.extend(machine.arguments());
        let chosen: Packs = machine.run(words).json();
        assert!(chosen.packs.len() <= 5);
        let mut down = 0;
        for pack in &chosen.packs {
            if let Some(entry) = self.entries.get(&pack.key) {
                down += size(entry);
                copy(entry, &pack.path);
            }
        }
        machine.run(["restore"]).success();
        let report = machine.build();
        let saved: Saved = machine.run(["save", "--format", "json"]).json();
        let planned: Packs = machine.run(["packs", "--save", "--format", "json"]).json();
        assert!(planned.packs.len() <= 5);
        let mut up = 0;
        for pack in &planned.packs {
            if !self.entries.contains_key(&pack.key) {
                up += size(&pack.path);
                let kept = self.keep(&pack.path);
                self.entries.insert(pack.key.clone(), kept);
            }
        }
        let changed = saved.changed || planned.changed.expect("a plan");
        if changed {
            self.index = Some(self.keep(&packs.join("index")));
        }
        Done { report, up, down, changed }
    }
}

fn a_change_moves_what_is_new_and_what_is_read(builder: Builder) {
    let machine = Machine::new(builder, FILES);
    let mut cache = Cache::new();
    let first = cache.job(&machine);
    assert!(first.up > 5_000_000, "{}", first.up);
    assert_eq!(first.down, 0);

    let same = cache.job(&machine);
    same.report.assert_all_cached();
    assert_eq!((same.up, same.changed), (0, false));
    assert_eq!(machine.output(), OUTPUT);
    let is_lazy = builder.strategy() == "buildkit-replay";
    if is_lazy {
        assert!(same.down < 5_000_000, "the toolchain came along: {}", same.down);
    }

    machine.project.edit("run.sh", "words", "WORDS");
    let last = cache.job(&machine);
    assert_eq!(last.report.ran(), ["COPY run.sh /run.sh"]);
    assert!(last.changed && last.up < SMALL, "{}", last.up);
    if is_lazy {
        assert!(last.down < 5_000_000, "the toolchain came along: {}", last.down);
    }

    machine.project.edit("src/a", "of", "OF");
    let source = cache.job(&machine);
    assert!(source.report.cached().contains(&"RUN head -c 5000000 /dev/urandom > toolchain"));
    assert!(source.changed && source.up < SMALL, "{}", source.up);
    assert!(source.down > 5_000_000, "{}", source.down);
    cache.job(&machine).report.assert_all_cached();
}

/// Two jobs, then one after `harm` with an edit for which it reads all packs, then one that finds all
/// good again.
fn survives(builder: Builder, harm: impl FnOnce(&mut Cache)) {
    let machine = Machine::new(builder, FILES);
    let mut cache = Cache::new();
    cache.job(&machine);
    harm(&mut cache);
    machine.project.edit("src/a", "of", "OF");
    let harmed = cache.job(&machine);
    let toolchain = "RUN head -c 5000000 /dev/urandom > toolchain";
    assert!(harmed.report.ran().contains(&toolchain), "{:?}", harmed.report);
    assert!(harmed.changed && harmed.up > 5_000_000, "{}", harmed.up);
    let after = cache.job(&machine);
    after.report.assert_all_cached();
    assert_eq!((after.up, after.changed), (0, false));
}

fn packs_that_are_lost_cost_a_build_alone(builder: Builder) {
    survives(builder, |cache| cache.entries.clear());
}

fn packs_that_are_not_whole_cost_a_build_alone(builder: Builder) {
    survives(builder, |cache| {
        for file in layers(cache) {
            fs::remove_file(file).expect("a layer");
        }
    });
}

fn packs_with_something_else_cost_a_build_alone(builder: Builder) {
    survives(builder, |cache| {
        for (number, file) in layers(cache).into_iter().enumerate() {
            let size = fs::metadata(&file).expect("a layer").len();
            fs::remove_file(&file).expect("a layer");
            if number % 2 == 0 {
                let zeros = vec![0; usize::try_from(size).expect("a size")];
                fs::write(&file, zeros).expect("a layer");
            } else {
                std::os::unix::fs::symlink("/etc/hostname", &file).expect("a link");
            }
        }
    });
}

/// All layers in the cache's packs.
fn layers(cache: &Cache) -> Vec<PathBuf> {
    let entries = cache.entries.values().flat_map(|dir| fs::read_dir(dir).expect("a pack"));
    entries.map(|entry| entry.expect("a layer").path()).collect()
}
