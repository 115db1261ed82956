//! Our own program, in a form that runs on an empty root file system.
//!
//! A static one is a single file. One that is linked dynamically, as developers build it, takes its
//! loader and libraries along.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

const NAME: &str = "dockercache";
const LIBRARIES: &str = "lib";

/// Puts the program into `directory` and gives the command that runs it where that is the root.
pub(crate) fn put(directory: &Path) -> io::Result<Vec<String>> {
    let own = Path::new("/proc/self/exe");
    place(own, &directory.join(NAME))?;
    let program = format!("/{NAME}");
    let libraries = loaded()?;
    if libraries.is_empty() {
        return Ok(vec![program]);
    }
    let to = directory.join(LIBRARIES);
    fs::create_dir_all(&to)?;
    let mut loader = None;
    for library in libraries {
        let name = library.file_name().unwrap_or_default().to_string_lossy().into_owned();
        place(&library, &to.join(&name))?;
        if name.starts_with("ld-") {
            loader = Some(name);
        }
    }
    let loader = loader.ok_or_else(|| io::Error::other("the loader of this program is unknown"))?;
    let path = format!("/{LIBRARIES}");
    Ok(vec![format!("{path}/{loader}"), "--library-path".to_owned(), path, program])
}

fn place(from: &Path, to: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    io::copy(&mut File::open(from)?, &mut File::create(to)?)?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))
}

/// The libraries that are mapped into this process; none if it is static.
fn loaded() -> io::Result<Vec<PathBuf>> {
    let mut maps = String::new();
    File::open("/proc/self/maps")?.read_to_string(&mut maps)?;
    let own = fs::read_link("/proc/self/exe")?;
    let mut libraries: Vec<PathBuf> = maps
        .lines()
        .filter(|line| line.contains(" r-xp "))
        .filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..])))
        .filter(|path| *path != own)
        .collect();
    libraries.sort();
    libraries.dedup();
    Ok(libraries)
}

/// Whether the engine runs our program: it is for the same kind of machine.
pub(crate) fn runs_on(platform: &str) -> bool {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let mut parts = platform.split('/');
    parts.next() == Some("linux") && parts.next() == Some(architecture)
}
