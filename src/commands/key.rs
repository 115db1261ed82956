//! `key`: cache keys that are known before the build.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;

use super::exit::{Exit, Failure};
use super::{builds, forced};
use crate::build::arguments::{BuildArguments, ContextSource};
use crate::builder::Builder;
use crate::builder::Strategy;
use crate::cli::{Format, KeyArgs};
use crate::engine::api::bases::Bases;
use crate::engine::api::facts::Facts;
use crate::engine::client::Client;
use crate::engine::error::EngineError;
use crate::engine::strategy;
use crate::job::environment;
use crate::job::project_name::project_name;
use crate::predict::project::{Detail, Project};
use crate::predict::{KeyScope, Keys, StageDigest, period};
use crate::report::{Reporter, output};

/// Level files that always exist, so that a key made of checksums never misses one.
const LEVEL_FILES: usize = 8;

/// The JSON form of the result.
#[derive(Serialize)]
struct Computed<'a> {
    schema: &'static str,
    strategy: &'a str,
    /// Most exact first.
    keys: Vec<&'a str>,
    stages: Vec<StageRow<'a>>,
}

#[derive(Serialize)]
struct StageRow<'a> {
    name: String,
    digest: &'a str,
}

pub(super) fn run(args: &KeyArgs) -> Result<Exit, Failure> {
    let reporter = Reporter::new(args.speech.quiet);
    let forced = forced(&args.engine)?;
    let named = builds::required(&args.builds, &Client::from_path(), reporter)?;
    let builds = &named.builds;
    let several = builds.len() > 1;
    // The keys of a build for several platforms are about all of them.
    let builds: Vec<BuildArguments> =
        builds.iter().flat_map(BuildArguments::per_platform).collect();
    let mut target = target(&builds[0], forced, reporter)?;
    // An engine that has the bases, since a build has pulled them, must give the same keys as one
    // that is still empty: without registries, names alone count.
    if args.resolve_base {
        let bases = target.bases.and_registries(Client::from_path());
        target.builder = target.builder.knowing(bases);
    }
    let builder = target.builder;
    let detail = if args.list_inputs { Detail::Files } else { Detail::Digests };
    let read =
        |build| Project::read(build, &builder, detail).map_err(|e| Failure::usage(e.to_string()));
    let projects = builds.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    for warning in projects.iter().flat_map(|project| &project.warnings) {
        reporter.warn(warning);
    }
    if args.list_inputs {
        list_inputs(&builds, &projects, several);
        return Ok(Exit::Ok);
    }
    let stages = all_stages(&projects);
    let scope = KeyScope {
        generation: target.generation,
        strategy: builder.strategy.name().to_owned(),
        platform: builder.platform.clone(),
        project: args.project.clone().unwrap_or_else(|| name_of(&builds[0])),
        salt: args.salt.clone(),
        period: args.max_age.map_or_else(String::new, |age| period(age, SystemTime::now())),
    };
    let keys = Keys::new(&scope, &stages);
    if let Some(dir) = &args.write {
        write_levels(dir, &keys)?;
    }
    print(args.speech.format, &keys, &stages, builder.strategy);
    Ok(Exit::Ok)
}

fn name_of(build: &BuildArguments) -> String {
    let root = match build.context() {
        ContextSource::Directory(dir) => dir,
        _ => PathBuf::from("."),
    };
    project_name(&root, &environment)
}

/// The stages of all builds; those that several have in common, once.
fn all_stages(projects: &[Project]) -> Vec<StageDigest> {
    let mut stages: Vec<StageDigest> = Vec::new();
    for stage in projects.iter().flat_map(|project| &project.stages) {
        if projects.len() == 1 || stages.iter().all(|s| s.digest != stage.digest) {
            stages.push(stage.clone());
        }
    }
    stages
}

/// Prints the files that are part of the key, relative to the context; for several builds, to the working directory.
fn list_inputs(builds: &[BuildArguments], projects: &[Project], several: bool) {
    let mut inputs = BTreeSet::new();
    for (build, project) in builds.iter().zip(projects) {
        let context = match build.context() {
            ContextSource::Directory(dir) if several && dir != Path::new(".") => dir,
            _ => PathBuf::new(),
        };
        inputs.extend(project.inputs().iter().map(|path| context.join(path)));
    }
    for path in inputs {
        output::line(&path.to_string_lossy());
    }
}

/// What the key is for, besides the project.
struct Target {
    generation: String,
    /// Knows no external image.
    builder: Builder,
    bases: Bases,
}

/// Asks the engine. Where none answers, keys are still made, for engines of no known generation.
fn target(
    arguments: &BuildArguments,
    forced: Option<Strategy>,
    reporter: Reporter,
) -> Result<Target, Failure> {
    match strategy::connect_to_choose(&Client::from_path(), &environment) {
        Ok(engine) => {
            let chosen = strategy::choose(&engine, arguments, &environment, forced);
            let strategy = match chosen {
                // The keys are of no use then, but the steps of the CI that read them go on.
                Err(error @ EngineError::Unsupported(_)) => {
                    reporter.warn(error.to_string());
                    Strategy::BuildkitReplay
                }
                chosen => chosen?.strategy,
            };
            let Facts { version, platform, .. } = &engine.facts;
            Ok(Target {
                generation: version.generation().to_owned(),
                builder: Builder::new(strategy, platform.clone(), *version),
                bases: engine.bases(strategy),
            })
        }
        Err(
            error @ (EngineError::Unreachable(_)
            | EngineError::NoAnswer { .. }
            | EngineError::NoClient { .. }
            | EngineError::Unsupported(_)),
        ) => {
            reporter.warn(format!("the keys name no engine generation: {error}"));
            let strategy = forced.unwrap_or(Strategy::BuildkitReplay);
            let platform = crate::dockerfile::Platform::host().to_string();
            Ok(Target {
                generation: "unknown".to_owned(),
                builder: Builder::new(strategy, platform, None),
                bases: Bases::default(),
            })
        }
        Err(error) => Err(error.into()),
    }
}

/// Writes `level-1` (the most exact) to `level-8`, each with its key, always all of them.
fn write_levels(dir: &Path, keys: &Keys) -> Result<(), Failure> {
    let failed = |e: std::io::Error| Failure {
        exit: Exit::Io,
        message: format!("failed to write key files into `{}`: {e}", dir.display()),
        hint: None,
    };
    fs::create_dir_all(dir).map_err(failed)?;
    let last = keys.levels.last();
    for number in 0..LEVEL_FILES {
        // The coarsest level fills up: the same key twice is harmless, a missing file is not.
        let level = if number + 1 == LEVEL_FILES { last } else { keys.levels.get(number).or(last) };
        let key = level.map_or("", |l| l.key.as_str());
        fs::write(dir.join(format!("level-{}", number + 1)), key).map_err(failed)?;
    }
    Ok(())
}

fn print(format: Format, keys: &Keys, stages: &[StageDigest], strategy: Strategy) {
    let texts: Vec<&str> = keys.levels.iter().map(|l| l.key.as_str()).collect();
    match format {
        Format::Text => texts.iter().for_each(|key| output::line(key)),
        Format::Json => output::json(&Computed {
            schema: "dockercache.key.v1",
            strategy: strategy.name(),
            keys: texts,
            stages: stages
                .iter()
                .map(|s| StageRow {
                    name: s.name.clone().unwrap_or_else(|| format!("stage-{}", s.index)),
                    digest: &s.digest,
                })
                .collect(),
        }),
        Format::Env => {
            output::pair(true, "key", keys.exact());
            output::pair(true, "restore-keys", &texts[1..].join(" "));
        }
        Format::Github => {
            output::pair(false, "key", keys.exact());
            output::line("restore-keys<<DOCKERCACHE_KEYS_END");
            texts[1..].iter().for_each(|key| output::line(key));
            output::line("DOCKERCACHE_KEYS_END");
        }
    }
}
