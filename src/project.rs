//! A project as the builder sees it: Dockerfile, context and arguments, read together.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::builder::{Builder, FoundBase};
use crate::context::{self, BuildContext, ContextEntry, ListForm};
use crate::dockerfile::{
    Base, BuildGraph, BuildOptions, Dockerfile, Image, PlannedStage, Platform,
};
use crate::engine::arguments::{BuildArguments, ContextSource};
use crate::engine::strategy::Strategy;
use crate::key::{ContextQuery, StageDigest, digest_build};
use crate::layout::archive::BaseAbout;

/// Flags whose value the builder counts for every `RUN`.
const RUN_SETTINGS: &[&str] = &["network", "add-host", "shm-size", "ulimit", "cgroup-parent"];

/// A project that has been read.
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
    /// What each stage starts from, in the order of `stages`.
    pub bases: Vec<BaseAbout>,
    /// The places of the stages that each stage starts from or copies from, in the order of
    /// `stages`.
    pub dependencies: Vec<Vec<usize>>,
    /// The files that count, by the question that asked for them; empty without [`Detail::Files`].
    pub files: BTreeMap<ContextQuery, Vec<ContextEntry>>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// A name for the project, if the user gives none: the context's directory.
    pub name: String,
}

/// How much of a project is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Digests alone, which takes the least time and memory.
    Digests,
    /// Every file that counts as well.
    Files,
}

/// Why a project can't be read. The builder may still be able to build it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ProjectError(String);

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
        let dockerfile = Dockerfile::parse(&source, &path.display().to_string())
            .map_err(|e| wrong(e.to_string()))?;
        let options = options(arguments, builder)?;
        let target_stage = target_stage(&dockerfile, &options);
        let planned = Planned::new(&dockerfile, options, builder)?;
        let context = BuildContext::open(&root, Some(&path)).map_err(|e| wrong(e.to_string()))?;
        let mut contexts = Contexts {
            main: &context,
            named: named_contexts(arguments)?,
            form: builder.form(),
            detail,
            files: BTreeMap::new(),
        };
        let stages = digest_build(
            &planned.graph,
            builder.rules(),
            &mut |query| contexts.digest(query),
            &planned.counted(builder),
        )?;
        let (named, targets) = dockerfile.with_names();
        Ok(Self {
            named,
            targets,
            target_stage,
            ignore_file: own_ignore_file(&context, &root),
            stages,
            bases: planned.graph.stages.iter().map(|stage| planned.base_of(stage)).collect(),
            dependencies: planned.graph.stages.iter().map(|s| s.dependencies.clone()).collect(),
            files: contexts.files,
            warnings: planned.warnings,
            name: name_of(&root),
        })
    }

    /// Every file of a context that counts, relative to it.
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
    bases: BTreeMap<Image, FoundBase>,
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
            let graph = dockerfile.plan(&options).map_err(|e| wrong(e.to_string()))?;
            let new: Vec<Image> =
                graph.images().into_iter().filter(|i| !asked.contains(*i)).cloned().collect();
            let known = bases.len();
            for image in new {
                match builder.base(&image) {
                    Ok(Some(found)) => {
                        options.base_configs.insert(image.clone(), found.image.config.clone());
                        bases.insert(image.clone(), found);
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

    /// What external images count by, where not by their names.
    fn counted(&self, builder: &Builder) -> BTreeMap<String, String> {
        let counted = self.bases.iter().filter(|_| builder.resolves_bases());
        counted.map(|(image, found)| (image.reference.clone(), found.identity.clone())).collect()
    }

    fn base_of(&self, stage: &PlannedStage) -> BaseAbout {
        let (name, identity) = match &stage.base {
            Base::Image(image) => {
                (image.reference.clone(), self.bases.get(image).map(|b| b.identity.clone()))
            }
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

fn wrong(message: impl Into<String>) -> ProjectError {
    ProjectError(message.into())
}

fn options(arguments: &BuildArguments, builder: &Builder) -> Result<BuildOptions, ProjectError> {
    let text = |value: &std::ffi::OsStr| value.to_string_lossy().into_owned();
    let own = Platform::parse(&builder.platform).unwrap_or_else(|_| Platform::host());
    let target_platform = match arguments.value("platform") {
        Some(asked) => Platform::parse(&text(asked)).map_err(|e| wrong(e.to_string()))?,
        None => own.clone(),
    };
    Ok(BuildOptions {
        target: arguments.value("target").map(text),
        classic: builder.strategy == Strategy::Classic,
        knows_newer_arguments: builder.knows_newer_arguments(),
        build_args: arguments.build_args(|name| std::env::var(name).ok()),
        target_platform,
        build_platform: own,
        named_contexts: arguments
            .values("build-context")
            .filter_map(|v| Some(text(v).split_once('=')?.0.to_owned()))
            .collect(),
        run_settings: RUN_SETTINGS
            .iter()
            .flat_map(|name| arguments.values(name).map(|v| ((*name).to_owned(), text(v))))
            .collect(),
        ..BuildOptions::default()
    })
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
    named: BTreeMap<String, BuildContext>,
    form: ListForm,
    detail: Detail,
    files: BTreeMap<ContextQuery, Vec<ContextEntry>>,
}

impl Contexts<'_> {
    fn digest(&mut self, query: &ContextQuery) -> Result<String, ProjectError> {
        let context = match &query.named_context {
            None => self.main,
            Some(name) => self.named.get(name).ok_or_else(|| {
                wrong(format!("the build context `{name}` is no directory of this machine"))
            })?,
        };
        let question = context::ContextQuery {
            sources: query.sources.clone(),
            excludes: query.excludes.clone(),
            parents: query.parents,
            wildcards: query.wildcards,
            form: self.form,
        };
        let failed = |e: context::ContextError| wrong(e.to_string());
        if self.detail == Detail::Digests {
            return Ok(context.digest_alone(&question).map_err(failed)?.hex());
        }
        let found = context.digest(&question).map_err(failed)?;
        self.files.insert(query.clone(), found.entries);
        Ok(found.digest.hex())
    }
}

fn named_contexts(
    arguments: &BuildArguments,
) -> Result<BTreeMap<String, BuildContext>, ProjectError> {
    let mut contexts = BTreeMap::new();
    for value in arguments.values("build-context") {
        let text = value.to_string_lossy();
        let Some((name, source)) = text.split_once('=') else { continue };
        // An image, a repository or a layout has no files here; a query for it says so.
        if Path::new(source).is_dir() {
            let context =
                BuildContext::open(Path::new(source), None).map_err(|e| wrong(e.to_string()))?;
            contexts.insert(name.to_owned(), context);
        }
    }
    Ok(contexts)
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
