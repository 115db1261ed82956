//! Foretells what a builder would rebuild, before it is started.
//!
//! [`project`] reads a build as its builder does; from the chain of its steps come digests, and
//! from these the cache keys, what an archive must bring, and by [`explain`] why a step will run.
//!
//! The prediction picks keys and moves data; the builder alone decides what is a hit. A wrong
//! prediction costs time, and never makes a wrong image.

pub mod cache_mounts;
mod chain;
mod encoding;
pub mod explain;
mod keys;
mod needed;
pub mod project;
mod query;
mod stage;

pub use chain::Rules;
pub use keys::{KeyLevel, KeyScope, Keys, key_field, period};
pub use needed::needed_layers;
pub use query::ContextQuery;
pub use stage::{StageDigest, StepDigest, StepPart, Unanswered, digest_build};

#[cfg(test)]
mod tests;
