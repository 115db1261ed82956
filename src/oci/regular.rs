//! Opens regular files, and nothing else.
//!
//! What lies in an archive's directory came from a CI cache, or from anyone who may write there. A
//! FIFO would block permanently, and a link would lead elsewhere. So nothing is followed, nothing
//! blocks, and what was opened is looked at before it is read.

use std::fs::{self, File, FileType};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// Why a file was not opened.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// There is nothing of that name.
    Missing,
    /// There is something else: what it is, as a person reads it.
    Irregular(&'static str),
    /// The system refused.
    Io(io::Error),
}

impl From<OpenError> for io::Error {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Missing => io::ErrorKind::NotFound.into(),
            OpenError::Irregular(kind) => {
                Self::new(io::ErrorKind::InvalidInput, format!("it is {kind}, not a regular file"))
            }
            OpenError::Io(error) => error,
        }
    }
}

/// Opens a regular file for reading.
pub(crate) fn open(path: &Path) -> Result<File, OpenError> {
    open_with(path, OFlags::RDONLY)
}

/// Opens what the user names for reading: also by a link, or a pipe that somebody writes to. One
/// that nobody writes to is empty.
pub(crate) fn open_given(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    rustix::fs::fcntl_setfl(&file, OFlags::empty())?;
    Ok(file)
}

/// Opens a regular file for reading and writing, and makes it if it is not there.
pub(crate) fn open_or_create(path: &Path) -> Result<File, OpenError> {
    open_with(path, OFlags::RDWR | OFlags::CREATE)
}

fn open_with(path: &Path, flags: OFlags) -> Result<File, OpenError> {
    let careful = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    // Others may have to write to it: a CI system need not run every job as one user.
    let mode = Mode::from_raw_mode(0o666);
    let file = match rustix::fs::open(path, flags | careful, mode) {
        Ok(fd) => File::from(fd),
        Err(rustix::io::Errno::NOENT) => return Err(OpenError::Missing),
        Err(error) => {
            // A link, a directory, or a socket, by different errors on different systems.
            let other = fs::symlink_metadata(path).ok().map(|meta| meta.file_type());
            return Err(match other.filter(|kind| !kind.is_file()) {
                Some(kind) => OpenError::Irregular(name_of(kind)),
                None => OpenError::Io(error.into()),
            });
        }
    };
    let kind = file.metadata().map_err(OpenError::Io)?.file_type();
    if kind.is_file() { Ok(file) } else { Err(OpenError::Irregular(name_of(kind))) }
}

fn name_of(kind: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt as _;
    if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

/// What there is under a name, if it is not what should be there; links are not followed.
pub(crate) fn other_than(path: &Path, is_right: fn(&FileType) -> bool) -> Option<&'static str> {
    let kind = fs::symlink_metadata(path).ok()?.file_type();
    (!is_right(&kind)).then(|| name_of(kind))
}

/// Gives something that is not ours another name in the same directory, whatever it is. It is
/// neither followed nor deleted.
pub(crate) fn move_aside(path: &Path) -> io::Result<()> {
    let names = (0..1000).map(|number| {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".not-ours-{number}"));
        path.with_file_name(name)
    });
    let is_free = |name: &PathBuf| fs::symlink_metadata(name).is_err();
    let free = { names }.find(is_free).ok_or(io::ErrorKind::AlreadyExists)?;
    match fs::rename(path, free) {
        // Another process was faster.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        renamed => renamed,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn opens_regular_files_only_and_never_waits() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "text").unwrap();
        fs::create_dir(at("directory")).unwrap();
        symlink(at("file"), at("link")).unwrap();
        symlink(at("nowhere"), at("dangling")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("fifo"),
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        assert!(open(&at("file")).is_ok());
        assert!(matches!(open(&at("missing")), Err(OpenError::Missing)));
        for (name, kind) in [
            ("directory", "a directory"),
            ("link", "a symbolic link"),
            ("dangling", "a symbolic link"),
            ("fifo", "a FIFO"),
            ("socket", "a socket"),
        ] {
            for opened in [open(&at(name)), open_or_create(&at(name))] {
                match opened {
                    Err(OpenError::Irregular(got)) => assert_eq!(got, kind),
                    other => panic!("{name}: {other:?}"),
                }
            }
        }
        assert!(!at("nowhere").exists(), "a dangling link was followed");
    }

    #[test]
    fn moves_aside_without_deleting_or_following() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        for _ in 0..2 {
            symlink("/etc/hostname", &link).unwrap();
            move_aside(&link).unwrap();
        }
        let names = ["link.not-ours-0", "link.not-ours-1"].map(|name| dir.path().join(name));
        assert!(names.iter().all(|name| name.is_symlink()) && !link.is_symlink());
    }
}
