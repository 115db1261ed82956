//! What a build is asked for, besides the Dockerfile.

use super::environment::Environment;
use super::path;
use super::platform::Platform;
use super::step::Image;
use std::collections::BTreeMap;

/// What a build is asked for, besides the Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildOptions {
    /// The stage to build; the last one if not given.
    pub target: Option<String>,
    /// Whether the classic builder does the build. It builds every stage up to the target, not just
    /// those that the target needs.
    pub classic: bool,
    /// The values of `--build-arg`.
    pub build_args: BTreeMap<String, String>,
    /// What the result is for.
    pub target_platform: Platform,
    /// What the builder runs on.
    pub build_platform: Platform,
    /// What `--build-context` gives, by name.
    pub named_contexts: BTreeMap<String, NamedContext>,
    /// Whether the builder predefines `TARGETSTAGE`, `TARGETOSVERSION`, and `BUILDOSVERSION`: Docker
    /// 28.5 does, Docker 26.1 does not.
    pub knows_newer_arguments: bool,
    /// Settings that are inputs of each `RUN`: extra hosts, limits, and so on.
    pub run_settings: Vec<(String, String)>,
    /// The network of each `RUN` that names none itself, if it is not the default one.
    pub network: Option<String>,
    /// What comes before the identity of each cache mount.
    pub cache_namespace: String,
    /// The time of each directory that `WORKDIR` makes, in seconds since 1970, where the builder
    /// sets one.
    pub directory_time: Option<i64>,
    /// Whether commands see an absolute working directory cleaned, as with the classic builder from
    /// Docker 23 on, and not as written.
    pub cleans_workdir: bool,
    /// What is known of external images.
    pub base_configs: BTreeMap<Image, BaseConfig>,
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self {
            target: None,
            classic: false,
            build_args: BTreeMap::new(),
            target_platform: Platform::host(),
            build_platform: Platform::host(),
            named_contexts: BTreeMap::new(),
            knows_newer_arguments: true,
            run_settings: Vec::new(),
            network: None,
            cache_namespace: String::new(),
            directory_time: None,
            cleans_workdir: false,
            base_configs: BTreeMap::new(),
        }
    }
}

impl BuildOptions {
    /// The working directory that commands see after `WORKDIR path` in `parent`.
    pub(crate) fn workdir(&self, parent: &str, path: &str) -> String {
        if path.starts_with('/') && !self.cleans_workdir {
            return path.to_owned();
        }
        path::join(parent, path)
    }
}

/// What a name of `--build-context` stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedContext {
    /// An image, by its reference.
    Image(String),
    /// Files: a directory, a repository, an archive, or an image in a layout.
    Files,
}

/// The part of an image's config that a build on top of it sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BaseConfig {
    /// The environment, in order.
    pub environment: Environment,
    /// The user.
    pub user: Option<String>,
    /// The working directory.
    pub workdir: Option<String>,
    /// The shell of the shell form.
    pub shell: Option<Vec<String>>,
    /// The triggers.
    pub onbuild: Vec<String>,
}
