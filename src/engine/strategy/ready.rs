//! Makes an archive ready for a build: what `--cache-from` must name, and images that must be in
//! the engine for it.
//!
//! A BuildKit that is driven by buildx reads the archive's directory by itself. The classic
//! builder, and the BuildKit client that is built into docker before 23, need images.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::Strategy;
use super::capture::local_cache;
use super::classic;
use super::current::{Bases, Current, current};
use crate::archive::tarball::{self, Packing, Tags, stage_tag};
use crate::archive::{Archive, Role, StoredImage};
use crate::engine::Engine;
use crate::engine::error::EngineError;
use crate::oci::digest::Digest;
use crate::oci::directory::Layout;
use crate::oci::documents::{Index, REF_NAME, UNCOMPRESSED};
use crate::report::Reporter;

/// What `--cache-from` must name; `dir` is the archive's directory.
pub fn cache_from(
    engine: &Engine,
    strategy: Strategy,
    archive: &Archive,
    dir: &Path,
) -> Vec<String> {
    match needed_tags(engine, strategy) {
        None => vec![local_cache("src", dir)],
        Some(Tags::None) => classic::offer(engine, archive),
        Some(Tags::Stages | Tags::All) => {
            let stages = archive.images.iter().filter(|i| i.note.role == Role::Stage);
            stages.filter_map(|i| i.descriptor.annotation(REF_NAME)).map(stage_tag).collect()
        }
    }
}

/// What the build to come may be offered.
#[derive(Debug)]
pub(crate) struct Ready {
    /// Values for `--cache-from`.
    pub(crate) cache_from: Vec<String>,
    /// Why the archive is of no use after all.
    pub(crate) miss: Option<String>,
    /// Why a part of it is of no use.
    pub(crate) reasons: Vec<String>,
}

/// Loads what the build needs in the engine and is not there yet. `cache_from` is what it would be
/// offered if all of the archive can be used.
pub(crate) fn prepare(
    engine: &Engine,
    strategy: Strategy,
    layout: &Layout,
    archive: &Archive,
    cache_from: &[String],
    bases: Bases<'_>,
    reporter: Reporter,
) -> Result<Ready, EngineError> {
    let whole = || Ready { cache_from: cache_from.to_vec(), miss: None, reasons: Vec::new() };
    match needed_tags(engine, strategy) {
        None => Ok(whole()),
        Some(Tags::Stages | Tags::All) => {
            let images = archive.images.iter().filter(|image| image.note.role != Role::Mount);
            load(engine, layout, images.cloned().collect(), Tags::Stages, reporter)?;
            Ok(whole())
        }
        Some(Tags::None) => {
            let Current { images, reasons } = current(engine, layout, archive, bases, reporter)?;
            if images.iter().all(|image| image.note.role == Role::Base) {
                let reason = "no stage of the archive is left to use".to_owned();
                let miss = if reasons.is_empty() { reason } else { reasons.join("; ") };
                return Ok(Ready { cache_from: Vec::new(), miss: Some(miss), reasons: Vec::new() });
            }
            load(engine, layout, images.clone(), Tags::None, reporter)?;
            let usable = Archive { about: archive.about.clone(), images, ..Archive::default() };
            Ok(Ready { cache_from: classic::offer(engine, &usable), miss: None, reasons })
        }
    }
}

/// The tags that images need in the engine; `None` where no images are needed.
fn needed_tags(engine: &Engine, strategy: Strategy) -> Option<Tags> {
    match strategy {
        Strategy::Classic => Some(Tags::None),
        Strategy::BuildkitReplay if !engine.client.has_buildx() => Some(Tags::Stages),
        Strategy::BuildkitReplay | Strategy::BuildkitLocal => None,
    }
}

/// The layers, by diffID, that an engine with the images in `present` needs for none of `images`.
fn known_layers(images: &[StoredImage], present: &BTreeSet<String>) -> BTreeSet<Digest> {
    // A layer is known on top of the same layers only.
    let layers = |image: &StoredImage| {
        let mut below = String::new();
        let layers = image.manifest.layers.iter();
        let diff_ids = layers.filter_map(|l| l.annotation(UNCOMPRESSED)?.parse::<Digest>().ok());
        let chain: Vec<(Digest, Digest)> = diff_ids
            .map(|diff_id| {
                below.push_str(diff_id.hex());
                (diff_id, Digest::of(below.as_bytes()))
            })
            .collect();
        chain
    };
    let is_present = |i: &&StoredImage| present.contains(i.manifest.config.digest.as_str());
    let known: BTreeSet<Digest> =
        images.iter().filter(is_present).flat_map(layers).map(|(_, chain)| chain).collect();
    let (mut needed, mut all) = (BTreeSet::new(), BTreeSet::new());
    for (diff_id, chain) in images.iter().flat_map(layers) {
        if !known.contains(&chain) {
            needed.insert(diff_id.clone());
        }
        all.insert(diff_id);
    }
    all.difference(&needed).cloned().collect()
}

/// Loads images, unless the engine has all of them.
pub(crate) fn load(
    engine: &Engine,
    layout: &Layout,
    images: Vec<StoredImage>,
    tags: Tags,
    reporter: Reporter,
) -> Result<(), EngineError> {
    let present: BTreeSet<String> =
        engine.connection.images()?.into_iter().map(|image| image.id).collect();
    if images.iter().all(|i| present.contains(i.manifest.config.digest.as_str())) {
        return Ok(());
    }
    let absent = known_layers(&images, &present);
    let archive = Archive { images, ..Archive::default() };
    let progress = reporter.progress("loading images", 0);
    let (sender, mut receiver) = mpsc::channel(16);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let out = io::BufWriter::with_capacity(1 << 18, ChannelWriter { sender });
            let packing = Packing { tags, absent: &absent, seal: &Index::clone };
            tarball::write(layout, &archive, &packing, out, &|n| progress.advance(n))
        });
        let chunks = futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx));
        let loaded = engine.connection.load(chunks);
        match writer.join() {
            // A bad layer ends the tar early, and the engine can only say that it ended.
            Ok(Err(error @ crate::oci::directory::LayoutError::Damaged { .. })) => {
                Err(error.into())
            }
            Ok(Err(error)) if loaded.is_ok() => Err(error.into()),
            _ => loaded,
        }
    })
}

/// Hands what is written to the request that sends it.
struct ChannelWriter {
    sender: mpsc::Sender<io::Result<Bytes>>,
}

impl Write for ChannelWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.sender
            .blocking_send(Ok(Bytes::copy_from_slice(buffer)))
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the engine hung up"))?;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{ImageNote, LayerBlob, write_image};

    fn image(layers: &[&str]) -> StoredImage {
        let layer = |name: &&str| LayerBlob {
            diff_id: Digest::of(name.as_bytes()),
            blob: Digest::of(name.as_bytes()),
            size: 1,
            unpacked_size: 1,
            media_type: String::new(),
        };
        let layers: Vec<_> = layers.iter().map(layer).collect();
        let config = serde_json::json!({ "author": format!("{layers:?}") }).to_string();
        let mut sink = Vec::new();
        write_image(&mut sink, config.as_bytes(), &layers, "i", ImageNote::of(Role::Stage)).unwrap()
    }

    #[test]
    fn a_layer_is_left_out_where_the_engine_has_it_on_the_same_layers() {
        let images = [image(&["a", "b"]), image(&["a", "b", "c"]), image(&["b", "c"])];
        let known = |present: &[&StoredImage]| {
            let ids = present.iter().map(|i| i.manifest.config.digest.to_string()).collect();
            known_layers(&images, &ids)
        };
        assert_eq!(known(&[]), BTreeSet::new());
        assert_eq!(known(&[&images[0]]), BTreeSet::from([Digest::of(b"a")]));
        assert_eq!(
            known(&[&images[0], &images[2]]),
            ["a", "b"].map(|n| Digest::of(n.as_bytes())).into()
        );
    }
}
