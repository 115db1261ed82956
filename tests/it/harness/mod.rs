//! What integration tests share: engines, projects, commands and readers of build logs.

mod build_report;
mod builder;
mod cache;
mod engine;
mod image;
mod invocation;
mod job;
mod machine;
mod oci_reader;
mod project;
mod servers;
mod tokens;

pub(crate) use build_report::{BuildReport, Outcome};
pub(crate) use builder::{Builder, on_buildkit, on_every_builder};
pub(crate) use cache::Cache;
pub(crate) use engine::{Engine, Generation, busybox_tree, need_programs};
pub(crate) use image::Image;
pub(crate) use invocation::{Invocation, Run, dockercache};
pub(crate) use job::{Carried, DockerBuild, Job, noise};
pub(crate) use machine::{Files, Machine};
pub(crate) use oci_reader::{OciDirectory, skopeo};
pub(crate) use project::Project;
pub(crate) use servers::{
    Access, PASSWORD, RegistryServer, RegistrySettings, S3Server, Server, USER, servers,
};
