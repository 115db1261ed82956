//! Packs on disk: directories beside the archive, each of which a CI's cache carries as its own entry.
//!
//! ```text
//! DIR                 the archive, one OCI layout
//! DIR.packs/index     index.json, packs.json, and the blobs that are in no pack
//! DIR.packs/1 … 5     the layers of the packs that a job saves or restores
//! ```
//!
//! Before a save, blobs are linked there; after a restore, they are moved into the archive. What a CI
//! has restored is a stranger's: nothing is followed, only what the index names is taken, and it is
//! verified like any blob before a builder sees it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::SLOTS;
use super::table::Table;
use crate::oci::digest::Digest;
use crate::oci::directory::{DOCUMENT_LIMIT, Layout, LayoutError};
use crate::oci::documents::{Descriptor, Index};
use crate::oci::live;
use crate::oci::regular::{self, OpenError};
use crate::oci::writer::{Writer, link};

/// The file with the table, beside `index.json`.
pub(crate) const TABLE: &str = "packs.json";

/// The directory of all packs of the archive in `dir`.
fn beside(dir: &Path) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(".packs");
    name.into()
}

/// Where the index lies.
pub(crate) fn index_directory(dir: &Path) -> PathBuf {
    beside(dir).join("index")
}

/// Where the layers of a pack lie.
pub(crate) fn slot_directory(dir: &Path, slot: usize) -> PathBuf {
    beside(dir).join(slot.to_string())
}

/// Takes the index that a CI has restored as that of the archive. Gives its table, or why there is
/// none; `None` where there is no index.
pub(crate) fn take_index(writer: &Writer) -> Result<Option<Result<Table, String>>, LayoutError> {
    let place = index_directory(writer.root());
    if refuse_links(&place)?.is_none() {
        return Ok(None);
    }
    let from = Layout::at(&place);
    let Some(index) = from.index()? else { return Ok(None) };
    let table = read_table(&place);
    for (digest, descriptor) in live::reach(&from, &index).blobs {
        take(writer, &from.blob_path(&digest), &descriptor)?;
    }
    writer.commit(&index)?;
    Ok(Some(table))
}

/// The directory, if it is one all the way; a link would let a stranger's archive move files from
/// elsewhere.
fn refuse_links(place: &Path) -> Result<Option<()>, LayoutError> {
    for part in place.parent().into_iter().chain([place]) {
        if let Some(kind) = regular::other_than(part, fs::FileType::is_dir) {
            return Err(LayoutError::Damaged {
                path: place.to_owned(),
                reason: format!("`{}` is {kind}", part.display()),
            });
        }
    }
    Ok(place.exists().then_some(()))
}

fn read_table(place: &Path) -> Result<Table, String> {
    let file = regular::open(&place.join(TABLE)).map_err(|e| match e {
        OpenError::Missing => "there is none".to_owned(),
        other => io::Error::from(other).to_string(),
    })?;
    let mut bytes = Vec::new();
    let read = file.take(DOCUMENT_LIMIT + 1).read_to_end(&mut bytes);
    read.map_err(|e| e.to_string())?;
    if bytes.len() as u64 > DOCUMENT_LIMIT {
        return Err(format!("it is larger than {DOCUMENT_LIMIT} bytes"));
    }
    Table::parse(&bytes)
}

/// Moves what a CI has restored of packs into the archive, as far as the index names it and the size is
/// right. Gives number and bytes.
pub(crate) fn take_packs(writer: &Writer) -> Result<(usize, u64), LayoutError> {
    let index = writer.index()?.unwrap_or_else(|| Index::new(Vec::new()));
    let named = live::reach(writer, &index).blobs;
    let mut taken = (0, 0);
    for slot in 1..=SLOTS {
        let place = slot_directory(writer.root(), slot);
        if refuse_links(&place)?.is_none() {
            continue;
        }
        let entries = fs::read_dir(&place).map_err(LayoutError::io("list", &place))?;
        for entry in entries.flatten() {
            let name = entry.file_name();
            let digest = name.to_str().and_then(|hex| Digest::from_hex(hex).ok());
            let Some(descriptor) = digest.and_then(|digest| named.get(&digest)) else { continue };
            if take(writer, &entry.path(), descriptor)? {
                taken.0 += 1;
                taken.1 += descriptor.size;
            }
        }
    }
    Ok(taken)
}

/// Moves a blob into the archive, if it is a file of the right size and not there yet.
fn take(writer: &Writer, from: &Path, blob: &Descriptor) -> Result<bool, LayoutError> {
    let is_right = |meta: fs::Metadata| meta.is_file() && meta.len() == blob.size;
    if writer.blob_size(&blob.digest) == Some(blob.size)
        || !fs::symlink_metadata(from).is_ok_and(is_right)
    {
        return Ok(false);
    }
    writer.adopt(from, &blob.digest).map(|()| true)
}

/// Lays out what a CI saves: the packs of `new`, by slots, and the index with `table`. What was there
/// before is removed, so that a directory never holds more or less than its key says.
pub(crate) fn lay_out(
    writer: &Writer,
    table: &Table,
    new: &BTreeMap<usize, String>,
) -> Result<(), LayoutError> {
    let dir = writer.root();
    let aside = beside(dir);
    let slots = (1..=SLOTS).map(|slot| slot_directory(dir, slot));
    for place in slots.chain([index_directory(dir)]) {
        match fs::remove_dir_all(&place) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(LayoutError::io("remove", &place)(e));
            }
            _ => fs::create_dir_all(&place).map_err(LayoutError::io("create", &place))?,
        }
    }
    for pack in table.packs.iter().filter(|pack| new.get(&pack.slot) == Some(&pack.key())) {
        let place = slot_directory(dir, pack.slot);
        for layer in pack.layers.keys() {
            let name = place.join(layer.hex());
            link(&writer.blob_path(layer), &name, &aside)
                .map_err(LayoutError::io("link", &name))?;
        }
    }
    let to = Layout::at(&index_directory(dir));
    fs::create_dir_all(to.blobs()).map_err(LayoutError::io("create", &to.blobs()))?;
    let index = writer.index()?.unwrap_or_else(|| Index::new(Vec::new()));
    let in_packs = table.layers();
    for digest in live::reach(writer, &index).blobs.into_keys() {
        if !in_packs.contains(&digest) && writer.blob_size(&digest).is_some() {
            let name = to.blob_path(&digest);
            link(&writer.blob_path(&digest), &name, &aside)
                .map_err(LayoutError::io("link", &name))?;
        }
    }
    let write = |name: &str, bytes: Vec<u8>| {
        let path = to.root().join(name);
        fs::write(&path, bytes).map_err(LayoutError::io("write", &path))
    };
    write(TABLE, serde_json::to_vec(table).unwrap_or_default())?;
    write("index.json", serde_json::to_vec_pretty(&index).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::oci::documents::MANIFEST;
    use crate::packs::table::{Day, Pack};

    const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

    /// An archive of an image with these layers; gives the layers' digests.
    fn archive(writer: &Writer, layers: &[&[u8]]) -> Vec<Digest> {
        let layers: Vec<Descriptor> = layers
            .iter()
            .map(|bytes| {
                writer.put(bytes).unwrap();
                Descriptor::of(LAYER, bytes)
            })
            .collect();
        writer.put(b"{}").unwrap();
        let config = Descriptor::of(crate::oci::documents::CONFIG, b"{}");
        let manifest = serde_json::json!({"schemaVersion": 2, "config": config, "layers": layers});
        let bytes = serde_json::to_vec(&manifest).unwrap();
        writer.put(&bytes).unwrap();
        writer.commit(&Index::new(vec![Descriptor::of(MANIFEST, &bytes)])).unwrap();
        layers.into_iter().map(|layer| layer.digest).collect()
    }

    fn table(layers: &[(usize, &Digest)]) -> (Table, BTreeMap<usize, String>) {
        let pack = |(slot, digest): &(usize, &Digest)| Pack {
            slot: *slot,
            made: Day(1),
            attempt: 0,
            layers: [((*digest).clone(), 7)].into(),
        };
        let packs: Vec<Pack> = layers.iter().map(pack).collect();
        let new = packs.iter().map(|pack| (pack.slot, pack.key())).collect();
        (Table::new(Day(1), packs), new)
    }

    /// Two archives' directories: one whose packs are laid out, and an empty one.
    fn two() -> (tempfile::TempDir, Writer, Writer) {
        let dir = tempfile::tempdir().unwrap();
        let [one, two] =
            ["one", "two"].map(|name| Layout::at(&dir.path().join(name)).lock().unwrap());
        (dir, one, two)
    }

    /// What a CI does: carries directories.
    fn carry(from: &Writer, to: &Writer, slots: &[usize]) {
        let copy = |from: PathBuf, to: PathBuf| {
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            let status = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status();
            assert!(status.unwrap().success());
        };
        copy(index_directory(from.root()), index_directory(to.root()));
        for slot in slots {
            copy(slot_directory(from.root(), *slot), slot_directory(to.root(), *slot));
        }
    }

    #[test]
    fn packs_come_back_one_by_one() {
        let (_dir, from, to) = two();
        let layers = archive(&from, &[b"layer 1", b"layer 2", b"small"]);
        let (table, new) = table(&[(1, &layers[0]), (3, &layers[1])]);
        lay_out(&from, &table, &new).unwrap();
        carry(&from, &to, &[3]);
        assert_eq!(take_index(&to).unwrap(), Some(Ok(table)));
        assert_eq!(take_packs(&to).unwrap(), (1, 7));
        let here: Vec<bool> = layers.iter().map(|l| to.blob_size(l).is_some()).collect();
        assert_eq!(here, [false, true, true]);
        assert_eq!(to.index().unwrap(), from.index().unwrap());
    }

    #[test]
    fn a_slot_that_saves_nothing_is_empty() {
        let (_dir, from, _to) = two();
        let layers = archive(&from, &[b"layer 1"]);
        let (table, new) = table(&[(2, &layers[0])]);
        lay_out(&from, &table, &new).unwrap();
        lay_out(&from, &table, &BTreeMap::new()).unwrap();
        let left = fs::read_dir(slot_directory(from.root(), 2)).unwrap().count();
        assert_eq!(left, 0);
        assert!(
            fs::read_dir(index_directory(from.root()).join("blobs/sha256")).unwrap().count() > 0
        );
    }

    #[test]
    fn takes_only_files_that_the_index_names() {
        let (dir, from, to) = two();
        let layers = archive(&from, &[b"layer 1", b"layer 2", b"layer 3"]);
        let (table, new) = table(&[(1, &layers[0]), (2, &layers[1]), (3, &layers[2])]);
        lay_out(&from, &table, &new).unwrap();
        carry(&from, &to, &[1, 2, 3]);
        let place = |slot: usize, layer: &Digest| slot_directory(to.root(), slot).join(layer.hex());
        // A link to the right content, a file of another size, and one that nothing names.
        let outside = dir.path().join("outside");
        fs::write(&outside, b"layer 1").unwrap();
        fs::remove_file(place(1, &layers[0])).unwrap();
        symlink(&outside, place(1, &layers[0])).unwrap();
        fs::write(place(2, &layers[1]), b"longer than it was").unwrap();
        let unnamed = Digest::of(b"unnamed");
        fs::write(place(3, &unnamed), b"unnamed").unwrap();
        take_index(&to).unwrap().unwrap().unwrap();
        assert_eq!(take_packs(&to).unwrap(), (1, 7));
        assert_eq!(to.blob_size(&layers[0]), None);
        assert_eq!(to.blob_size(&layers[1]), None);
        assert_eq!(to.blob_size(&layers[2]), Some(7));
        assert_eq!(to.blob_size(&unnamed), None);
        assert!(outside.exists(), "a file elsewhere was moved");
    }

    #[test]
    fn refuses_directories_that_are_links() {
        let (dir, from, to) = two();
        archive(&from, &[b"layer 1"]);
        lay_out(&from, &Table::default(), &BTreeMap::new()).unwrap();
        fs::create_dir(beside(to.root())).unwrap();
        symlink(index_directory(from.root()), index_directory(to.root())).unwrap();
        assert!(take_index(&to).is_err());
        symlink(dir.path(), slot_directory(to.root(), 1)).unwrap();
        assert!(take_packs(&to).is_err());
    }

    #[test]
    fn an_index_without_a_good_table_has_no_packs() {
        let (_dir, from, to) = two();
        let layers = archive(&from, &[b"layer 1"]);
        let (table, new) = table(&[(1, &layers[0])]);
        lay_out(&from, &table, &new).unwrap();
        fs::write(index_directory(from.root()).join(TABLE), b"{}").unwrap();
        carry(&from, &to, &[]);
        assert!(take_index(&to).unwrap().unwrap().is_err());
        assert!(take_index(&from).unwrap().is_some());
    }
}
