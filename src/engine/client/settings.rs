//! What the docker client looks up before it does anything: `config.json`, its context, its
//! plugins.
//!
//! Each start of the client takes a while, and most end with its handing on to a plugin or a
//! socket. Where `docker` is the client itself, that can be found without it, in the same places
//! and order. Where it is anything that stands before the client, only that knows which engine is
//! meant.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// A variable of the environment, if it is set.
type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Where plugins are installed for all users: docker/cli, `cli-plugins/manager`.
const PLUGIN_DIRECTORIES: [&str; 4] = [
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
];
/// Where the client looks for an engine that it was told nothing of.
const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";
/// The context that stands for `DOCKER_HOST`.
const DEFAULT_CONTEXT: &str = "default";
/// What each program for Linux begins with; a script does not.
const ELF: &[u8; 4] = b"\x7fELF";

/// The docker client's `config.json`, as far as it counts here.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Config {
    aliases: BTreeMap<String, String>,
    current_context: String,
    cli_plugins_extra_dirs: Vec<PathBuf>,
    /// Where it lies.
    #[serde(skip)]
    directory: PathBuf,
}

impl Config {
    /// Reads it; `None` if it is not legible. One that is not there says nothing.
    pub fn read(environment: Environment<'_>) -> Option<Self> {
        let named = |name| environment(name).filter(|value| !value.is_empty());
        let home = || named("HOME").map(|home| format!("{home}/.docker"));
        let directory = PathBuf::from(named("DOCKER_CONFIG").or_else(home)?);
        let read = match fs::read(directory.join("config.json")) {
            Ok(json) => serde_json::from_slice(&json).ok()?,
            Err(error) if error.kind() == ErrorKind::NotFound => Self::default(),
            Err(_) => return None,
        };
        Some(Self { directory, ..read })
    }

    /// Whether `docker buildx install` was run.
    pub fn builds_with_buildx(&self) -> bool {
        self.aliases.get("builder").is_some_and(|command| command == "buildx")
    }

    /// Whether `docker buildx use` has selected a builder: docker/buildx, `store/storeutil`.
    pub fn selects_builder(&self, environment: Environment<'_>) -> bool {
        let named = environment("BUILDX_CONFIG").filter(|directory| !directory.is_empty());
        let directory = named.map_or_else(|| self.directory.join("buildx"), PathBuf::from);
        directory.join("current").exists()
    }

    fn buildx(&self) -> Option<PathBuf> {
        let directories = self.cli_plugins_extra_dirs.iter().cloned();
        directories
            .chain([self.directory.join("cli-plugins")])
            .chain(PLUGIN_DIRECTORIES.map(PathBuf::from))
            .map(|directory| directory.join("docker-buildx"))
            .find(|path| is_executable(path))
    }
}

/// What the client would look up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The client's program.
    pub client: PathBuf,
    /// The name of its context.
    pub context: String,
    /// The engine's socket, where it is one of this machine.
    pub socket: Option<PathBuf>,
    /// The program of the buildx plugin.
    pub buildx: Option<PathBuf>,
}

impl Settings {
    /// Looks them up for the `docker` that is found on the path; `None` if that is not the client
    /// itself, or would have to be asked.
    pub fn find(environment: Environment<'_>) -> Option<Self> {
        let path = environment("PATH")?;
        let client = env::split_paths(&path)
            .map(|directory| directory.join("docker"))
            .find(|path| is_executable(path))
            .filter(|path| is_client(path))?;
        let config = Config::read(environment)?;
        let chosen = [environment("DOCKER_HOST"), environment("DOCKER_CONTEXT")];
        // What an empty one means is not the same for all versions.
        if chosen.iter().flatten().any(String::is_empty) {
            return None;
        }
        let [host, context] = chosen;
        let current = || Some(config.current_context.clone()).filter(|name| !name.is_empty());
        let named = if host.is_some() { None } else { context.or_else(current) };
        let context = named.unwrap_or_else(|| DEFAULT_CONTEXT.to_owned());
        let host = host.unwrap_or_else(|| DEFAULT_HOST.to_owned());
        let socket = host
            .strip_prefix("unix://")
            .filter(|path| path.starts_with('/') && context == DEFAULT_CONTEXT)
            .map(PathBuf::from);
        Some(Self { client, socket, buildx: config.buildx(), context })
    }
}

/// Whether a program is the client itself, not a script or a dispatcher such as snap's.
fn is_client(program: &Path) -> bool {
    let mut start = [0; ELF.len()];
    program.canonicalize().is_ok_and(|path| {
        path.ends_with("docker")
            && File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok()
            && start == *ELF
    })
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with programs, each with its content.
    fn programs(programs: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in programs {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        dir
    }

    /// What is found with these variables, on a path with this directory alone.
    fn found(dir: &Path, variables: &[(&str, &str)]) -> Option<Settings> {
        let dir = dir.to_str().unwrap();
        let mut all = vec![("PATH", dir), ("DOCKER_CONFIG", dir)];
        all.extend(variables);
        let of = |name: &str| all.iter().rev().find(|(n, _)| *n == name).map(|(_, v)| (*v).into());
        Settings::find(&of)
    }

    const CLIENT: (&str, &str) = ("docker", "\x7fELF…");

    #[test]
    fn a_script_that_stands_before_the_client_is_asked() {
        assert_eq!(found(programs(&[("docker", "#!/bin/sh\n")]).path(), &[]), None);
        assert_eq!(found(programs(&[]).path(), &[]), None);
        let snap = programs(&[("snap", "\x7fELF…")]);
        std::os::unix::fs::symlink("snap", snap.path().join("docker")).unwrap();
        assert_eq!(found(snap.path(), &[]), None);
        assert!(found(programs(&[CLIENT]).path(), &[]).is_some());
    }

    #[test]
    fn the_context_is_the_one_that_the_client_would_take() {
        let dir = programs(&[CLIENT, ("config.json", r#"{"currentContext": "used"}"#)]);
        let of = |variables: &[(&str, &str)]| {
            let Settings { context, socket, .. } = found(dir.path(), variables).unwrap();
            (context, socket.map(|path| path.display().to_string()))
        };
        let host = ("DOCKER_HOST", "unix:///run/mine.sock");
        assert_eq!(of(&[]), ("used".into(), None));
        assert_eq!(of(&[("DOCKER_CONTEXT", "named")]), ("named".into(), None));
        assert_eq!(
            of(&[("DOCKER_CONTEXT", "default")]),
            ("default".into(), Some("/var/run/docker.sock".into()))
        );
        assert_eq!(
            of(&[host, ("DOCKER_CONTEXT", "named")]),
            ("default".into(), Some("/run/mine.sock".into()))
        );
        assert_eq!(of(&[("DOCKER_HOST", "tcp://other:2376")]), ("default".into(), None));
        for ambiguous in ["DOCKER_HOST", "DOCKER_CONTEXT"] {
            assert_eq!(found(dir.path(), &[(ambiguous, "")]), None);
        }
        fs::write(dir.path().join("config.json"), "{").unwrap();
        assert_eq!(found(dir.path(), &[]), None);
    }

    #[test]
    fn a_plugin_is_the_first_that_can_be_run() {
        let extra = programs(&[("docker-buildx", "")]);
        let json = format!("{{\"cliPluginsExtraDirs\": [\"{}\"]}}", extra.path().display());
        let dir =
            programs(&[CLIENT, ("cli-plugins/docker-buildx", ""), ("config.json", json.as_str())]);
        let buildx = || found(dir.path(), &[]).unwrap().buildx.unwrap();
        let first = extra.path().join("docker-buildx");
        assert_eq!(buildx(), first);
        fs::set_permissions(&first, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(buildx(), dir.path().join("cli-plugins/docker-buildx"));
    }
}
