//! Carries all cases of a builder from one empty engine to the next.
//!
//! They share the two engines, since starting one takes as long as building a case. It is as if
//! each had its own: on the first engine no step of any may be cached, so none has a step in
//! common with another, and no other case's cache can help it on the second.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde_json::Value;

use super::builders::CONTAINERD_28_5;
use super::case::{Case, Peculiarity};
use super::{arguments, contexts, instructions, stages};
use crate::harness::bases;
use crate::harness::{BuildReport, Builder, Engine, Image, Project, Run, dockercache};

/// Cases at a time on one engine: clients mostly wait.
const AT_ONCE: usize = 3;

/// What the first engine built.
struct Built {
    image: String,
    instructions: Vec<String>,
}

/// A case that is built on an engine.
struct Trial<'a> {
    engine: &'a Engine,
    builder: Builder,
    case: &'a Case,
    project: Project,
    cache: PathBuf,
}

/// Carries every case that `builder` can build; panics in the end if any was not a full hit.
///
/// `DOCKERCACHE_TEST_CASES` is a part of the names of those that are wanted.
pub(super) fn all(builder: Builder) {
    let mut cases = stages::cases();
    cases.extend(arguments::cases());
    cases.extend(contexts::cases());
    cases.extend(instructions::cases());
    cases.retain(|case| case.builders.contains(&builder));
    if let Ok(only) = std::env::var("DOCKERCACHE_TEST_CASES") {
        cases.retain(|case| case.name.contains(&only));
    }
    let bases: Vec<_> = cases.iter().flat_map(Case::bases).collect();
    let bases = bases::archive(&bases);
    let caches = tempfile::tempdir().expect("a directory");
    let caches = caches.path();

    let engine = Engine::start(builder.generation());
    engine.docker(["load"]).stdin(bases.clone()).run().success();
    let (built, mut failures) =
        each(&cases, |case| Trial::new(&engine, builder, case, caches).first());
    engine.wipe();
    engine.docker(["load"]).stdin(bases).run().success();
    let carried: Vec<_> = cases
        .iter()
        .filter_map(|case| Some((case, built.iter().find(|(name, _)| *name == case.name)?)))
        .collect();
    let (_, failed) = each(&carried, |(case, (_, built))| {
        Trial::new(&engine, builder, case, caches).second(built);
    });
    failures.extend(failed);
    assert!(failures.is_empty(), "{} cases failed:\n\n{}", failures.len(), failures.join("\n\n"));
}

trait Named: Sync {
    fn name(&self) -> &'static str;
}

impl Named for Case {
    fn name(&self) -> &'static str {
        self.name
    }
}

impl<T: Sync> Named for (&Case, T) {
    fn name(&self) -> &'static str {
        self.0.name
    }
}

/// Does something for each case, a few at a time; gives what came of it, and what failed.
fn each<C: Named, T: Send>(
    cases: &[C],
    work: impl Fn(&C) -> T + Sync,
) -> (Vec<(&'static str, T)>, Vec<String>) {
    let queue = Mutex::new(cases.iter());
    let done = Mutex::new((Vec::new(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("the queue").next();
                    let Some(case) = next else { return };
                    let result = catch_unwind(AssertUnwindSafe(|| work(case)));
                    let mut done = done.lock().expect("the results");
                    match result {
                        Ok(result) => done.0.push((case.name(), result)),
                        Err(panic) => done.1.push(format!("{}: {}", case.name(), message(&*panic))),
                    }
                }
            });
        }
    });
    done.into_inner().expect("the results")
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic")
}

impl<'a> Trial<'a> {
    fn new(engine: &'a Engine, builder: Builder, case: &'a Case, caches: &Path) -> Self {
        let cache = caches.join(case.tag()).join(case.cache);
        Self { engine, builder, case, project: case.project(), cache }
    }

    /// Builds on an engine that has none of it, and saves.
    fn first(&self) -> Built {
        let mut report = self.build(&[]);
        if !self.case.is(Peculiarity::Repeats) {
            assert_eq!(report.cached(), [""; 0], "another case's step");
        }
        self.save(true);
        if self.case.is(Peculiarity::NoCache) {
            let image = self.image();
            report = self.build(&["--no-cache"]);
            assert_eq!(report.cached(), [""; 0]);
            assert_ne!(self.image(), image, "nothing was built");
            self.save(true);
        }
        let instructions = report.steps.into_iter().map(|step| step.instruction);
        Built { image: self.image(), instructions: instructions.collect() }
    }

    /// Restores on an empty engine, where nothing may be left to build or to save.
    fn second(&self, first: &Built) {
        (self.case.touch)(&self.project);
        if self.case.is(Peculiarity::NothingToCarry) {
            unwarned(&self.dockercache(&["restore"]));
            self.build(&[]);
            return self.save(false);
        }
        unwarned(&self.dockercache(&["restore", "--strict"]));
        let report = self.build(&[]);
        assert_eq!(report.ran(), [""; 0], "not cached");
        let mut instructions = first.instructions.clone();
        instructions.sort_unstable();
        assert_eq!(report.cached(), instructions);
        assert_eq!(self.image(), first.image, "another image");
        self.save(false);
    }

    fn build(&self, more: &[&str]) -> BuildReport {
        let arguments = self.case.build_arguments(self.builder);
        let words = ["build"].into_iter().chain(more.iter().copied());
        let words: Vec<_> = words.chain(arguments.iter().map(String::as_str)).collect();
        let run = self.dockercache(&words);
        unwarned(&run);
        let report = run.build_report();
        assert_eq!(report.steps.is_empty(), self.case.is(Peculiarity::Silent), "steps in the log");
        report
    }

    fn save(&self, changed: bool) {
        let run = self.dockercache(&["save", "--strict", "--format", "json"]);
        unwarned(&run);
        let saved: Value = run.json();
        // Other cases build at the same time: what is BuildKit's own by now is no proof that the archive
        // has it, and is taken again. Alone, nothing changes: `round_trip::a_second_save_changes_nothing`.
        let may_change = self.builder.is_buildkit();
        assert!(saved["changed"] == changed || may_change, "{saved:#}");
        assert_eq!(saved["warnings"], Value::Array(Vec::new()), "{saved:#}");
    }

    fn dockercache(&self, words: &[&str]) -> Run {
        let run = dockercache(self.engine, words.iter().copied())
            .in_dir(&self.project.path().join(self.case.directory))
            .env("DOCKERCACHE_DIR", &self.cache)
            .stdin(self.case.stdin.clone());
        self.builder.choose(run).envs(self.case.environment.iter().copied()).run()
    }

    /// What is the same for equal images: the ID; on the containerd store, which counts how layers
    /// are compressed, the configuration.
    fn image(&self) -> String {
        let tag = self.case.tag();
        if self.builder == CONTAINERD_28_5 {
            Image::of(self.engine, &tag).config
        } else {
            self.engine.image_id(&tag)
        }
    }
}

/// Asserts that a command succeeded and had nothing to warn of.
#[track_caller]
fn unwarned(run: &Run) {
    let warnings: Vec<_> =
        run.success().stderr.lines().filter(|l| l.starts_with("dockercache: warning")).collect();
    assert_eq!(warnings, [""; 0]);
}
