//! Docker layer caching for CI machines that start with an empty engine.
//!
//! Data flows one way: [`dockerfile`] reads a Dockerfile, [`context`] digests what it sees,
//! [`predict`] brings both together for one build and foretells what the builder will do,
//! [`engine`] asks a Docker engine, [`archive`] keeps its cache in a layout of [`oci`], and [`store`]
//! carries that elsewhere; [`packs`] groups it for a CI's cache; [`mounts`] carries what steps keep in cache mounts.
//! [`commands`] wire it all to the command line in [`cli`].

pub mod archive;
pub mod build;
pub mod builder;
pub mod cli;
pub mod commands;
pub mod context;
pub mod dockerfile;
pub mod engine;
mod job;
pub mod mounts;
pub mod oci;
pub mod packs;
pub mod predict;
pub mod report;
pub mod settings;
pub mod store;
