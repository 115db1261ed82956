//! The builds that a command names, each as the arguments of a plain build.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::build::arguments::BuildArguments;
use crate::build::bake::PlannedTarget;
use crate::builder::Builder;
use crate::engine::error::EngineError;
use crate::predict::project::{Detail, Project};
use crate::report::Reporter;

/// The builds that are named.
#[derive(Default)]
pub(crate) struct Named {
    /// The arguments of each; none if no build is named.
    pub(crate) builds: Vec<BuildArguments>,
    /// Holds Dockerfiles that are in no file of their own.
    _files: Option<TempDir>,
}

impl Named {
    /// The builds of targets. One that no plain build can stand for costs only itself. What the next
    /// command finds and removes, if this one is killed, goes to `scratch`.
    pub(crate) fn of(
        targets: Vec<PlannedTarget>,
        scratch: Option<&Path>,
        reporter: Reporter,
    ) -> Result<Self, EngineError> {
        let directory = || {
            let mut builder = tempfile::Builder::new();
            let builder = builder.prefix("dockercache-");
            scratch.map_or_else(|| builder.tempdir(), |scratch| builder.tempdir_in(scratch))
        };
        let mut files = None;
        let mut builds = Vec::new();
        for PlannedTarget { name, build, dockerfile } in targets {
            match (build, dockerfile) {
                (Err(reason), _) => reporter.warn(format!("{reason}: it has no cache")),
                (Ok(build), None) => builds.push(build),
                (Ok(build), Some(text)) => {
                    let held = match files.take() {
                        Some(held) => held,
                        None => {
                            directory().map_err(EngineError::io("create a temporary directory"))?
                        }
                    };
                    let file = held.path().join(format!("{}.Dockerfile", builds.len()));
                    fs::write(&file, text).map_err(EngineError::io("write a Dockerfile"))?;
                    files = Some(held);
                    let build = build.with("file", &file);
                    builds.push(if build.image_name().is_some() {
                        build
                    } else {
                        build.with("tag", name)
                    });
                }
            }
        }
        Ok(Self { builds, _files: files })
    }

    /// Builds that are named by their arguments alone.
    pub(crate) fn plain(builds: Vec<BuildArguments>) -> Self {
        Self { builds, _files: None }
    }

    /// Their projects; none if one can't be read. What is wrong with it is for its build to say.
    pub(crate) fn projects(&self, builder: &Builder, reporter: Reporter) -> Vec<Project> {
        let read = |arguments| Project::read(arguments, builder, Detail::Files);
        self.builds.iter().map(read).collect::<Result<_, _>>().unwrap_or_else(|error| {
            reporter.warn(format!("what of the archive is needed can't be told: {error}"));
            Vec::new()
        })
    }
}
