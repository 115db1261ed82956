//! Strategy `classic`: the builder before BuildKit, on an engine with a graph driver.
//!
//! Its cache are images. One is left after every step, each pointing at its parent. They are
//! saved together, since a parent link is written only where the parent is in the same tar.
//! After loading, engines before the fix of CVE-2024-24557 hit by these links; later ones hit
//! when the last image of every stage is named with `--cache-from`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;

use super::Engine;
use super::build_log::ClassicStep;
use super::capture::{Captured, Request};
use super::error::EngineError;
use super::images::{EngineImage, Images};
use super::run::{self, Echo};
use super::saved;
use crate::layout::archive::{Archive, ImageNote, Role, StageAbout, StoredImage, write_image};
use crate::layout::builds::with_parents;
use crate::layout::codec::Compression;
use crate::layout::digest::Digest;
use crate::layout::directory::Layout;
use crate::report::Reporter;

/// An image of the engine that belongs to the cache.
#[derive(Clone, Debug)]
struct Wanted {
    role: Role,
    name: String,
    tags: Vec<String>,
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
            parent: self.parent.clone().or_else(|| parent.cloned()),
        }
    }
}

/// Takes the images of all steps out of the engine.
pub fn capture(
    engine: &Engine,
    layout: &Layout,
    old: &Archive,
    request: &Request<'_>,
    reporter: Reporter,
) -> Result<Captured, EngineError> {
    let again;
    let steps = match request.images {
        Some(steps) if steps.iter().all(|s| !s.image.is_empty()) && !steps.is_empty() => steps,
        _ => {
            let _task = reporter.task("reading the build's images from cache");
            let mut words: Vec<OsString> =
                request.offer.iter().map(|id| format!("--cache-from={id}").into()).collect();
            words.extend(request.arguments.for_repetition(&[]));
            let finished = run::classic(&engine.client, &words, Echo::Hidden)?;
            if !finished.status.success() {
                let last = finished.tail.last().cloned().unwrap_or_default();
                return Err(EngineError::failed("repeat the build from cache", last));
            }
            again = finished.images;
            &again
        }
    };
    if came_from(steps, old) {
        return Ok(unchanged(steps, old, request));
    }
    let wanted = images_of(engine, steps, request)?;
    capture_images(engine, layout, old, &wanted, request, reporter)
}

/// Takes named images with their history out of the engine: the recipe of 2018. The names
/// become tags in the archive.
pub fn capture_named(
    engine: &Engine,
    layout: &Layout,
    old: &Archive,
    names: &[String],
    request: &Request<'_>,
    reporter: Reporter,
) -> Result<Captured, EngineError> {
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
        base.tags = images.get(&base.name)?.map_or_else(Vec::new, |image| image.tags);
    }
    capture_images(engine, layout, old, &wanted, request, reporter)
}

/// Whether a user who says `name` means this tag.
fn is_tag_of(tag: &str, name: &str) -> bool {
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    let name = name.strip_prefix("library/").unwrap_or(name);
    tag == name || tag.strip_suffix(":latest") == Some(name)
}

/// Whether every step was a hit, and the stages' last images are those of the archive. The images
/// between may have new IDs: newer engines make them up again as they hit.
fn came_from(steps: &[ClassicStep], old: &Archive) -> bool {
    let ends = ends_of_stages(steps);
    !ends.is_empty()
        && steps.iter().all(|step| step.cached || (step.is_from() && step.triggers == 0))
        && ends.iter().all(|end| end.of(old).is_some())
}

impl ClassicStep {
    /// The image that the step ended with, in an archive.
    fn of<'a>(&self, archive: &'a Archive) -> Option<&'a StoredImage> {
        archive.images.iter().find(|i| i.manifest.config.digest.short() == self.image)
    }
}

/// The last step of each stage.
fn ends_of_stages(steps: &[ClassicStep]) -> Vec<&ClassicStep> {
    let is_end = |at: usize| steps.get(at + 1).is_none_or(ClassicStep::is_from);
    steps.iter().enumerate().filter(|(at, _)| is_end(*at)).map(|(_, step)| step).collect()
}

/// What the archive has of the build, with its names as they are now.
fn unchanged(steps: &[ClassicStep], old: &Archive, request: &Request<'_>) -> Captured {
    let ends = ends_of_stages(steps);
    let configs = steps.iter().filter_map(|step| Some(&step.of(old)?.manifest.config.digest));
    let mut images = with_parents(&old.images, configs.collect());
    let mut about = old.about.clone().unwrap_or_else(|| request.about.clone());
    about.stages.clear();
    for stage in request.stages {
        let end = ends.get(stage.index).and_then(|end| end.of(old));
        let end = end.map(|image| image.descriptor.digest.clone());
        for image in &mut images {
            if end.as_ref() == Some(&image.descriptor.digest) && image.note.role != Role::Base {
                let note = ImageNote { role: Role::Stage, ..image.note.clone() };
                *image = image.noted(&stage.about.name, note);
            }
        }
        about.stages.push(StageAbout { image: end, ..stage.about.clone() });
    }
    Captured {
        archive: Archive { about: Some(about), images, ..Archive::default() },
        taken: Vec::new(),
        kept: request.stages.iter().map(|s| s.about.name.clone()).collect(),
        warnings: Vec::new(),
    }
}

/// The images after each step, their parents, and the bases.
fn images_of(
    engine: &Engine,
    steps: &[ClassicStep],
    request: &Request<'_>,
) -> Result<BTreeMap<Digest, Wanted>, EngineError> {
    let mut images = Images::of(&engine.connection)?;
    let mut wanted: BTreeMap<Digest, Wanted> = BTreeMap::new();
    let mut made = BTreeSet::new();
    let mut stage = 0;
    for (at, step) in steps.iter().enumerate() {
        if step.image.is_empty() {
            // `FROM scratch` has no image.
            continue;
        }
        let next_is_from = steps.get(at + 1).is_none_or(ClassicStep::is_from);
        let is_base = step.is_from() && step.triggers == 0 && !made.contains(&step.image);
        made.insert(step.image.clone());
        let role = match (is_base, next_is_from) {
            (true, _) => Role::Base,
            (false, true) => Role::Stage,
            (false, false) => Role::Step,
        };
        let id = add(&mut images, &mut wanted, &step.image, role, next_is_from.then_some(stage))?;
        let mut base = Some(id.clone()).filter(|_| step.triggers > 0);
        for _ in 0..step.triggers {
            base = base.and_then(|id| wanted.get(&id)?.parent.clone());
        }
        if let Some(base) = base.filter(|id| !made.contains(id.short())) {
            add(&mut images, &mut wanted, base.as_str(), Role::Base, None)?;
        }
        if let (Some(image), Some(known)) = (wanted.get_mut(&id), request.stages.get(stage))
            && next_is_from
        {
            known.about.name.clone_into(&mut image.name);
        }
        stage += usize::from(next_is_from);
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
    let EngineImage { id, parent, tags, layers } = images.get(name)?.ok_or_else(|| {
        EngineError::failed("name the build's images", format!("image `{name}` is gone"))
    })?;
    let entry = wanted.entry(id.clone()).or_insert_with(|| Wanted {
        role: Role::Step,
        name: id.short().to_owned(),
        tags: Vec::new(),
        parent: parent.clone(),
        ends: BTreeSet::new(),
        layers,
    });
    match role {
        // `FROM` needs the base by its tag, or goes to the registry.
        Role::Base => {
            entry.role = Role::Base;
            entry.tags = tags;
        }
        Role::Stage if entry.role == Role::Step => entry.role = Role::Stage,
        Role::Stage | Role::Step => {}
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

fn capture_images(
    engine: &Engine,
    layout: &Layout,
    old: &Archive,
    wanted: &BTreeMap<Digest, Wanted>,
    request: &Request<'_>,
    reporter: Reporter,
) -> Result<Captured, EngineError> {
    let mut about = request.about.clone();
    let stored_in_old = |(id, wanted): (&Digest, &Wanted)| {
        let image = old.images.iter().find(|i| i.manifest.config.digest == *id)?;
        Some(image.noted(&wanted.name, wanted.note(image.note.parent.as_ref())))
    };
    // In the order of the archive, which a build that changes nothing must not change.
    let place = |id: &Digest| old.images.iter().position(|i| i.manifest.config.digest == *id);
    let mut ordered: Vec<_> = wanted.iter().collect();
    ordered.sort_by_key(|(id, _)| place(id));
    let known: Option<Vec<StoredImage>> = ordered.into_iter().map(stored_in_old).collect();
    let is_same = known.is_some();
    let stored = match known {
        Some(known) => known,
        None => export(engine, layout, old, wanted, request.compression(engine), reporter)?,
    };
    let stage_image = |index: usize| {
        let (id, _) = wanted.iter().find(|(_, w)| w.ends.contains(&index))?;
        let image = stored.iter().find(|i| i.manifest.config.digest == *id)?;
        Some(image.descriptor.digest.clone())
    };
    about.stages.extend(
        request
            .stages
            .iter()
            .map(|s| StageAbout { image: stage_image(s.index), ..s.about.clone() }),
    );
    let names: Vec<String> = request.stages.iter().map(|s| s.about.name.clone()).collect();
    let (taken, kept) = if is_same { (Vec::new(), names) } else { (names, Vec::new()) };
    Ok(Captured {
        archive: Archive { about: Some(about), images: stored, ..Archive::default() },
        taken,
        kept,
        warnings: Vec::new(),
    })
}

fn export(
    engine: &Engine,
    layout: &Layout,
    old: &Archive,
    wanted: &BTreeMap<Digest, Wanted>,
    compression: Compression,
    reporter: Reporter,
) -> Result<Vec<StoredImage>, EngineError> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let progress = reporter.progress("exporting images", 0);
    let ids: Vec<&str> = wanted.keys().map(Digest::as_str).collect();
    let stream = engine.connection.export(&ids);
    let saved =
        saved::ingest(stream, layout, compression, &old.layers(), &|n| progress.advance(n))?;
    let mut stored = Vec::new();
    for image in &saved {
        let Some(wanted) = wanted.get(&image.id) else { continue };
        let note = wanted.note(image.parent.as_ref());
        stored.push(write_image(layout, &image.config, &image.layers, &wanted.name, note)?);
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
    let stages = archive.about.iter().flat_map(|about| &about.stages);
    let in_order = stages.filter_map(|s| {
        archive.images.iter().find(|i| s.image.as_ref() == Some(&i.descriptor.digest))
    });
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
    let mut parsed = super::build_log::ClassicLog::default();
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
