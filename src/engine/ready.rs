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

use super::Engine;
use super::capture::local_cache;
use super::classic;
use super::error::EngineError;
use super::strategy::Strategy;
use crate::layout::archive::{Archive, Role};
use crate::layout::directory::Layout;
use crate::layout::oci::{Index, REF_NAME};
use crate::layout::tarball::{self, Tags, stage_tag};
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
        Some(Tags::Noted) => classic::offer(engine, archive),
        Some(Tags::Stages) => {
            let stages = archive.images.iter().filter(|i| i.note.role == Role::Stage);
            stages.filter_map(|i| i.descriptor.annotation(REF_NAME)).map(stage_tag).collect()
        }
    }
}

/// Loads what the build needs in the engine and is not there yet.
pub fn load_missing(
    engine: &Engine,
    strategy: Strategy,
    layout: &Layout,
    archive: &Archive,
    reporter: Reporter,
) -> Result<(), EngineError> {
    let Some(tags) = needed_tags(engine, strategy) else { return Ok(()) };
    let present: BTreeSet<String> =
        engine.connection.images()?.into_iter().map(|image| image.id).collect();
    let is_missing = |id: &str| !present.contains(id);
    if archive.images.iter().any(|i| is_missing(i.manifest.config.digest.as_str())) {
        load(engine, layout, archive, tags, reporter)?;
    }
    Ok(())
}

/// The tags that images need in the engine; `None` where none are needed.
fn needed_tags(engine: &Engine, strategy: Strategy) -> Option<Tags> {
    match strategy {
        Strategy::Classic => Some(Tags::Noted),
        Strategy::BuildkitReplay if !engine.client.has_buildx() => Some(Tags::Stages),
        Strategy::BuildkitReplay | Strategy::BuildkitLocal => None,
    }
}

fn load(
    engine: &Engine,
    layout: &Layout,
    archive: &Archive,
    tags: Tags,
    reporter: Reporter,
) -> Result<(), EngineError> {
    let progress = reporter.progress("loading images", 0);
    let (sender, mut receiver) = mpsc::channel(16);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let out = io::BufWriter::with_capacity(1 << 18, ChannelWriter { sender });
            tarball::write(layout, archive, tags, &Index::clone, out, &|n| progress.advance(n))
        });
        let chunks = futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx));
        let loaded = engine.connection.load(chunks);
        match writer.join() {
            // A bad layer ends the tar early, and the engine can only say that it ended.
            Ok(Err(error @ crate::layout::directory::LayoutError::Damaged { .. })) => {
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
