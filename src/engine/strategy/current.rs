//! Decides which images of a classic archive may help a build: those on a base that the build's
//! `FROM` gives now, with or without us.
//!
//! Nothing is tagged here, and what the archive says of its bases is never believed. A tag that the
//! engine has is looked at. One that it lacks is pulled by the user's own client, as `FROM` would:
//! where the image itself has been loaded already, the engine asks the registry for the manifest,
//! finds the image, and fetches nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use super::classic::is_tag_of;
use super::ready;
use crate::archive::tarball::Tags;
use crate::archive::{Archive, Role, StoredImage};
use crate::dockerfile::{Image, Platform};
use crate::engine::Engine;
use crate::engine::error::EngineError;
use crate::oci::digest::Digest;
use crate::oci::directory::Layout;
use crate::report::Reporter;

/// How long a registry may take to say what is behind a name.
const ANSWER: Duration = Duration::from_secs(10);

/// Whose word says what the build to come starts from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bases<'a> {
    /// The Dockerfile's: images that the engine lacks are pulled, as the build would do. With `pull`,
    /// all are.
    Dockerfile {
        /// The images in `FROM`.
        images: &'a [Image],
        /// Whether the build is told `--pull`.
        pull: bool,
    },
    /// The archive's: its bases are compared, and nothing is pulled.
    Archive,
}

/// What of an archive may be loaded and offered.
#[derive(Debug, Default)]
pub(crate) struct Current {
    /// The images, in the archive's order, with the bases that they stand on.
    pub(crate) images: Vec<StoredImage>,
    /// Why others may not, once for each base.
    pub(crate) reasons: Vec<String>,
}

/// Decides it for each image of the archive.
pub(crate) fn current(
    engine: &Engine,
    layout: &Layout,
    archive: &Archive,
    bases: Bases<'_>,
    reporter: Reporter,
) -> Result<Current, EngineError> {
    let (now, mut reasons) = match bases {
        Bases::Dockerfile { images, pull } => {
            in_dockerfile(engine, layout, archive, images, pull, reporter)?
        }
        Bases::Archive => in_archive(engine, archive)?,
    };
    let mut usable: BTreeSet<&Digest> = BTreeSet::new();
    let mut others: BTreeSet<String> = BTreeSet::new();
    for image in &archive.images {
        let id = &image.manifest.config.digest;
        match foundation(archive, image) {
            Foundation::Scratch => drop(usable.insert(id)),
            Foundation::Base(base) if now.contains_key(base) => drop(usable.insert(id)),
            Foundation::Base(base) => drop(others.insert(name_of(archive, base))),
            Foundation::Unknown => drop(others.insert(id.short().to_owned())),
        }
    }
    // Later engines compare layers and history only, and would take one base's stages for another's.
    if !engine.facts.version.trusts_loaded_parents() {
        let twins = twins(&now);
        let is_on_twin = |image: &StoredImage| match foundation(archive, image) {
            Foundation::Base(base) => twins.contains(base),
            Foundation::Scratch | Foundation::Unknown => false,
        };
        usable.retain(|id| !archive.images.iter().any(|i| of(i) == *id && is_on_twin(i)));
        reasons.extend(twins.iter().map(|base| {
            format!(
                "base `{}` has the same layers as another one of the build, and Docker {} can't \
                 tell them apart in a cache",
                name_of(archive, base),
                engine.facts.version
            )
        }));
    }
    let images: Vec<StoredImage> =
        archive.images.iter().filter(|i| usable.contains(of(i))).cloned().collect();
    // An archive of several builds has stages on bases of others.
    if reasons.is_empty() && images.iter().all(is_base) && !others.is_empty() {
        let names: Vec<_> = others.into_iter().map(|name| format!("`{name}`")).collect();
        reasons.push(format!("the build starts from another image than {}", names.join(", ")));
    }
    Ok(Current { images, reasons })
}

/// The images that names stand for now, each with its layers.
type Now = BTreeMap<Digest, Vec<String>>;

/// What the Dockerfile's names stand for, and why the archive's stages on others are of no use.
fn in_dockerfile(
    engine: &Engine,
    layout: &Layout,
    archive: &Archive,
    images: &[Image],
    pull: bool,
    reporter: Reporter,
) -> Result<(Now, Vec<String>), EngineError> {
    let (mut now, mut reasons) = (Now::new(), Vec::new());
    let mut answers = true;
    for image in images {
        let name = &image.reference;
        let noted = archive.images.iter().find(|i| is_base(i) && bears(i, name));
        let mut found = look_up(engine, name, Some(&image.platform))?;
        if found.is_none() || pull {
            // A base that is loaded first need not be fetched, if it is still the current one.
            let base = noted.filter(|_| found.is_none()).cloned().into_iter().collect();
            ready::load(engine, layout, base, Tags::None, reporter)?;
            let pulled = if answers {
                let _task = reporter.task(&format!("pulling {}", familiar(name)));
                self::pull(engine, image)
            } else {
                Err("the registry was not asked, after another one gave no answer".to_owned())
            };
            match pulled {
                Ok(()) => found = look_up(engine, name, Some(&image.platform))?,
                // What the engine has is what the build may go on with; it says so itself.
                Err(reason) => {
                    answers &= reason != NO_ANSWER;
                    found = None;
                    reasons.push(format!("base `{}` can't be pulled: {reason}", familiar(name)));
                }
            }
        }
        if let (Some((id, _)), Some(noted)) = (&found, noted)
            && id != of(noted)
            && !archive.images.iter().any(|i| is_base(i) && of(i) == id)
        {
            reasons.push(format!("base `{}` has moved", familiar(name)));
        }
        now.extend(found);
    }
    Ok((now, reasons))
}

/// Which of the archive's bases are still behind their names, as far as that can be known without
/// the Dockerfile.
fn in_archive(engine: &Engine, archive: &Archive) -> Result<(Now, Vec<String>), EngineError> {
    let (mut now, mut reasons) = (Now::new(), Vec::new());
    for base in archive.images.iter().filter(|i| is_base(i)) {
        match check(engine, base)? {
            Ok(()) => {
                let layers = base.manifest.layers.iter();
                let layers =
                    layers.filter_map(|l| l.annotation(crate::oci::documents::UNCOMPRESSED));
                now.insert(of(base).clone(), layers.map(str::to_owned).collect());
            }
            Err(reason) => reasons.push(reason),
        }
    }
    Ok((now, reasons))
}

/// Compares a base with what its names stand for; the inner error is why it is no longer it.
fn check(engine: &Engine, base: &StoredImage) -> Result<Result<(), String>, EngineError> {
    let mut absent = Vec::new();
    for tag in &base.note.tags {
        match look_up(engine, tag, None)? {
            Some((id, _)) if id == *of(base) => {}
            Some(_) => return Ok(Err(format!("base `{tag}` has moved"))),
            None => absent.push(tag),
        }
    }
    // Where parents are trusted, no image on another base can be taken for one on this.
    if engine.facts.version.trusts_loaded_parents() || absent.is_empty() {
        return Ok(Ok(()));
    }
    for tag in absent {
        match engine.connection.registry_digest(tag, ANSWER) {
            Ok(digest) if base.note.digests.iter().any(|d| d.ends_with(&digest)) => {}
            Ok(_) if base.note.digests.is_empty() => {
                return Ok(Err(format!(
                    "base `{tag}` is not on the engine, and came from no registry when it was \
                     saved; `dockercache build` can tell whether it is still the same"
                )));
            }
            Ok(_) => return Ok(Err(format!("base `{tag}` has moved"))),
            Err(reason) => {
                return Ok(Err(format!(
                    "base `{tag}` is not on the engine, and its registry does not say whether it \
                     has moved: {reason}"
                )));
            }
        }
    }
    Ok(Ok(()))
}

/// What an image of the archive is built on.
enum Foundation<'a> {
    Scratch,
    Base(&'a Digest),
    /// Its history does not reach down to a base.
    Unknown,
}

fn foundation<'a>(archive: &'a Archive, image: &'a StoredImage) -> Foundation<'a> {
    let mut image = image;
    // A circle, which only a forged archive has, does not end here.
    for _ in 0..=archive.images.len() {
        if is_base(image) {
            return Foundation::Base(of(image));
        }
        let Some(parent) = &image.note.parent else {
            let is_first = image.manifest.layers.len() <= 1;
            return if is_first { Foundation::Scratch } else { Foundation::Unknown };
        };
        match archive.images.iter().find(|i| of(i) == parent) {
            Some(next) => image = next,
            // Images without layers are not in archives: nothing has been done on `scratch` yet.
            None if image.manifest.layers.len() <= 1 => return Foundation::Scratch,
            None => return Foundation::Base(parent),
        }
    }
    Foundation::Unknown
}

/// Images with the layers of another one.
fn twins(now: &Now) -> BTreeSet<&Digest> {
    let mut by_layers: BTreeMap<&[String], Vec<&Digest>> = BTreeMap::new();
    for (id, layers) in now {
        by_layers.entry(layers).or_default().push(id);
    }
    by_layers.into_values().filter(|ids| ids.len() > 1).flatten().collect()
}

fn is_base(image: &StoredImage) -> bool {
    image.note.role == Role::Base
}

fn of(image: &StoredImage) -> &Digest {
    &image.manifest.config.digest
}

fn bears(image: &StoredImage, name: &str) -> bool {
    image.note.tags.iter().chain(&image.note.digests).any(|tag| is_tag_of(tag, name))
}

/// A base by a name, if the archive has one for it.
fn name_of(archive: &Archive, base: &Digest) -> String {
    let image = archive.images.iter().find(|i| of(i) == base);
    let name = image.and_then(|i| i.note.tags.first().or(i.note.digests.first()));
    name.cloned().unwrap_or_else(|| base.short().to_owned())
}

/// A full reference as people write it.
fn familiar(reference: &str) -> &str {
    let name = reference.strip_prefix("docker.io/").unwrap_or(reference);
    name.strip_prefix("library/").unwrap_or(name)
}

/// The image behind a name on the engine, with its layers; none if it is for another platform.
fn look_up(
    engine: &Engine,
    name: &str,
    platform: Option<&Platform>,
) -> Result<Option<(Digest, Vec<String>)>, EngineError> {
    let Some(image) = engine.connection.image(name)? else { return Ok(None) };
    let fits = platform.is_none_or(|platform| {
        image.os.as_ref() == Some(&platform.os)
            && image.architecture.as_ref() == Some(&platform.architecture)
    });
    let id = image.id.and_then(|id| id.parse().ok()).filter(|_| fits);
    Ok(id.map(|id| (id, image.root_fs.and_then(|r| r.layers).unwrap_or_default())))
}

const NO_ANSWER: &str = "the registry does not answer";

/// Pulls as `FROM` does, with the user's own client, which knows his credentials.
fn pull(engine: &Engine, image: &Image) -> Result<(), String> {
    let mut command = engine.client.command(["pull"]);
    let own = Platform::parse(&engine.facts.platform).ok();
    if own.as_ref() != Some(&image.platform) {
        command.arg(format!("--platform={}", image.platform));
    }
    command.arg(&image.reference).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| engine.client.no_client(e).to_string())?;
    let (output, trouble) = (child.stdout.take(), child.stderr.take());
    let (sender, said) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        // The first line comes with the manifest, or with the failure.
        for line in output.into_iter().flat_map(|o| BufReader::new(o).lines()).map_while(Result::ok)
        {
            let _ = sender.send(line);
        }
    });
    let trouble = std::thread::spawn(move || {
        let lines = trouble.into_iter().flat_map(|t| BufReader::new(t).lines());
        lines.map_while(Result::ok).last().unwrap_or_default()
    });
    if said.recv_timeout(ANSWER) == Err(mpsc::RecvTimeoutError::Timeout) {
        // The engine stops to try when nobody waits any longer.
        let _ = child.kill();
        let _ = child.wait();
        return Err(NO_ANSWER.to_owned());
    }
    let status = child.wait().map_err(|e| e.to_string())?;
    let _ = reader.join();
    let trouble = trouble.join().unwrap_or_default();
    if status.success() { Ok(()) } else { Err(trouble) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{ImageNote, LayerBlob, write_image};

    /// An image with this note; `seed` tells its layers.
    fn image(archive: &mut Archive, note: ImageNote, seeds: &[&str]) -> Digest {
        let layers: Vec<LayerBlob> = seeds
            .iter()
            .map(|seed| LayerBlob {
                diff_id: Digest::of(seed.as_bytes()),
                blob: Digest::of(seed.as_bytes()),
                size: 1,
                unpacked_size: 1,
                media_type: String::new(),
            })
            .collect();
        let config = serde_json::json!({ "author": archive.images.len() }).to_string();
        let mut documents = Vec::new();
        let stored = write_image(&mut documents, config.as_bytes(), &layers, "i", note).unwrap();
        let id = stored.manifest.config.digest.clone();
        archive.images.push(stored);
        id
    }

    fn on(parent: Option<&Digest>) -> ImageNote {
        ImageNote { parent: parent.cloned(), ..ImageNote::of(Role::Stage) }
    }

    #[test]
    fn an_image_stands_on_the_nearest_base() {
        let mut archive = Archive::default();
        let low = image(&mut archive, ImageNote { role: Role::Base, ..on(None) }, &["a"]);
        let step = image(&mut archive, on(Some(&low)), &["a", "b"]);
        let high = image(&mut archive, ImageNote { role: Role::Base, ..on(Some(&step)) }, &["a"]);
        image(&mut archive, on(Some(&high)), &["a", "c"]);
        let bases: Vec<_> = archive.images.iter().map(|i| foundation(&archive, i)).collect();
        assert!(matches!(bases[1], Foundation::Base(base) if *base == low));
        assert!(matches!(bases[3], Foundation::Base(base) if *base == high));
    }

    #[test]
    fn a_history_that_is_cut_or_a_circle_stands_on_nothing_known() {
        let mut archive = Archive::default();
        image(&mut archive, on(None), &["a", "b"]);
        let first = image(&mut archive, on(None), &["a"]);
        let circle = image(&mut archive, on(None), &["a", "b"]);
        archive.images[2].note.parent = Some(circle);
        let bases: Vec<_> = archive.images.iter().map(|i| foundation(&archive, i)).collect();
        assert!(matches!(bases[0], Foundation::Unknown));
        assert!(matches!(bases[1], Foundation::Scratch), "{first}");
        assert!(matches!(bases[2], Foundation::Unknown));
    }
}
