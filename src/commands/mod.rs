//! The verbs: each wires the parts together for one thing that a user wants.

mod build;
mod builds;
mod circleci;
mod config;
pub mod exit;
mod explain;
mod gc;
mod group;
mod inspect;
mod key;
mod packs;
mod prune;
mod restore;
mod save;
mod shim;

use crate::builder::Strategy;
use crate::cli::{self, Cli, Verb};
use crate::engine::error::EngineError;
use crate::mounts::inside;
use exit::{Exit, Failure};

/// Runs what was asked for.
pub fn run(cli: Cli) -> Result<Exit, Failure> {
    match cli.verb {
        Verb::Build(args) => build::run(&args),
        Verb::Buildx(args) => group::buildx(&args),
        Verb::Compose(args) => group::compose(&args),
        Verb::Shim => shim::run(),
        Verb::Save(args) => strictly(args.speech.strict, save::run(&args)),
        Verb::Restore(args) => strictly(args.speech.strict, restore::run(&args)),
        Verb::Explain(args) => strictly(args.speech.strict, explain::run(&args)),
        Verb::Key(args) => strictly(args.speech.strict, key::run(&args)),
        Verb::Config(args) => Ok(config::run(&args)),
        Verb::Packs(args) => strictly(args.speech.strict, packs::run(&args)),
        Verb::Inspect(args) => inspect::run(&args),
        Verb::Prune(args) => prune::run(&args),
        Verb::Gc(args) => gc::run(&args),
        Verb::Circleci { step } => circleci::run(step),
        Verb::InsideMount { words } => {
            let ran = inside::run(&words).map_err(EngineError::io("write the report"));
            ran.map(|()| Exit::Ok).map_err(Failure::from)
        }
    }
}

/// With `--strict`, a command that an engine can't do anything for has failed.
fn strictly(strict: bool, result: Result<Exit, Failure>) -> Result<Exit, Failure> {
    result.map_err(|failure| match failure.exit {
        Exit::Ok if strict => Failure { exit: Exit::Strict, ..failure },
        _ => failure,
    })
}

/// The strategy that the options ask for.
fn forced(engine: &cli::Engine) -> Result<Option<Strategy>, Failure> {
    let parsed = engine.strategy.as_deref().map(str::parse).transpose();
    parsed.map_err(|why: String| Failure::usage(why))
}
