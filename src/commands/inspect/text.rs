//! The text that `inspect` prints.

use super::rows::{Inspected, SignatureRow};
use crate::archive::trust::VERIFY_KEY;
use crate::report::{bytes, count, output};

/// How many layers are listed that are known by their digests only.
const MOST_LISTED: usize = 20;

/// Prints it.
pub(super) fn print(inspected: &Inspected) {
    let unknown = || "unknown".to_owned();
    output::text(&format!(
        "{}: saved by Docker {} ({}, {}) at {}",
        inspected.path,
        inspected.engine.clone().unwrap_or_else(unknown),
        inspected.strategy.clone().unwrap_or_else(unknown),
        inspected.platform.clone().unwrap_or_else(unknown),
        inspected.created.clone().unwrap_or_else(unknown),
    ));
    output::text(&format!("  signature: {}", signature(&inspected.signature)));
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

fn signature(row: &SignatureRow) -> String {
    match (row.state, &row.key, &row.project, &row.platform) {
        ("unsigned", ..) => "not signed".to_owned(),
        ("unchecked", ..) => format!("signed; set {VERIFY_KEY} to check by whom"),
        (_, Some(key), Some(project), Some(platform)) => {
            format!("signed with the trusted key {key} for `{project}`, {platform}")
        }
        _ => "altered, or signed by someone who is not trusted".to_owned(),
    }
}
