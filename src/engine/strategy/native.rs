//! Strategy `buildkit-local`: the builder exports its cache by itself (the containerd image store,
//! and builders in containers).
//!
//! Straight after the real build each stage that has changed is built once more, from cache, and
//! exported alone: its layers and its records. An export of the whole build would fetch and unpack
//! all that the builder has only heard of. The exports lie beside the archive, with the archive's
//! blobs by hard links, so that the builder writes only what is new; `save` takes them in.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::capture::{Captured, Request, Source, Taken, local_cache};
use super::stages::{self, Destination};
use crate::archive::{About, Archive, StoredImage, read_cache, write_cache, write_stage_cache};
use crate::engine::error::EngineError;
use crate::oci::codec::Compression;
use crate::oci::directory::{Layout, LayoutError};
use crate::oci::documents::Descriptor;
use crate::oci::writer::{Writer, link};
use crate::report::Reporter;

/// Lets the builder export each stage that the archive in `layout` does not have.
pub fn capture(
    request: &Request<'_>,
    layout: &Layout,
    about: About,
    reporter: Reporter,
) -> Result<Captured, EngineError> {
    let directory = layout.captures().join(request.name);
    share_blobs(layout, &directory)?;
    // A Dockerfile that we can't read has one stage to us: all that led to it goes along.
    let mode = if request.dockerfile.is_empty() { "max" } else { "min" };
    let compression = compression(request.compression);
    let exports = Exports { directory: &directory, mode, compression };
    let captured = stages::capture(request, about, &exports, reporter);
    let is_used = |captured: &Captured| {
        captured.stages.iter().any(|stage| matches!(stage.source, Source::Export(..)))
    };
    if !captured.as_ref().is_ok_and(is_used) {
        let _ = fs::remove_dir_all(&directory);
    }
    captured
}

/// Stages go to a directory.
struct Exports<'a> {
    directory: &'a Path,
    mode: &'static str,
    compression: String,
}

impl Destination for Exports<'_> {
    fn words(&self, _: usize) -> Vec<OsString> {
        let destination = local_cache("dest", self.directory);
        let (mode, compression) = (self.mode, &self.compression);
        vec![
            "--provenance=false".into(),
            "--output=type=cacheonly".into(),
            format!("--cache-to={destination},mode={mode}{compression}").into(),
        ]
    }

    fn source(&self, _: usize) -> Result<Source, EngineError> {
        // Each export takes the place of the one before under the name that importers look for.
        let exported = Archive::read(&Layout::at(self.directory))?.unwrap_or_default();
        Ok(match exported.cache {
            Some(cache) => Source::Export(self.directory.to_owned(), cache),
            None => Source::Missing("the builder exported nothing".to_owned()),
        })
    }
}

/// How the builder compresses new layers; its own default if the user does not say.
fn compression(asked: Option<Compression>) -> String {
    let Some(Compression { codec, level }) = asked else { return String::new() };
    let level = level.map_or_else(String::new, |level| format!(",compression-level={level}"));
    format!(",compression={codec}{level}")
}

/// Takes the stages that were exported and keeps the others from `old`.
pub fn take(layout: &Writer, old: &Archive, captured: &Captured) -> Result<Taken, EngineError> {
    for directory in directories(captured) {
        take_new_blobs(layout, directory)?;
    }
    let mut failed = None;
    let mut new = |source: &Source, name: &str| match source {
        Source::Export(directory, export) if directory.exists() => {
            let stored = stored(layout, export, name);
            stored.map_err(|error| failed = Some(error)).ok().map(Some)
        }
        _ => None,
    };
    let mut exported: Vec<(Source, Option<StoredImage>)> = Vec::new();
    for stage in &captured.stages {
        if let Some(image) = new(&stage.source, &stage.about.name) {
            exported.push((stage.source.clone(), image));
        }
    }
    if let Some(error) = failed {
        return Err(error.into());
    }
    let mut taken = stages::take(layout, captured, old, &|source| {
        exported.iter().find(|(s, _)| s == source).map(|(_, image)| image.clone())
    });
    let images: Vec<&StoredImage> = taken.archive.images.iter().collect();
    let cache = write_cache(layout, &images)?;
    stages::remove_damaged(&mut taken, &cache.damaged);
    taken.warnings.extend(super::replay::cut_warning(cache.cut_records));
    taken.archive.cache = cache.descriptor;
    Ok(taken)
}

fn stored(layout: &Writer, export: &Descriptor, name: &str) -> Result<StoredImage, LayoutError> {
    let (config, layers) = read_cache(layout, export)?;
    write_stage_cache(layout, &config, &layers, name)
}

/// Removes what was exported: it is in the archive.
pub fn release(captured: &Captured) {
    for directory in directories(captured) {
        // Left behind, it is removed by the next command.
        let _ = fs::remove_dir_all(directory);
    }
}

fn directories(captured: &Captured) -> Vec<&PathBuf> {
    let mut directories: Vec<&PathBuf> = captured
        .stages
        .iter()
        .filter_map(|stage| match &stage.source {
            Source::Export(directory, _) => Some(directory),
            _ => None,
        })
        .collect();
    directories.dedup();
    directories
}

/// Makes a layout with the same blobs, without copying them.
fn share_blobs(layout: &Layout, directory: &Path) -> Result<(), EngineError> {
    let shared = Layout::at(directory);
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(LayoutError::io("create", &blobs))?;
    for (digest, _) in layout.blob_files()? {
        let to = shared.blob_path(&digest);
        match link(&layout.blob_path(&digest), &to, directory) {
            // Another job's save may have removed it since.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            linked => linked.map_err(LayoutError::io("link", &to))?,
        }
    }
    Ok(())
}

/// Moves what the export has added.
fn take_new_blobs(layout: &Writer, directory: &Path) -> Result<(), EngineError> {
    let shared = Layout::at(directory);
    for (digest, _) in shared.blob_files()? {
        let to = layout.blob_path(&digest);
        match link(&shared.blob_path(&digest), &to, &layout.aside()) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(LayoutError::io("link", &to)(e).into());
            }
            _ => {}
        }
    }
    Ok(())
}
