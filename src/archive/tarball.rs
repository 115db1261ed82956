//! An archive as one tar, for `docker load` and any OCI tool, with no help from us.
//!
//! Holds an image layout of the tagged images, and beside it the `manifest.json` of `docker save`.
//! Layers are uncompressed in it, so that any engine reads them, and a compressed tar packs them
//! together. The archive's own index, with the cache and all images, is in `dockercache.json`: the
//! containerd image store would make images of all that it finds in `index.json`. The bytes depend
//! on the archive's content only.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::path::Path;

use serde::Serialize;

use super::named::Named;
use super::records::{CacheConfig, RecordGraph};
use super::{
    Archive, LayerBlob, Role, StoredImage, read_cache, write_image, write_records,
    write_stage_cache,
};
use crate::oci::codec::{self, Codec};
use crate::oci::digest::{Digest, Hashing};
use crate::oci::directory::{DOCUMENT_LIMIT, Layout, LayoutError};
use crate::oci::documents::{Descriptor, Index, REF_NAME, UNCOMPRESSED};
use crate::oci::json;
use crate::oci::live;
use crate::oci::writer::Writer;

/// The archive's own `index.json`, in the tar.
const OWN_INDEX: &str = "dockercache.json";
/// The most entries of a tar that are read.
const MOST_ENTRIES: usize = 100_000;
/// The annotation by which the containerd image store names an image.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// One image in `manifest.json`, as `docker save` writes it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SavedEntry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<Digest>,
}

/// Which tags the images get when the tar is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tags {
    /// None: an archive must not name what the engine's user builds from.
    None,
    /// `dockercache:STAGE` for each stage, to find them again.
    Stages,
    /// Also those that are noted in the archive, for a user who loads the tar himself.
    All,
}

/// How an archive is packed into a tar.
pub struct Packing<'a> {
    /// Which tags its images get.
    pub tags: Tags,
    /// Layers to skip, by diffID: the reader of the tar has them.
    pub absent: &'a BTreeSet<Digest>,
    /// Signs the index.
    pub seal: &'a dyn Fn(&Index) -> Index,
}

/// Writes the archive in `layout` as a tar. `advance` is told of layer bytes as they pass.
pub fn write(
    layout: &Layout,
    archive: &Archive,
    packing: &Packing<'_>,
    out: impl Write,
    advance: &dyn Fn(u64),
) -> Result<(), LayoutError> {
    let &Packing { tags, absent, seal } = packing;
    let mut documents: Vec<Vec<u8>> = Vec::new();
    let mut packed = Archive { about: archive.about.clone(), ..Archive::default() };
    let mut tagged = Index::new(Vec::new());
    let mut entries = Vec::new();
    // What lies in the tar: each layer uncompressed, by diffID, and the blob to take it from.
    let mut layers: BTreeMap<Digest, (Digest, u64)> = BTreeMap::new();
    for image in &archive.images {
        let name = image.descriptor.annotation(REF_NAME).unwrap_or_default();
        if !image.is_image() {
            let (config, plain) = unpacked(layout, &image.descriptor, &mut layers)?;
            let written = write_stage_cache(&mut documents, &config, &plain, name)?;
            renamed(&mut packed, &image.descriptor.digest, &written.descriptor.digest);
            packed.images.push(written);
            continue;
        }
        let plain = image
            .manifest
            .layers
            .iter()
            .map(|layer| uncompressed(layout, layer, &mut layers))
            .collect::<Result<Vec<_>, _>>()?;
        let config = layout.document(&image.manifest.config)?;
        let written = write_image(&mut documents, &config, &plain, name, image.note.clone())?;
        renamed(&mut packed, &image.descriptor.digest, &written.descriptor.digest);
        let tags = tags_of(image, name, tags);
        tagged.manifests.extend(tags.iter().map(|tag| tagged_as(&written.descriptor, tag)));
        if image.note.role == Role::Mount {
            // Nothing that an engine should load.
            packed.images.push(written);
            continue;
        }
        entries.push(SavedEntry {
            config: blob_name(&image.manifest.config.digest),
            repo_tags: Some(tags).filter(|t| !t.is_empty()),
            layers: plain.iter().map(|l| blob_name(&l.diff_id)).collect(),
            parent: image.note.parent.clone(),
        });
        packed.images.push(written);
    }
    if let Some(cache) = &archive.cache {
        packed.cache = unpacked_cache(layout, cache, &mut layers, &mut documents)?;
    }

    let mut tar = tar::Builder::new(out);
    let io = |e| LayoutError::io("write", Path::new("the tar"))(e);
    append(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#).map_err(io)?;
    append(&mut tar, OWN_INDEX, &to_json(&seal(&packed.to_index()))).map_err(io)?;
    append(&mut tar, "index.json", &to_json(&tagged)).map_err(io)?;
    append(&mut tar, "manifest.json", &to_json(&entries)).map_err(io)?;
    let mut written = BTreeSet::new();
    for document in documents {
        let digest = Digest::of(&document);
        if written.insert(digest.clone()) {
            append(&mut tar, &blob_name(&digest), &document).map_err(io)?;
        }
    }
    for (diff_id, (blob, size)) in layers.iter().filter(|(id, _)| !absent.contains(id)) {
        let (_, plain) = codec::decoder(layout.open_blob(blob)?).map_err(io)?;
        let counted = Advancing { inner: plain, advance };
        // The header has promised the size: neither more nor less may follow.
        let mut hashing = Hashing::new(counted.take(*size));
        tar.append_data(&mut header(*size), blob_name(diff_id), &mut hashing).map_err(io)?;
        let (_, got, bytes) = hashing.finish();
        if got != *diff_id || bytes != *size {
            return Err(damaged(layout, format!("layer {diff_id} does not have its diffID")));
        }
    }
    tar.into_inner().and_then(|mut out| out.flush()).map_err(io)
}

/// The same cache manifest over layers without compression.
fn unpacked_cache(
    layout: &Layout,
    cache: &Descriptor,
    layers: &mut BTreeMap<Digest, (Digest, u64)>,
    documents: &mut Vec<Vec<u8>>,
) -> Result<Option<Descriptor>, LayoutError> {
    let (config, plain) = unpacked(layout, cache, layers)?;
    let mut graph = RecordGraph::default();
    graph.add(&config).map_err(|e| damaged(layout, e.to_string()))?;
    Ok(write_records(documents, &graph, &plain)?.map(|(d, _)| d))
}

/// The records of a cache manifest, over layers without compression.
fn unpacked(
    layout: &Layout,
    cache: &Descriptor,
    layers: &mut BTreeMap<Digest, (Digest, u64)>,
) -> Result<(CacheConfig, BTreeMap<Digest, Descriptor>), LayoutError> {
    let (mut config, descriptors) = read_cache(layout, cache)?;
    let mut plain = BTreeMap::new();
    for (blob, descriptor) in &descriptors {
        let layer = uncompressed(layout, descriptor, layers)?;
        let created = descriptor.annotation(crate::oci::documents::CREATED_AT);
        plain.insert(blob.clone(), layer.descriptor(created));
    }
    for layer in &mut config.layers {
        if let Some(descriptor) = plain.get(&layer.blob) {
            layer.blob = descriptor.digest.clone();
        }
    }
    Ok((config, plain.into_values().map(|d| (d.digest.clone(), d)).collect()))
}

/// The same layer without compression. Its size is looked up, or counted by reading it.
fn uncompressed(
    layout: &Layout,
    descriptor: &Descriptor,
    layers: &mut BTreeMap<Digest, (Digest, u64)>,
) -> Result<LayerBlob, LayoutError> {
    let diff_id: Digest = descriptor
        .annotation(UNCOMPRESSED)
        .and_then(|d| d.parse().ok())
        .ok_or_else(|| damaged(layout, format!("layer {} has no diffID", descriptor.digest)))?;
    let known = LayerBlob::from_descriptor(descriptor).map(|l| l.unpacked_size);
    let known = known.or_else(|| layers.get(&diff_id).map(|(_, size)| *size));
    let size = if let Some(size) = known {
        size
    } else {
        let io = LayoutError::io("read", &layout.blob_path(&descriptor.digest));
        codec::decoder(layout.open_blob(&descriptor.digest)?)
            .and_then(|(_, mut plain)| io::copy(&mut plain, &mut io::sink()))
            .map_err(io)?
    };
    layers.insert(diff_id.clone(), (descriptor.digest.clone(), size));
    Ok(LayerBlob {
        blob: diff_id.clone(),
        diff_id,
        size,
        unpacked_size: size,
        media_type: Codec::Uncompressed.media_type().to_owned(),
    })
}

/// The tag that a stage's image gets: `dockercache:STAGE`.
pub fn stage_tag(stage: &str) -> String {
    let stage: String = stage
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "_.-".contains(c) { c } else { '-' })
        .collect();
    format!("dockercache:{}", stage.trim_start_matches(['.', '-']))
}

fn tags_of(image: &StoredImage, name: &str, tags: Tags) -> Vec<String> {
    let mut all = if tags == Tags::All { image.note.tags.clone() } else { Vec::new() };
    if tags != Tags::None && image.note.role == Role::Stage {
        all.push(stage_tag(name));
    }
    all
}

/// An entry of `index.json` from which the containerd image store takes this tag.
fn tagged_as(image: &Descriptor, tag: &str) -> Descriptor {
    let domain = tag.split_once('/').map(|(domain, _)| domain);
    let name = match domain {
        None => format!("docker.io/library/{tag}"),
        Some(d) if d.contains(['.', ':']) || d == "localhost" => tag.to_owned(),
        Some(_) => format!("docker.io/{tag}"),
    };
    let mut image = image.clone();
    image.annotations.insert(CONTAINERD_NAME.to_owned(), name);
    image
}

/// The stages point at their images by manifest, and the manifests have changed.
fn renamed(archive: &mut Archive, from: &Digest, to: &Digest) {
    for stage in archive.about.iter_mut().flat_map(|about| &mut about.stages) {
        if stage.image.as_ref() == Some(from) {
            stage.image = Some(to.clone());
        }
    }
}

/// Reads a tar that [`write()`] wrote into `layout`. Only when everything is there and has its
/// digest does it replace the archive that was there before.
pub fn read(
    layout: &Writer,
    name: &Path,
    input: impl Read,
    advance: &dyn Fn(u64),
) -> Result<(), LayoutError> {
    let index = read_entries(layout, name, input, advance)
        .and_then(|index| complete(layout, name, &index).map(|()| index));
    match index {
        Ok(index) => {
            layout.commit(&index)?;
            live::sweep(layout).map(drop)
        }
        Err(error) => {
            // What was unpacked so far is dead; the archive that was there is not.
            let _ = live::sweep(layout);
            Err(error)
        }
    }
}

fn bad_file(name: &Path, reason: impl Into<String>) -> LayoutError {
    LayoutError::Damaged { path: name.to_owned(), reason: reason.into() }
}

/// Unpacks the blobs and gives the index.
fn read_entries(
    layout: &Writer,
    name: &Path,
    input: impl Read,
    advance: &dyn Fn(u64),
) -> Result<Index, LayoutError> {
    let bad = |reason: String| bad_file(name, reason);
    let unreadable = |e: io::Error| bad(format!("it is no complete tar: {e}"));
    let mut index: Option<Index> = None;
    let mut has_own_index = false;
    let mut seen = BTreeSet::new();
    let mut named = Named::new(layout);
    let mut tar = tar::Archive::new(input);
    // Raw: extended names and headers, which are read into memory whole, have no business here.
    for (number, entry) in tar.entries().map_err(unreadable)?.raw(true).enumerate() {
        let mut entry = entry.map_err(unreadable)?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if number == MOST_ENTRIES {
            return Err(bad(format!("it has more than {MOST_ENTRIES} entries")));
        }
        let kind = entry.header().entry_type();
        if kind.is_dir() && entry.size() == 0 && path.split('/').all(|part| part != "..") {
            continue;
        }
        if !kind.is_file() {
            return Err(bad(format!("`{path}` is no regular file")));
        }
        if !seen.insert(path.clone()) {
            return Err(bad(format!("`{path}` is in it twice")));
        }
        let digest = path.strip_prefix("blobs/sha256/").and_then(|h| Digest::from_hex(h).ok());
        if digest.is_none() && entry.size() > DOCUMENT_LIMIT {
            let size = entry.size();
            return Err(bad(format!("its {path} has {size} bytes, more than {DOCUMENT_LIMIT}")));
        }
        match path.as_str() {
            "oci-layout" | "manifest.json" | "repositories" => {}
            // Whichever comes first, the archive's own one counts.
            "index.json" if has_own_index => {}
            OWN_INDEX | "index.json" => {
                has_own_index = path == OWN_INDEX;
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).map_err(unreadable)?;
                let found: Index = json::parse(&bytes)
                    .map_err(|e| bad(format!("its {path} is not an OCI index: {e}")))?;
                named.name(found.manifests.clone()).map_err(bad)?;
                index = Some(found);
            }
            _ => {
                let digest =
                    digest.ok_or_else(|| bad(format!("`{path}` does not belong there")))?;
                // It could fill the disk.
                named.admit(&digest, entry.size(), DOCUMENT_LIMIT).map_err(bad)?;
                let mut writer = layout.blob_writer()?;
                let mut counted = Advancing { inner: entry, advance };
                copy(&mut counted, &mut writer, layout, &digest, &unreadable)?;
                if let Err(got) = writer.finish_as(&digest)? {
                    return Err(bad(format!("blob {digest} has the digest {got}")));
                }
                named.arrived(&digest).map_err(bad)?;
            }
        }
    }
    index.ok_or_else(|| {
        bad("it has no index.json; only archives of `dockercache save` can be restored".into())
    })
}

/// Whether all that `index` reaches is in `layout`.
fn complete(layout: &Layout, name: &Path, index: &Index) -> Result<(), LayoutError> {
    let reach = live::reach(layout, index);
    for (digest, descriptor) in &reach.blobs {
        match layout.blob_size(digest) {
            None => return Err(bad_file(name, format!("blob {digest} is missing"))),
            Some(size) if size != descriptor.size => {
                let expected = descriptor.size;
                let reason = format!("blob {digest}: got {size} bytes, expected {expected}");
                return Err(bad_file(name, reason));
            }
            Some(_) => {}
        }
    }
    match reach.unreadable.first() {
        Some((digest, reason)) => {
            Err(bad_file(name, format!("document {digest} is not readable: {reason}")))
        }
        None => Ok(()),
    }
}

/// Copies, telling a bad tar from a full disk.
fn copy(
    input: &mut impl Read,
    output: &mut impl Write,
    layout: &Layout,
    digest: &Digest,
    unreadable: &dyn Fn(io::Error) -> LayoutError,
) -> Result<(), LayoutError> {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let n = input.read(&mut buffer).map_err(unreadable)?;
        if n == 0 {
            return Ok(());
        }
        output
            .write_all(&buffer[..n])
            .map_err(LayoutError::io("write", &layout.blob_path(digest)))?;
    }
}

struct Advancing<'a, R> {
    inner: R,
    advance: &'a dyn Fn(u64),
}

impl<R: Read> Read for Advancing<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        (self.advance)(n as u64);
        Ok(n)
    }
}

fn append(tar: &mut tar::Builder<impl Write>, name: &str, bytes: &[u8]) -> io::Result<()> {
    tar.append_data(&mut header(bytes.len() as u64), name, bytes)
}

/// The same for every file: no time, no owner.
fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_entry_type(tar::EntryType::Regular);
    header
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

fn damaged(layout: &Layout, reason: String) -> LayoutError {
    LayoutError::Damaged { path: layout.root().to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containerd_is_told_the_name_that_docker_means_by_a_tag() {
        let image = Descriptor::of(crate::oci::documents::MANIFEST, b"{}");
        for (tag, name) in [
            ("app:1", "docker.io/library/app:1"),
            ("team/app:1", "docker.io/team/app:1"),
            ("ghcr.io/team/app:1", "ghcr.io/team/app:1"),
            ("registry:5000/app:1", "registry:5000/app:1"),
            ("localhost/app:1", "localhost/app:1"),
        ] {
            assert_eq!(tagged_as(&image, tag).annotation(CONTAINERD_NAME), Some(name));
        }
    }

    /// Reads a tar with these entries into an empty layout; gives the error.
    fn refusal(entries: &[(&str, u64, Vec<u8>)]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let writer = Layout::at(dir.path()).lock().unwrap();
        let mut bytes = Vec::new();
        for (name, size, content) in entries {
            let mut header = header(*size);
            header.set_path(name).unwrap();
            header.set_cksum();
            bytes.extend(header.as_bytes());
            bytes.extend(content);
            bytes.extend(vec![0; content.len().next_multiple_of(512) - content.len()]);
        }
        // What comes after is never read.
        let endless = bytes.as_slice().chain(io::repeat(0).take(1 << 40));
        let read = std::cell::Cell::new(0);
        let result =
            super::read(&writer, Path::new("a.tar"), endless, &|n| read.set(read.get() + n));
        assert!(read.get() < 100 << 20, "{} bytes were written", read.get());
        assert_eq!(writer.blob_files().unwrap(), [], "something was left");
        result.unwrap_err().to_string()
    }

    #[test]
    fn a_document_is_refused_by_its_size_before_it_is_read() {
        for name in ["manifest.json", "index.json", "oci-layout", "repositories", "README"] {
            let error = refusal(&[(name, 20 << 30, Vec::new())]);
            assert!(error.contains("21474836480 bytes, more than"), "{name}: {error}");
        }
    }

    #[test]
    fn no_more_is_unpacked_than_the_index_leads_to() {
        let blobs: Vec<(String, Vec<u8>)> = (0_u8..20)
            .map(|number| {
                let content = vec![number; 8 << 20];
                (blob_name(&Digest::of(&content)), content)
            })
            .collect();
        let index = to_json(&Index::new(Vec::new()));
        let mut entries = vec![("index.json", index.len() as u64, index)];
        entries.extend(blobs.iter().map(|(n, c)| (n.as_str(), c.len() as u64, c.clone())));
        let error = refusal(&entries);
        assert!(error.contains("nothing in it names blobs of more than"), "{error}");
    }

    #[test]
    fn endless_entries_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let writer = Layout::at(dir.path()).lock().unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        for _ in 0..=MOST_ENTRIES {
            let mut header = header(0);
            header.set_entry_type(tar::EntryType::Directory);
            tar.append_data(&mut header, "blobs/", io::empty()).unwrap();
        }
        let bytes = tar.into_inner().unwrap();
        let error = super::read(&writer, Path::new("a.tar"), bytes.as_slice(), &|_| {});
        assert!(error.unwrap_err().to_string().contains("more than 100000 entries"));
    }
}
