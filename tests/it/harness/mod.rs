//! What integration tests share: engines, projects, commands and readers of build logs.

mod build_report;
mod engine;
mod invocation;
mod project;

pub(crate) use build_report::BuildReport;
pub(crate) use engine::{Engine, Generation, busybox_tree};
pub(crate) use invocation::{Run, dockercache};
pub(crate) use project::Project;
