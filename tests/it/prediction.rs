//! Predictions against the builder: random projects, changed at random, on real engines.
//!
//! Each engine builds a project, then the project with one change, then with one more, and so on.
//! A step is predicted to be a hit if its digest was among those of any build before on that
//! engine, and to run otherwise. The builder must say the same of every step.
//!
//! Where the builder does not follow from its input alone, the projects stay away from it; `known` has
//! the tests that show it:
//!
//! - What a `RUN` leaves behind is the builder's to see, and no one's to know beforehand. A copy
//!   from a stage that was built again is a hit when the stage gave the same files. So every stage
//!   ends with a `RUN` that never gives the same twice. Docker 26.1 compares all files below a `RUN`
//!   that mounts a secret, too; there, none does.
//! - Of two equal steps in one build, BuildKit runs one and gives it to both. Which one it is
//!   depends on which stage is faster; they count as one here.
//! - An engine that has the context from a build before is not told when only the mode of a
//!   directory changes, nor of all that another `.dockerignore` means, and goes on with what it has;
//!   an empty engine sees it. So a context is moved when that happens.
//! - Builders before Docker 28.5 follow a link in a directory that a wildcard found, and fail if what
//!   it leads to isn't sent, since no instruction of the build asks for it. There, links stay in
//!   their directory.
//! - A build that fails may have run any of its steps before it did. Where we refuse a project,
//!   BuildKit must refuse it as well, and then starts from nothing.
//! - On a machine with much more to do than it can, BuildKit has run a copy again that was a hit on
//!   an empty engine with the very same builds. So a chain of changes with a mismatch is built once
//!   more on an empty engine, where it counts; one such chance is let through, and shown.
//!
//! The classic builder counts every instruction, and the names of what is copied. What it leaves
//! to chance is left out: the mode of a directory that is ignored itself but not all that is in
//! it, links in the context, and a Dockerfile outside of it: the client sends that one under a
//! random name, which it adds to `.dockerignore`, and so a copy of the whole context is never a hit.
//!
//! `DOCKERCACHE_SEED` sets the seed, `DOCKERCACHE_MUTATIONS` the number of changes for each engine.

mod builder;
mod generate;
mod known;
mod mutate;
mod options;
mod scenario;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::panic::resume_unwind;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use builder::{Built, Place};
use dockercache::build::arguments::BuildArguments;
use dockercache::builder::Builder;
use dockercache::builder::Strategy;
use dockercache::builder::Version;
use dockercache::dockerfile::Platform;
use dockercache::predict::project::{Detail, Project};
use generate::{BASES, Dialect, Generator};
use scenario::Scenario;

use crate::harness::{Engine, Generation};

/// The seed of the changes that are the same in every run.
const SEED: u64 = 20_181_125;

/// Changes to one project before the next project.
const CHAIN: usize = 12;

/// An engine with the builder that is asked.
struct Subject<'a> {
    engine: &'a Engine,
    strategy: Strategy,
    /// All digests of steps that this engine has built.
    seen: BTreeSet<String>,
}

impl<'a> Subject<'a> {
    /// An engine that has the bases, and has built nothing else yet.
    fn new(engine: &'a Engine, strategy: Strategy) -> Self {
        base_images(engine);
        Self { engine, strategy, seen: BTreeSet::new() }
    }

    /// Goes on with an engine that has built nothing.
    fn start_anew(&mut self) {
        self.engine.wipe();
        *self = Self::new(self.engine, self.strategy);
    }
}

/// What was found.
#[derive(Debug, Default)]
struct Tally {
    changes: usize,
    steps: usize,
    hits: usize,
    refused: usize,
    /// Mismatches that did not come again.
    chances: usize,
}

/// How the builder and we differ.
#[derive(Debug)]
struct Mismatch {
    /// What the builder printed, where that helps.
    log: String,
    /// The essence in one line.
    what: String,
}

/// A step as we see it.
#[derive(Debug)]
struct Predicted {
    place: Place,
    instruction: String,
    digest: String,
}

#[test]
fn docker_28_5() {
    check(Generation::V28_5, Strategy::BuildkitReplay, 130, 45);
}

#[test]
fn docker_28_5_containerd() {
    check(Generation::V28_5Containerd, Strategy::BuildkitLocal, 90, 30);
}

#[test]
fn docker_26_1() {
    check(Generation::V26_1, Strategy::BuildkitReplay, 90, 30);
}

#[test]
fn docker_28_5_classic() {
    check(Generation::V28_5, Strategy::Classic, 40, 15);
}

/// Applies so many changes with the fixed seed and so many with a fresh one.
fn check(generation: Generation, strategy: Strategy, fixed: usize, fresh: usize) {
    let engine = Engine::shared(generation);
    let subject = &mut Subject::new(&engine, strategy);
    let started = Instant::now();
    let set = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_nanos();
    let random = u64::try_from(clock % 1_000_000_007).expect("a small number");
    let rounds = match (set("DOCKERCACHE_SEED"), set("DOCKERCACHE_MUTATIONS")) {
        (None, None) => vec![(SEED, fixed), (random, fresh)],
        (seed, count) => vec![(
            seed.unwrap_or(random),
            count.map_or(fixed + fresh, |count| {
                usize::try_from(count).expect("a number of changes")
            }),
        )],
    };
    for (seed, changes) in rounds.into_iter().filter(|(_, changes)| *changes > 0) {
        println!("{} {strategy}: DOCKERCACHE_SEED={seed}", generation.name());
        let dialect = Dialect {
            buildkit: strategy.is_buildkit(),
            newer: generation.version() >= Version::new(28, 5, 0),
        };
        let mut generator = Generator::new(seed, dialect);
        let mut tally = Tally::default();
        while tally.changes < changes {
            let chain = CHAIN.min(changes - tally.changes);
            project(subject, &mut generator, chain, seed, &mut tally);
        }
        println!(
            "{} {strategy}: {tally:?} without a lasting mismatch in {:.1} s",
            generation.name(),
            started.elapsed().as_secs_f64()
        );
        assert!(tally.chances <= 1, "mismatches that don't come again are rare: {tally:?}");
        assert!(tally.hits > 0 && tally.hits < tally.steps, "the changes test nothing: {tally:?}");
    }
}

/// Two images whose files and settings differ.
fn base_images(engine: &Engine) {
    engine.base_image(&["busybox:1"]);
    for (number, name) in BASES.iter().enumerate() {
        let source = format!("FROM busybox:1\nRUN echo {number} > /base\nENV BASE={number}\n");
        let run = engine.docker(["build", "--tag", name, "-"]).stdin(source).run();
        run.success();
    }
}

/// Builds one project and a chain of changes to it.
fn project(
    subject: &mut Subject<'_>,
    generator: &mut Generator,
    changes: usize,
    seed: u64,
    tally: &mut Tally,
) {
    let mut chain = vec![("the first build".to_owned(), generator.scenario())];
    while chain.len() <= changes {
        let mut scenario = chain[chain.len() - 1].1.clone();
        chain.push((mutate::mutate(&mut scenario, generator), scenario));
    }
    tally.changes += changes;
    if walk(subject, &chain, seed, tally).is_ok() {
        return;
    }
    // The same once more, with nothing of what was before.
    subject.start_anew();
    if let Err(what) = walk(subject, &chain, seed, tally) {
        resume_unwind(Box::new(what));
    }
    tally.chances += 1;
    eprintln!("DOCKERCACHE_SEED={seed}: not so on an empty engine: the mismatch above is chance");
}

/// Builds what is in a chain, one after the other. The error has been told of.
fn walk(
    subject: &mut Subject<'_>,
    chain: &[(String, Scenario)],
    seed: u64,
    tally: &mut Tally,
) -> Result<(), String> {
    let dir = tempfile::tempdir().expect("a directory");
    for (at, (_, scenario)) in chain.iter().enumerate() {
        let before = at.checked_sub(1).map(|before| &chain[before].1);
        scenario.write(dir.path(), before);
        compare(subject, dir.path(), scenario, tally).map_err(|Mismatch { log, what }| {
            let history: Vec<&str> = chain[..=at].iter().map(|(change, _)| &**change).collect();
            // What matters most comes last: a CI log may be cut to its end. A panic's own message
            // would have a backtrace behind it.
            eprintln!(
                "=== before\n{}\n=== after\n{}\n{log}=== the changes, the last one last\n{}\n\
                 DOCKERCACHE_SEED={seed} on {} {}: {what}",
                before.unwrap_or(scenario).describe(),
                scenario.describe(),
                history.join("\n"),
                subject.engine.generation().name(),
                subject.strategy,
            );
            what
        })?;
    }
    Ok(())
}

/// Predicts, builds, and compares.
fn compare(
    subject: &mut Subject<'_>,
    dir: &Path,
    scenario: &Scenario,
    tally: &mut Tally,
) -> Result<(), Mismatch> {
    let words = scenario.arguments(dir);
    let predicted = match predict(subject, &words) {
        Ok(predicted) => predicted,
        Err(error) => {
            tally.refused += 1;
            return refused(subject, &words, &error);
        }
    };
    let built = build(subject, &words);
    let mismatch = |what| Err(Mismatch { log: built.log.clone(), what });
    if !built.succeeded {
        return mismatch("the builder refuses what we predict, or fails".to_owned());
    }
    // Equal steps of one build are one.
    let mut outcomes: BTreeMap<&str, bool> = BTreeMap::new();
    let mut reported = 0;
    for step in &predicted {
        let Some(hit) = built.steps.get(&step.place) else { continue };
        reported += 1;
        outcomes.entry(&step.digest).and_modify(|all| *all &= hit).or_insert(*hit);
    }
    for step in &predicted {
        if !outcomes.contains_key(step.digest.as_str()) {
            return mismatch(format!("the builder says nothing of {step:?}"));
        }
    }
    if reported != built.steps.len() {
        return mismatch(format!("{predicted:?} are other steps than {:?}", built.steps));
    }
    // In the order of the build: what comes later may only follow from the first difference.
    for step in &predicted {
        let Some(hit) = outcomes.remove(step.digest.as_str()) else { continue };
        let expected = subject.seen.contains(&step.digest);
        if expected != hit {
            let word = |hit| if hit { "a hit" } else { "a miss" };
            return mismatch(format!(
                "`{}` of stage `{}` was predicted to be {} and is {}",
                step.instruction,
                step.place.0,
                word(expected),
                word(hit)
            ));
        }
        tally.steps += 1;
        tally.hits += usize::from(hit);
    }
    subject.seen.extend(predicted.into_iter().map(|step| step.digest));
    Ok(())
}

/// What we refuse, the builder must refuse, too.
fn refused(subject: &mut Subject<'_>, words: &[String], error: &str) -> Result<(), Mismatch> {
    let Built { succeeded, log, .. } = build(subject, words);
    if succeeded {
        return Err(Mismatch { log, what: format!("the builder builds what we refuse: {error}") });
    }
    // What ran before it failed is not known.
    let prune: &[&str] = match subject.strategy {
        Strategy::Classic => &["image", "prune", "--force"],
        _ => &["builder", "prune", "--all", "--force"],
    };
    subject.engine.docker(prune.iter().copied()).silently().run().success();
    subject.seen.clear();
    Ok(())
}

fn build(subject: &Subject<'_>, words: &[String]) -> Built {
    match subject.strategy {
        Strategy::Classic => builder::classic(subject.engine, words),
        _ => builder::buildkit(subject.engine, words),
    }
}

/// The steps with the digests that we predict by.
fn predict(subject: &Subject<'_>, words: &[String]) -> Result<Vec<Predicted>, String> {
    let arguments = BuildArguments::parse(words.iter().map(OsString::from));
    let builder = Builder::new(
        subject.strategy,
        Platform::host().to_string(),
        subject.engine.generation().version(),
    );
    let project =
        Project::read(&arguments, &builder, Detail::Digests).map_err(|error| error.to_string())?;
    let mut steps = Vec::new();
    for stage in &project.stages {
        let name = stage.name.clone().unwrap_or_else(|| format!("stage-{}", stage.index));
        let counted = stage.steps.iter().filter(|step| step.is_layer);
        let mut after = counted.clone().count();
        for step in counted {
            after -= 1;
            let place = match subject.strategy {
                Strategy::Classic => (String::new(), steps.len()),
                _ => (name.clone(), after),
            };
            let (instruction, digest) = (step.instruction.clone(), step.digest.clone());
            steps.push(Predicted { place, instruction, digest });
        }
    }
    Ok(steps)
}
