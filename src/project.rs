//! A project as the builder sees it: Dockerfile, context and arguments, read together.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::context::{self, BuildContext};
use crate::dockerfile::{BuildGraph, BuildOptions, Dockerfile, Platform};
use crate::engine::arguments::{BuildArguments, ContextSource};
use crate::engine::strategy::Strategy;
use crate::key::{ContextQuery, Rules, StageDigest, digest_build};

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
    /// Every file of the context that counts, relative to it.
    pub inputs: Vec<PathBuf>,
    /// A name for the project, if the user gives none: the context's directory.
    pub name: String,
}

/// Why a project can't be read. The builder may still be able to build it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ProjectError(String);

impl Project {
    /// Reads what `arguments` name.
    pub fn read(
        arguments: &BuildArguments,
        platform: &str,
        strategy: Strategy,
    ) -> Result<Self, ProjectError> {
        let root = match arguments.context() {
            ContextSource::Directory(dir) => dir,
            ContextSource::Stdin => {
                return Err(wrong("the build context comes from standard input"));
            }
            ContextSource::Remote(url) => {
                return Err(wrong(format!("the build context `{url}` is not on this machine")));
            }
            ContextSource::Absent => {
                return Err(wrong("no build context is named: add a directory, such as `.`"));
            }
        };
        let path = arguments
            .dockerfile()
            .ok_or_else(|| wrong("the Dockerfile comes from standard input"))?;
        let source = std::fs::read(&path)
            .map_err(|e| wrong(format!("failed to read `{}`: {e}", path.display())))?;
        let dockerfile = Dockerfile::parse(&source, &path.display().to_string())
            .map_err(|e| wrong(e.to_string()))?;
        let options = options(arguments, platform)?;
        let graph = plan(&dockerfile, &options, strategy)?;
        let context = BuildContext::open(&root, Some(&path)).map_err(|e| wrong(e.to_string()))?;
        let mut contexts = Contexts { main: &context, named: named_contexts(arguments)? };
        let mut inputs = BTreeSet::new();
        let rules = Rules { independent_links: independent_links(strategy) };
        let stages = digest_build(
            &graph,
            rules,
            &mut |query| contexts.digest(query, &mut inputs),
            &BTreeMap::new(),
        )?;
        let (named, targets) = dockerfile.with_names();
        Ok(Self {
            named,
            targets,
            target_stage: target_stage(&dockerfile, &options),
            ignore_file: own_ignore_file(&context, &root),
            stages,
            inputs: inputs.into_iter().collect(),
            name: name_of(&root),
        })
    }
}

fn wrong(message: impl Into<String>) -> ProjectError {
    ProjectError(message.into())
}

fn options(arguments: &BuildArguments, platform: &str) -> Result<BuildOptions, ProjectError> {
    let text = |value: &std::ffi::OsStr| value.to_string_lossy().into_owned();
    let own = Platform::parse(platform).unwrap_or_else(|_| Platform::host());
    let target_platform = match arguments.value("platform") {
        Some(asked) => Platform::parse(&text(asked)).map_err(|e| wrong(e.to_string()))?,
        None => own.clone(),
    };
    Ok(BuildOptions {
        target: arguments.value("target").map(text),
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

/// The stages that the builder builds: those that the target needs, or, by the classic builder,
/// all up to it.
fn plan(
    dockerfile: &Dockerfile,
    options: &BuildOptions,
    strategy: Strategy,
) -> Result<BuildGraph, ProjectError> {
    let plan = |options: &BuildOptions| dockerfile.plan(options).map_err(|e| wrong(e.to_string()));
    let mut graph = plan(options)?;
    if strategy == Strategy::Classic {
        for index in 0..graph.target {
            if graph.stages.iter().all(|s| s.index != index) {
                let options = BuildOptions { target: Some(index.to_string()), ..options.clone() };
                graph.stages.extend(plan(&options)?.stages);
                graph.stages.sort_by_key(|s| s.index);
                graph.stages.dedup_by_key(|s| s.index);
            }
        }
    }
    Ok(graph)
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

/// `COPY --link` makes an independent layer where the builder can merge, which the stock engine
/// with the graph driver can't.
fn independent_links(strategy: Strategy) -> bool {
    strategy == Strategy::BuildkitLocal
}

/// The build context and those that `--build-context` names.
struct Contexts<'a> {
    main: &'a BuildContext,
    named: BTreeMap<String, BuildContext>,
}

impl Contexts<'_> {
    fn digest(
        &mut self,
        query: &ContextQuery,
        inputs: &mut BTreeSet<PathBuf>,
    ) -> Result<String, ProjectError> {
        let context = match &query.named_context {
            None => self.main,
            Some(name) => self.named.get(name).ok_or_else(|| {
                wrong(format!("the build context `{name}` is no directory of this machine"))
            })?,
        };
        let found = context
            .digest(&context::ContextQuery {
                sources: query.sources.clone(),
                excludes: query.excludes.clone(),
                parents: query.parents,
                wildcards: query.wildcards,
                form: context::ListForm::default(),
            })
            .map_err(|e| wrong(e.to_string()))?;
        let prefix = query.named_context.as_ref().map(PathBuf::from).unwrap_or_default();
        inputs.extend(found.entries.into_iter().map(|e| prefix.join(e.path)));
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

fn name_of(root: &Path) -> String {
    root.canonicalize()
        .ok()
        .and_then(|dir| Some(dir.file_name()?.to_string_lossy().into_owned()))
        .unwrap_or_else(|| "project".to_owned())
}
