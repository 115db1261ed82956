//! Carries the content of `RUN --mount=type=cache` from job to job, which no builder exports.
//!
//! A helper build on the user's builder has the mount: [`carry`] runs one before the user's build,
//! which unpacks the mount, and one after it, which packs what has changed. Both run [`inside`] in the
//! engine, which is this [`program`] itself. [`layers`] is the form of a
//! mount in the archive, and [`policy`] says what is kept of it.

pub(crate) mod carry;
pub(crate) mod collect;
pub mod inside;
pub(crate) mod layers;
pub(crate) mod listing;
pub(crate) mod pack;
pub mod policy;
pub(crate) mod program;
pub(crate) mod unpack;
