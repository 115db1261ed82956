//! Trials of commands that need no engine, on archives that are broken in every way.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use dockercache::oci::codec::{Codec, decoder};
use tar::{EntryType, Header};

use super::Verdict;
use super::damage;
use super::good::{Good, remove};
use super::sandbox::{LIMIT, Sandbox};
use crate::harness::{Until, Watched};
use crate::random::Random;

/// What a command may end with whatever is in the directory: 4 is for `restore`, which finds no
/// engine after it has unpacked a file.
const ANY: &[i32] = &[0, 2, 3, 4, 5];
const NO_ENGINE: i32 = 4;

/// Runs a command on whatever is there; then the archive that is restored over it is whole, or it
/// says why not.
fn commands(sandbox: &Sandbox, good: &Good, random: &mut Random) -> Verdict {
    for _ in 0..=random.below(2) {
        match random.below(4) {
            0 => sandbox.run(&["inspect"], ANY)?,
            1 => sandbox.run(&["inspect", "--format", "json"], ANY)?,
            2 => sandbox.run(&["prune"], ANY)?,
            _ => {
                let run = restore(sandbox, good, random, ANY)?;
                if run.code == Some(NO_ENGINE) {
                    sandbox.assert_whole().map_err(|e| format!("{e} after {}", run.stderr))?;
                }
                run
            }
        };
    }
    Ok(())
}

/// Writes the archive as one file, of any form; gives its name.
fn pack(sandbox: &Sandbox, good: &Good, random: &mut Random) -> String {
    let (name, bytes) = random.pick(&good.packed);
    let path = sandbox.file(name);
    fs::write(&path, bytes).expect("a file");
    path.to_str().expect("UTF-8").to_owned()
}

fn restore(
    sandbox: &Sandbox,
    good: &Good,
    random: &mut Random,
    allowed: &[i32],
) -> Result<Watched, String> {
    let file = pack(sandbox, good, random);
    sandbox.run(&["restore", "--archive", &file], allowed)
}

fn told(said: String) -> impl FnOnce(String) -> String {
    move |reason| format!("{said}: {reason}")
}

pub(super) fn files_of_other_kinds(sandbox: &Sandbox, good: &Good, random: &mut Random) -> Verdict {
    let (archive, outside) = (sandbox.archive(), sandbox.outside_file(""));
    let said = if random.once_in(8) {
        remove(&archive);
        format!("the directory is {}", damage::replace(&archive, &outside, random))
    } else {
        damage::files_of_other_kinds(good, &archive, &outside, random)
    };
    let verdict = commands(sandbox, good, random).map_err(told(said));
    remove(&archive);
    verdict
}

pub(super) fn damaged_bytes(sandbox: &Sandbox, good: &Good, random: &mut Random) -> Verdict {
    let said = damage::bytes(good, &sandbox.archive(), random);
    commands(sandbox, good, random).map_err(told(said))
}

pub(super) fn documents_of_other_shapes(
    sandbox: &Sandbox,
    good: &Good,
    random: &mut Random,
) -> Verdict {
    let said = damage::shapes(good, &sandbox.archive(), random);
    commands(sandbox, good, random).map_err(told(said))
}

/// The archive that was there stays, or is replaced by a whole one.
pub(super) fn damaged_files(sandbox: &Sandbox, good: &Good, random: &mut Random) -> Verdict {
    good.write(&sandbox.archive());
    let (name, bytes) = random.pick(&good.packed);
    let mut bytes = bytes.clone();
    for _ in 0..=random.below(2) {
        let at = random.below(bytes.len().max(1));
        match random.below(5) {
            0 => bytes.truncate(at),
            1 => bytes.extend(vec![0; 1 + random.below(20_000)]),
            2 => drop(bytes.drain(at..(at + 1 + random.below(600)).min(bytes.len()))),
            3 => {
                let piece = bytes[at..(at + 512).min(bytes.len())].to_vec();
                let to = random.below(bytes.len().max(1));
                bytes.splice(to..to, piece);
            }
            _ if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            _ => {}
        }
    }
    let path = sandbox.file(name);
    fs::write(&path, bytes).expect("a file");
    let index = sandbox.archive().join("index.json");
    let before = fs::read(&index).expect("an index");
    let run =
        sandbox.run(&["restore", "--archive", path.to_str().expect("UTF-8")], &[3, NO_ENGINE])?;
    if run.code == Some(3) && fs::read(&index).expect("an index") != before {
        return Err("it has replaced the archive all the same".to_owned());
    }
    sandbox.assert_whole()
}

pub(super) fn hostile_files(sandbox: &Sandbox, good: &Good, random: &mut Random) -> Verdict {
    good.write(&sandbox.archive());
    let outside = sandbox.outside_file("escaped");
    let names = [
        "../outside/escaped",
        "blobs/sha256/../../../outside/escaped",
        outside.to_str().expect("UTF-8"),
        "index.json",
        "oci-layout",
        "manifest.json",
        "blobs/sha256",
        "blobs/sha256/0000000000000000000000000000000000000000000000000000000000000000",
        "\u{1b}[31m\n::error::x",
        "dockercache.lock",
    ];
    let kinds = [
        EntryType::Regular,
        EntryType::Regular,
        EntryType::Link,
        EntryType::Symlink,
        EntryType::Char,
        EntryType::Block,
        EntryType::Directory,
        EntryType::Fifo,
        EntryType::Continuous,
        EntryType::GNULongName,
        EntryType::GNULongLink,
        EntryType::GNUSparse,
        EntryType::XGlobalHeader,
        EntryType::XHeader,
    ];
    let mut tar = Vec::new();
    for _ in 0..=random.below(3) {
        let (name, kind) = (*random.pick(&names), *random.pick(&kinds));
        let content = vec![b' '; random.below(3000)];
        let mut header = Header::new_gnu();
        let length = name.len().min(100);
        header.as_old_mut().name[..length].copy_from_slice(&name.as_bytes()[..length]);
        header.set_entry_type(kind);
        header.set_mode(0o777);
        let size = content.len() as u64;
        let lies = [size, size, u64::MAX >> 2, 1 << 40, 0];
        header.set_size(*random.pick(&lies));
        if matches!(kind, EntryType::Link | EntryType::Symlink) {
            let link = header.as_old_mut();
            link.linkname[..16].copy_from_slice(b"../outside/file\0");
        }
        header.set_cksum();
        tar.extend(header.as_bytes());
        tar.extend(&content);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    let whole = good
        .packed
        .iter()
        .find(|(name, _)| name.split('.').next_back() == Some("tar"))
        .expect("a tar");
    if random.once_in(2) {
        tar.extend(&whole.1);
    } else {
        // Behind the entries, before the two blocks that end it.
        let ours = whole.1.len().saturating_sub(1024);
        tar.splice(0..0, whole.1[..ours].iter().copied());
    }
    let codec = *random.pick(&[Codec::Uncompressed, Codec::Gzip, Codec::Zstd]);
    let path = sandbox.file("hostile");
    fs::write(&path, packed(codec, &tar)).expect("a file");
    let words = ["restore", "--archive", path.to_str().expect("UTF-8")];
    sandbox.run(&words, &[3, NO_ENGINE])?;
    sandbox.assert_whole()
}

/// The same bytes, compressed.
pub(super) fn packed(codec: Codec, mut bytes: &[u8]) -> Vec<u8> {
    let mut encoder = codec.encoder(Vec::new()).expect("an encoder");
    std::io::copy(&mut bytes, &mut encoder).expect("packed bytes");
    let packed = encoder.finish().expect("packed bytes");
    assert!(decoder(packed.as_slice()).is_ok());
    packed
}

/// Whenever it comes, the archive is the old or the new one, and the next command finishes.
pub(super) fn kills(sandbox: &Sandbox, good: &Good, random: &mut Random) -> Verdict {
    good.write(&sandbox.archive());
    if random.once_in(2) {
        // Something to do for `prune`, and for what is restored.
        fs::write(sandbox.archive().join("blobs/sha256").join("0".repeat(64)), "dead")
            .expect("dead");
    }
    let file = pack(sandbox, good, random);
    let words: &[&str] =
        if random.once_in(3) { &["prune"] } else { &["restore", "--archive", &file] };
    let moment = Until::Moment(Duration::from_micros(500 + random.next() % 90_000));
    sandbox.judged(sandbox.command(words), moment, &[0, NO_ENGINE])?;
    sandbox.assert_whole()?;
    sandbox.run(&["inspect"], &[0])?;
    sandbox.run(&["restore", "--archive", &file], &[NO_ENGINE])?;
    sandbox.run(&["prune"], &[0])?;
    sandbox.assert_whole()?;
    let left: Vec<_> = fs::read_dir(sandbox.archive()).expect("a directory").flatten().collect();
    if left.len() > 4 {
        return Err(format!("a killed command has left something: {left:?}"));
    }
    Ok(())
}

/// A file system that is unmounted when it is dropped.
pub(super) struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    /// Mounts something over a directory, which is made.
    pub(super) fn over(path: &'a Path, words: &[&str]) -> Self {
        fs::create_dir_all(path).expect("a directory");
        let mount = Command::new("mount").args(words).arg(path).status().expect("mount runs");
        assert!(mount.success(), "mount {words:?}");
        Self(path)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // A killed program may hold it for a moment.
        let unmount = Command::new("umount").arg("--lazy").arg(self.0).status();
        assert!(unmount.expect("umount runs").success(), "{:?}", self.0);
    }
}

pub(super) fn full_disks(sandbox: &Sandbox, good: &Good, random: &mut Random) -> Verdict {
    let archive = sandbox.archive();
    remove(&archive);
    let size = good.files.values().map(|bytes| bytes.len() + 4096).sum::<usize>() >> 10;
    let size = format!("size={}k", 8 + random.below(size * 5 / 2));
    let _disk = Mounted::over(&archive, &["-t", "tmpfs", "-o", &size, "tmpfs"]);
    let first = restore(sandbox, good, random, &[NO_ENGINE, 5])?;
    if first.code == Some(5) {
        sandbox.run(&["inspect"], &[0])?;
        sandbox.run(&["prune"], &[0])?;
        return Ok(());
    }
    let second = restore(sandbox, good, random, &[NO_ENGINE, 5]).map_err(told(size.clone()))?;
    sandbox.assert_whole().map_err(|e| format!("{size}: {e} after {}", second.stderr))?;
    // Without space, space can be made.
    sandbox.run(&["prune"], &[0]).map(drop).map_err(told(size))
}

pub(super) fn io_errors(sandbox: &Sandbox, good: &Good, random: &mut Random) -> Verdict {
    let archive = sandbox.archive();
    good.write(&archive);
    let file = pack(sandbox, good, random);
    let all: [&[&str]; 3] = [&["inspect"], &["prune"], &["restore", "--archive", &file]];
    let words = *random.pick(&all);
    match random.below(3) {
        0 => {
            let path = archive.to_str().expect("UTF-8").to_owned();
            let _disk = Mounted::over(&archive, &["--bind", "-o", "ro", &path]);
            sandbox.run(words, &[0, 5])?;
        }
        1 => {
            let limit = format!("--nofile={}", 3 + random.below(24));
            let command = sandbox.command_by(&["prlimit", &limit], words);
            // Too few to start at all is the system's affair: 1 is of `prlimit`, 127 of the loader.
            let allowed = [0, 1, 2, 3, 4, 5, 127];
            sandbox.judged(command, Until::Limit(LIMIT), &allowed).map_err(told(limit))?;
        }
        _ => {
            let starter = ["sh", "-c", "exec \"$0\" \"$@\" > /dev/full"];
            let command = sandbox.command_by(&starter, &["inspect"]);
            sandbox.judged(command, Until::Limit(LIMIT), &[5])?;
        }
    }
    sandbox.assert_whole()
}

/// Times in files say nothing that a command relies on.
pub(super) fn clock_jumps(sandbox: &Sandbox, good: &Good, random: &mut Random) -> Verdict {
    let archive = sandbox.archive();
    good.write(&archive);
    for name in good.files.keys() {
        if random.once_in(2) {
            let seconds = [0, 1, 978_307_200, 4_102_444_800, 9_000_000_000][random.below(5)];
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            let file = File::options().write(true).open(archive.join(name)).expect("a file");
            file.set_times(FileTimes::new().set_modified(time).set_accessed(time)).expect("a time");
        }
    }
    sandbox.run(&["inspect"], &[0])?;
    restore(sandbox, good, random, &[NO_ENGINE])?;
    sandbox.run(&["prune"], &[0])?;
    sandbox.assert_whole()
}

/// Whoever writes, reads or collects at the same time: none fails, and what is left is whole.
pub(super) fn at_once(sandbox: &Sandbox, good: &Good, random: &mut Random) -> Verdict {
    good.write(&sandbox.archive());
    let file = pack(sandbox, good, random);
    // A reader may find that what it reads about is gone, and says so.
    let all: [(&[&str], &[i32]); 4] = [
        (&["restore", "--archive", &file], &[NO_ENGINE]),
        (&["prune"], &[0]),
        (&["inspect"], &[0, 3]),
        (&["restore", "--archive", &file], &[NO_ENGINE]),
    ];
    let runs: Vec<_> = (0..3).map(|_| (*random.pick(&all), random.next() % 40_000)).collect();
    let verdicts: Vec<Verdict> = thread::scope(|scope| {
        let started: Vec<_> = runs
            .iter()
            .map(|((words, allowed), pause)| {
                let (command, allowed) = (sandbox.command(words), *allowed);
                let pause = Duration::from_micros(*pause);
                scope.spawn(move || {
                    thread::sleep(pause);
                    sandbox.judged(command, Until::Limit(LIMIT), allowed).map(drop)
                })
            })
            .collect();
        started.into_iter().map(|run| run.join().expect("a watched run")).collect()
    });
    verdicts.into_iter().collect::<Verdict>()?;
    sandbox.assert_whole()
}

/// A project for [`projects`](super::projects), with what may lie in a context.
pub(super) fn strange_entry(path: &Path, outside: &Path, random: &mut Random) {
    if random.once_in(4) {
        let _ = symlink("..", path);
    } else {
        damage::replace(path, outside, random);
    }
}
