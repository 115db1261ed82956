//! Reads the tar of `docker save` into an image layout, layer by layer as it streams.
//!
//! Reads both forms: `<id>/layer.tar` with symbolic links (docker up to 24), and the OCI layout
//! (from 25). Every layer is hashed and must be what its image's config says; nothing is taken
//! on trust of a name. An engine that fails half-way appends its message to the tar.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::error::EngineError;
use crate::layout::archive::LayerBlob;
use crate::layout::codec::{self, Codec};
use crate::layout::digest::{Digest, Hashing};
use crate::layout::directory::{DOCUMENT_LIMIT, Layout, LayoutError};
use crate::layout::oci::ImageConfig;

/// An image that has been read; its layers are blobs of the layout.
#[derive(Debug)]
pub struct SavedImage {
    /// The digest of the config.
    pub id: Digest,
    /// The config, byte for byte.
    pub config: Vec<u8>,
    /// The layers, the base's first.
    pub layers: Vec<LayerBlob>,
    /// The image that it was built on, where that is in the tar too.
    pub parent: Option<Digest>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    #[serde(default)]
    layers: Option<Vec<String>>,
    #[serde(default)]
    parent: Option<String>,
}

#[derive(Default)]
struct Contents {
    documents: BTreeMap<String, Vec<u8>>,
    layers: BTreeMap<String, LayerBlob>,
    links: BTreeMap<String, String>,
}

/// Reads a `docker save` stream. Layers in `known` are not compressed again. The write lock is
/// held by the caller; `advance` is told of bytes as they pass.
pub fn ingest(
    stream: impl Read,
    layout: &Layout,
    codec: Codec,
    known: &BTreeMap<Digest, LayerBlob>,
    advance: &dyn Fn(u64),
) -> Result<Vec<SavedImage>, EngineError> {
    let mut contents = Contents::default();
    let mut tail = Tail { inner: stream, last: Vec::new() };
    let read = read_entries(&mut tail, &mut contents, layout, codec, known, advance);
    if let Err(failure) = read {
        return Err(match failure {
            // The message is in what is no longer tar.
            Failure::Stream(e) => EngineError::failed("export images", tail.message(&e)),
            Failure::Engine(e) => e,
        });
    }
    let manifest = contents.documents.get("manifest.json").ok_or_else(|| {
        EngineError::failed("export images", tail.message(&"the export has no manifest.json"))
    })?;
    let entries: Vec<Entry> = serde_json::from_slice(manifest)
        .map_err(|e| EngineError::failed("export images", format!("its manifest.json: {e}")))?;
    entries.iter().map(|entry| contents.image(entry)).collect()
}

enum Failure {
    Stream(io::Error),
    Engine(EngineError),
}

impl From<LayoutError> for Failure {
    fn from(error: LayoutError) -> Self {
        Self::Engine(error.into())
    }
}

fn read_entries(
    stream: &mut impl Read,
    contents: &mut Contents,
    layout: &Layout,
    codec: Codec,
    known: &BTreeMap<Digest, LayerBlob>,
    advance: &dyn Fn(u64),
) -> Result<(), Failure> {
    let mut tar = tar::Archive::new(stream);
    for entry in tar.entries().map_err(Failure::Stream)? {
        let entry = entry.map_err(Failure::Stream)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let kind = entry.header().entry_type();
        if kind.is_symlink() || kind.is_hard_link() {
            let target = entry.link_name_bytes().unwrap_or_default();
            let target = String::from_utf8_lossy(&target).into_owned();
            contents.links.insert(name.clone(), resolve(&name, &target));
        } else if kind.is_file() {
            let size = entry.size();
            let mut entry = BufReader::with_capacity(256 * 1024, entry);
            let head = entry.fill_buf().map_err(Failure::Stream)?;
            let is_document = matches!(head.first(), Some(b'{' | b'[')) || is_small_text(&name);
            if is_document {
                if size > DOCUMENT_LIMIT {
                    return Err(Failure::Engine(EngineError::failed(
                        "export images",
                        format!("`{name}` has {size} bytes"),
                    )));
                }
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).map_err(Failure::Stream)?;
                contents.documents.insert(name, bytes);
            } else {
                let promised = name
                    .strip_prefix("blobs/sha256/")
                    .and_then(|hex| Digest::from_hex(hex).ok())
                    .and_then(|diff_id| known.get(&diff_id));
                let layer = match promised {
                    Some(layer) => check_layer(entry, layer, advance)?,
                    None => store_layer(entry, layout, codec, advance)?,
                };
                contents.layers.insert(name, layer);
            }
        }
    }
    Ok(())
}

fn is_small_text(name: &str) -> bool {
    name.ends_with("/VERSION") || name == "VERSION" || name == "oci-layout"
}

/// Compresses a layer into the layout.
fn store_layer(
    input: impl Read,
    layout: &Layout,
    codec: Codec,
    advance: &dyn Fn(u64),
) -> Result<LayerBlob, Failure> {
    let (_, plain) = codec::decoder(input).map_err(Failure::Stream)?;
    let mut plain = Hashing::new(plain);
    let full = LayoutError::io("write a layer in", layout.root());
    let mut encoder = match codec.encoder(layout.blob_writer()?) {
        Ok(encoder) => encoder,
        Err(e) => return Err(full(e).into()),
    };
    if let Err(e) = pump(&mut plain, &mut encoder, advance)? {
        return Err(full(e).into());
    }
    let writer = match encoder.finish() {
        Ok(writer) => writer,
        Err(e) => return Err(full(e).into()),
    };
    let (blob, size) = writer.finish()?;
    let (_, diff_id, unpacked_size) = plain.finish();
    Ok(LayerBlob { diff_id, blob, size, unpacked_size, media_type: codec.media_type().to_owned() })
}

/// Only hashes a layer that the layout has; if it is another one after all, that is an error.
fn check_layer(
    input: impl Read,
    known: &LayerBlob,
    advance: &dyn Fn(u64),
) -> Result<LayerBlob, Failure> {
    let mut plain = Hashing::new(input);
    let _ = pump(&mut plain, &mut io::sink(), advance)?;
    let (_, diff_id, _) = plain.finish();
    if diff_id == known.diff_id {
        return Ok(known.clone());
    }
    Err(Failure::Engine(EngineError::failed(
        "export images",
        format!("layer {} has the digest {diff_id}", known.diff_id),
    )))
}

/// Copies; the outer error is the input's, the inner the output's.
fn pump(
    input: &mut impl Read,
    output: &mut impl Write,
    advance: &dyn Fn(u64),
) -> Result<io::Result<()>, Failure> {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let n = input.read(&mut buffer).map_err(Failure::Stream)?;
        if n == 0 {
            return Ok(Ok(()));
        }
        advance(n as u64);
        if let Err(e) = output.write_all(&buffer[..n]) {
            return Ok(Err(e));
        }
    }
}

impl Contents {
    fn image(&self, entry: &Entry) -> Result<SavedImage, EngineError> {
        let wrong = |reason: String| EngineError::failed("export images", reason);
        let bytes = self
            .documents
            .get(&entry.config)
            .ok_or_else(|| wrong(format!("config `{}` is missing", entry.config)))?;
        let config: ImageConfig = serde_json::from_slice(bytes)
            .map_err(|e| wrong(format!("config `{}`: {e}", entry.config)))?;
        let layers = entry
            .layers
            .iter()
            .flatten()
            .map(|path| {
                // A link to a link occurs; a circle does not end here.
                let mut path = path;
                for _ in 0..self.links.len() {
                    match self.links.get(path) {
                        Some(target) => path = target,
                        None => break,
                    }
                }
                let layer = self.layers.get(path).cloned();
                layer.ok_or_else(|| wrong(format!("layer `{path}` is missing")))
            })
            .collect::<Result<Vec<_>, _>>()?;
        if !layers.iter().map(|l| &l.diff_id).eq(config.diff_ids()) {
            return Err(wrong(format!("config `{}` and its layers do not match", entry.config)));
        }
        Ok(SavedImage {
            id: Digest::of(bytes),
            config: bytes.clone(),
            layers,
            parent: entry.parent.as_deref().and_then(|p| p.parse().ok()),
        })
    }
}

/// The path that a link in a tar points at, within the tar.
fn resolve(link: &str, target: &str) -> String {
    let mut path: PathBuf = Path::new(link).parent().unwrap_or(Path::new("")).to_owned();
    for part in Path::new(target).components() {
        match part {
            Component::ParentDir => {
                path.pop();
            }
            Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    path.to_string_lossy().into_owned()
}

/// Remembers the last bytes that passed, among which an engine's error message is.
struct Tail<R> {
    inner: R,
    last: Vec<u8>,
}

const TAIL: usize = 4096;

impl<R: Read> Read for Tail<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.last.extend_from_slice(&buffer[n.saturating_sub(TAIL)..n]);
        let excess = self.last.len().saturating_sub(TAIL);
        self.last.drain(..excess);
        Ok(n)
    }
}

impl<R> Tail<R> {
    /// The engine's own message if the stream ends with one, else `otherwise`.
    fn message(&self, otherwise: &dyn ToString) -> String {
        #[derive(Deserialize)]
        struct Message {
            message: String,
        }
        let start = self.last.windows(2).rposition(|w| w == b"{\"");
        start
            .and_then(|at| {
                serde_json::Deserializer::from_slice(&self.last[at..])
                    .into_iter::<Message>()
                    .next()?
                    .ok()
            })
            .map_or_else(|| otherwise.to_string(), |m| m.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_inside_the_tar() {
        assert_eq!(resolve("a/layer.tar", "../b/layer.tar"), "b/layer.tar");
        assert_eq!(resolve("a/layer.tar", "../../../etc/passwd"), "etc/passwd");
    }

    #[test]
    fn an_engine_that_fails_half_way_is_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::at(dir.path());
        let _lock = layout.lock().unwrap();
        let mut stream = Vec::new();
        let mut tar = tar::Builder::new(&mut stream);
        let mut header = tar::Header::new_ustar();
        header.set_size(10);
        tar.append_data(&mut header, "x/layer.tar", &b"0123456789"[..]).unwrap();
        drop(tar);
        stream.truncate(1024);
        stream.extend_from_slice(br#"{"message":"no space left on device"}"#);
        let error = ingest(stream.as_slice(), &layout, Codec::Zstd, &BTreeMap::new(), &|_| {});
        assert!(error.unwrap_err().to_string().contains("no space left on device"));
    }
}
