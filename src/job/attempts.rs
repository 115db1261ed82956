//! Runs the user's build with the cache, and once more if it was the cache that it failed in: no
//! trouble with a cache fails a build.

use super::input::StandardInput;
use super::journal::State;
use crate::engine::client::run::{Finished, Input};
use crate::engine::error::EngineError;
use crate::report::Reporter;

/// What a build may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum With {
    /// All that it is offered.
    Cache,
    /// Only what the builder has by itself.
    Nothing,
}

/// Runs `build`. Where the builder's threads were in each other's way, it runs again with the same
/// cache; where it can't read the cache, without.
pub(crate) fn run(
    is_offered: bool,
    input: &mut StandardInput,
    state: &mut State,
    reporter: Reporter,
    build: &mut dyn FnMut(With, Input) -> Result<Finished, EngineError>,
) -> Result<Finished, EngineError> {
    let first = if is_offered { With::Cache } else { With::Nothing };
    let mut finished = build(first, input.next())?;
    if !is_offered || !input.is_repeatable() {
        return Ok(finished);
    }
    if finished.failed_by_chance() {
        reporter.warn("the builder got in its own way as it used the cache; it runs again");
        finished = build(With::Cache, input.next())?;
    }
    if finished.failed_in_cache() {
        reporter.warn("the build failed while it read the cache; it runs again without");
        // Whatever the store was thought to hold: what is saved next must not count on it.
        state.remote = None;
        finished = build(With::Nothing, input.next())?;
    }
    Ok(finished)
}
