//! `explain`: which steps of a build are in the archive, and why the others are not.

use serde::Serialize;

use super::exit::{Exit, Failure};
use super::{builds, forced};
use crate::archive::Archive;
use crate::builder::Strategy;
use crate::cli::{ExplainArgs, Format};
use crate::engine::client::Client;
use crate::engine::strategy;
use crate::job::environment;
use crate::oci::directory::Layout;
use crate::predict::explain::{Cause, Explanation, explain};
use crate::predict::project::{Detail, Project};
use crate::report::{Reporter, output};

/// The JSON form of the result.
#[derive(Serialize)]
struct Explained<'a> {
    schema: &'static str,
    strategy: &'a str,
    hits: usize,
    misses: usize,
    stages: Vec<StageRow<'a>>,
}

#[derive(Serialize)]
struct StageRow<'a> {
    name: &'a str,
    /// Of several builds, the one that it is a stage of.
    #[serde(skip_serializing_if = "str::is_empty")]
    build: &'a str,
    steps: Vec<StepRow<'a>>,
}

#[derive(Serialize)]
struct StepRow<'a> {
    line: usize,
    instruction: &'a str,
    hit: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<CauseRow<'a>>,
}

#[derive(Serialize)]
struct CauseRow<'a> {
    #[serde(flatten)]
    cause: &'a Cause,
    text: String,
}

pub(super) fn run(args: &ExplainArgs) -> Result<Exit, Failure> {
    let reporter = Reporter::new(args.speech.quiet);
    let forced = forced(&args.engine)?;
    let layout = Layout::at(&args.directory.dir);
    let archive = Archive::read(&layout)?;
    let Some(about) = archive.as_ref().and_then(|archive| archive.about.as_ref()) else {
        let dir = layout.root().display();
        reporter
            .info(format!("explain: there is no archive of ours in `{dir}`: all steps will run"));
        return Ok(if args.speech.strict { Exit::Strict } else { Exit::Ok });
    };
    let engine = strategy::connect_to_choose(&Client::from_path(), &environment)?;
    let named = builds::required(&args.builds, &engine.client, reporter)?;
    let builds = &named.builds;
    let strategy = strategy::choose(&engine, &builds[0], &environment, forced)?.strategy;
    if about.strategy.parse().is_ok_and(|s: Strategy| s.is_buildkit() != strategy.is_buildkit()) {
        reporter.info(format!(
            "explain: the archive is by {}, and no builder of {strategy} can use it: all steps will run",
            about.strategy
        ));
        return Ok(if args.speech.strict { Exit::Strict } else { Exit::Ok });
    }
    let builder = engine.builder(strategy);
    let mut explanation = Explanation::default();
    for build in builds {
        let project = Project::read(build, &builder, Detail::Files)
            .map_err(|error| Failure::usage(error.to_string()))?;
        let name = build.image_name().filter(|_| builds.len() > 1);
        let mut explained = explain(about, build.image_name().as_deref(), &project);
        for stage in &mut explained.stages {
            stage.build = name.clone().unwrap_or_default();
        }
        explanation.stages.append(&mut explained.stages);
    }
    print(args.speech.format, &explanation, strategy.name());
    for line in explanation.summary() {
        reporter.info(line);
    }
    let miss = explanation.misses() > 0;
    Ok(if args.speech.strict && miss { Exit::Strict } else { Exit::Ok })
}

fn print(format: Format, explanation: &Explanation, strategy: &str) {
    match format {
        Format::Text => text(explanation),
        Format::Json => output::json(&Explained {
            schema: "dockercache.explain.v1",
            strategy,
            hits: explanation.hits(),
            misses: explanation.misses(),
            stages: explanation
                .stages
                .iter()
                .map(|stage| StageRow {
                    name: &stage.name,
                    build: &stage.build,
                    steps: stage
                        .steps
                        .iter()
                        .map(|step| StepRow {
                            line: step.line,
                            instruction: &step.text,
                            hit: step.cause.is_none(),
                            cause: step
                                .cause
                                .as_ref()
                                .map(|cause| CauseRow { cause, text: cause.to_string() }),
                        })
                        .collect(),
                })
                .collect(),
        }),
        Format::Env | Format::Github => {
            let env = format == Format::Env;
            output::pair(env, "hits", &explanation.hits().to_string());
            output::pair(env, "misses", &explanation.misses().to_string());
            let cause = explanation.first_miss().map(|(_, cause)| cause.to_string());
            output::pair(env, "cause", &cause.unwrap_or_default());
        }
    }
}

fn text(explanation: &Explanation) {
    for stage in &explanation.stages {
        let of = if stage.build.is_empty() { "" } else { " of " };
        output::text(&format!("stage {}{of}{}", stage.name, stage.build));
        for step in &stage.steps {
            let outcome = if step.cause.is_none() { "hit " } else { "miss" };
            output::text(&format!("  {outcome}  line {}: {}", step.line, step.text));
            if let Some(cause) = &step.cause {
                output::text(&format!("        {cause}"));
            }
        }
    }
}
