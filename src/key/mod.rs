//! Predicts what the builder would rebuild: chain digests per instruction, and cache keys from them.
//!
//! The prediction picks keys and moves data; the builder alone decides what is a hit. A wrong
//! prediction costs time, and never makes a wrong image.

mod age;
mod chain;
mod encoding;
mod levels;
mod query;
mod stage;

pub use age::MaxAge;
pub use chain::Rules;
pub use levels::{KeyLevel, KeyScope, Keys, key_field};
pub use query::ContextQuery;
pub use stage::{StageDigest, StepDigest, StepPart, Unanswered, digest_build};

#[cfg(test)]
mod tests;
