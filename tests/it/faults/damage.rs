//! Breaks an archive's files on the disk.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use super::documents;
use super::good::{Good, remove, write};
use crate::random::Random;

/// Puts something else in the place of one or a few of an archive's files; links lead to `outside`.
pub(super) fn files_of_other_kinds(
    good: &Good,
    archive: &Path,
    outside: &Path,
    random: &mut Random,
) -> String {
    good.write(archive);
    let mut done = Vec::new();
    for _ in 0..=random.below(2) {
        let name = random.pick(&good.names()).clone();
        let path = archive.join(&name);
        if !path.parent().is_some_and(Path::is_dir) {
            continue;
        }
        remove(&path);
        let kind = replace(&path, outside, random);
        done.push(format!("{} is {kind}", name.display()));
    }
    done.join(", ")
}

/// Makes a file of another kind.
pub(super) fn replace(path: &Path, outside: &Path, random: &mut Random) -> &'static str {
    let node = |kind, device| {
        mknodat(CWD, path, kind, Mode::from_raw_mode(0o666), device).expect("a file of a kind");
    };
    let kinds = [
        "nothing",
        "empty",
        "a FIFO",
        "a socket",
        "a directory",
        "a full directory",
        "a link to a file",
        "a link to a directory",
        "a dangling link",
        "a link to itself",
        "a link to an endless file",
        "/dev/zero",
        "a block device",
        "a sparse file",
        "no text",
    ];
    let kind = *random.pick(&kinds);
    match kind {
        "nothing" => {}
        "empty" => fs::write(path, "").expect("a file"),
        "a FIFO" => node(FileType::Fifo, 0),
        "a socket" => drop(UnixListener::bind(path)),
        "a directory" => fs::create_dir(path).expect("a directory"),
        "a full directory" => {
            fs::create_dir(path).expect("a directory");
            fs::write(path.join("index.json"), "{}").expect("a file");
        }
        "a link to a file" => symlink(outside.join("file"), path).expect("a link"),
        "a link to a directory" => symlink(outside.join("victim"), path).expect("a link"),
        "a dangling link" => symlink(outside.join("nowhere"), path).expect("a link"),
        "a link to itself" => symlink(path, path).expect("a link"),
        "a link to an endless file" => symlink("/dev/zero", path).expect("a link"),
        "/dev/zero" => node(FileType::CharacterDevice, makedev(1, 5)),
        "a block device" => node(FileType::BlockDevice, makedev(7, 250)),
        "a sparse file" => File::create(path).and_then(|f| f.set_len(1 << 35)).expect("a file"),
        _ => fs::write(path, [0xff, 0xfe, 0, 27, b'[']).expect("a file"),
    }
    kind
}

/// Changes bytes in some files.
pub(super) fn bytes(good: &Good, archive: &Path, random: &mut Random) -> String {
    good.write(archive);
    let names: Vec<&PathBuf> = good.files.keys().collect();
    let mut done = Vec::new();
    for _ in 0..=random.below(3) {
        let name = *random.pick(&names);
        let path = archive.join(name);
        let Ok(length) = path.metadata().map(|meta| meta.len()) else { continue };
        let file = File::options().read(true).write(true).open(&path).expect("a file");
        let at = random.next() % length.max(1);
        let how = *random.pick(&["flipped", "cut", "longer", "zeroed", "removed", "another"]);
        match how {
            "flipped" => {
                let mut byte = [0];
                let _ = file.read_at(&mut byte, at);
                byte[0] ^= 1 << random.below(8);
                file.write_all_at(&byte, at).expect("a byte");
            }
            "cut" => file.set_len(at).expect("a length"),
            "longer" => file.set_len(length + 1 + random.next() % 100_000).expect("a length"),
            "zeroed" => file.write_all_at(&[0; 64], at).expect("bytes"),
            "removed" => fs::remove_file(&path).expect("no file"),
            _ => fs::write(&path, &good.files[*random.pick(&names)]).expect("a file"),
        }
        done.push(format!("{} {how} at {at}", name.display()));
    }
    done.join(", ")
}

/// Gives documents another shape; most are whole by their digests all the same.
pub(super) fn shapes(good: &Good, archive: &Path, random: &mut Random) -> String {
    let mut files: BTreeMap<PathBuf, Vec<u8>> = good.files.clone();
    let said = documents::reshape(&mut files, &good.documents(), random);
    write(archive, &files);
    said
}
