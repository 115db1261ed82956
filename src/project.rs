//! A project as the builder sees it: Dockerfile, context and arguments, read together.

use std::path::{Path, PathBuf};

use crate::context::BuildContext;
use crate::dockerfile::{BuildGraph, BuildOptions, Dockerfile, Platform};
use crate::engine::arguments::{BuildArguments, ContextSource};
use crate::key::{StageDigest, digest_build};

/// Flags whose value the builder counts for every `RUN`.
const RUN_SETTINGS: &[&str] = &["network", "add-host", "shm-size", "ulimit", "cgroup-parent"];

/// A project that has been read.
pub struct Project {
    /// The Dockerfile with a name for every stage.
    pub named: Vec<u8>,
    /// The names for `--target`, by the stage's place in the file; `None` if it can't be reached.
    pub targets: Vec<Option<String>>,
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

/// Which stages a builder builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those that the target needs.
    Needed,
    /// All up to the target, as the classic builder does.
    UpToTarget,
}

impl Project {
    /// Reads what `arguments` name.
    pub fn read(
        arguments: &BuildArguments,
        platform: &str,
        scope: Scope,
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
        let graph = plan(&dockerfile, &options, scope)?;
        let context =
            BuildContext::open(&root, Some(&path)).map_err(|e| wrong(e.to_string()))?;
        let mut inputs = std::collections::BTreeSet::new();
        let stages = digest_build(
            &graph,
            &mut |query| {
                let found = context.digest(query)?;
                inputs.extend(found.entries.into_iter().map(|e| e.path));
                Ok(found.digest.hex())
            },
            &std::collections::BTreeMap::new(),
        )
        .map_err(|e: crate::context::ContextError| wrong(e.to_string()))?;
        let (named, targets) = dockerfile.with_names();
        Ok(Self {
            named,
            targets,
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

fn plan(
    dockerfile: &Dockerfile,
    options: &BuildOptions,
    scope: Scope,
) -> Result<BuildGraph, ProjectError> {
    let plan = |options: &BuildOptions| dockerfile.plan(options).map_err(|e| wrong(e.to_string()));
    let mut graph = plan(options)?;
    if scope == Scope::UpToTarget {
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
