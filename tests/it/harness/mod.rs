//! What integration tests share: engines, projects, commands and readers of build logs.

mod build_report;
mod engine;
mod invocation;
mod machine;
mod oci_reader;
mod project;

pub(crate) use build_report::BuildReport;
pub(crate) use engine::{Engine, Generation};
pub(crate) use invocation::dockercache;
pub(crate) use machine::{Builder, Carried, Machine, noise};
pub(crate) use oci_reader::{OciDirectory, skopeo};
pub(crate) use project::Project;
