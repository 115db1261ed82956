//! A job with one project and one archive, as nearly every test needs it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::build_report::BuildReport;
use super::builder::Builder;
use super::carried::Carried;
use super::engine::Engine;
use super::image::Image;
use super::invocation::{Invocation, Run};
use super::job::{Job, SAVE, Saved};
use super::project::Project;

/// A project's files, by their names.
type Files = &'static [(&'static str, &'static str)];

/// A machine, and what outlives it: the project and what is carried.
pub(crate) struct Machine {
    pub(crate) job: Job,
    pub(crate) project: Project,
    pub(crate) carried: Carried,
}

impl Machine {
    /// A machine with nothing on it but this project.
    pub(crate) fn new(builder: Builder, files: &[(&str, &str)]) -> Self {
        Self::with(Job::new(builder), files)
    }

    pub(crate) fn with(job: Job, files: &[(&str, &str)]) -> Self {
        Self { job, project: Project::new(files), carried: Carried::nothing() }
    }

    /// A new machine on which the cache of the project's first build was put; gives that build's
    /// image as well. Tests that begin so share first builds.
    pub(crate) fn after_first_build(builder: Builder, files: Files) -> (Self, Image) {
        type FirstBuild = (Builder, Files, BTreeMap<PathBuf, Vec<u8>>, Image);
        static FIRST_BUILDS: Mutex<Vec<FirstBuild>> = Mutex::new(Vec::new());
        let known = || FIRST_BUILDS.lock().unwrap_or_else(PoisonError::into_inner);
        let engine = Engine::shared(builder.generation());
        let machine = Self::with(Job::without_base(engine, builder), files);
        let first = known().iter().find(|first| first.0 == builder && first.1 == files).cloned();
        if let Some((.., contents, image)) = first {
            machine.carried.write(contents);
            machine.job.add_base();
            return (machine, image);
        }
        machine.job.add_base();
        assert_eq!(machine.build().cached(), [""; 0]);
        machine.save();
        let image = machine.image();
        known().push((builder, files, machine.carried.contents(), image.clone()));
        machine.replace();
        (machine, image)
    }

    /// Goes on on another machine: an empty engine, and no trace of the last job.
    pub(crate) fn replace(&self) {
        self.job.replace();
    }

    /// Goes on on another machine, and nothing is carried to it.
    pub(crate) fn replace_without_cache(&self) {
        self.carried.forget();
        self.job.replace();
    }

    /// Prepares a run of our program in the project's directory.
    pub(crate) fn dockercache<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Invocation {
        self.job.dockercache(&self.carried, words).in_dir(self.project.path())
    }

    /// Runs our program in the project's directory.
    pub(crate) fn run<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Run {
        self.dockercache(words).run()
    }

    /// Prepares a run of a program with namespaces of its own: these are the words for `unshare`.
    pub(crate) fn unshared<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Invocation {
        let unshare = Invocation::new(self.job.engine.command("/usr/bin/unshare")).args(words);
        self.job.with(&self.carried, unshare).in_dir(self.project.path())
    }

    /// Prepares a run of the client in the project's directory.
    pub(crate) fn docker<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Invocation {
        self.job.docker(words).in_dir(self.project.path())
    }

    /// The arguments of a build whose image can be compared.
    pub(crate) fn arguments(&self) -> Vec<&'static str> {
        [self.job.builder.unattested(), &["--tag", "app", "."]].concat()
    }

    /// Restores, which must be a hit; gives the flags for a plain build.
    #[track_caller]
    pub(crate) fn restore(&self) -> Vec<String> {
        self.job.restore(&self.carried)
    }

    /// Builds through our program an image that can be compared.
    #[track_caller]
    pub(crate) fn build(&self) -> BuildReport {
        let run = self.dockercache(["build"]).args(self.arguments()).run();
        run.success().build_report()
    }

    /// Builds with the plain client: `command` is `build` or `buildx build`, with flags.
    #[track_caller]
    pub(crate) fn plain_build(&self, command: &[&str]) -> BuildReport {
        let run = self.docker(command.iter().copied()).args(self.arguments()).run();
        run.success().build_report()
    }

    /// Saves the last build; nothing may be lost on the way.
    #[track_caller]
    pub(crate) fn save(&self) -> Saved {
        self.save_build(&[])
    }

    /// Saves the build with these arguments.
    #[track_caller]
    pub(crate) fn save_build(&self, arguments: &[&str]) -> Saved {
        let words = SAVE.iter().chain(arguments).copied();
        self.job.saved(&self.run(words))
    }

    /// The image that the build has made.
    pub(crate) fn image(&self) -> Image {
        Image::of(&self.job.engine, "app")
    }

    /// What the image prints when it runs.
    #[track_caller]
    pub(crate) fn output(&self) -> String {
        self.docker(["run", "--rm", "app"]).run().success().stdout.clone()
    }

    /// Asserts that no layer with this file in it has come to the engine.
    #[track_caller]
    pub(crate) fn assert_nowhere(&self, name: &str) {
        let found = self.job.engine.files_named(name);
        assert!(found.is_empty(), "the engine has read a layer for nothing: {found:?}");
    }
}
