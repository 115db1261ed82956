//! An archive as one file: `.tar`, `.tar.gz` or `.tar.zst`.

use std::collections::BTreeSet;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use tempfile::NamedTempFile;

use super::Archive;
use super::tarball::{self, Packing, Tags};
use crate::oci::codec::{self, Codec};
use crate::oci::directory::{Layout, LayoutError};
use crate::oci::documents::Index;
use crate::oci::regular;
use crate::oci::writer::{Writer, world_readable};

/// The compression that a file's name asks for; `None` if it is not one of ours.
pub fn codec_of(path: &Path) -> Option<Codec> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let endings = [
        (".tar", Codec::Uncompressed),
        (".tar.gz", Codec::Gzip),
        (".tgz", Codec::Gzip),
        (".tar.zst", Codec::Zstd),
        (".tzst", Codec::Zstd),
    ];
    endings.into_iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, codec)| codec)
}

/// Writes the archive in `layout` as one file, beside its place first. `seal` signs its index.
/// Gives its size in bytes.
pub fn save(
    layout: &Layout,
    archive: &Archive,
    path: &Path,
    codec: Codec,
    seal: &dyn Fn(&Index) -> Index,
    advance: &dyn Fn(u64),
) -> Result<u64, LayoutError> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir).map_err(LayoutError::io("create", dir))?;
    let file = NamedTempFile::new_in(dir).map_err(LayoutError::io("create a file in", dir))?;
    let io = |e| LayoutError::io("write", path)(e);
    let out = BufWriter::with_capacity(1 << 18, file);
    let mut encoder = codec.encoder(out).map_err(io)?;
    let packing = Packing { tags: Tags::All, absent: &BTreeSet::new(), seal };
    tarball::write(layout, archive, &packing, &mut encoder, advance)?;
    let mut out = encoder.finish().map_err(io)?;
    out.flush().map_err(io)?;
    let file = out.into_inner().map_err(|e| io(e.into_error()))?;
    let size = file.as_file().metadata().map_err(io)?.len();
    world_readable(file.as_file()).map_err(io)?;
    file.persist(path).map_err(|e| io(e.error))?;
    Ok(size)
}

/// Unpacks one file into a layout; the archive that was there stays until all is well.
pub fn restore(writer: &Writer, path: &Path, advance: &dyn Fn(u64)) -> Result<(), LayoutError> {
    let file = regular::open_given(path).map_err(LayoutError::io("open", path))?;
    let damaged = |e| LayoutError::Damaged {
        path: path.to_owned(),
        reason: format!("it can't be decompressed: {e}"),
    };
    let (_, plain) = codec::decoder(file).map_err(damaged)?;
    tarball::read(writer, path, plain, advance)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_next_user_may_read_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::at(&dir.path().join("layout"));
        let path = dir.path().join("archive.tar.zst");
        save(&layout, &Archive::default(), &path, Codec::Zstd, &Index::clone, &|_| {}).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
    }
}
