//! What integration tests share: engines, projects, commands and readers of build logs.

mod build_report;
mod cache;
mod engine;
mod invocation;
mod project;

pub(crate) use build_report::BuildReport;
pub(crate) use cache::Cache;
pub(crate) use engine::{Engine, Generation, need_programs};
pub(crate) use invocation::{Invocation, Run, dockercache};
pub(crate) use project::Project;
