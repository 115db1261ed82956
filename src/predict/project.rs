//! A project as the builder sees it: Dockerfile, context and arguments, read together.

mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::cache_mounts::CacheMounts;
use super::{ContextQuery, Rules, StageDigest, Unanswered, digest_build};
use crate::archive::BaseAbout;
use crate::build::arguments::{BuildArguments, ContextSource, NamedSource};
use crate::builder::{Builder, Strategy};
use crate::context::{self, BuildContext, ContextEntry, ContextError, ListForm};
use crate::dockerfile::{
    Base, BuildGraph, BuildOptions, Dockerfile, DockerfileError, Image, NamedContext, PlannedStage,
    Platform, context_name,
};
use crate::oci::digest::Digest;

/// The time that a build gives to what it makes: a build argument, or a variable of the environment.
const TIME: &str = "SOURCE_DATE_EPOCH";

/// How much of an instruction an error repeats.
const MAXIMUM_TEXT: usize = 100;

/// A project that has been read.
#[derive(Debug)]
pub struct Project {
    /// The Dockerfile with a name for every stage.
    pub named: Vec<u8>,
    /// The names for `--target`, by the stage's place in the file; `None` if it can't be reached.
    pub targets: Vec<Option<String>>,
    /// What the builder predefines as `TARGETSTAGE`, if the Dockerfile mentions it.
    pub target_stage: Option<String>,
    /// `<Dockerfile>.dockerignore`, if that is what is in force.
    pub ignore_file: Option<PathBuf>,
    /// The stages that the build needs, dependencies first, with their digests.
    pub stages: Vec<StageDigest>,
    /// The Dockerfile as the user wrote it.
    dockerfile: Dockerfile,
    /// What each stage starts from, in the order of `stages`.
    pub bases: Vec<BaseAbout>,
    /// The external images that stages start from, each once.
    pub(crate) from: Vec<Image>,
    /// The places of the stages that each stage starts from or copies from, in the order of
    /// `stages`.
    pub dependencies: Vec<Vec<usize>>,
    /// The files that count, by the question that asked for them; empty without [`Detail::Files`].
    pub files: BTreeMap<ContextQuery, Vec<ContextEntry>>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// A name for the project, if the user gives none: the context's directory.
    pub name: String,
    /// The cache mounts of its steps.
    pub(crate) cache_mounts: CacheMounts,
}

/// How much of a project is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Digests alone, which takes the least time and memory.
    Digests,
    /// Also every file that is part of the key.
    Files,
}

/// Why a project can't be read. The builder may still be able to build it.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    /// What the arguments name can't be read on this machine.
    #[error("{0}")]
    Input(String),
    /// The Dockerfile is wrong, or the arguments don't fit it.
    #[error(transparent)]
    Dockerfile(#[from] DockerfileError),
    /// The build context, or a context by name, can't be read.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// An instruction asks for files that can't be read.
    #[error("`{file}` line {line}, `{instruction}`: {error}", file = file.display())]
    Step {
        /// The Dockerfile.
        file: PathBuf,
        /// Where the instruction starts, counted from one.
        line: usize,
        /// The instruction on one line.
        instruction: String,
        /// What is wrong.
        #[source]
        error: Box<ContextError>,
    },
}

impl Project {
    /// Reads what `arguments` name.
    pub fn read(
        arguments: &BuildArguments,
        builder: &Builder,
        detail: Detail,
    ) -> Result<Self, ProjectError> {
        let root = match arguments.context() {
            ContextSource::Directory(dir) => dir,
            ContextSource::Stdin => {
                return Err(wrong("the build context comes from standard input"));
            }
            ContextSource::Remote(url) => {
                return Err(wrong(format!("the build context `{url}` is not on this machine")));
            }
            ContextSource::Absent => return Err(wrong(arguments.missing().unwrap_or_default())),
        };
        let path = arguments
            .dockerfile()
            .ok_or_else(|| wrong("the Dockerfile comes from standard input"))?;
        let source = std::fs::read(&path)
            .map_err(|e| wrong(format!("failed to read `{}`: {e}", path.display())))?;
        let dockerfile = Dockerfile::parse(&source, &path.display().to_string())?;
        let options = options(arguments, builder)?;
        let target_stage = target_stage(&dockerfile, &options);
        let namespace = options.cache_namespace.clone();
        let planned = Planned::new(&dockerfile, options, builder)?;
        let context = BuildContext::open(&root, Some(&path))?;
        let mut contexts = Contexts {
            main: &context,
            named: named_contexts(arguments)?,
            asked_elsewhere: BTreeSet::new(),
            form: form(builder),
            detail,
            files: BTreeMap::new(),
        };
        let stages = digest_build(
            &planned.graph,
            Rules::of(builder),
            &mut |query| contexts.digest(query),
            &planned.counted(builder),
        )
        .map_err(|Unanswered { lines, instruction, error }| ProjectError::Step {
            file: path.clone(),
            line: lines.first,
            instruction: instruction.chars().take(MAXIMUM_TEXT).collect(),
            error: Box::new(error),
        })?;
        let mut warnings = planned.warnings.clone();
        warnings.extend(contexts.asked_elsewhere.iter().map(|address| {
            format!("the context `{address}` is part of the key by its address alone")
        }));
        let (named, targets) = dockerfile.with_names();
        let cache_mounts = CacheMounts::of(&planned.graph, &stages, &namespace);
        Ok(Self {
            named,
            targets,
            target_stage,
            dockerfile,
            ignore_file: own_ignore_file(&context, &root),
            stages,
            bases: planned.graph.stages.iter().map(|stage| planned.base_of(stage)).collect(),
            from: planned.from(),
            dependencies: planned.graph.stages.iter().map(|s| s.dependencies.clone()).collect(),
            files: contexts.files,
            warnings,
            name: name_of(&root),
            cache_mounts,
        })
    }

    /// The Dockerfile with a name for every stage, in which one stage ends behind its first
    /// `steps` steps; for the cache of a build that failed in that stage.
    ///
    /// Counts what the builder numbers: `RUN`, `COPY`, `ADD`, and a `WORKDIR` that makes a
    /// directory, those that `ONBUILD` of the base adds first. In the builder's `[stage 3/5]`, the
    /// base is number 1 where it is an external image, so that the first step is 2; on another
    /// stage, on `scratch`, or on what `--build-context` gives, the first step is 1. `None` where the stage has fewer steps, or can't
    /// be cut there, since the step is a trigger of the base.
    pub fn cut(&self, stage: usize, steps: usize) -> Option<Vec<u8>> {
        let digests = self.stages.iter().find(|digests| digests.index == stage)?;
        let from = self.dockerfile.stages()[stage].lines;
        let layers = digests.steps.iter().filter(|step| step.is_layer);
        let mut after = layers.skip(steps.checked_sub(1)?);
        let last = after.next()?.lines;
        // All triggers stand at `FROM`, so it can be cut behind the last of them alone.
        let inside = last == from && after.next().is_some_and(|next| next.lines == from);
        (!inside).then(|| self.dockerfile.cut(stage, last))
    }

    /// Every file of a context that is part of the key, relative to the context.
    pub fn inputs(&self) -> Vec<PathBuf> {
        let mut inputs = BTreeSet::new();
        for (query, entries) in &self.files {
            let prefix = query.named_context.as_ref().map(PathBuf::from).unwrap_or_default();
            inputs.extend(entries.iter().map(|entry| prefix.join(&entry.path)));
        }
        inputs.into_iter().collect()
    }
}

/// A build that is planned with all that is known of its base images.
struct Planned {
    graph: BuildGraph,
    /// What tells the external images apart that were found.
    bases: BTreeMap<Image, String>,
    warnings: Vec<String>,
}

impl Planned {
    fn new(
        dockerfile: &Dockerfile,
        mut options: BuildOptions,
        builder: &Builder,
    ) -> Result<Self, ProjectError> {
        let mut bases = BTreeMap::new();
        let mut asked = BTreeSet::new();
        let mut warnings = Vec::new();
        loop {
            let graph = dockerfile.plan(&options)?;
            let new: Vec<Image> =
                graph.images().into_iter().filter(|i| !asked.contains(*i)).cloned().collect();
            let known = bases.len();
            for image in new {
                match builder.base(&image) {
                    Ok(Some(found)) => {
                        let identity = found.identity(builder.strategy).to_owned();
                        bases.insert(image.clone(), identity);
                        options.base_configs.insert(image.clone(), found.config);
                    }
                    Ok(None) => {}
                    Err(reason) => {
                        warnings
                            .push(format!("`{}` counts by its name: {reason}", image.reference));
                    }
                }
                asked.insert(image);
            }
            // A base's triggers may read further images.
            if bases.len() == known {
                return Ok(Self { graph, bases, warnings });
            }
        }
    }

    /// The identities by which external images are part of the key, if not by name.
    fn counted(&self, builder: &Builder) -> BTreeMap<String, String> {
        let counted = self.bases.iter().filter(|_| builder.resolves_bases());
        counted.map(|(image, identity)| (image.reference.clone(), identity.clone())).collect()
    }

    fn from(&self) -> Vec<Image> {
        let bases = self.graph.stages.iter().filter_map(|stage| match &stage.base {
            Base::Image(image) => Some(image.clone()),
            _ => None,
        });
        bases.collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn base_of(&self, stage: &PlannedStage) -> BaseAbout {
        let (name, identity) = match &stage.base {
            Base::Image(image) => (image.reference.clone(), self.bases.get(image).cloned()),
            Base::Stage(index) => {
                let base = self.graph.stages.iter().find(|s| s.index == *index);
                (base.and_then(|b| b.name.clone()).unwrap_or(format!("stage-{index}")), None)
            }
            Base::Scratch => ("scratch".to_owned(), None),
            Base::NamedContext(name) => (name.clone(), None),
        };
        BaseAbout { name, identity }
    }
}

/// How the builder writes down what a wildcard or a filter lets through.
fn form(builder: &Builder) -> ListForm {
    match builder.strategy {
        Strategy::Classic => ListForm::Sources,
        _ => match builder.version {
            Some(version) if version.follows_nested_links() => ListForm::NamesAndTargets,
            Some(version) if version.lists_sources_by_name() => ListForm::Names,
            _ => ListForm::Paths,
        },
    }
}

fn wrong(message: impl Into<String>) -> ProjectError {
    ProjectError::Input(message.into())
}

fn options(arguments: &BuildArguments, builder: &Builder) -> Result<BuildOptions, ProjectError> {
    let text = |value: &std::ffi::OsStr| value.to_string_lossy().into_owned();
    let own = Platform::parse(&builder.platform).unwrap_or_else(|_| Platform::host());
    let target_platform = match arguments.value("platform") {
        Some(asked) => Platform::parse(&text(asked)).map_err(|e| wrong(e.to_string()))?,
        None => own.clone(),
    };
    let named_contexts =
        arguments.named_contexts().into_iter().map(|(name, source)| match source {
            NamedSource::Image(reference) => (name, NamedContext::Image(reference)),
            _ => (name, NamedContext::Files),
        });
    let mut options = BuildOptions {
        target: arguments.value("target").map(text),
        build_args: arguments.build_args(|name| std::env::var(name).ok()),
        target_platform,
        build_platform: own,
        named_contexts: named_contexts.collect(),
        knows_newer_arguments: builder.knows_newer_arguments(),
        ..BuildOptions::default()
    };
    if builder.strategy == Strategy::Classic {
        options.classic = true;
        options.cleans_workdir = builder.is_modern();
        return Ok(options);
    }
    // The client passes it on by itself.
    if let Some(time) = std::env::var(TIME).ok().filter(|time| !time.is_empty()) {
        options.build_args.entry(TIME.to_owned()).or_insert(time);
    }
    settings::apply(&mut options, arguments, builder.is_modern());
    if let Some(time) = options.build_args.get(TIME).filter(|time| !time.is_empty())
        && builder.is_modern()
    {
        let seconds = time.parse().map_err(|e| wrong(format!("invalid {TIME} `{time}`: {e}")))?;
        options.directory_time = Some(seconds).filter(|_| builder.knows_newer_arguments());
    }
    Ok(options)
}

/// The target as it was asked for, else the last stage's name, else `default`.
fn target_stage(dockerfile: &Dockerfile, options: &BuildOptions) -> Option<String> {
    let mentioned = dockerfile.source().windows(11).any(|w| w == b"TARGETSTAGE");
    let given = options.build_args.contains_key("TARGETSTAGE");
    (mentioned && !given).then(|| {
        let last = dockerfile.stages().last().and_then(|stage| stage.name.clone());
        options.target.clone().or(last).unwrap_or_else(|| "default".to_owned())
    })
}

/// The build context and those that `--build-context` names.
struct Contexts<'a> {
    main: &'a BuildContext,
    named: BTreeMap<String, NamedFiles>,
    /// The addresses of contexts that a step asked for and that have no files here.
    asked_elsewhere: BTreeSet<String>,
    form: ListForm,
    detail: Detail,
    files: BTreeMap<ContextQuery, Vec<ContextEntry>>,
}

impl Contexts<'_> {
    fn digest(&mut self, query: &ContextQuery) -> Result<String, ContextError> {
        let context = match query.named_context.as_ref().and_then(|name| self.named.get(name)) {
            None => self.main,
            Some(NamedFiles::Here(context)) => context,
            Some(NamedFiles::Elsewhere { address, digest }) => {
                self.asked_elsewhere.insert(address.clone());
                return Ok(digest.to_string());
            }
        };
        let question = context::ContextQuery {
            sources: query.sources.clone(),
            excludes: query.excludes.clone(),
            parents: query.parents,
            wildcards: query.wildcards,
            form: self.form,
        };
        if self.detail == Detail::Digests {
            return Ok(context.digest_alone(&question)?.hex());
        }
        let found = context.digest(&question)?;
        self.files.insert(query.clone(), found.entries);
        Ok(found.digest.hex())
    }
}

/// The files of a context that `--build-context` names.
enum NamedFiles {
    /// A directory of this machine.
    Here(BuildContext),
    /// What only the builder fetches; its address stands for its files.
    Elsewhere { address: String, digest: Digest },
}

fn named_contexts(
    arguments: &BuildArguments,
) -> Result<BTreeMap<String, NamedFiles>, ProjectError> {
    let mut contexts = BTreeMap::new();
    for (name, source) in arguments.named_contexts() {
        let files = match source {
            NamedSource::Directory(dir) => NamedFiles::Here(BuildContext::open(&dir, None)?),
            NamedSource::Elsewhere(address) => {
                let digest = Digest::of(address.as_bytes());
                NamedFiles::Elsewhere { address, digest }
            }
            NamedSource::Layout(layout) => {
                let address = format!("oci-layout://{layout}");
                let digest = Digest::of(layout_content(&layout)?.as_bytes());
                NamedFiles::Elsewhere { address, digest }
            }
            // The builder resolves it as it does the image behind a `FROM`.
            NamedSource::Image(_) => continue,
        };
        contexts.insert(context_name(&name), files);
    }
    Ok(contexts)
}

/// What tells an image in a layout from others: its digest where it is named by one, else its tag
/// and the layout's index.
fn layout_content(layout: &str) -> Result<String, ProjectError> {
    if let Some((_, digest)) = layout.rsplit_once('@') {
        return Ok(digest.to_owned());
    }
    let (dir, tag) = match layout.rsplit_once(':') {
        Some((dir, tag)) if !tag.contains('/') => (dir, tag),
        _ => (layout, "latest"),
    };
    let path = Path::new(dir).join("index.json");
    let index = std::fs::read(&path)
        .map_err(|e| wrong(format!("failed to read `{}`: {e}", path.display())))?;
    Ok(format!("{tag} {}", Digest::of(&index)))
}

/// The ignore file beside the Dockerfile; the one in the context is found by the builder itself.
fn own_ignore_file(context: &BuildContext, root: &Path) -> Option<PathBuf> {
    let file = context.ignore_file()?;
    let in_context = root.canonicalize().ok()?.join(".dockerignore");
    (file.canonicalize().ok()? != in_context.canonicalize().unwrap_or(in_context))
        .then(|| file.to_owned())
}

/// A name for the project that is built from `root`, if the user gives none.
fn name_of(root: &Path) -> String {
    root.canonicalize()
        .ok()
        .and_then(|dir| Some(dir.file_name()?.to_string_lossy().into_owned()))
        .unwrap_or_else(|| "project".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    /// Reads a Dockerfile in a directory of its own, with a file `x` beside it.
    fn read(dockerfile: &str, words: &[&str]) -> Result<Project, ProjectError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("Dockerfile"), dockerfile).unwrap();
        std::fs::write(dir.path().join("x"), "x").unwrap();
        let mut words: Vec<OsString> = words.iter().map(OsString::from).collect();
        words.push(dir.path().into());
        let builder = Builder::new(Strategy::BuildkitReplay, "linux/amd64", None);
        Project::read(&BuildArguments::parse(words), &builder, Detail::Digests)
    }

    #[test]
    fn a_failed_stage_is_cut_behind_a_step_that_the_builder_numbers() {
        let source = "FROM a AS b\nONBUILD RUN t1\nONBUILD ENV A=1\nONBUILD COPY x /\nFROM b\nWORKDIR /\nENV A=1\nRUN one\nLABEL a=b\nWORKDIR /w\nRUN two\n";
        let project = read(source, &[]).unwrap();
        let lines = |steps: usize| {
            let cut = String::from_utf8(project.cut(1, steps)?).unwrap();
            assert_eq!(cut.lines().count(), 11);
            cut.lines().enumerate().filter(|(_, l)| !l.is_empty()).map(|(at, _)| at + 1).last()
        };
        let found: Vec<_> = (0..7).map(lines).collect();
        assert_eq!(found, [None, None, Some(5), Some(8), Some(10), Some(11), None]);
    }

    #[test]
    fn a_missing_source_is_told_with_its_place() {
        let error = read("FROM a\nRUN y\nCOPY x \\\n missing /\n", &[]).unwrap_err().to_string();
        let (start, rest) = error.split_once("` line 3, `COPY x  missing /`: ").unwrap();
        assert!(start.starts_with('`') && start.ends_with("/Dockerfile"), "{error}");
        assert!(
            rest.starts_with("`/missing` is not in the build context (looked for `/"),
            "{error}"
        );
        assert!(rest.ends_with("/missing`)"), "{error}");
    }

    #[test]
    fn a_context_that_is_no_directory_changes_only_what_uses_it() {
        let source = "FROM a\nRUN y\nFROM node:20 AS build\nCOPY x /\nFROM a\nCOPY --from=0 /y /\nCOPY --from=build /x /\nCOPY --from=repo /z /\n";
        let digests = |contexts: &[&str]| {
            let words: Vec<String> =
                contexts.iter().map(|context| format!("--build-context={context}")).collect();
            let project = read(source, &words.iter().map(String::as_str).collect::<Vec<_>>());
            project.unwrap().stages.into_iter().map(|stage| stage.digest).collect::<Vec<_>>()
        };
        let repo = "repo=https://h/r.git#v1";
        let plain = digests(&[repo]);
        assert_eq!(digests(&[repo, "other=docker-image://o", "more=https://h/x.git"]), plain);
        let image = digests(&[repo, "node:20=docker-image://bb:1"]);
        assert_eq!(image[0], plain[0]);
        assert!(image[1] != plain[1] && image[2] != plain[2]);
        assert_eq!(image, digests(&[repo, "docker.io/library/node:20=docker-image://bb:1"]));
        assert_ne!(image, digests(&[repo, "node:20=docker-image://bb:2"]));
        let moved = digests(&["repo=https://h/r.git#v2"]);
        assert_eq!(moved[..2], plain[..2]);
        assert_ne!(moved[2], plain[2]);
    }

    #[test]
    fn an_image_in_a_layout_counts_by_what_the_layout_holds() {
        let dir = tempfile::tempdir().unwrap();
        let index = dir.path().join("index.json");
        let with = |suffix: &str| {
            let context =
                format!("--build-context=c=oci-layout://{}{suffix}", dir.path().display());
            let project = read("FROM a\nCOPY --from=c / /\n", &[&context]);
            project.map(|project| project.stages[0].digest.clone())
        };
        assert!(with("").unwrap_err().to_string().contains("index.json"));
        std::fs::write(&index, "one").unwrap();
        let (one, pinned) = (with("").unwrap(), with("@sha256:1").unwrap());
        assert_eq!(one, with(":latest").unwrap());
        assert_ne!(one, with(":other").unwrap());
        std::fs::write(&index, "two").unwrap();
        assert_ne!(one, with("").unwrap());
        assert_eq!(pinned, with("@sha256:1").unwrap());
    }
}
