//! Docker layer caching for CI machines that start with an empty engine.
//!
//! Data flows one way: [`dockerfile`] reads a Dockerfile, [`context`] and [`key`] digest it,
//! [`engine`] asks a Docker engine, [`layout`] writes an OCI image layout, and [`store`] keeps it,
//! signed with what is in [`trust`].
//! [`project`] brings the reading side together for one build and its [`builder`], and [`explain`]
//! compares it with an archive; [`commands`] wire it all to the
//! command line in [`cli`].

pub mod build;
pub mod builder;
pub mod cli;
pub mod commands;
pub mod context;
pub mod dockerfile;
pub mod engine;
pub mod exit;
pub mod explain;
mod job;
pub mod key;
pub mod layout;
pub mod project;
mod project_name;
pub mod report;
pub mod store;
pub mod trust;
