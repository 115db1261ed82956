//! A project to carry from one empty engine to the next.

use super::builders;
use crate::harness::bases::{self, Base};
use crate::harness::{Builder, Project};

/// In what a case is unlike the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peculiarity {
    /// The log is empty.
    Silent,
    /// Steps are alike, so that the builder takes one for the other.
    Repeats,
    /// The image has no layers, and so no cache.
    NothingToCarry,
    /// It is built again with `--no-cache` before it is carried.
    NoCache,
}

/// A project, the arguments that it is built with, and the builders that can.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) builders: &'static [Builder],
    files: Vec<(&'static str, String)>,
    arguments: Vec<&'static str>,
    context: &'static str,
    on_build: &'static [&'static str],
    pub(super) environment: Vec<(&'static str, &'static str)>,
    pub(super) stdin: Vec<u8>,
    /// The working directory, within the project.
    pub(super) directory: &'static str,
    /// The archive's directory, within one that is the case's own.
    pub(super) cache: &'static str,
    /// What else belongs to the project.
    pub(super) prepare: fn(&Project),
    /// What has changed before the second build, though not for the builder.
    pub(super) touch: fn(&Project),
    peculiarities: Vec<Peculiarity>,
}

impl Case {
    /// A case with this Dockerfile, for all builders.
    ///
    /// In files, `{base}` is the base image, `{outside}` another one and `{onbuild}` one with
    /// [`Case::on_build`] instructions; `{case}` differs from case to case.
    pub(super) fn new(name: &'static str, dockerfile: &str) -> Self {
        Self {
            name,
            builders: builders::ALL,
            files: Vec::new(),
            arguments: Vec::new(),
            context: ".",
            on_build: &[],
            environment: Vec::new(),
            stdin: Vec::new(),
            directory: ".",
            cache: "cache",
            prepare: |_| {},
            touch: |_| {},
            peculiarities: Vec::new(),
        }
        .file("Dockerfile", dockerfile)
    }

    pub(super) fn file(mut self, name: &'static str, text: &str) -> Self {
        let tag = self.tag();
        let text = ["base", "outside", "onbuild"].iter().fold(text.to_owned(), |text, image| {
            text.replace(&format!("{{{image}}}"), &format!("{tag}.{image}"))
        });
        self.files.retain(|(file, _)| *file != name);
        self.files.push((name, text.replace("{case}", &tag)));
        self
    }

    /// Takes the Dockerfile out of the project, for one that lies elsewhere.
    pub(super) fn dockerfile_at(mut self, name: &'static str) -> Self {
        self.files[0].0 = name;
        self
    }

    /// Adds build arguments.
    pub(super) fn with(mut self, arguments: &[&'static str]) -> Self {
        self.arguments.extend(arguments);
        self
    }

    pub(super) fn on(self, builders: &'static [Builder]) -> Self {
        Self { builders, ..self }
    }

    pub(super) fn context(self, context: &'static str) -> Self {
        Self { context, ..self }
    }

    /// Builds in this directory of the project.
    pub(super) fn in_dir(self, directory: &'static str) -> Self {
        Self { directory, ..self }
    }

    pub(super) fn cache(self, cache: &'static str) -> Self {
        Self { cache, ..self }
    }

    pub(super) fn prepare(self, prepare: fn(&Project)) -> Self {
        Self { prepare, ..self }
    }

    pub(super) fn touch(self, touch: fn(&Project)) -> Self {
        Self { touch, ..self }
    }

    pub(super) fn silent(self) -> Self {
        self.but(Peculiarity::Silent)
    }

    pub(super) fn repeats(self) -> Self {
        self.but(Peculiarity::Repeats)
    }

    pub(super) fn no_cache(self) -> Self {
        self.but(Peculiarity::NoCache)
    }

    pub(super) fn nothing_to_carry(self) -> Self {
        self.but(Peculiarity::NothingToCarry)
    }

    pub(super) fn piped_dockerfile(mut self) -> Self {
        let (_, text) = self.files.remove(0);
        Self { stdin: text.into_bytes(), ..self }.with(&["-f", "-"])
    }

    pub(super) fn piped_context(self) -> Self {
        let stdin = bases::files(&self.files);
        Self { stdin, ..self }.context("-")
    }

    pub(super) fn env(mut self, name: &'static str, value: &'static str) -> Self {
        self.environment.push((name, value));
        self
    }

    pub(super) fn on_build(self, on_build: &'static [&'static str]) -> Self {
        Self { on_build, ..self }
    }

    fn but(mut self, peculiarity: Peculiarity) -> Self {
        self.peculiarities.push(peculiarity);
        self
    }

    pub(super) fn is(&self, peculiarity: Peculiarity) -> bool {
        self.peculiarities.contains(&peculiarity)
    }

    /// The name of the image that is built.
    pub(super) fn tag(&self) -> String {
        let words = self.name.to_lowercase();
        let words = words.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty());
        words.collect::<Vec<_>>().join("-")
    }

    /// The images that must be on the engine.
    pub(super) fn bases(&self) -> Vec<Base> {
        let base = |image| Base {
            tag: format!("{}.{image}", self.tag()),
            // No two cases have a step in common.
            file: format!("{}.{image}", self.tag()),
            variable: String::new(),
            on_build: if image == "onbuild" { self.on_build } else { &[] },
        };
        ["base", "outside", "onbuild"].map(base).into()
    }

    /// The project in a new directory, as a checkout on another machine is.
    pub(super) fn project(&self) -> Project {
        let project = Project::new(&[]);
        for (name, text) in &self.files {
            project.write(name, text);
        }
        (self.prepare)(&project);
        project
    }

    /// What comes after `build`.
    pub(super) fn build_arguments(&self, builder: Builder) -> Vec<String> {
        let own = self.arguments.iter().chain(builder.unattested()).map(|&word| word.to_owned());
        let words = ["--tag".to_owned(), self.tag()].into_iter().chain(own);
        words.chain([self.context.to_owned()]).collect()
    }
}
