//! Reads the tar of `docker save` into an image layout, layer by layer as it streams.
//!
//! Reads both forms: `<id>/layer.tar` with symbolic links (docker up to 24), and the OCI layout
//! (from 25). Every layer that is taken is hashed, and must be what its image's config says. One
//! that the layout has already is only named by the tar, and passed over. An engine that fails
//! half-way appends its message to the tar.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Write};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::archive::LayerBlob;
use crate::engine::error::EngineError;
use crate::oci::codec::{self, Compression};
use crate::oci::digest::{Digest, Hashing};
use crate::oci::directory::{DOCUMENT_LIMIT, LayoutError};
use crate::oci::documents::ImageConfig;
use crate::oci::writer::Writer;

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

/// Enough of a file to tell a tar from a document.
pub(crate) const TAR_BLOCK: u64 = 512;

/// Reads a `docker save` stream. Layers in `known` are not taken again. `advance` is told of bytes as they pass.
pub fn ingest(
    stream: impl Read,
    layout: &Writer,
    compression: Compression,
    known: &BTreeMap<Digest, LayerBlob>,
    advance: &dyn Fn(u64),
) -> Result<Vec<SavedImage>, EngineError> {
    let mut contents = Contents::default();
    let mut tail = Tail { inner: stream, last: Vec::new() };
    let read = read_entries(&mut tail, &mut contents, layout, compression, known, advance);
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

/// Which side failed.
pub(crate) enum Failure {
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
    layout: &Writer,
    compression: Compression,
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
            let mut head = Vec::new();
            (&mut entry).take(TAR_BLOCK).read_to_end(&mut head).map_err(Failure::Stream)?;
            let is_document = is_json(&head) || is_small_text(&name);
            let mut entry = head.as_slice().chain(entry);
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
                    Some(layer) => {
                        let _ = pump(&mut entry, &mut io::sink(), advance)?;
                        layer.clone()
                    }
                    None => store_layer(entry, layout, compression, advance)?,
                };
                contents.layers.insert(name, layer);
            }
        }
    }
    Ok(())
}

/// Whether a file that begins so is a document. A layer may begin with the name of a file, such
/// as `[id].js`.
pub(crate) fn is_json(head: &[u8]) -> bool {
    let is_tar = head.get(257..262) == Some(b"ustar");
    matches!(head.first(), Some(b'{' | b'[')) && !is_tar
}

fn is_small_text(name: &str) -> bool {
    name.ends_with("/VERSION") || name == "VERSION" || name == "oci-layout"
}

/// Compresses a layer into the layout, however it was compressed before.
pub(crate) fn store_layer(
    input: impl Read,
    layout: &Writer,
    compression: Compression,
    advance: &dyn Fn(u64),
) -> Result<LayerBlob, Failure> {
    let (_, plain) = codec::decoder(input).map_err(Failure::Stream)?;
    let mut plain = Hashing::new(plain);
    let full = LayoutError::io("write a layer in", layout.root());
    let mut encoder = match compression.encoder(layout.blob_writer()?) {
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
    Ok(LayerBlob {
        diff_id,
        blob,
        size,
        unpacked_size,
        media_type: compression.codec.media_type().to_owned(),
    })
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
    use tempfile::TempDir;

    use super::*;
    use crate::oci::codec::Codec;
    use crate::oci::directory::Layout;

    const CONFIG: &str = "config.json";

    /// A `docker save` stream, entry by entry.
    struct Export(tar::Builder<Vec<u8>>);

    impl Export {
        fn new() -> Self {
            Self(tar::Builder::new(Vec::new()))
        }

        fn file(mut self, name: &str, content: &[u8]) -> Self {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            self.0.append_data(&mut header, name, content).unwrap();
            self
        }

        fn link(mut self, name: &str, target: &str) -> Self {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            self.0.append_link(&mut header, name, target).unwrap();
            self
        }

        /// A config with these layers, and the manifest that names them by these paths.
        fn image(self, layers: &[&[u8]], paths: &[&str]) -> Self {
            let config = config(layers);
            self.file(CONFIG, config.as_bytes()).manifest(paths)
        }

        fn manifest(self, paths: &[&str]) -> Self {
            let entry = serde_json::json!([{ "Config": CONFIG, "Layers": paths }]);
            self.file("manifest.json", entry.to_string().as_bytes())
        }

        fn read(self) -> Result<Vec<SavedImage>, String> {
            let known = BTreeMap::new();
            read(&self.0.into_inner().unwrap(), &known).1.map_err(|e| e.to_string())
        }

        #[track_caller]
        fn fails(self, words: &str) {
            let error = self.read().unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    fn config(layers: &[&[u8]]) -> String {
        let diff_ids: Vec<String> = layers.iter().map(|l| Digest::of(l).to_string()).collect();
        serde_json::json!({ "rootfs": { "type": "layers", "diff_ids": diff_ids } }).to_string()
    }

    fn read(
        stream: &[u8],
        known: &BTreeMap<Digest, LayerBlob>,
    ) -> (TempDir, Result<Vec<SavedImage>, EngineError>) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::at(dir.path()).lock().unwrap();
        let images = ingest(stream, &layout, Codec::Zstd.into(), known, &|_| {});
        (dir, images)
    }

    /// A tar with one file, as layers are.
    fn layer(name: &str) -> Vec<u8> {
        Export::new().file(name, b"content").0.into_inner().unwrap()
    }

    #[test]
    fn both_forms_are_read() {
        let (one, two) = (layer("one"), layer("two"));
        let legacy = Export::new()
            .file("a/VERSION", b"1.0")
            .file("a/layer.tar", &one)
            .file("b/json", b"{}")
            .link("b/layer.tar", "../a/layer.tar")
            .file("c/layer.tar", &two)
            .image(&[&one, &one, &two], &["a/layer.tar", "b/layer.tar", "c/layer.tar"]);
        let blob = format!("blobs/sha256/{}", Digest::of(&one).hex());
        let oci = Export::new()
            .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
            .file(&blob, &one)
            .image(&[&one], &[&blob])
            .file("index.json", br#"{"schemaVersion":2}"#);
        for (export, count) in [(legacy, 3), (oci, 1)] {
            let images = export.read().unwrap();
            assert_eq!(images.len(), 1);
            assert_eq!(images[0].layers.len(), count);
            assert_eq!(images[0].layers[0].diff_id, Digest::of(&one));
        }
    }

    #[test]
    fn an_image_may_have_no_layers_and_no_history() {
        let images = Export::new().image(&[], &[]).read().unwrap();
        assert!(images[0].layers.is_empty());
        let null = r#"{"rootfs":{"type":"layers","diff_ids":null},"history":null}"#;
        let manifest = format!(r#"[{{"Config":"{CONFIG}","RepoTags":null,"Layers":null}}]"#);
        let export = Export::new().file(CONFIG, null.as_bytes());
        let images = export.file("manifest.json", manifest.as_bytes()).read().unwrap();
        assert!(images[0].layers.is_empty());
        assert_eq!(images[0].config, null.as_bytes());
    }

    #[test]
    fn a_layer_whose_first_file_looks_like_json_is_a_layer() {
        for name in ["[id].js", "{slug}"] {
            let layer = layer(name);
            let images = Export::new().file("a", &layer).image(&[&layer], &["a"]).read().unwrap();
            assert_eq!(images[0].layers.len(), 1, "{name}");
        }
    }

    #[test]
    fn what_is_incomplete_is_refused() {
        let (one, two) = (layer("one"), layer("two"));
        Export::new().file("a", &one).image(&[&one, &two], &["a", "b"]).fails("`b` is missing");
        Export::new().file("a", &one).image(&[&one], &[]).fails("do not match");
        Export::new().file("a", &one).file(CONFIG, b"{}").fails("no manifest.json");
        Export::new().manifest(&[]).fails("config `config.json` is missing");
        Export::new().fails("no manifest.json");
    }

    #[test]
    fn what_lies_is_refused() {
        let (one, two) = (layer("one"), layer("two"));
        Export::new().file("a", &two).image(&[&one], &["a"]).fails("do not match");
        Export::new().file(CONFIG, b"{no JSON").manifest(&[]).fails("config `config.json`");
        Export::new().file(CONFIG, b"{}").file("manifest.json", b"{}").fails("manifest.json");
        let deep = r#"{"a":"#.repeat(100_000);
        Export::new().file(CONFIG, deep.as_bytes()).manifest(&[]).fails("config `config.json`");
        let huge = [b"{".to_vec(), vec![b' '; 9 << 20]].concat();
        Export::new().file(CONFIG, &huge).manifest(&[]).fails("bytes");
    }

    #[test]
    fn a_layer_that_the_layout_has_is_taken_from_there() {
        let one = layer("one");
        let known = LayerBlob {
            diff_id: Digest::of(&one),
            blob: Digest::of(b"blob"),
            size: 4,
            unpacked_size: one.len() as u64,
            media_type: Codec::Zstd.media_type().to_owned(),
        };
        let blob = format!("blobs/sha256/{}", known.diff_id.hex());
        let export = Export::new().file(&blob, &layer("two")).image(&[&one], &[&blob]);
        let known = BTreeMap::from([(known.diff_id.clone(), known)]);
        let (dir, images) = read(&export.0.into_inner().unwrap(), &known);
        assert_eq!(images.unwrap()[0].layers[0].blob, Digest::of(b"blob"));
        assert!(Layout::at(dir.path()).blob_files().unwrap().is_empty());
    }

    #[test]
    fn links_end_inside_the_tar_or_nowhere() {
        assert_eq!(resolve("a/layer.tar", "../b/layer.tar"), "b/layer.tar");
        assert_eq!(resolve("a/layer.tar", "../../../etc/passwd"), "etc/passwd");
        let one = layer("one");
        let circle = Export::new().link("a", "b").link("b", "a").link("c", "c");
        circle.image(&[&one], &["a"]).fails("is missing");
        let outside = Export::new().link("a", "../../../../etc/passwd");
        outside.image(&[&one], &["a"]).fails("is missing");
    }

    #[test]
    fn an_engine_that_fails_half_way_is_quoted_and_leaves_nothing() {
        let message = br#"{"message":"no space left on device"}"#;
        let one = layer("one");
        let mut whole = Export::new().file("a/layer.tar", &one).0.into_inner().unwrap();
        // In the middle of a layer, and between two entries.
        let between = whole.len() - 1024;
        for end in [1024, between] {
            whole.truncate(between);
            let stream = [&whole[..end], &message[..]].concat();
            let (dir, images) = read(&stream, &BTreeMap::new());
            assert!(images.unwrap_err().to_string().contains("no space left on device"), "{end}");
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3, "something is left");
        }
    }
}
