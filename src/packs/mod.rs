//! Groups an archive's layers into packs, so that a CI's cache moves only what a build needs.
//!
//! A CI's cache moves whole directories under keys that never change. So layers that live and are
//! read together lie in one directory, a *pack*, which is saved once and restored only by builds
//! that read it. [`table`] says which layers are in which pack, [`uses`] what builds are likely to read and to replace,
//! [`plan`] makes a table from the one before, and [`disk`] lays packs out beside the archive and
//! takes them back. It knows archives, but no engine and no CI.

pub(crate) mod disk;
pub(crate) mod plan;
#[cfg(test)]
mod simulation;
pub mod table;
pub(crate) mod uses;

/// How many packs a job restores at most, and saves at most: CI steps are written down before the
/// job runs. With the index, there are six steps each way.
pub const SLOTS: usize = 5;
