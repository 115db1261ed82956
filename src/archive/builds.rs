//! Several builds in one archive: joined, told apart again, and looked up in while they are taken.
//!
//! Blobs are shared by their digests, and so are the images of stages that builds have in common.
//! The records of all builds are merged into the one cache manifest that builders are offered.

use std::collections::{BTreeMap, BTreeSet};

use super::records::RecordGraph;
use super::{
    About, Archive, Role, StageAbout, StoredImage, read_cache, write_cache, write_records,
};
use crate::oci::digest::Digest;
use crate::oci::directory::LayoutError;
use crate::oci::documents::{Descriptor, REF_NAME};
use crate::oci::writer::Writer;

/// Builds that have been joined.
#[derive(Debug)]
pub struct Joined {
    /// The archive of all of them.
    pub archive: Archive,
    /// Records that were cut, because importers refuse more than 1 MiB.
    pub cut_records: usize,
    /// What was corrupt, and is skipped.
    pub damaged: Vec<String>,
}

/// Joins archives that hold one build each. Who made it, the last one says.
pub fn join(layout: &Writer, mut parts: Vec<Archive>) -> Result<Joined, LayoutError> {
    if parts.len() < 2 {
        let archive = parts.pop().unwrap_or_default();
        return Ok(Joined { archive, cut_records: 0, damaged: Vec::new() });
    }
    let mut archive = Archive { about: about_all(&parts), ..Archive::default() };
    let mut graph = RecordGraph::default();
    let mut descriptors = BTreeMap::new();
    let mut damaged = Vec::new();
    for part in &parts {
        let build = part.builds().first().copied().unwrap_or_default();
        part.images.iter().for_each(|image| add_image(&mut archive.images, image, build));
        let Some(cache) = cache_of(layout, part, &mut damaged)? else { continue };
        let added = read_cache(layout, &cache).map_err(|e| e.to_string()).and_then(|read| {
            let (config, layers) = read;
            graph.add(&config).map_err(|e| e.to_string())?;
            descriptors.extend(layers);
            Ok(())
        });
        if let Err(reason) = added {
            damaged.push(format!("the cache records of build `{build}` are damaged: {reason}"));
        }
    }
    let written = write_records(layout, &graph, &descriptors)?;
    let cut_records = written.as_ref().map_or(0, |(_, cut)| *cut);
    archive.cache = written.map(|(cache, _)| cache);
    Ok(Joined { archive, cut_records, damaged })
}

fn about_all(parts: &[Archive]) -> Option<About> {
    let mut about = parts.iter().rev().find_map(|part| part.about.clone())?;
    let abouts = parts.iter().filter_map(|part| part.about.as_ref());
    about.stages = abouts.flat_map(|about| about.stages.clone()).collect();
    Some(about)
}

/// A part's cache manifest; made of its images' records if it has none of its own.
fn cache_of(
    layout: &Writer,
    part: &Archive,
    damaged: &mut Vec<String>,
) -> Result<Option<Descriptor>, LayoutError> {
    if part.cache.is_some() {
        return Ok(part.cache.clone());
    }
    let stages: Vec<_> = part.images.iter().filter(|i| i.note.role == Role::Stage).collect();
    let written = write_cache(layout, &stages)?;
    damaged.extend(written.damaged.into_iter().map(|(_, reason)| reason));
    Ok(written.descriptor)
}

/// Adds an image of `build`, or what it is there for if another build has the same.
fn add_image(images: &mut Vec<StoredImage>, image: &StoredImage, build: &str) {
    let name = |image: &StoredImage| image.descriptor.annotation(REF_NAME).map(str::to_owned);
    let own_name = name(image).unwrap_or_default();
    if let Some(same) = images.iter_mut().find(|i| i.descriptor.digest == image.descriptor.digest) {
        let mut note = same.note.clone();
        note.role = note.role.min(image.note.role);
        note.parent = note.parent.or_else(|| image.note.parent.clone());
        let new = image.note.tags.iter().filter(|tag| !same.note.tags.contains(tag));
        note.tags.extend(new.cloned());
        let new = image.note.digests.iter().filter(|one| !same.note.digests.contains(one));
        note.digests.extend(new.cloned());
        let known = name(same).unwrap_or_default();
        *same = same.noted(if same.note.role == note.role { &known } else { &own_name }, note);
    } else if images.iter().any(|i| name(i).as_ref() == Some(&own_name)) {
        images.push(image.named(&format!("{build}-{own_name}")));
    } else {
        images.push(image.clone());
    }
}

/// One build of an archive, as an archive.
pub fn part(archive: &Archive, build: &str) -> Archive {
    let mut about = archive.about.clone();
    let stages = about.iter_mut().map(|about| &mut about.stages);
    stages.for_each(|stages| stages.retain(|stage| stage.build == build));
    let ends = about.iter().flat_map(|a| &a.stages).filter_map(|s| s.image.as_ref());
    let ends: BTreeSet<_> = archive
        .images
        .iter()
        .filter(|i| ends.clone().any(|end| *end == i.descriptor.digest))
        .map(|i| &i.manifest.config.digest)
        .collect();
    let images = with_parents(&archive.images, ends);
    let cache = archive.cache.clone().filter(|_| archive.builds() == [build]);
    Archive { about, cache, images }
}

/// The images with these configs, and those that they were built on, in their order.
pub fn with_parents<'a>(
    images: &'a [StoredImage],
    configs: BTreeSet<&'a Digest>,
) -> Vec<StoredImage> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&Digest> = configs.into_iter().collect();
    while let Some(config) = open.pop() {
        if reached.insert(config) {
            let same = images.iter().filter(|i| i.manifest.config.digest == *config);
            open.extend(same.filter_map(|i| i.note.parent.as_ref()));
        }
    }
    images.iter().filter(|i| reached.contains(&i.manifest.config.digest)).cloned().collect()
}

/// What is known of stages and images, for looking up: what was taken just now is put before
/// what is in the archive.
pub fn known(taken: &[Archive], archive: &Archive) -> Archive {
    let mut known = Archive { about: archive.about.clone(), ..Archive::default() };
    let new: Vec<StageAbout> = about_all(taken).map_or_else(Vec::new, |about| about.stages);
    let about = known.about.get_or_insert_default();
    about.stages.retain(|stage| new.iter().all(|s| s.digest != stage.digest));
    about.stages.splice(..0, new);
    for image in taken.iter().chain([archive]).flat_map(|archive| &archive.images) {
        if known.images.iter().all(|i| i.descriptor.digest != image.descriptor.digest) {
            known.images.push(image.clone());
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{ImageNote, write_image};
    use crate::oci::directory::Layout;

    /// A build of two stages; what is in an image is told by `content`.
    fn build(layout: &Writer, name: &str, stages: [(&str, &str); 2]) -> Archive {
        let mut archive = Archive { about: Some(About::default()), ..Archive::default() };
        for (stage, content) in stages {
            let config = serde_json::json!({ "author": content }).to_string();
            let note = ImageNote::of(Role::Stage);
            let image = write_image(layout, config.as_bytes(), &[], stage, note).unwrap();
            archive.about.as_mut().unwrap().stages.push(StageAbout {
                name: stage.to_owned(),
                build: name.to_owned(),
                digest: content.to_owned(),
                image: Some(image.descriptor.digest.clone()),
                steps: Vec::new(),
                base: None,
                of_failed: false,
            });
            archive.images.push(image);
        }
        archive
    }

    fn names(archive: &Archive) -> Vec<&str> {
        archive.images.iter().filter_map(|i| i.descriptor.annotation(REF_NAME)).collect()
    }

    #[test]
    fn builds_are_joined_and_told_apart_again() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::at(dir.path()).lock().unwrap();
        let app = build(&layout, "app", [("base", "shared"), ("last", "app")]);
        let worker = build(&layout, "worker", [("base", "shared"), ("last", "worker")]);
        let joined = join(&layout, vec![app, worker.clone()]).unwrap().archive;
        assert_eq!(joined.builds(), ["app", "worker"]);
        assert_eq!(names(&joined), ["base", "last", "worker-last"]);
        let again = part(&joined, "worker");
        assert_eq!(again.about, worker.about);
        assert_eq!(names(&again), ["base", "worker-last"]);
        assert!(part(&joined, "another").images.is_empty());
    }

    #[test]
    fn what_was_taken_just_now_comes_before_what_is_in_the_archive() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::at(dir.path()).lock().unwrap();
        let old = build(&layout, "worker", [("base", "shared"), ("last", "worker")]);
        let mut new = build(&layout, "app", [("base", "shared anew"), ("last", "app")]);
        new.about.as_mut().unwrap().stages[0].digest = "shared".to_owned();
        let known = known(std::slice::from_ref(&new), &old);
        let base = &old.about.as_ref().unwrap().stages[0];
        let found = known.stage_image(base).unwrap();
        assert_eq!(found.descriptor.digest, new.images[0].descriptor.digest);
    }
}
