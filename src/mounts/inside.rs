//! What runs inside the engine, as the only program of a helper build: fills a mount, or packs it.
//!
//! It has an empty root file system, the mount, and the directory with what the client sent. It reads
//! nothing else, and never fails the build: what went wrong is in its report.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::listing::{self, Listing};
use super::pack::{self, Packed};
use super::policy::Bounds;
use super::unpack::{self, Unpacked};
use crate::oci::codec::Codec;
use crate::oci::digest::Hashing;

/// Where the mount is, what the client sent, and where it finds the results.
pub(crate) const MOUNT: &str = "/mount";
pub(crate) const SENT: &str = "/sent";
pub(crate) const RESULT: &str = "/result";

pub(crate) const REPORT: &str = "report.json";
pub(crate) const LISTING: &str = "listing.zst";
pub(crate) const AGES: &str = "ages.zst";
pub(crate) const LAYER: &str = "layer.tar.zst";

/// Longer than a tick of any kernel's clock: what changes later has a later time.
const TICK: Duration = Duration::from_millis(20);

/// What became of a mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Report {
    /// It has been filled with this many files and bytes; so many entries were refused.
    Filled { files: u64, bytes: u64, refused: u64 },
    /// It was not empty and stays as it is.
    Warm,
    /// It has been packed.
    Packed(Packed),
    /// Nothing has been done, for this reason.
    Failed(String),
}

/// Runs the task that the words name, and leaves a report.
pub fn run(words: &[String]) -> io::Result<()> {
    let places = Places { mount: MOUNT.into(), sent: SENT.into(), result: RESULT.into() };
    fs::create_dir_all(&places.result)?;
    let report = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["fill", ..] => fill(&places),
        ["pack", builds, bytes, layers, stored, ..] => bounds([builds, bytes, layers, stored])
            .ok_or_else(|| io::Error::other("its bounds are not numbers"))
            .and_then(|bounds| pack(&places, &bounds)),
        _ => Err(io::Error::other("unknown task")),
    };
    let report = report.unwrap_or_else(|error| Report::Failed(error.to_string()));
    fs::write(places.result.join(REPORT), serde_json::to_vec(&report)?)
}

/// The words for [`run`] that pack within these bounds.
pub(crate) fn pack_words(bounds: &Bounds) -> Vec<String> {
    let Bounds { builds, bytes, layers, stored } = bounds;
    let numbers = [u64::from(*builds), *bytes, *layers as u64, *stored];
    std::iter::once("pack".to_owned()).chain(numbers.map(|n| n.to_string())).collect()
}

fn bounds([builds, bytes, layers, stored]: [&str; 4]) -> Option<Bounds> {
    Some(Bounds {
        builds: builds.parse().ok()?,
        bytes: bytes.parse().ok()?,
        layers: layers.parse().ok()?,
        stored: stored.parse().ok()?,
    })
}

/// The directories of a task.
struct Places {
    mount: PathBuf,
    sent: PathBuf,
    result: PathBuf,
}

fn fill(places: &Places) -> io::Result<Report> {
    let root = &places.mount;
    if fs::read_dir(root)?.next().is_some() {
        return Ok(Report::Warm);
    }
    let mut done = Unpacked::default();
    let filled = fill_from(places, &mut done);
    if let Err(error) = filled {
        // Half of a mount may be worse than none.
        let _ = unpack::empty(root);
        return Err(error);
    }
    Ok(Report::Filled { files: done.files, bytes: done.bytes, refused: done.refused })
}

fn fill_from(places: &Places, done: &mut Unpacked) -> io::Result<()> {
    let root = &places.mount;
    for number in 0.. {
        let path = places.sent.join(number.to_string());
        let Ok(file) = File::open(&path) else { break };
        unpack::layer(root, file, done)?;
    }
    let listing = Listing::of(&listing::walk(root)?);
    std::thread::sleep(TICK);
    write_zstd(&places.result.join(LISTING), |out| listing.write(out))
}

fn pack(places: &Places, bounds: &Bounds) -> io::Result<Report> {
    let root = &places.mount;
    let knows_use = unpack::records_access(root);
    let found = listing::walk(root)?;
    let sent = |name: &str| File::open(places.sent.join(name)).ok();
    let listing = sent(LISTING).map(|file| zstd::Decoder::new(file).and_then(Listing::read));
    let listing = listing.transpose()?;
    let ages = sent(AGES).map(|file| zstd::Decoder::new(file).and_then(listing::read_ages));
    let ages = ages.transpose()?.unwrap_or_default();
    let plan = pack::plan(&found, listing.as_ref(), &ages, knows_use, bounds);
    let mut packed = plan.packed.clone();
    if packed.changed {
        let file = File::create(places.result.join(LAYER))?;
        let encoder = Codec::Zstd.encoder(file)?;
        let mut hashing = Hashing::new(encoder);
        let mut buffered = BufWriter::with_capacity(1 << 20, &mut hashing);
        plan.write(root, &mut buffered)?;
        buffered.flush()?;
        drop(buffered);
        let (encoder, diff_id, size) = hashing.finish();
        encoder.finish()?;
        packed.diff_id = diff_id.into();
        packed.unpacked = size;
    }
    write_zstd(&places.result.join(AGES), |out| listing::write_ages(&plan.ages, out))?;
    Ok(Report::Packed(packed))
}

fn write_zstd(
    path: &Path,
    write: impl FnOnce(&mut zstd::Encoder<'static, BufWriter<File>>) -> io::Result<()>,
) -> io::Result<()> {
    let mut encoder = zstd::Encoder::new(BufWriter::new(File::create(path)?), 3)?;
    write(&mut encoder)?;
    encoder.finish()?.into_inner().map(drop).map_err(io::IntoInnerError::into_error)
}

/// Reads a report of the program.
pub(crate) fn report(result: &Path) -> io::Result<Report> {
    Ok(serde_json::from_reader(BufReader::new(File::open(result.join(REPORT))?))?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

    use super::super::listing::{Kind, UNREAD, walk};
    use super::*;
    use crate::oci::codec;

    const ENOUGH: Bounds = Bounds { builds: 2, bytes: u64::MAX, layers: 0, stored: 0 };

    /// What a mount goes through: it is filled on a machine, used there, and packed.
    struct Carried {
        dir: tempfile::TempDir,
        layers: Vec<PathBuf>,
        stored: u64,
        packs: usize,
    }

    impl Carried {
        fn nothing() -> Self {
            let dir = tempfile::tempdir().unwrap();
            Self { dir, layers: Vec::new(), stored: 0, packs: 0 }
        }

        fn places(&self) -> Places {
            let at = |name: &str| self.dir.path().join(name);
            Places { mount: at("mount"), sent: at("sent"), result: at("result") }
        }

        /// Another machine, on which the mount is filled.
        fn fill(&self) -> PathBuf {
            let places = self.places();
            for place in [&places.mount, &places.sent, &places.result] {
                let _ = fs::remove_dir_all(place);
                fs::create_dir(place).unwrap();
            }
            for (number, layer) in self.layers.iter().enumerate() {
                fs::copy(layer, places.sent.join(number.to_string())).unwrap();
            }
            let report = fill(&places).unwrap();
            assert!(matches!(report, Report::Filled { refused: 0, .. }), "{report:?}");
            places.mount
        }

        /// The layer that is added is on top of the others, or instead of them.
        fn pack(&mut self, bounds: &Bounds) -> Packed {
            let places = self.places();
            let ages = self.dir.path().join(AGES);
            if !self.layers.is_empty() {
                fs::copy(places.result.join(LISTING), places.sent.join(LISTING)).unwrap();
                fs::copy(&ages, places.sent.join(AGES)).unwrap();
            }
            let (layers, stored) = (self.layers.len(), self.stored);
            let report = pack(&places, &Bounds { layers, stored, ..bounds.clone() }).unwrap();
            let Report::Packed(packed) = report else { panic!("{report:?}") };
            fs::copy(places.result.join(AGES), ages).unwrap();
            if packed.full {
                self.layers.clear();
                self.stored = 0;
            }
            if packed.changed {
                self.packs += 1;
                let layer = self.dir.path().join(format!("layer-{}", self.packs));
                fs::rename(places.result.join(LAYER), &layer).unwrap();
                self.layers.push(layer);
                self.stored += packed.unpacked;
            }
            packed
        }
    }

    /// All that is seen of a tree, but for access times.
    fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
        let mut inodes = BTreeMap::new();
        let files = walk(root).unwrap().into_iter().map(|file| {
            let at = root.join(&file.path);
            let content = match file.kind {
                Kind::File => format!("{:?}", fs::read(&at).unwrap()),
                Kind::Symlink => format!("{:?}", fs::read_link(&at).unwrap()),
                _ => String::new(),
            };
            let next = inodes.len();
            let inode = *inodes.entry(file.meta.ino()).or_insert(next);
            let meta = &file.meta;
            let (mode, user, group) = (meta.mode(), meta.uid(), meta.gid());
            let time = (meta.mtime(), meta.mtime_nsec());
            (file.path, format!("{inode} {mode:o} {user} {group} {time:?} {content}"))
        });
        files.collect()
    }

    fn write(path: PathBuf, content: impl AsRef<[u8]>) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[test]
    fn a_mount_survives_with_modes_times_links_and_names() {
        let mut carried = Carried::nothing();
        let root = carried.fill();
        write(root.join("a/b/file"), "content");
        write(root.join(OsStr::from_bytes(b"a/\xff\xfe name\n")), "not UTF-8");
        write(root.join(format!("{0}/{0}/{0}", "long".repeat(40))), "deep");
        fs::hard_link(root.join("a/b/file"), root.join("z-link")).unwrap();
        symlink("../nowhere", root.join("a/link")).unwrap();
        fs::create_dir(root.join("empty")).unwrap();
        fs::set_permissions(root.join("a/b/file"), fs::Permissions::from_mode(0o4751)).unwrap();
        fs::set_permissions(root.join("a"), fs::Permissions::from_mode(0o2700)).unwrap();
        let sparse = File::create(root.join("sparse")).unwrap();
        sparse.set_len(5_000_001).unwrap();
        for name in ["a/b/file", "a/b", "sparse"] {
            let time = Timespec { tv_sec: 981_173_106, tv_nsec: 123_456_789 };
            let times = Timestamps { last_access: time, last_modification: time };
            utimensat(CWD, root.join(name), &times, AtFlags::empty()).unwrap();
        }
        let before = tree(&root);
        assert!(carried.pack(&ENOUGH).full);
        let root = carried.fill();
        assert_eq!(tree(&root), before);
        assert!(root.join("sparse").metadata().unwrap().blocks() < 100);
        assert!(!carried.pack(&ENOUGH).changed);
    }

    #[test]
    fn what_has_changed_is_packed_whatever_kind_of_change_it_is() {
        let mut carried = Carried::nothing();
        let root = carried.fill();
        for name in ["same", "changed", "gone/one", "gone/two", "old/x", "kind/x", "kind-2", "b/x"]
        {
            write(root.join(name), format!("content of {name}"));
        }
        write(root.join("large"), vec![7; 1 << 20]);
        carried.pack(&ENOUGH);
        let root = carried.fill();
        write(root.join("changed"), "other");
        fs::remove_dir_all(root.join("gone")).unwrap();
        // In place of another one with a file of the same name, size and time.
        fs::remove_dir_all(root.join("b")).unwrap();
        fs::rename(root.join("old"), root.join("b")).unwrap();
        fs::remove_dir_all(root.join("kind")).unwrap();
        write(root.join("kind"), "a file now");
        fs::remove_file(root.join("kind-2")).unwrap();
        write(root.join("kind-2/x"), "in a directory now");
        let before = tree(&root);
        let packed = carried.pack(&Bounds { builds: 100, ..ENOUGH });
        assert!(!packed.full && packed.unpacked < 100_000, "{packed:?}");
        assert_eq!(tree(&carried.fill()), before);
    }

    #[test]
    fn a_file_is_dropped_when_no_build_has_used_it_for_a_while() {
        let mut carried = Carried::nothing();
        let root = carried.fill();
        for name in ["read", "d/unused", "e/read"] {
            write(root.join(name), name);
        }
        carried.pack(&ENOUGH);
        for build in 0..2 {
            let root = carried.fill();
            for name in ["read", "e/read"] {
                // As a read leaves it, whatever the file system of the test does.
                let now = Timespec { tv_sec: UNREAD + 1000, tv_nsec: 0 };
                let modified = root.join(name).metadata().unwrap();
                let last_modification =
                    Timespec { tv_sec: modified.mtime(), tv_nsec: modified.mtime_nsec() };
                let times = Timestamps { last_access: now, last_modification };
                utimensat(CWD, root.join(name), &times, AtFlags::empty()).unwrap();
            }
            let packed = carried.pack(&ENOUGH);
            if packed.knows_use {
                assert_eq!(packed.dropped_files, build);
            }
        }
        let left = tree(&carried.fill());
        assert!(left.contains_key(Path::new("e/read")) && left.contains_key(Path::new("read")));
        if unpack::records_access(carried.dir.path()) {
            assert!(!left.contains_key(Path::new("d")));
        }
    }

    #[test]
    fn a_mount_that_is_too_large_loses_its_oldest_files() {
        let mut carried = Carried::nothing();
        let root = carried.fill();
        for (age, name) in ["new", "old"].into_iter().enumerate() {
            write(root.join(name), vec![1; 1000]);
            let time = Timespec { tv_sec: 1_700_000_000 - i64::try_from(age).unwrap(), tv_nsec: 0 };
            let times = Timestamps { last_access: time, last_modification: time };
            utimensat(CWD, root.join(name), &times, AtFlags::empty()).unwrap();
        }
        let packed = carried.pack(&Bounds { bytes: 1500, ..ENOUGH });
        assert_eq!((packed.files, packed.dropped_files, packed.dropped_bytes), (1, 1, 1000));
        assert!(carried.fill().join("new").exists());
    }

    #[test]
    fn thirty_generations_are_hardly_larger_than_a_fresh_mount() {
        let mut carried = Carried::nothing();
        let root = carried.fill();
        let content =
            |number: usize, generation: usize| format!("{number} {generation}\n").repeat(3000);
        for number in 0..40 {
            write(root.join(format!("{number}")), content(number, 0));
        }
        carried.pack(&ENOUGH);
        let fresh = carried.stored;
        for generation in 1..=30 {
            let root = carried.fill();
            for number in 0..40 {
                // What a compiler reads.
                let _ = fs::read(root.join(format!("{number}")));
            }
            write(root.join(format!("{}", generation % 40)), content(0, generation));
            carried.pack(&Bounds { builds: 1000, ..ENOUGH });
            assert!(carried.stored * 10 < fresh * 13, "{} of {fresh}", carried.stored);
        }
    }

    #[test]
    fn no_entry_leaves_the_mount_and_no_device_is_made() {
        use tar::EntryType::{Block, Char, Fifo, Link, Regular, Symlink};

        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        write(outside.join("secret"), "secret");
        let mut tar = tar::Builder::new(Vec::new());
        let mut add = |name: &[u8], kind: tar::EntryType, link: Option<&str>| {
            let mut header = tar::Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name);
            header.set_entry_type(kind);
            header.set_mode(0o666);
            header.set_uid(rustix::process::getuid().as_raw().into());
            header.set_gid(rustix::process::getgid().as_raw().into());
            header.set_mtime(0);
            header.set_size(0);
            if let Some(link) = link {
                header.set_link_name_literal(link).unwrap();
            }
            header.set_cksum();
            tar.append(&header, io::empty()).unwrap();
        };
        add(b"fine", Regular, None);
        add(b"../outside/new", Regular, None);
        add(b"/outside/new", Regular, None);
        add(b"out", Symlink, Some("../outside"));
        add(b"out/new", Regular, None);
        add(b"out/.wh.secret", Regular, None);
        add(b"out/.wh..wh..opq", Regular, None);
        add(b"hard", Link, Some("../outside/secret"));
        add(b"hard-2", Link, Some("out/secret"));
        add(b".wh...", Regular, None);
        for (name, kind) in [(b"null", Char), (b"disk", Block), (b"pipe", Fifo)] {
            add(name, kind, None);
        }
        let layer = tar.into_inner().unwrap();
        let root = dir.path().join("mount");
        fs::create_dir(&root).unwrap();
        let mut done = Unpacked::default();
        unpack::layer(&root, &layer[..], &mut done).unwrap();
        let names: Vec<PathBuf> = walk(&root).unwrap().into_iter().map(|f| f.path).collect();
        assert_eq!(names, [Path::new("fine"), Path::new("out")]);
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        assert_eq!(done.refused, 10);
        let (codec, _) = codec::decoder(&layer[..]).unwrap();
        assert_eq!(codec, codec::Codec::Uncompressed);
    }

    #[test]
    fn a_mount_with_files_in_it_is_left_as_it_is() {
        let carried = Carried::nothing();
        let root = carried.fill();
        write(root.join("own"), "own");
        assert_eq!(fill(&carried.places()).unwrap(), Report::Warm);
        assert!(root.join("own").exists());
    }

    #[test]
    fn a_damaged_layer_leaves_an_empty_mount() {
        let mut carried = Carried::nothing();
        write(carried.fill().join("a"), vec![1; 100_000]);
        carried.pack(&ENOUGH);
        let places = carried.places();
        let root = carried.fill();
        unpack::empty(&root).unwrap();
        let layer = fs::read(&carried.layers[0]).unwrap();
        fs::write(places.sent.join("0"), &layer[..layer.len() - 10]).unwrap();
        fill(&places).unwrap_err();
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    }
}
