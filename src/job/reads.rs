//! Which layers of an archive the job's builds will read.

use std::collections::BTreeSet;

use crate::archive::Archive;
use crate::builder::Strategy;
use crate::mounts::collect::layers_of_mounts;
use crate::oci::digest::Digest;
use crate::predict::needed_layers;
use crate::predict::project::Project;

/// The layers that builds of these projects will read, and those that fill cache mounts; `None` for all
/// of them, where it can't be told.
pub(crate) fn layers(
    strategy: Strategy,
    projects: &[Project],
    archive: &Archive,
) -> Option<BTreeSet<Digest>> {
    if strategy != Strategy::BuildkitReplay || projects.is_empty() {
        return None;
    }
    let each = projects.iter().map(|project| needed_layers(archive, project));
    let mut layers: BTreeSet<Digest> =
        each.collect::<Option<Vec<_>>>()?.into_iter().flatten().collect();
    layers.extend(layers_of_mounts(archive));
    Some(layers)
}
