//! Says why a step will run: compares a project with the notes that an archive holds of it.
//!
//! The notes are digests of what counted for each step, cut to a few digits: enough to see what has
//! changed, and no way back to a value. Knows no engine.

mod cause;
mod compare;
mod files;
mod notes;
#[cfg(test)]
mod tests;

pub use cause::{Cause, Change};
pub(super) use compare::shares_step;
pub use compare::{ExplainedStage, ExplainedStep, Explanation, explain};
pub use notes::notes;
