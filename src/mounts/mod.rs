//! Carries the content of `RUN --mount=type=cache` from job to job, which no builder exports.
//!
//! A helper build on the user's builder has the mount: [`carry`] runs one before the user's build,
//! which unpacks the mount, and one after it, which packs what has changed. Both run [`inside`] in the
//! engine, which is this [`program`] itself. [`found`] reads from the Dockerfile which mounts there
//! are, [`layers`] is their form in the archive, and [`policy`] says what is kept of them.

pub(crate) mod carry;
pub(crate) mod collect;
pub mod found;
pub mod inside;
pub(crate) mod layers;
pub(crate) mod listing;
pub(crate) mod pack;
pub mod policy;
pub(crate) mod program;
pub(crate) mod unpack;
