//! A campaign of faults, thousands of them, each made from a seed: archives that are damaged or made
//! to do harm, kills, full disks, strange clocks, and clients, engines and stores that die, slow down
//! or lie.
//!
//! Whatever is wrong, a command ends in time, with an exit code that is documented, in little memory,
//! without a panic, and touches nothing outside of its directory. A build succeeds, and its image is
//! that of a clean build.

mod archives;
mod damage;
mod documents;
mod good;
mod jobs;
mod memory;
mod projects;
mod sandbox;
mod stores;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::random::Random;
use good::Good;
use jobs::Jobs;
use sandbox::Sandbox;

/// How many faults, and from which seed.
const COUNT: &str = "DOCKERCACHE_FAULTS";
const SEED: &str = "DOCKERCACHE_SEED";
/// Those of every run of the tests: they can be told from a change of the program.
const USUAL: (usize, u64) = (500, 20_260_101);
/// How many failures are shown in full.
const SHOWN: usize = 20;

/// What a trial finds wrong.
type Verdict = Result<(), String>;

/// A kind of fault.
struct Kind {
    name: &'static str,
    /// How many of all trials are of this kind, compared to the others.
    weight: usize,
    trial: Trial,
}

enum Trial {
    /// Without an engine: these take milliseconds.
    Alone(fn(&Sandbox, &Good, &mut Random) -> Verdict),
    /// With an engine: these take seconds.
    Job(fn(&Jobs, &mut Random) -> Verdict),
}

const KINDS: &[Kind] = &[
    alone("files of other kinds", 130, archives::files_of_other_kinds),
    alone("damaged bytes", 90, archives::damaged_bytes),
    alone("documents of other shapes", 150, archives::documents_of_other_shapes),
    alone("damaged one-file archives", 100, archives::damaged_files),
    alone("hostile one-file archives", 80, archives::hostile_files),
    alone("kills", 120, archives::kills),
    alone("full disks", 50, archives::full_disks),
    alone("files that can't be read or written", 50, archives::io_errors),
    alone("clock jumps", 50, archives::clock_jumps),
    alone("writers, readers and collectors at once", 30, archives::at_once),
    alone("projects that can't be read", 80, projects::hostile),
    alone("stores that fail a collector", 40, stores::collections),
    job("builds on damaged archives", 10, jobs::damaged_archives),
    job("jobs that are killed", 6, jobs::kills),
    job("engines that stop for a while", 4, jobs::frozen_engines),
    job("clients that fail, lie or hang", 6, jobs::clients),
    job("builds with stores that fail", 5, jobs::stores),
    job("jobs on full disks", 4, jobs::full_disks),
];

const fn alone(
    name: &'static str,
    weight: usize,
    trial: fn(&Sandbox, &Good, &mut Random) -> Verdict,
) -> Kind {
    Kind { name, weight, trial: Trial::Alone(trial) }
}

const fn job(name: &'static str, weight: usize, trial: fn(&Jobs, &mut Random) -> Verdict) -> Kind {
    Kind { name, weight, trial: Trial::Job(trial) }
}

/// What has come of the trials of one kind.
#[derive(Default)]
struct Tally {
    tried: usize,
    failed: Vec<String>,
}

#[test]
fn campaign() {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name} is no number")))
    };
    let count = number(COUNT).map(|count| usize::try_from(count).expect("a count"));
    let fresh = || SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_nanos();
    let seed = number(SEED).unwrap_or_else(|| match count {
        None => USUAL.1,
        Some(_) => u64::try_from(fresh() % 1_000_000_000).expect("a number"),
    });
    let count = count.unwrap_or(USUAL.0);
    eprintln!("{count} faults from seed {seed}");

    let trials: Vec<(u64, &Kind)> = (0..count)
        .map(|number| seed.wrapping_add(number as u64))
        .map(|seed| (seed, kind_of(&mut Random::new(seed))))
        .collect();
    let is_job = |kind: &Kind| matches!(kind.trial, Trial::Job(_));
    let (with_engine, without): (Vec<_>, Vec<_>) =
        trials.into_iter().partition(|(_, kind)| is_job(kind));
    let jobs = Jobs::start();
    let good = jobs.archives();
    let tallies: Mutex<BTreeMap<&str, Tally>> = Mutex::default();
    let began = Instant::now();
    let next = AtomicUsize::new(0);
    let run = |seed: u64, kind: &Kind, trial: &dyn Fn(&mut Random) -> Verdict| {
        let mut random = Random::new(seed);
        let _ = kind_of(&mut random);
        let verdict = trial(&mut random);
        let mut tallies = tallies.lock().expect("the tallies");
        let tally = tallies.entry(kind.name).or_default();
        tally.tried += 1;
        if let Err(reason) = verdict {
            eprintln!("FAILED {} (seed {seed}): {reason}", kind.name);
            tally.failed.push(format!("{} ({SEED}={seed} {COUNT}=1): {reason}", kind.name));
        }
    };
    let alone = || {
        let sandbox = Sandbox::new();
        while let Some((seed, kind)) = without.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Trial::Alone(trial) = kind.trial {
                run(*seed, kind, &|random: &mut Random| {
                    trial(&sandbox, random.pick(&good), random)
                });
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(alone);
        for (seed, kind) in &with_engine {
            if let Trial::Job(trial) = kind.trial {
                run(*seed, kind, &|random: &mut Random| trial(&jobs, random));
            }
        }
        alone();
    });

    let tallies = tallies.into_inner().expect("the tallies");
    let mut table = format!("{:<42} {:>6} {:>7}\n", "kind", "tried", "failed");
    for Kind { name, .. } in KINDS {
        let (tried, failed) = tallies.get(name).map_or((0, 0), |t| (t.tried, t.failed.len()));
        let _ = writeln!(table, "{name:<42} {tried:>6} {failed:>7}");
    }
    let failures: Vec<&String> = tallies.values().flat_map(|tally| &tally.failed).collect();
    let _ = writeln!(table, "{:<42} {count:>6} {:>7}", "all", failures.len());
    println!("{table}seed {seed}, {:.0} s", began.elapsed().as_secs_f64());
    let shown: Vec<&str> = failures.iter().take(SHOWN).map(|text| text.as_str()).collect();
    assert!(failures.is_empty(), "{} faults had an effect:\n{}", failures.len(), shown.join("\n"));
}

fn kind_of(random: &mut Random) -> &'static Kind {
    let mut at = random.below(KINDS.iter().map(|kind| kind.weight).sum());
    let mut kinds = KINDS.iter();
    loop {
        let kind = kinds.next().expect("a kind");
        match at.checked_sub(kind.weight) {
            Some(rest) => at = rest,
            None => return kind,
        }
    }
}
