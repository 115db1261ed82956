//! `shim`: a `docker` to be put before the real one, which sends builds through this program.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::exit::{Exit, Failure};
use crate::job::environment;
use crate::job::journal;
use crate::report::output;

/// What the shim does. `OWN` is its directory, `HELPER` this program.
const SCRIPT: &str = r#"#!/bin/sh
# Docker, with its builds through dockercache: see `dockercache shim --help`.
own=OWN
helper=HELPER
# Who comes after us looks for the real one.
rest=
IFS=:
for dir in $PATH; do [ "$dir" = "$own" ] || rest=$rest${rest:+:}$dir; done
unset IFS
PATH=$rest
export PATH
[ -x "$helper" ] || exec docker "$@"
case "${1-} ${2-}" in
  "build "*) shift && exec "$helper" build "$@" ;;
  "image build" | "builder build") shift 2 && exec "$helper" build "$@" ;;
  "buildx build" | "buildx b") shift 2 && exec "$helper" buildx build "$@" ;;
  "buildx bake" | "buildx f") shift 2 && exec "$helper" buildx bake "$@" ;;
  "compose "*) shift && exec "$helper" compose "$@" ;;
esac
exec docker "$@"
"#;

pub(super) fn run() -> Result<Exit, Failure> {
    let dir = journal::private_directory("shim")?;
    write(&dir)?;
    output::line(&dir.to_string_lossy());
    Ok(Exit::Ok)
}

/// Writes the shim into a directory.
pub(super) fn write(dir: &Path) -> Result<(), Failure> {
    let shim = dir.join("docker");
    let failed = |e: std::io::Error| Failure {
        exit: Exit::Io,
        message: format!("failed to write `{}`: {e}", shim.display()),
        hint: None,
    };
    let helper = match environment("DOCKERCACHE_HELPER").filter(|path| !path.is_empty()) {
        Some(path) => path.into(),
        None => std::env::current_exe().map_err(failed)?,
    };
    let quoted = |path: &Path| format!("'{}'", path.to_string_lossy().replace('\'', r"'\''"));
    let script = SCRIPT.replace("OWN", &quoted(dir)).replace("HELPER", &quoted(&helper));
    // Replaced in one step: another process may be about to run it.
    let written = tempfile::NamedTempFile::new_in(dir).and_then(|file| {
        fs::write(file.path(), script)?;
        file.as_file().set_permissions(fs::Permissions::from_mode(0o755))?;
        file.persist(&shim).map_err(|e| e.error)
    });
    written.map(drop).map_err(failed)
}
