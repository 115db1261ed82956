//! What integration tests share: engines, projects, commands and readers of build logs.

pub(crate) mod bases;
mod build_report;
mod builder;
mod carried;
mod engine;
mod image;
mod invocation;
mod job;
mod machine;
mod oci_reader;
mod project;
mod servers;
mod watch;

pub(crate) use build_report::{BuildReport, Outcome};
pub(crate) use builder::{Builder, on_buildkit, on_every_builder};
pub(crate) use carried::Carried;
pub(crate) use engine::{Engine, Generation, busybox_tree, need_programs};
pub(crate) use image::Image;
pub(crate) use invocation::{Invocation, Run, dockercache};
pub(crate) use job::{BUILD, Job};
pub(crate) use machine::Machine;
pub(crate) use oci_reader::{OciDirectory, skopeo};
pub(crate) use project::{Project, noise};
pub(crate) use servers::{
    Access, AzureServer, GoogleServer, PASSWORD, RegistryServer, RegistrySettings, S3Server,
    S3Settings, Server, USER, buckets, fill, servers, with_each,
};
pub(crate) use watch::{Until, Watched, watched};
