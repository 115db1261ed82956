//! Which builds the user names: those of `docker build`, one or several, of a bake file, or of compose.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::environment;
use super::exit::Failure;
use crate::build::arguments::BuildArguments;
use crate::build::bake::{PlannedTarget, Planner};
use crate::cli::Builds;
use crate::engine::client::Client;
use crate::engine::client::targets::targets;
use crate::engine::error::EngineError;
use crate::report::Reporter;

/// Stands between the arguments of several builds.
const SEPARATOR: &str = "--and";

/// The builds that are named.
#[derive(Default)]
pub(super) struct Named {
    /// The arguments of each; none if no build is named.
    pub(super) builds: Vec<BuildArguments>,
    /// Holds Dockerfiles that are in no file of their own.
    _files: Option<TempDir>,
}

impl Named {
    /// The builds of targets. One that no plain build can stand for costs only itself. What the next
    /// command shall find and remove, if this one is killed, goes to `scratch`.
    pub(super) fn of(
        targets: Vec<PlannedTarget>,
        scratch: Option<&Path>,
        reporter: Reporter,
    ) -> Result<Self, Failure> {
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
}

/// The builds that the options and arguments name.
pub(super) fn named(
    builds: &Builds,
    client: &Client,
    scratch: Option<&Path>,
    reporter: Reporter,
) -> Result<Named, Failure> {
    if builds.bake {
        let targets = targets(client, Planner::Bake, &builds.arguments, None)?;
        return Named::of(targets, scratch, reporter);
    }
    if builds.compose {
        let mut words = vec![OsString::from("build")];
        words.extend(builds.arguments.iter().cloned());
        return Named::of(targets(client, Planner::Compose, &words, None)?, scratch, reporter);
    }
    if builds.arguments.is_empty() {
        return Ok(Named::default());
    }
    Ok(Named { builds: separate(&builds.arguments), _files: None })
}

/// As [`named`] where there has to be one: without any, what is missing is reported when the project is
/// read.
pub(super) fn required(
    builds: &Builds,
    client: &Client,
    reporter: Reporter,
) -> Result<Named, Failure> {
    let mut named = named(builds, client, None, reporter)?;
    if named.builds.is_empty() {
        named.builds = separate(&[]);
    }
    Ok(named)
}

fn separate(words: &[OsString]) -> Vec<BuildArguments> {
    let builds = words.split(|word| word == SEPARATOR);
    builds.map(|words| BuildArguments::of_user(words.iter().cloned(), environment)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_builds_are_told_apart() {
        let words = ["-t", "app", ".", "--and", "-t", "worker", "worker"].map(OsString::from);
        let names: Vec<_> = separate(&words).iter().map(BuildArguments::image_name).collect();
        assert_eq!(names, [Some("app".to_owned()), Some("worker".to_owned())]);
    }
}
