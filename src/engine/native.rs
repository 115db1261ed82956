//! Strategy `buildkit-local`: the builder exports the cache directory itself (the containerd
//! image store, and builders in a container of their own).
//!
//! The export goes into a directory aside that shares the archive's blobs by hard links, so that
//! only new blobs are written and a kill half-way leaves the archive as it was.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;

use super::Engine;
use super::capture::{Captured, Request, local_cache};
use super::error::EngineError;
use super::run::{self, Echo};
use crate::layout::archive::Archive;
use crate::layout::codec::Compression;
use crate::layout::directory::{Layout, LayoutError};
use crate::report::Reporter;

/// Lets the builder export the whole build's cache.
pub fn capture(
    engine: &Engine,
    layout: &Layout,
    request: &Request<'_>,
    reporter: Reporter,
) -> Result<Captured, EngineError> {
    // With a name of its own: the client of a save that was killed may still write into its own.
    let aside = layout.aside();
    let staging = tempfile::Builder::new()
        .prefix("export-")
        .tempdir_in(&aside)
        .map_err(LayoutError::io("create a directory in", &aside))?;
    let staging = staging.path();
    share_blobs(layout, staging)?;
    let mut words: Vec<OsString> = vec![
        "--progress=plain".into(),
        "--provenance=false".into(),
        "--output=type=cacheonly".into(),
        format!("--cache-to={},mode=max{}", local_cache("dest", staging), compression(request))
            .into(),
    ];
    words.extend(request.offer.iter().map(|offer| format!("--cache-from={offer}").into()));
    words.extend(request.arguments.for_repetition(&[]));
    let named = request.arguments.value("builder").is_some();
    let task = reporter.task("exporting the build cache");
    let finished = run::buildkit(engine, &words, named, Echo::Hidden)?;
    drop(task);
    if !finished.status.success() {
        let last = finished.tail.iter().rev().find(|l| !l.trim().is_empty());
        let reason = last.cloned().unwrap_or_else(|| "it gave no reason".into());
        return Err(export_failure(staging, reason));
    }
    let exported = Archive::read(&Layout::at(staging))?.unwrap_or_default();
    take_new_blobs(layout, staging)?;
    let mut about = request.about.clone();
    about.stages.extend(request.stages.iter().map(|s| s.about.clone()));
    Ok(Captured {
        archive: Archive { about: Some(about), cache: exported.cache, ..Archive::default() },
        taken: request.stages.iter().map(|s| s.about.name.clone()).collect(),
        kept: Vec::new(),
        warnings: Vec::new(),
    })
}

/// How the builder shall compress new layers; its own default if the user does not say.
fn compression(request: &Request<'_>) -> String {
    let Some(Compression { codec, level }) = request.compression else { return String::new() };
    let level = level.map_or_else(String::new, |level| format!(",compression-level={level}"));
    format!(",compression={codec}{level}")
}

/// The client writes the export for us: when our own disk is full, that is not the engine's fault.
fn export_failure(staging: &Path, reason: String) -> EngineError {
    let is_ours = reason.contains(&*staging.to_string_lossy());
    let signs = [
        ("no space left on device", io::ErrorKind::StorageFull),
        ("disk quota exceeded", io::ErrorKind::QuotaExceeded),
    ];
    match signs.iter().find(|(sign, _)| is_ours && reason.contains(sign)) {
        Some(&(_, kind)) => LayoutError::io("export into", staging)(kind.into()).into(),
        None => EngineError::failed("export the build cache", reason),
    }
}

/// Makes a layout with the same blobs, without copying them.
fn share_blobs(layout: &Layout, staging: &Path) -> Result<(), EngineError> {
    let shared = Layout::at(staging);
    let blobs = staging.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(LayoutError::io("create", &blobs))?;
    for (digest, _) in layout.blob_files()? {
        let to = shared.blob_path(&digest);
        fs::hard_link(layout.blob_path(&digest), &to).map_err(LayoutError::io("link", &to))?;
    }
    Ok(())
}

/// Moves what the export has added.
fn take_new_blobs(layout: &Layout, staging: &Path) -> Result<(), EngineError> {
    let shared = Layout::at(staging);
    for (digest, _) in shared.blob_files()? {
        let to = layout.blob_path(&digest);
        match fs::hard_link(shared.blob_path(&digest), &to) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(LayoutError::io("link", &to)(e).into());
            }
            _ => {}
        }
    }
    Ok(())
}
