//! Strategy `classic`: the builder before BuildKit, on an engine with a graph driver.
//!
//! Its cache are images. One is left after every step, each pointing at its parent. They are
//! saved together, since a parent link is written only where the parent is in the same tar.
//! After loading, engines before the fix of CVE-2024-24557 hit by these links; later ones hit
//! when the last image of every stage is named with `--cache-from`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::capture::{CapturedStage, Source, Taken};
use super::stages;
use crate::archive::builds::with_parents;
use crate::archive::{About, Archive, ImageNote, Role, StageAbout, StoredImage, write_image};
use crate::build::build_log::ClassicStep;
use crate::engine::Engine;
use crate::engine::api::images::{EngineImage, Images};
use crate::engine::api::saved;
use crate::engine::error::EngineError;
use crate::oci::codec::Compression;
use crate::oci::digest::Digest;
use crate::oci::documents::REF_NAME;
use crate::oci::writer::Writer;
use crate::report::Reporter;

/// An image of the engine that belongs to the cache.
#[derive(Clone, Debug)]
struct Wanted {
    role: Role,
    name: String,
    tags: Vec<String>,
    digests: Vec<String>,
    parent: Option<Digest>,
    /// The stages that end with it; there can be two that do the same.
    ends: BTreeSet<usize>,
    /// The number of its layers.
    layers: usize,
}

impl Wanted {
    /// What the archive notes; the engine's word on the parent comes first.
    fn note(&self, parent: Option<&Digest>) -> ImageNote {
        ImageNote {
            role: self.role,
            tags: self.tags.clone(),
            digests: self.digests.clone(),
            parent: self.parent.clone().or_else(|| parent.cloned()),
            carrier: None,
        }
    }
}

/// What is to be taken.
pub struct Request<'a> {
    /// The stages, in the order of the Dockerfile.
    pub stages: &'a [CapturedStage],
    /// The steps of the build, with their images.
    pub images: &'a [ClassicStep],
    /// What to note in the archive.
    pub about: About,
    /// Whether the build failed.
    pub failed: bool,
    /// How layers are compressed that are not in the archive yet.
    pub compression: Compression,
}

/// Takes the images of all steps out of the engine.
pub fn take(
    engine: &Engine,
    layout: &Writer,
    old: &Archive,
    request: &Request<'_>,
    reporter: Reporter,
) -> Result<Taken, EngineError> {
    // A step that failed has no image.
    let has_image = |step: &&ClassicStep| step.is_from() || !step.image.is_empty();
    let steps: Vec<ClassicStep> = request.images.iter().filter(has_image).cloned().collect();
    let disclosing = |stage: &CapturedStage| matches!(stage.source, Source::Discloses(_));
    let hidden: BTreeSet<usize> =
        request.stages.iter().filter(|stage| disclosing(stage)).map(|stage| stage.index).collect();
    let mut taken = if !request.failed && came_from(&steps, old, &hidden) {
        unchanged(engine, &steps, old, request, &hidden)?
    } else {
        let wanted = images_of(engine, &steps, request, &hidden)?;
        take_images(engine, layout, old, &wanted, request, reporter)?
    };
    let is_whole = hidden.is_empty() && !request.failed;
    let about = taken.archive.about.iter_mut();
    about.for_each(|about| about.stages.retain(|stage| stage.image.is_some() || is_whole));
    if request.failed {
        stages::keep_rest(request.stages, old, &mut taken);
    }
    taken.warnings.extend(request.stages.iter().filter_map(|stage| {
        let Source::Discloses(argument) = &stage.source else { return None };
        Some(format!(
            "stage `{}` is not saved: its history shows the value of the build argument \
             `{argument}`, which the image itself doesn't show. Build with BuildKit, whose cache \
             doesn't have it",
            stage.about.name
        ))
    }));
    Ok(taken)
}

/// Takes named images with their history out of the engine: the recipe of 2018. The names
/// become tags in the archive.
pub fn take_named(
    engine: &Engine,
    layout: &Writer,
    old: &Archive,
    names: &[String],
    request: &Request<'_>,
    reporter: Reporter,
) -> Result<Taken, EngineError> {
    let mut images = Images::of(&engine.connection)?;
    let mut wanted = BTreeMap::new();
    for (stage, name) in names.iter().enumerate() {
        let image = images.get(name)?.ok_or_else(|| {
            EngineError::Usage(format!("there is no image `{name}` on the engine"))
        })?;
        if image.parent.is_none() && image.layers > 1 {
            return Err(EngineError::Unsupported(format!(
                "image `{name}` has no history on this engine (`docker history` shows \
                 `<missing>`), because BuildKit built it or it was pulled: its layers are no cache \
                 for anyone. Use `dockercache build` and `dockercache save`, which carry BuildKit's \
                 own cache of every stage"
            )));
        }
        let id = add(&mut images, &mut wanted, name, Role::Stage, Some(stage))?;
        if let Some(wanted) = wanted.get_mut(&id) {
            name.clone_into(&mut wanted.name);
            let tag = image.tags.into_iter().find(|tag| is_tag_of(tag, name));
            wanted.tags.extend(tag.filter(|tag| !wanted.tags.contains(tag)));
        }
    }
    wanted.retain(|_, image| image.layers > 0);
    // No log says which images the bases are: the chains end with them.
    let ends = wanted.values_mut().filter(|w| w.parent.is_none() && w.role == Role::Step);
    for base in ends {
        base.role = Role::Base;
        if let Some(image) = images.get(&base.name)? {
            (base.tags, base.digests) = (image.tags, image.digests);
        }
    }
    take_images(engine, layout, old, &wanted, request, reporter)
}

/// Whether a user who says `name` means this tag.
pub(crate) fn is_tag_of(tag: &str, name: &str) -> bool {
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    let name = name.strip_prefix("library/").unwrap_or(name);
    tag == name || tag.strip_suffix(":latest") == Some(name)
}

/// Whether every step was a hit, and the stages' last images are those of the archive. The images
/// between may have new IDs: newer engines make them up again as they hit. Stages in `hidden` are
/// not in archives.
fn came_from(steps: &[ClassicStep], old: &Archive, hidden: &BTreeSet<usize>) -> bool {
    let mut ends = visible(steps, hidden).map(|(_, steps)| steps.last()).peekable();
    ends.peek().is_some()
        && visible(steps, hidden)
            .flat_map(|(_, steps)| steps)
            .all(|step| step.cached || (step.is_from() && step.triggers == 0))
        && ends.all(|end| end.is_some_and(|end| end.of(old).is_some()))
}

/// The stages that are not in `hidden`, with their places.
fn visible<'a>(
    steps: &'a [ClassicStep],
    hidden: &'a BTreeSet<usize>,
) -> impl Iterator<Item = (usize, &'a [ClassicStep])> {
    let mut rest = steps;
    let stages = std::iter::from_fn(move || {
        let length = 1 + rest.iter().skip(1).take_while(|step| !step.is_from()).count();
        let (stage, others) = rest.split_at_checked(length)?;
        rest = others;
        Some(stage)
    });
    stages.enumerate().filter(|(stage, _)| !hidden.contains(stage))
}

impl ClassicStep {
    /// The image that the step ended with, in an archive.
    fn of<'a>(&self, archive: &'a Archive) -> Option<&'a StoredImage> {
        archive.images.iter().find(|i| i.manifest.config.digest.short() == self.image)
    }
}

/// The last step of each stage.
pub(crate) fn ends_of_stages(steps: &[ClassicStep]) -> Vec<&ClassicStep> {
    let is_end = |at: usize| steps.get(at + 1).is_none_or(ClassicStep::is_from);
    steps.iter().enumerate().filter(|(at, _)| is_end(*at)).map(|(_, step)| step).collect()
}

/// What the archive has of the build, with its names as they are now.
fn unchanged(
    engine: &Engine,
    steps: &[ClassicStep],
    old: &Archive,
    request: &Request<'_>,
    hidden: &BTreeSet<usize>,
) -> Result<Taken, EngineError> {
    let ends = ends_of_stages(steps);
    let seen = || visible(steps, hidden).flat_map(|(_, steps)| steps);
    let configs = seen().filter_map(|step| Some(&step.of(old)?.manifest.config.digest));
    let mut images = with_parents(&old.images, configs.collect());
    // The names of the bases are those of today.
    let mut known = Images::of(&engine.connection)?;
    for base in images.iter_mut().filter(|image| image.note.role == Role::Base) {
        let Some(now) = known.get(base.manifest.config.digest.as_str())? else { continue };
        let words = seen().filter(|s| s.is_from() && s.image == now.id.short()).map(|s| &*s.text);
        let note =
            ImageNote { tags: used_tags(&now, words), digests: now.digests, ..base.note.clone() };
        if !note.tags.is_empty() {
            let name = base.descriptor.annotation(REF_NAME).unwrap_or_default().to_owned();
            *base = base.noted(&name, note);
        }
    }
    let mut about = old.about.clone().unwrap_or_else(|| request.about.clone());
    about.stages.clear();
    let mut kept = Vec::new();
    for stage in request.stages.iter().filter(|stage| !hidden.contains(&stage.index)) {
        let end = ends.get(stage.index).and_then(|end| end.of(old));
        let end = end.map(|image| image.descriptor.digest.clone());
        for image in &mut images {
            if end.as_ref() == Some(&image.descriptor.digest) && image.note.role != Role::Base {
                let note = ImageNote { role: Role::Stage, ..image.note.clone() };
                *image = image.noted(&stage.about.name, note);
            }
        }
        about.stages.push(StageAbout { image: end, ..stage.about.clone() });
        kept.push(stage.about.name.clone());
    }
    Ok(Taken {
        archive: Archive { about: Some(about), images, ..Archive::default() },
        taken: Vec::new(),
        kept,
        warnings: Vec::new(),
    })
}

/// Those of an image's tags that these `FROM`s name; all if they name it by a variable.
fn used_tags<'a>(image: &EngineImage, from: impl Iterator<Item = &'a str>) -> Vec<String> {
    let named: BTreeSet<&str> = from
        .filter_map(|text| text.split_whitespace().skip(1).find(|word| !word.starts_with("--")))
        .collect();
    let is_used = |tag: &&String| named.iter().any(|name| is_tag_of(tag, name));
    let used: Vec<String> = image.tags.iter().filter(is_used).cloned().collect();
    if used.is_empty() { image.tags.clone() } else { used }
}

/// The images after each step, their parents, and the bases.
fn images_of(
    engine: &Engine,
    steps: &[ClassicStep],
    request: &Request<'_>,
    hidden: &BTreeSet<usize>,
) -> Result<BTreeMap<Digest, Wanted>, EngineError> {
    let mut images = Images::of(&engine.connection)?;
    let mut wanted: BTreeMap<Digest, Wanted> = BTreeMap::new();
    let mut made = BTreeSet::new();
    for (stage, steps) in visible(steps, hidden) {
        for (at, step) in steps.iter().enumerate() {
            if step.image.is_empty() {
                // `FROM scratch` has no image.
                continue;
            }
            let is_end = at + 1 == steps.len();
            let is_base = step.is_from() && step.triggers == 0 && !made.contains(&step.image);
            made.insert(step.image.clone());
            let role = match (is_base, is_end) {
                (true, _) => Role::Base,
                (false, true) => Role::Stage,
                (false, false) => Role::Step,
            };
            let id = add(&mut images, &mut wanted, &step.image, role, is_end.then_some(stage))?;
            let mut base = Some(id.clone()).filter(|_| step.triggers > 0);
            for _ in 0..step.triggers {
                base = base.and_then(|id| wanted.get(&id)?.parent.clone());
            }
            if let Some(base) = base.filter(|id| !made.contains(id.short())) {
                add(&mut images, &mut wanted, base.as_str(), Role::Base, None)?;
            }
            if let (Some(image), Some(known)) = (wanted.get_mut(&id), request.stages.get(stage))
                && is_end
            {
                known.about.name.clone_into(&mut image.name);
            }
        }
    }
    for (id, base) in wanted.iter_mut().filter(|(_, image)| image.role == Role::Base) {
        let Some(image) = images.get(id.as_str())? else { continue };
        let from = steps.iter().filter(|s| s.is_from() && s.image == image.id.short());
        base.tags = used_tags(&image, from.map(|step| step.text.as_str()));
    }
    // There is nothing in them to carry, and engines refuse to export them.
    wanted.retain(|_, image| image.layers > 0);
    Ok(wanted)
}

/// Adds an image and all its parents; gives its ID.
fn add(
    images: &mut Images<'_>,
    wanted: &mut BTreeMap<Digest, Wanted>,
    name: &str,
    role: Role,
    stage: Option<usize>,
) -> Result<Digest, EngineError> {
    let EngineImage { id, parent, tags, digests, layers } = images.get(name)?.ok_or_else(|| {
        EngineError::failed("name the build's images", format!("image `{name}` is gone"))
    })?;
    let entry = wanted.entry(id.clone()).or_insert_with(|| Wanted {
        role: Role::Step,
        name: id.short().to_owned(),
        tags: Vec::new(),
        digests: Vec::new(),
        parent: parent.clone(),
        ends: BTreeSet::new(),
        layers,
    });
    match role {
        // By these names a later build learns whether the base has moved.
        Role::Base => {
            entry.role = Role::Base;
            (entry.tags, entry.digests) = (tags, digests);
        }
        Role::Stage if entry.role == Role::Step => entry.role = Role::Stage,
        Role::Stage | Role::Step | Role::Mount => {}
    }
    entry.ends.extend(stage);
    if let Some(parent) = parent.filter(|p| !wanted.contains_key(p)) {
        // A parent that was pruned is no error: the chain ends there.
        if images.get(parent.as_str())?.is_some() {
            add(images, wanted, parent.as_str(), Role::Step, None)?;
        }
    }
    Ok(id)
}

fn take_images(
    engine: &Engine,
    layout: &Writer,
    old: &Archive,
    wanted: &BTreeMap<Digest, Wanted>,
    request: &Request<'_>,
    reporter: Reporter,
) -> Result<Taken, EngineError> {
    let mut about = request.about.clone();
    let stored_in_old = |(id, wanted): (&Digest, &Wanted)| {
        let image = old.images.iter().find(|i| i.manifest.config.digest == *id)?;
        Some(image.noted(&wanted.name, wanted.note(image.note.parent.as_ref())))
    };
    // In the order of the archive, which a build that changes nothing must not change.
    let place = |id: &Digest| old.images.iter().position(|i| i.manifest.config.digest == *id);
    let mut ordered: Vec<_> = wanted.iter().collect();
    ordered.sort_by_key(|(id, _)| place(id));
    let lacking: Vec<&Digest> = wanted.keys().filter(|id| place(id).is_none()).collect();
    let is_same = lacking.is_empty();
    let mut new = export(engine, layout, old, wanted, &lacking, request.compression, reporter)?;
    let stored: Vec<StoredImage> = ordered
        .into_iter()
        .filter_map(|entry| stored_in_old(entry).or_else(|| new.remove(entry.0)))
        .collect();
    let stage_image = |index: usize| {
        let (id, _) = wanted.iter().find(|(_, w)| w.ends.contains(&index))?;
        let image = stored.iter().find(|i| i.manifest.config.digest == *id)?;
        Some(image.descriptor.digest.clone())
    };
    about.stages.extend(request.stages.iter().map(|s| StageAbout {
        image: stage_image(s.index),
        of_failed: request.failed,
        ..s.about.clone()
    }));
    let names: Vec<String> = request.stages.iter().map(|s| s.about.name.clone()).collect();
    let (taken, kept) = if is_same { (Vec::new(), names) } else { (names, Vec::new()) };
    Ok(Taken {
        archive: Archive { about: Some(about), images: stored, ..Archive::default() },
        taken,
        kept,
        warnings: Vec::new(),
    })
}

/// Takes the images that the archive lacks.
fn export(
    engine: &Engine,
    layout: &Writer,
    old: &Archive,
    wanted: &BTreeMap<Digest, Wanted>,
    lacking: &[&Digest],
    compression: Compression,
    reporter: Reporter,
) -> Result<BTreeMap<Digest, StoredImage>, EngineError> {
    if lacking.is_empty() {
        return Ok(BTreeMap::new());
    }
    let progress = reporter.progress("exporting images", 0);
    let ids: Vec<&str> = lacking.iter().map(|id| id.as_str()).collect();
    let stream = engine.connection.export(&ids);
    let saved =
        saved::ingest(stream, layout, compression, &old.layers(), &|n| progress.advance(n))?;
    let mut stored = BTreeMap::new();
    for image in &saved {
        let Some(wanted) = wanted.get(&image.id) else { continue };
        let note = wanted.note(image.parent.as_ref());
        let image = write_image(layout, &image.config, &image.layers, &wanted.name, note)?;
        stored.insert(image.manifest.config.digest.clone(), image);
    }
    Ok(stored)
}

/// What `--cache-from` must name for a hit; nothing where parent links are enough.
pub fn offer(engine: &Engine, archive: &Archive) -> Vec<String> {
    if engine.facts.version.trusts_loaded_parents() {
        return Vec::new();
    }
    // In the order of the stages: the builder takes the first image that has a step, and a stage
    // that another stands on must be found before it, or its last image gets a new ID.
    let stages = || archive.about.iter().flat_map(|about| &about.stages);
    // It then looks at no other image: what a failed build has made of a stage comes after what an
    // earlier one has, and hides nothing of that.
    let is_beside = |stage: &&StageAbout| {
        let is_whole = |s: &StageAbout| (&s.build, &s.name) == (&stage.build, &stage.name);
        stage.of_failed && stages().any(|other| !other.of_failed && is_whole(other))
    };
    let beside = stages().filter(is_beside);
    let in_order = stages()
        .filter(|stage| !is_beside(stage))
        .chain(beside)
        .filter_map(|stage| archive.image_of(stage));
    let mut ids: Vec<String> = Vec::new();
    for image in in_order.chain(&archive.images).filter(|i| i.note.role == Role::Stage) {
        let id = image.manifest.config.digest.to_string();
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    ids
}

/// The names of the stages in a classic build's log; one without a name is `stage-N`.
pub fn stages_in_log(steps: &[ClassicStep]) -> Vec<String> {
    let starts = steps.iter().filter(|step| step.is_from());
    starts
        .enumerate()
        .map(|(index, from)| {
            let mut words = from.text.split_whitespace().rev();
            let name = words.next().unwrap_or_default();
            let is_named = words.next().is_some_and(|word| word.eq_ignore_ascii_case("AS"));
            if is_named { name.to_lowercase() } else { format!("stage-{index}") }
        })
        .collect()
}

/// Reads the images of a classic build's log, given as its text.
pub fn images_in_log(name: &Path, log: &str) -> Result<Vec<ClassicStep>, EngineError> {
    let mut parsed = crate::build::build_log::ClassicLog::default();
    log.lines().for_each(|line| parsed.line(line));
    let steps = parsed.steps();
    if steps.is_empty() {
        return Err(EngineError::Unsupported(format!(
            "log `{}` has no `Step N/M :` and ` ---> ID` lines: BuildKit's log names no images, and \
             its cache is not made of images. Use `dockercache build` and `dockercache save`",
            name.display()
        )));
    }
    Ok(steps.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_have_the_names_that_the_log_gives_them() {
        let log = "Step 1/4 : FROM busybox:1 AS Build\n ---> 9fd372195bc7\n\
                   Step 2/4 : RUN id\n ---> Using cache\n ---> 0324264998df\n\
                   Step 3/4 : FROM build\n ---> 0324264998df\n\
                   Step 4/4 : from scratch as last\n --->\n";
        let steps = images_in_log(Path::new("log"), log).unwrap();
        assert_eq!(stages_in_log(&steps), ["build", "stage-1", "last"]);
    }

    #[test]
    fn a_name_means_the_tag_that_docker_takes_it_for() {
        for (tag, name) in [
            ("app:1", "app:1"),
            ("app:latest", "app"),
            ("app:1", "docker.io/library/app:1"),
            ("team/app:latest", "docker.io/team/app"),
            ("registry:5000/app:latest", "registry:5000/app"),
        ] {
            assert!(is_tag_of(tag, name), "{tag} {name}");
        }
        assert!(!is_tag_of("app:2", "app"));
        assert!(!is_tag_of("app:1", "9fd372195bc7"));
    }
}
