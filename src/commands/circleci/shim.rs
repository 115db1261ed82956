//! `circleci wrap`: a `docker` before the real one, for the steps that follow. Takes effect where
//! the job's shell is bash.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use super::{Step, this_program};
use crate::commands::exit::{Exit, Failure};

/// Hands a build to this program, and anything else to docker itself. So does a build that this
/// program started.
const SHIM: &str = r#"#!/bin/sh
if [ -z "${DOCKERCACHE_WRAPPED:-}" ]; then
  case "${1:-} ${2:-}" in
    "build "*) shift ;;
    "buildx build" | "buildx b" | "image build" | "builder build") shift 2 ;;
    *) exec "$DOCKERCACHE_DOCKER" "$@" ;;
  esac
  export DOCKERCACHE_WRAPPED=1
  exec "$DOCKERCACHE_HELPER" build "$@"
fi
exec "$DOCKERCACHE_DOCKER" "$@"
"#;

pub(super) fn install(step: &Step) -> Exit {
    let wrapped = match (on_path("docker"), std::env::var_os("BASH_ENV"), on_path("bash")) {
        (None, ..) => Err("docker is missing".to_owned()),
        (Some(docker), Some(startup), Some(_)) => {
            write(step, &docker, &startup.into()).map_err(|failure| failure.message)
        }
        _ => Err("this image has no bash; use the command `build`".to_owned()),
    };
    match wrapped {
        Ok(()) => step.reporter.info("`docker build` goes through dockercache from here on"),
        Err(why) => step.reporter.warn(format!("`docker build` is not wrapped: {why}")),
    }
    Exit::Ok
}

fn write(step: &Step, docker: &std::path::Path, startup: &PathBuf) -> Result<(), Failure> {
    let helper = this_program()?;
    let bin = step.keys.join("bin");
    let shim = bin.join("docker");
    let mut exports = String::new();
    let mut export = |name: &str, value: &str| {
        let _ = writeln!(exports, "export {name}='{}'", value.replace('\'', r"'\''"));
    };
    export("DOCKERCACHE_DIR", &step.dir.to_string_lossy());
    let strategy = step.parameters.raw("STRATEGY");
    if !strategy.is_empty() {
        export("DOCKERCACHE_STRATEGY", strategy);
    }
    export("DOCKERCACHE_DOCKER", &docker.to_string_lossy());
    export("DOCKERCACHE_HELPER", &helper.to_string_lossy());
    export("DOCKERCACHE_SHIM", &bin.to_string_lossy());
    exports += "export PATH=\"$DOCKERCACHE_SHIM:$PATH\"\n";
    fs::create_dir_all(&bin)
        .and_then(|()| fs::write(&shim, SHIM))
        .and_then(|()| fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)))
        .map_err(|e| super::failed("write", &shim, &e))?;
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(startup)
        .and_then(|mut file| file.write_all(exports.as_bytes()))
        .map_err(|e| super::failed("write", startup, &e))
}

/// A program in `PATH`.
fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}
