//! Predicts which layers of an archive a build will read.
//!
//! A builder that finds a stage whole needs its result, and nothing of the stages that it is made
//! from. It builds on what it finds of a stage that has changed, and then reads the stages that
//! this one copies from or starts from. A step that is not predicted runs again, which costs only time.

use std::collections::BTreeSet;

use super::explain::shares_step;
use super::project::Project;
use super::{StageDigest, StepDigest};
use crate::archive::{About, Archive, StageAbout, StepAbout};
use crate::oci::digest::Digest;

/// The layers that a build of `project` will read; `None` if all must be taken to be needed, since
/// the archive does not say which stage they are of.
pub fn needed_layers(archive: &Archive, project: &Project) -> Option<BTreeSet<Digest>> {
    let about = archive.about.as_ref()?;
    if about.stages.iter().all(|stage| stage.image.is_none())
        || differs_in_knowledge(about, project)
    {
        return None;
    }
    let mut read: BTreeSet<usize> =
        project.stages.last().map(|target| target.index).into_iter().collect();
    let mut layers = BTreeSet::new();
    for (stage, dependencies) in project.stages.iter().zip(&project.dependencies).rev() {
        if !read.contains(&stage.index) {
            continue;
        }
        if about.stages.iter().all(|old| old.digest != stage.digest) {
            read.extend(read_by(stage, dependencies, about, project));
        }
        let of_use =
            about.stages.iter().filter(|old| old.digest == stage.digest || shares_step(old, stage));
        for old in of_use {
            let all = archive.image_of(old).map_or(&[][..], |image| &image.manifest.layers);
            let read = all.len() - replaced(old, stage, all.len());
            layers.extend(all[..read].iter().map(|layer| layer.digest.clone()));
        }
    }
    Some(layers)
}

/// The stages that a changed stage reads: those that its steps from the first change on name, or all that it
/// needs if nothing of it is left.
fn read_by(
    stage: &StageDigest,
    dependencies: &[usize],
    about: &About,
    project: &Project,
) -> Vec<usize> {
    let old = || about.stages.iter().flat_map(|old| &old.steps);
    let is_there = |step: &&StepDigest| old().any(|old| old.digest == step.digest);
    let mut layers = stage.steps.iter().filter(|step| step.is_layer);
    if layers.next().is_none_or(|first| !is_there(&first)) {
        return dependencies.to_vec();
    }
    let mut changed = stage.steps.iter().skip_while(is_there).map(|step| &step.instruction);
    let named: Vec<String> = changed.by_ref().flat_map(|text| sources(text)).collect();
    let is_named = |index: &usize| {
        let name = project.stages.iter().find(|s| s.index == *index).and_then(|s| s.name.as_ref());
        let is_it = |source: &String| {
            name.is_some_and(|name| name.eq_ignore_ascii_case(source))
                || *source == index.to_string()
        };
        named.iter().any(is_it)
    };
    dependencies.iter().copied().filter(is_named).collect()
}

/// What an instruction copies or mounts from.
fn sources(instruction: &str) -> Vec<String> {
    let text = instruction.to_ascii_lowercase();
    let ends = |c: char| c.is_whitespace() || c == ',';
    let values = text.split("from=").skip(1);
    let source = |value: &str| {
        value.split(ends).next().unwrap_or_default().trim_matches(['"', '\'']).to_owned()
    };
    values.map(source).collect()
}

/// How many of a stage's layers, from the last on, a changed stage will not read: those of steps from the
/// first change on.
fn replaced(old: &StageAbout, stage: &StageDigest, layers: usize) -> usize {
    if old.digest == stage.digest {
        return 0;
    }
    let made = || old.steps.iter().filter(|step| step.makes_layer());
    let is_there = |step: &&StepAbout| stage.steps.iter().any(|s| s.digest == step.digest);
    let changed = made().count() - made().take_while(is_there).count();
    // Otherwise the layers are not those of the steps, one for one.
    if made().count() <= layers { changed } else { 0 }
}

/// Whether a base was known when the archive was written and isn't now, or the other way round: digests
/// then differ, though the builder may find all the same.
fn differs_in_knowledge(about: &About, project: &Project) -> bool {
    let old: Vec<_> = about.stages.iter().filter_map(|stage| stage.base.as_ref()).collect();
    project.bases.iter().any(|base| {
        old.iter().any(|o| o.name == base.name && o.identity.is_some() != base.identity.is_some())
    })
}
