//! Strategy `buildkit-local`: the builder exports the cache directory itself (the containerd
//! image store, and builders in a container of their own).
//!
//! The export goes into a directory aside that shares the archive's blobs by hard links, so that
//! only new blobs are written and a kill half-way leaves the archive as it was.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;

use serde::Deserialize;

use super::Engine;
use super::capture::{Captured, Request, local_cache};
use super::error::EngineError;
use super::run::{self, Echo};
use crate::layout::archive::{Archive, cache_entry};
use crate::layout::codec::Compression;
use crate::layout::directory::{Layout, LayoutError};
use crate::layout::oci::Descriptor;
use crate::layout::writer::Writer;
use crate::report::Reporter;

/// Lets the builder export the whole build's cache. What it exports to a registry is not in the
/// layout.
pub fn capture(
    engine: &Engine,
    layout: &Writer,
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
    let cache = if let Some(registry) = request.registry {
        let report = staging.join("metadata.json");
        let words = [
            format!(
                "--cache-to={registry},mode=max,image-manifest=true,oci-mediatypes=true{}",
                compression(request)
            ),
            format!("--metadata-file={}", report.display()),
        ];
        export(engine, staging, request, &words, reporter)?;
        exported_manifest(&report)?
    } else {
        share_blobs(layout, staging)?;
        let destination = local_cache("dest", staging);
        let words = [format!("--cache-to={destination},mode=max{}", compression(request))];
        export(engine, staging, request, &words, reporter)?;
        let exported = Archive::read(&Layout::at(staging))?.unwrap_or_default();
        take_new_blobs(layout, staging)?;
        exported.cache
    };
    let mut about = request.about.clone();
    about.stages.extend(request.stages.iter().map(|s| s.about.clone()));
    Ok(Captured {
        archive: Archive { about: Some(about), cache, ..Archive::default() },
        taken: request.stages.iter().map(|s| s.about.name.clone()).collect(),
        kept: Vec::new(),
        warnings: Vec::new(),
    })
}

/// Builds once more, all from cache, for the export alone.
fn export(
    engine: &Engine,
    staging: &Path,
    request: &Request<'_>,
    destination: &[String],
    reporter: Reporter,
) -> Result<(), EngineError> {
    let mut words: Vec<OsString> =
        ["--progress=plain", "--provenance=false", "--output=type=cacheonly"]
            .map(OsString::from)
            .to_vec();
    words.extend(destination.iter().map(OsString::from));
    words.extend(request.offer.iter().map(|offer| format!("--cache-from={offer}").into()));
    words.extend(request.arguments.for_repetition(&["metadata-file"]));
    let named = request.arguments.value("builder").is_some();
    let task = reporter.task("exporting the build cache");
    let finished = run::buildkit(engine, &words, named, Echo::Hidden)?;
    drop(task);
    if finished.status.success() {
        return Ok(());
    }
    Err(export_failure(staging, finished.reason()))
}

/// The cache manifest that an export to a registry made, by the client's report; none if the
/// build has no cache at all.
fn exported_manifest(report: &Path) -> Result<Option<Descriptor>, EngineError> {
    #[derive(Deserialize)]
    struct Report {
        #[serde(rename = "cache.manifest")]
        manifest: Option<String>,
    }
    let failed = |e: &dyn ToString| {
        EngineError::failed("export the build cache", format!("its report: {}", e.to_string()))
    };
    let json = fs::read(report).map_err(|e| failed(&e))?;
    let report: Report = serde_json::from_slice(&json).map_err(|e| failed(&e))?;
    let manifest = report.manifest.map(|json| serde_json::from_str::<Descriptor>(&json));
    let manifest = manifest.transpose().map_err(|e| failed(&e))?;
    Ok(manifest.as_ref().map(cache_entry))
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
fn take_new_blobs(layout: &Writer, staging: &Path) -> Result<(), EngineError> {
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
