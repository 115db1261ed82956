//! `circleci install`: the verified helper makes itself the one that later steps run.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::parameters::Parameters;
use super::{failed, this_program};
use crate::commands::exit::{Exit, Failure};
use crate::report::Reporter;

/// Where the path of the helper is noted, in the home directory. The orb's steps run this path and
/// no other: what has the same name in `PATH` was not verified.
const NOTE: &str = ".dockercache/helper";

pub(super) fn run(parameters: &Parameters) -> Result<Exit, Failure> {
    let reporter = Reporter::new(false);
    let program = this_program()?;
    let note = std::env::home_dir().unwrap_or_default().join(NOTE);
    let parent = note.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent)
        .and_then(|()| fs::write(&note, format!("{}\n", program.display())))
        .map_err(|e| failed("write", &note, &e))?;
    reporter.info(format!(
        "dockercache {}: the orb's steps run `{}`",
        env!("CARGO_PKG_VERSION"),
        program.display()
    ));
    let wanted = parameters.raw("INSTALL_DIR");
    if parameters.raw("BINARY_PATH").is_empty() && !wanted.is_empty() {
        match place(&program, Path::new(wanted)) {
            Some(path) => reporter.info(format!("installed as {}", path.display())),
            None => reporter.warn(format!(
                "`{wanted}` is not writable: `dockercache` in your own steps may be missing or \
                 another version; the orb's steps are not affected"
            )),
        }
    }
    Ok(Exit::Ok)
}

/// Puts a copy where the user's own steps find it, with sudo where that asks for no password.
fn place(program: &Path, dir: &Path) -> Option<PathBuf> {
    let path = dir.join("dockercache");
    let new = dir.join("dockercache.new");
    let placed = fs::create_dir_all(dir)
        .and_then(|()| fs::copy(program, &new))
        .and_then(|_| fs::set_permissions(&new, fs::Permissions::from_mode(0o755)))
        .and_then(|()| fs::rename(&new, &path));
    if placed.is_ok() {
        return Some(path);
    }
    let mut sudo = Command::new("sudo");
    sudo.args(["-n", "install", "-D", "-m", "755"]).arg(program).arg(&path);
    sudo.stdin(Stdio::null()).stderr(Stdio::null());
    sudo.status().is_ok_and(|status| status.success()).then_some(path)
}
