//! `inspect`: shows what is in an archive, and what of it is dead.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::exit::{Exit, Failure};
use crate::archive::trust::{Scope, Signature, Trust, VERIFY_KEY};
use crate::archive::{self, Archive, LayerBlob, Role, StageAbout, StepAbout, StoredImage};
use crate::cli::{Format, InspectArgs};
use crate::mounts::layers::{self, MountAbout};
use crate::oci::digest::Digest;
use crate::oci::directory::Layout;
use crate::oci::documents::{History, ImageConfig, Index};
use crate::oci::live;
use crate::report::{Reporter, bytes, count, output};

/// The JSON form of the result.
#[derive(Serialize)]
struct Inspected {
    schema: &'static str,
    path: String,
    engine: Option<String>,
    strategy: Option<String>,
    platform: Option<String>,
    created: Option<String>,
    signature: SignatureRow,
    stages: Vec<StageRow>,
    cache: Option<CacheRow>,
    mounts: Vec<MountRow>,
    blobs: Vec<BlobRow>,
    live: Total,
    dead: Total,
}

/// Whether it is signed, and by a key that this job trusts.
#[derive(Serialize)]
struct SignatureRow {
    state: &'static str,
    /// The public key, and what is covered, if that could be checked.
    key: Option<String>,
    project: Option<String>,
    platform: Option<String>,
}

impl From<Signature> for SignatureRow {
    fn from(signature: Signature) -> Self {
        let (state, good) = match signature {
            Signature::Missing => ("unsigned", None),
            Signature::Unchecked => ("unchecked", None),
            Signature::Foreign => ("foreign", None),
            Signature::Good { key, scope } => ("good", Some((key, scope))),
        };
        let (key, scope) = good.unzip();
        let (project, platform) =
            scope.map(|Scope { project, platform }| (project, platform)).unzip();
        Self { state, key, project, platform }
    }
}

impl SignatureRow {
    fn text(&self) -> String {
        match (self.state, &self.key, &self.project, &self.platform) {
            ("unsigned", ..) => "not signed".to_owned(),
            ("unchecked", ..) => format!("signed; set {VERIFY_KEY} to check by whom"),
            (_, Some(key), Some(project), Some(platform)) => {
                format!("signed with the trusted key {key} for `{project}`, {platform}")
            }
            _ => "altered, or signed by someone who is not trusted".to_owned(),
        }
    }
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
    /// What it starts from.
    #[serde(skip)]
    base: Option<String>,
}

/// A cache mount, as the last build that has used it left it.
#[derive(Serialize)]
struct MountRow {
    id: String,
    namespace: String,
    platform: String,
    image: Digest,
    layers: usize,
    /// Of the layers as they are stored.
    bytes: u64,
    files: u64,
    unpacked_bytes: u64,
    /// What that build has used, as far as that is known.
    used_files: u64,
    used_bytes: u64,
    /// What that build has dropped.
    dropped_files: u64,
    dropped_bytes: u64,
}

#[derive(Serialize)]
struct LayerRow {
    diff_id: Digest,
    blob: Digest,
    bytes: u64,
    unpacked_bytes: u64,
    /// How many stages have this layer.
    stages: usize,
    /// The instruction that made it, as far as that is known.
    instruction: Option<String>,
    /// Whether it is the base's.
    base: bool,
}

#[derive(Serialize)]
struct CacheRow {
    manifest: Digest,
    layers: usize,
    records: usize,
    /// The layers, with their sizes.
    #[serde(skip)]
    sizes: Vec<(Digest, u64)>,
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
    let index = layout.index()?;
    let is_there = index.is_some();
    let index = index.unwrap_or_else(|| Index::new(Vec::new()));
    let signature = Trust::of_environment().map_err(Failure::usage)?.look(&index);
    let inspected = look(&layout, index, signature)?;
    if !is_there {
        reporter.info(format!("inspect: there is no archive in `{}`", dir.display()));
    }
    match args.speech.format {
        Format::Text if !is_there => {}
        Format::Text => text(&inspected),
        Format::Json => output::json(&inspected),
        Format::Env | Format::Github => {
            let env = args.speech.format == Format::Env;
            output::pair(env, "live-bytes", &inspected.live.bytes.to_string());
            output::pair(env, "dead-bytes", &inspected.dead.bytes.to_string());
            output::pair(env, "stages", &inspected.stages.len().to_string());
            output::pair(env, "signature", inspected.signature.state);
        }
    }
    Ok(if args.speech.strict && !is_there { Exit::Strict } else { Exit::Ok })
}

fn look(layout: &Layout, index: Index, signature: Signature) -> Result<Inspected, Failure> {
    let reach = live::reach(layout, &index);
    let archive = Archive::of(layout, index)?;
    let mut users: BTreeMap<Digest, BTreeSet<Digest>> = BTreeMap::new();
    for image in archive.images.iter().filter(|i| i.note.role == Role::Stage) {
        for layer in image.manifest.layers.iter().filter_map(LayerBlob::from_descriptor) {
            users.entry(layer.diff_id).or_default().insert(image.descriptor.digest.clone());
        }
    }
    let stages = archive.about.iter().flat_map(|a| &a.stages).map(|stage| {
        let image =
            archive.images.iter().find(|i| stage.image.as_ref() == Some(&i.descriptor.digest));
        let layers: Vec<LayerBlob> = image
            .iter()
            .flat_map(|i| &i.manifest.layers)
            .filter_map(LayerBlob::from_descriptor)
            .collect();
        let config = image.and_then(|i| layout.parse(&i.manifest.config).ok()).unwrap_or_default();
        let layers: Vec<LayerRow> = origins(stage, &config, layers.len())
            .into_iter()
            .zip(layers)
            .map(|(origin, layer)| LayerRow {
                stages: users.get(&layer.diff_id).map_or(0, BTreeSet::len),
                diff_id: layer.diff_id,
                blob: layer.blob,
                bytes: layer.size,
                unpacked_bytes: layer.unpacked_size,
                base: origin == Origin::Base,
                instruction: match origin {
                    Origin::Instruction(text) => Some(text),
                    Origin::Base | Origin::Unknown => None,
                },
            })
            .collect();
        StageRow {
            name: stage.name.clone(),
            build: stage.build.clone(),
            digest: stage.digest.clone(),
            image: stage.image.clone(),
            bytes: layers.iter().map(|l| l.bytes).sum(),
            layers,
            base: stage.base.as_ref().map(|base| base.name.clone()),
        }
    });
    let cache = archive.cache.as_ref().map(|cache| {
        let (config, layers) = archive::read_cache(layout, cache).unwrap_or_default();
        CacheRow {
            manifest: cache.digest.clone(),
            layers: config.layers.len(),
            records: config.steps(),
            sizes: layers.into_iter().map(|(digest, layer)| (digest, layer.size)).collect(),
        }
    });
    let mut inspected = Inspected {
        schema: "dockercache.inspect.v1",
        path: layout.root().display().to_string(),
        engine: archive.about.as_ref().map(|a| a.engine.clone()),
        strategy: archive.about.as_ref().map(|a| a.strategy.clone()),
        platform: archive.about.as_ref().map(|a| a.platform.clone()),
        created: archive.about.as_ref().map(|a| a.created.clone()),
        signature: signature.into(),
        stages: stages.collect(),
        cache,
        mounts: mounts(layout, &archive),
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

fn mounts(layout: &Layout, archive: &Archive) -> Vec<MountRow> {
    let row = |(image, about): (&StoredImage, MountAbout)| MountRow {
        id: about.mount.id,
        namespace: about.mount.namespace,
        platform: about.mount.platform,
        image: image.descriptor.digest.clone(),
        layers: image.manifest.layers.len(),
        bytes: image.manifest.layers.iter().map(|layer| layer.size).sum(),
        files: about.packed.files,
        unpacked_bytes: about.packed.bytes,
        used_files: about.packed.used_files,
        used_bytes: about.packed.used_bytes,
        dropped_files: about.packed.dropped_files,
        dropped_bytes: about.packed.dropped_bytes,
    };
    layers::mounts(layout, archive).map(row).collect()
}

/// Where a layer is from.
#[derive(PartialEq)]
enum Origin {
    Base,
    Instruction(String),
    Unknown,
}

/// Where the layers of a stage are from, the base's first. The stage's own are the last ones, one
/// for each instruction that makes a layer; images that were saved without a build have a history.
fn origins(stage: &StageAbout, config: &ImageConfig, layers: usize) -> Vec<Origin> {
    let makes_layer = |step: &&StepAbout| {
        let word = step.text.split_whitespace().next().unwrap_or_default();
        ["RUN", "COPY", "ADD", "WORKDIR"].iter().any(|known| word.eq_ignore_ascii_case(known))
    };
    let own: Vec<&StepAbout> = stage.steps.iter().filter(makes_layer).collect();
    let history: Vec<&History> = config.layer_history().collect();
    let is_told = stage.base.is_some() || !stage.steps.is_empty();
    if let Some(base) = layers.checked_sub(own.len()).filter(|_| is_told) {
        let own = own.into_iter().map(|step| Origin::Instruction(step.text.clone()));
        return (0..base).map(|_| Origin::Base).chain(own).collect();
    }
    (0..layers)
        .map(|at| {
            let entry = history.get(at).filter(|_| history.len() == layers);
            let text = entry.and_then(|entry| entry.created_by.clone());
            text.map_or(Origin::Unknown, Origin::Instruction)
        })
        .collect()
}

/// How many layers are listed that are known by their digests only.
const MOST_LISTED: usize = 20;

fn text(inspected: &Inspected) {
    let unknown = || "unknown".to_owned();
    output::text(&format!(
        "{}: saved by Docker {} ({}, {}) at {}",
        inspected.path,
        inspected.engine.clone().unwrap_or_else(unknown),
        inspected.strategy.clone().unwrap_or_else(unknown),
        inspected.platform.clone().unwrap_or_else(unknown),
        inspected.created.clone().unwrap_or_else(unknown),
    ));
    output::text(&format!("  signature: {}", inspected.signature.text()));
    let several = inspected.stages.iter().any(|stage| stage.build != inspected.stages[0].build);
    for stage in &inspected.stages {
        let name = match (several, stage.build.as_str()) {
            (false, _) | (true, "") => stage.name.clone(),
            (true, build) => format!("{} of {build}", stage.name),
        };
        if stage.image.is_none() {
            output::text(&format!("  stage {name}"));
            continue;
        }
        let layers = count(stage.layers.len(), "layer");
        output::text(&format!("  stage {name}: {layers}, {}", bytes(stage.bytes)));
        let (base, mut own): (Vec<_>, Vec<_>) = stage.layers.iter().partition(|layer| layer.base);
        // The largest first; those of a size stay in their order.
        own.sort_by_key(|layer| std::cmp::Reverse(layer.bytes));
        for layer in own {
            let digest = || format!("layer {}", layer.diff_id.short());
            let made_by = layer.instruction.clone().unwrap_or_else(digest);
            let shared = match layer.stages {
                0 | 1 => String::new(),
                n => format!("  (in {n} stages)"),
            };
            output::text(&format!("    {:>10}  {made_by}{shared}", bytes(layer.bytes)));
        }
        if !base.is_empty() {
            let size = base.iter().map(|layer| layer.bytes).sum();
            let name = stage.base.as_deref().unwrap_or("the base");
            let layers = count(base.len(), "layer");
            output::text(&format!("    {:>10}  FROM {name}: {layers}", bytes(size)));
        }
    }
    if let Some(cache) = &inspected.cache {
        output::text(&format!("  cache: {} steps over {} layers", cache.records, cache.layers));
        if inspected.stages.iter().all(|stage| stage.image.is_none()) {
            let mut sizes = cache.sizes.clone();
            sizes.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
            for (digest, size) in sizes.iter().take(MOST_LISTED) {
                output::text(&format!("    {:>10}  layer {}", bytes(*size), digest.short()));
            }
        }
    }
    for mount in &inspected.mounts {
        let of = match mount.namespace.as_str() {
            "" => String::new(),
            namespace => format!(" of {namespace}"),
        };
        output::text(&format!(
            "  mount {}{of}: {}, {}; {} in {} files, of which {} in {} were used, and {} in {} dropped",
            mount.id,
            count(mount.layers, "layer"),
            bytes(mount.bytes),
            bytes(mount.unpacked_bytes),
            mount.files,
            bytes(mount.used_bytes),
            mount.used_files,
            bytes(mount.dropped_bytes),
            mount.dropped_files
        ));
    }
    output::text(&format!(
        "  live: {} blobs, {}; dead: {} blobs, {}",
        inspected.live.blobs,
        bytes(inspected.live.bytes),
        inspected.dead.blobs,
        bytes(inspected.dead.bytes)
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(steps: &[&str]) -> StageAbout {
        let step = |text: &&str| StepAbout {
            text: (*text).to_owned(),
            digest: String::new(),
            parts: Vec::new(),
            files: crate::archive::FileList::default(),
        };
        StageAbout {
            name: "build".to_owned(),
            build: String::new(),
            digest: String::new(),
            image: None,
            steps: steps.iter().map(step).collect(),
            base: None,
            of_failed: false,
        }
    }

    fn texts(origins: Vec<Origin>) -> Vec<String> {
        let text = |origin| match origin {
            Origin::Base => "base".to_owned(),
            Origin::Instruction(text) => text,
            Origin::Unknown => "unknown".to_owned(),
        };
        origins.into_iter().map(text).collect()
    }

    #[test]
    fn the_last_layers_are_those_of_the_stages_own_instructions() {
        let stage = stage(&["ENV A=1", "RUN make", "LABEL a=b", "copy . ."]);
        let config = ImageConfig::default();
        let found = texts(origins(&stage, &config, 4));
        assert_eq!(found, ["base", "base", "RUN make", "copy . ."]);
        assert_eq!(texts(origins(&stage, &config, 1)), ["unknown"]);
    }

    #[test]
    fn an_image_without_a_build_is_read_by_its_history() {
        let config = r#"{"history":[{"created_by":"ADD a"},{"empty_layer":true},{}]}"#;
        let config = serde_json::from_str(config).unwrap();
        assert_eq!(texts(origins(&stage(&[]), &config, 2)), ["ADD a", "unknown"]);
    }
}
