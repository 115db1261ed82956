//! What integration tests share: engines, projects, commands and readers of build logs.

mod build_report;
mod engine;
mod invocation;
mod project;

pub(crate) use build_report::{BuildReport, Outcome};
pub(crate) use engine::{Engine, Generation};
pub(crate) use invocation::dockercache;
pub(crate) use project::Project;
