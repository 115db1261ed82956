//! `inspect`: shows what is in an archive, and what of it is dead.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::cli::{Format, InspectArgs};
use crate::exit::{Exit, Failure};
use crate::layout::archive::{self, Archive, LayerBlob, Role};
use crate::layout::digest::Digest;
use crate::layout::directory::Layout;
use crate::report::{Reporter, bytes, output};

/// The JSON form of the result.
#[derive(Serialize)]
struct Inspected {
    schema: &'static str,
    path: String,
    engine: Option<String>,
    strategy: Option<String>,
    platform: Option<String>,
    created: Option<String>,
    stages: Vec<StageRow>,
    cache: Option<CacheRow>,
    blobs: Vec<BlobRow>,
    live: Total,
    dead: Total,
}

#[derive(Serialize)]
struct StageRow {
    name: String,
    /// The build that it is a stage of.
    build: String,
    digest: String,
    /// The stage image's manifest; none where the builder exported the cache itself.
    image: Option<Digest>,
    layers: Vec<LayerRow>,
    /// Of the layers as they are stored.
    bytes: u64,
}

#[derive(Serialize)]
struct LayerRow {
    diff_id: Digest,
    blob: Digest,
    bytes: u64,
    unpacked_bytes: u64,
    /// How many stages have this layer.
    stages: usize,
}

#[derive(Serialize)]
struct CacheRow {
    manifest: Digest,
    layers: usize,
    records: usize,
}

#[derive(Serialize)]
struct BlobRow {
    digest: Digest,
    bytes: u64,
    media_type: Option<String>,
    live: bool,
}

#[derive(Default, Serialize)]
struct Total {
    blobs: usize,
    bytes: u64,
}

pub(super) fn run(args: &InspectArgs) -> Result<Exit, Failure> {
    let reporter = Reporter::new(args.speech.quiet);
    let dir = args.path.as_ref().unwrap_or(&args.directory.dir);
    let layout = Layout::at(dir);
    let Some(archive) = Archive::read(&layout)? else {
        reporter.info(format!("inspect: there is no archive in `{}`", dir.display()));
        return Ok(if args.speech.strict { Exit::Strict } else { Exit::Ok });
    };
    let inspected = look(&layout, &archive)?;
    match args.speech.format {
        Format::Text => text(&inspected),
        Format::Json => output::json(&inspected),
        Format::Env | Format::Github => {
            let env = args.speech.format == Format::Env;
            output::pair(env, "live-bytes", &inspected.live.bytes.to_string());
            output::pair(env, "dead-bytes", &inspected.dead.bytes.to_string());
            output::pair(env, "stages", &inspected.stages.len().to_string());
        }
    }
    Ok(Exit::Ok)
}

fn look(layout: &Layout, archive: &Archive) -> Result<Inspected, Failure> {
    let reach = archive::reach(layout)?;
    let mut users: BTreeMap<Digest, BTreeSet<Digest>> = BTreeMap::new();
    for image in archive.images.iter().filter(|i| i.note.role == Role::Stage) {
        for layer in image.manifest.layers.iter().filter_map(LayerBlob::from_descriptor) {
            users.entry(layer.diff_id).or_default().insert(image.descriptor.digest.clone());
        }
    }
    let stages = archive.about.iter().flat_map(|a| &a.stages).map(|stage| {
        let image =
            archive.images.iter().find(|i| stage.image.as_ref() == Some(&i.descriptor.digest));
        let layers: Vec<LayerRow> = image
            .iter()
            .flat_map(|i| &i.manifest.layers)
            .filter_map(LayerBlob::from_descriptor)
            .map(|layer| LayerRow {
                stages: users.get(&layer.diff_id).map_or(0, BTreeSet::len),
                diff_id: layer.diff_id,
                blob: layer.blob,
                bytes: layer.size,
                unpacked_bytes: layer.unpacked_size,
            })
            .collect();
        StageRow {
            name: stage.name.clone(),
            build: stage.build.clone(),
            digest: stage.digest.clone(),
            image: stage.image.clone(),
            bytes: layers.iter().map(|l| l.bytes).sum(),
            layers,
        }
    });
    let cache = archive.cache.as_ref().map(|cache| {
        let (layers, records) = archive::read_cache(layout, cache)
            .map_or((0, 0), |(config, _)| (config.layers.len(), config.steps()));
        CacheRow { manifest: cache.digest.clone(), layers, records }
    });
    let mut inspected = Inspected {
        schema: "dockercache.inspect.v1",
        path: layout.root().display().to_string(),
        engine: archive.about.as_ref().map(|a| a.engine.clone()),
        strategy: archive.about.as_ref().map(|a| a.strategy.clone()),
        platform: archive.about.as_ref().map(|a| a.platform.clone()),
        created: archive.about.as_ref().map(|a| a.created.clone()),
        stages: stages.collect(),
        cache,
        blobs: Vec::new(),
        live: Total::default(),
        dead: Total::default(),
    };
    for (digest, size) in layout.blob_files()? {
        let descriptor = reach.blobs.get(&digest);
        let total = if descriptor.is_some() { &mut inspected.live } else { &mut inspected.dead };
        total.blobs += 1;
        total.bytes += size;
        inspected.blobs.push(BlobRow {
            media_type: descriptor.map(|d| d.media_type.clone()),
            live: descriptor.is_some(),
            digest,
            bytes: size,
        });
    }
    Ok(inspected)
}

fn text(inspected: &Inspected) {
    let unknown = || "unknown".to_owned();
    output::line(&format!(
        "{}: saved by Docker {} ({}, {}) at {}",
        inspected.path,
        inspected.engine.clone().unwrap_or_else(unknown),
        inspected.strategy.clone().unwrap_or_else(unknown),
        inspected.platform.clone().unwrap_or_else(unknown),
        inspected.created.clone().unwrap_or_else(unknown),
    ));
    let several = inspected.stages.iter().any(|stage| stage.build != inspected.stages[0].build);
    for stage in &inspected.stages {
        let name = match (several, stage.build.as_str()) {
            (false, _) | (true, "") => stage.name.clone(),
            (true, build) => format!("{} of {build}", stage.name),
        };
        let digest: String = stage.digest.chars().take(12).collect();
        if stage.image.is_none() {
            output::line(&format!("  stage {name} ({digest})"));
            continue;
        }
        output::line(&format!(
            "  stage {name} ({digest}): {} layers, {}",
            stage.layers.len(),
            bytes(stage.bytes)
        ));
        for layer in &stage.layers {
            let shared = match layer.stages {
                0 | 1 => String::new(),
                n => format!(", in {n} stages"),
            };
            output::line(&format!(
                "    layer {}  {} ({} unpacked{shared})",
                layer.diff_id.short(),
                bytes(layer.bytes),
                bytes(layer.unpacked_bytes)
            ));
        }
    }
    if let Some(cache) = &inspected.cache {
        output::line(&format!("  cache: {} steps over {} layers", cache.records, cache.layers));
    }
    output::line(&format!(
        "  live: {} blobs, {}; dead: {} blobs, {}",
        inspected.live.blobs,
        bytes(inspected.live.bytes),
        inspected.dead.blobs,
        bytes(inspected.dead.bytes)
    ));
}
