//! Fills mounts before a build and packs them after it, each with a helper build on the same builder.
//!
//! A helper's mounts have the options that the user's steps give them, or the builder would take them
//! for others. Its context is made here: our own program, and for each mount what that is sent. A step
//! of a helper is made new by an argument: with `--no-cache`, a mount that starts with an owner would be
//! a new one.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::inside::{self, AGES, LISTING, MOUNT, RESULT, Report, SENT};
use super::layers::{self, MountAbout};
use super::pack::Packed;
use super::policy::{Bounds, Settings};
use super::program;
use crate::archive::{Archive, LayerBlob, StoredImage};
use crate::build::arguments::BuildArguments;
use crate::build::build_log::{LoggedStep, Outcome};
use crate::engine::Engine;
use crate::engine::client::run::{self, Patience};
use crate::engine::error::EngineError;
use crate::oci::digest::Digest;
use crate::oci::directory::Layout;
use crate::predict::cache_mounts::{CacheMount, CacheMounts, Place, Used};
use crate::report::{Reporter, bytes, count, moving};

/// The hidden verb that runs [`inside`].
pub(crate) const VERB: &str = "inside-mount";

/// What is known of a mount after a build.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NotedMount {
    pub(crate) mount: CacheMount,
    /// From what it was filled, if it was.
    pub(crate) filled: Option<Filled>,
    /// What was packed of it, if a step that has it has run.
    pub(crate) packed: Option<PackedInto>,
}

/// A mount that was filled.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Filled {
    /// The manifest of the image that it was filled from.
    pub(crate) from: Digest,
    /// What was in it then.
    listing: PathBuf,
}

/// A mount that was packed, and where that is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PackedInto {
    pub(crate) packed: Packed,
    pub(crate) result: PathBuf,
}

/// Carries the mounts of one build.
pub(crate) struct Carrier<'a> {
    pub(crate) engine: &'a Engine,
    /// What `BUILDX_BUILDER` was set to, if to anything.
    pub(crate) builder: Option<&'a str>,
    pub(crate) arguments: &'a BuildArguments,
    pub(crate) layout: &'a Layout,
    /// What the build is offered.
    pub(crate) archive: &'a Archive,
    pub(crate) mounts: &'a CacheMounts,
    /// A directory on the file system of the archive. It is made where it is needed.
    pub(crate) directory: PathBuf,
    pub(crate) settings: Settings,
    pub(crate) reporter: Reporter,
}

/// A mount in a helper build.
struct Task<'a> {
    used: &'a Used,
    /// What the program is told.
    words: Vec<String>,
    /// Files for it, by the names that it looks for.
    sent: Vec<(String, Sent)>,
}

enum Sent {
    File(PathBuf),
    Bytes(Vec<u8>),
}

impl Carrier<'_> {
    fn chosen(&self) -> impl Iterator<Item = &Used> {
        self.mounts.used.iter().filter(|used| self.settings.choice.has(&used.mount.id))
    }

    /// Whether any mount can be carried. Says why those can't that the user may expect to be.
    pub(crate) fn is_of_use(&self) -> bool {
        for (id, reason) in &self.mounts.others {
            if self.settings.choice.has(id) {
                self.reporter.info(format!("mounts: `{id}` is not carried: {reason}"));
            }
        }
        if self.chosen().next().is_none() {
            return false;
        }
        let platform = &self.engine.facts.platform;
        let runs = program::runs_on(platform);
        if !runs {
            self.reporter.warn(format!(
                "cache mounts are not carried: this dockercache is for {}, the engine is {platform}; \
                 use the release for the engine's platform, or set DOCKERCACHE_MOUNTS=off",
                std::env::consts::ARCH
            ));
        }
        runs
    }

    /// Fills the mounts that the build will use, as far as that can be predicted, but those that
    /// `earlier` builds of the job have used: they are in the builder. Gives what is known of every
    /// mount.
    pub(crate) fn fill(&self, earlier: &[&NotedMount]) -> Vec<NotedMount> {
        let mut noted = Vec::new();
        let mut tasks: Vec<(usize, Task<'_>, Digest, u64)> = Vec::new();
        for used in self.chosen() {
            let mount = used.mount.clone();
            let known = earlier.iter().rev().find(|note| note.mount == mount);
            // One that no step has used yet is still as cold as it was.
            let is_there = known.is_some_and(|note| note.filled.is_some() || note.packed.is_some());
            let filled = known.and_then(|note| note.filled.clone());
            if !is_there
                && used.places.iter().any(|place| self.is_predicted_to_run(place))
                && let Some((image, layers)) = self.stored(&mount)
            {
                let sent = layers.iter().enumerate().map(|(number, layer)| {
                    (number.to_string(), Sent::File(self.layout.blob_path(&layer.blob)))
                });
                let task = Task { used, words: vec!["fill".to_owned()], sent: sent.collect() };
                let size = layers.iter().map(|layer| layer.size).sum();
                tasks.push((noted.len(), task, image.descriptor.digest.clone(), size));
            }
            noted.push(NotedMount { mount, filled, packed: None });
        }
        if tasks.is_empty() {
            return noted;
        }
        let label = format!("filling {}", count(tasks.len(), "cache mount"));
        let helper: Vec<&Task<'_>> = tasks.iter().map(|(_, task, ..)| task).collect();
        moving(tasks.iter().map(|(.., size)| size).sum());
        let reports = match self.run(&label, "fill", &helper) {
            Ok(reports) => reports,
            Err(reason) => {
                self.reporter.warn(format!("the cache mounts start empty: {reason}"));
                return noted;
            }
        };
        let (mut filled, mut moved) = (0, 0);
        for ((at, task, from, size), (result, report)) in tasks.into_iter().zip(reports) {
            let id = &task.used.mount.id;
            match report {
                Report::Filled { refused, .. } => {
                    if refused > 0 {
                        self.reporter.warn(format!(
                            "cache mount `{id}`: {} refused: devices, or outside of the mount",
                            count(usize::try_from(refused).unwrap_or(usize::MAX), "file")
                        ));
                    }
                    noted[at].filled = Some(Filled { from, listing: result.join(LISTING) });
                    filled += 1;
                    moved += size;
                }
                Report::Warm => {
                    self.reporter.info(format!("mounts: `{id}` is in the builder already"));
                }
                Report::Failed(reason) => {
                    self.reporter.warn(format!("cache mount `{id}` starts empty: {reason}"));
                }
                Report::Packed(_) => {}
            }
        }
        if filled > 0 {
            let what = count(filled, "cache mount");
            self.reporter.info(format!("mounts: filled {what} with {}", bytes(moved)));
        }
        noted
    }

    /// Packs the mounts whose steps have run. `steps` is what became of them; empty if nobody knows.
    pub(crate) fn pack(&self, noted: &mut [NotedMount], steps: &[LoggedStep]) {
        let mut tasks = Vec::new();
        for (at, note) in noted.iter().enumerate() {
            let Some(used) = self.chosen().find(|used| used.mount == note.mount) else { continue };
            if !used.places.iter().any(|place| has_run(place, steps)) {
                continue;
            }
            let mut bounds = Bounds {
                builds: self.settings.builds,
                bytes: self.settings.each,
                layers: 0,
                stored: 0,
            };
            let mut sent = Vec::new();
            if let Some(filled) = note.filled.as_ref().filter(|filled| filled.listing.exists())
                && let Some((image, about)) = layers::image(self.layout, self.archive, &note.mount)
                && image.descriptor.digest == filled.from
                && let Some(layers) = layers::layers_of(image)
            {
                bounds.layers = layers.len();
                bounds.stored = layers.iter().map(|layer| layer.unpacked_size).sum();
                sent.push((LISTING.to_owned(), Sent::File(filled.listing.clone())));
                sent.extend(ages(&about));
            }
            let words = inside::pack_words(&bounds);
            tasks.push((at, Task { used, words, sent }));
        }
        if tasks.is_empty() {
            return;
        }
        let label = format!("packing {}", count(tasks.len(), "cache mount"));
        let helper: Vec<&Task<'_>> = tasks.iter().map(|(_, task)| task).collect();
        let reports = match self.run(&label, "pack", &helper) {
            Ok(reports) => reports,
            Err(reason) => {
                self.reporter.warn(format!("the cache mounts are not saved: {reason}"));
                return;
            }
        };
        for ((at, task), (result, report)) in tasks.into_iter().zip(reports) {
            let id = &task.used.mount.id;
            match report {
                Report::Packed(packed) => {
                    self.reporter.info(format!("mounts: `{id}`: {}", summary(&packed, &result)));
                    noted[at].packed = Some(PackedInto { packed, result });
                }
                Report::Failed(reason) => {
                    self.reporter.warn(format!("cache mount `{id}` is not saved: {reason}"));
                }
                Report::Filled { .. } | Report::Warm => {}
            }
        }
    }

    /// Whether nothing says that the builder will take the step from the cache.
    fn is_predicted_to_run(&self, place: &Place) -> bool {
        let stages = self.archive.about.iter().flat_map(|about| &about.stages);
        stages.flat_map(|stage| &stage.steps).all(|step| step.digest != place.digest)
    }

    /// The image of a mount, and its layers if all of them are here.
    fn stored(&self, mount: &CacheMount) -> Option<(&StoredImage, Vec<LayerBlob>)> {
        let (image, _) = layers::image(self.layout, self.archive, mount)?;
        let layers = layers::layers_of(image)?;
        let missing = |layer: &LayerBlob| self.layout.blob_size(&layer.blob) != Some(layer.size);
        if layers.iter().any(missing) {
            self.reporter.warn(format!(
                "cache mount `{}` starts empty: not all of its layers are here",
                mount.id
            ));
            return None;
        }
        Some((image, layers))
    }

    /// Runs a helper build with one step for each task; gives for each where its result is, and the
    /// report in it.
    fn run(
        &self,
        label: &str,
        name: &str,
        tasks: &[&Task<'_>],
    ) -> Result<Vec<(PathBuf, Report)>, String> {
        let _task = self.reporter.task(label);
        let context = self.directory.join(name);
        let results = self.directory.join(format!("{name}-results"));
        let prepared = Self::prepare(&context, tasks);
        let ran = prepared.map_err(|error| format!("failed to make the helper build: {error}"));
        let ran = ran.and_then(|()| self.build(&context, &results).map_err(|e| e.to_string()));
        let _ = fs::remove_dir_all(&context);
        ran?;
        let reports = (0..tasks.len()).map(|number| {
            let result = results.join(number.to_string());
            let report = inside::report(&result)
                .unwrap_or_else(|error| Report::Failed(format!("it gave no report: {error}")));
            (result, report)
        });
        Ok(reports.collect())
    }

    fn prepare(context: &Path, tasks: &[&Task<'_>]) -> io::Result<()> {
        let program = context.join("program");
        fs::create_dir_all(&program)?;
        let command = program::put(&program)?;
        let mut dockerfile = "FROM scratch AS program\nCOPY program /\n".to_owned();
        let mut last = "FROM scratch\n".to_owned();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        for (number, task) in tasks.iter().enumerate() {
            let sent = format!("sent-{number}");
            let directory = context.join(&sent);
            fs::create_dir_all(&directory)?;
            for (name, content) in &task.sent {
                let path = directory.join(name);
                match content {
                    Sent::Bytes(bytes) => fs::write(path, bytes)?,
                    Sent::File(file) => {
                        // A store beyond the archive's file system has no links.
                        fs::hard_link(file, &path).or_else(|_| fs::copy(file, &path).map(drop))?;
                    }
                }
            }
            let mut words = command.clone();
            words.push(VERB.to_owned());
            words.extend(task.words.iter().cloned());
            // What makes the step new, and another one than those of other mounts: to the builder,
            // steps that differ in the identity of a mount alone are one.
            words.push(format!("{now}-{number}"));
            let mount = options(task.used);
            let words = serde_json::to_string(&words)?;
            let _ = write!(
                dockerfile,
                "FROM program AS task{number}\nRUN --mount={mount} \
                 --mount=type=bind,source={sent},target={SENT} {words}\n"
            );
            let _ = writeln!(last, "COPY --from=task{number} {RESULT} /{number}");
        }
        fs::write(context.join("Dockerfile"), dockerfile + &last)
    }

    fn build(&self, context: &Path, results: &Path) -> Result<(), EngineError> {
        let destination = results.display().to_string();
        let output = if destination.contains([',', '"']) {
            format!("--output=type=local,\"dest={}\"", destination.replace('"', "\"\""))
        } else {
            format!("--output=type=local,dest={destination}")
        };
        let mut words: Vec<std::ffi::OsString> = vec![
            "--progress=plain".into(),
            "--network=none".into(),
            format!("--platform={}", self.engine.facts.platform).into(),
            output.into(),
        ];
        if self.engine.client.has_buildx() {
            words.push("--provenance=false".into());
        }
        if let Some(builder) = self.arguments.value("builder") {
            let mut word = std::ffi::OsString::from("--builder=");
            word.push(builder);
            words.push(word);
        }
        let namespace = self.chosen().map(|used| used.mount.namespace.as_str()).next();
        if let Some(namespace) = namespace.filter(|namespace| !namespace.is_empty()) {
            words.push(format!("--build-arg=BUILDKIT_CACHE_MOUNT_NS={namespace}").into());
        }
        words.push(context.into());
        let is_alive = || self.engine.connection.answers();
        // Packing says nothing, and takes as long as the mounts are large.
        let patience = Patience { silence: Duration::MAX, is_alive: &is_alive };
        let finished = run::helper(&self.engine.client, &words, self.builder, &patience)?;
        if finished.status.success() {
            return Ok(());
        }
        Err(EngineError::failed("run the helper build", finished.reason()))
    }
}

/// The mount of the user's steps, in a helper.
fn options(used: &Used) -> String {
    let mut options = format!("type=cache,target={MOUNT},id={}", used.mount.id);
    if let Some(sharing) = &used.sharing {
        let _ = write!(options, ",sharing={sharing}");
    }
    if let Some(start) = used.mount.start {
        let _ = write!(options, ",uid={},gid={},mode={:04o}", start.user, start.group, start.mode);
    }
    // A space would end the flag.
    if options.contains(' ') { format!("\"{options}\"") } else { options }
}

fn ages(about: &MountAbout) -> Option<(String, Sent)> {
    let ages = about.ages();
    (!ages.is_empty()).then(|| (AGES.to_owned(), Sent::Bytes(ages)))
}

/// Whether a step has run, wholly or in part. Where the log does not say, it has.
fn has_run(place: &Place, steps: &[LoggedStep]) -> bool {
    if steps.is_empty() {
        return true;
    }
    let is_own =
        |step: &&LoggedStep| step.stage.is_empty() || step.stage.eq_ignore_ascii_case(&place.stage);
    let mut own: Vec<_> = steps.iter().filter(|s| !s.is_from()).filter(is_own).collect();
    own.sort_by_key(|step| step.place);
    if let Some(step) = own.get(place.number) {
        return step.outcome != Outcome::Cached;
    }
    // A step that two stages have in common is listed for one of them.
    let is_run = |step: &&LoggedStep| step.text.to_ascii_uppercase().starts_with("RUN");
    steps.iter().filter(is_run).any(|step| step.outcome != Outcome::Cached)
}

fn summary(packed: &Packed, result: &Path) -> String {
    let files = |number: u64| count(usize::try_from(number).unwrap_or(usize::MAX), "file");
    let layer = result.join(inside::LAYER);
    let moved = layer.metadata().map(|meta| meta.len()).unwrap_or_default();
    let moved = match (packed.changed, packed.full) {
        (false, _) => "nothing has changed".to_owned(),
        (true, true) => format!("packed as a whole: {}", bytes(moved)),
        (true, false) => format!("packed what has changed: {}", bytes(moved)),
    };
    let mut text = format!("{} in {}, {moved}", bytes(packed.bytes), files(packed.files));
    if packed.dropped_files > 0 {
        let (dropped, size) = (files(packed.dropped_files), bytes(packed.dropped_bytes));
        let _ = write!(text, ", dropped {dropped}, {size}");
    }
    if packed.refused > 0 {
        let _ = write!(text, ", skipped {}", files(packed.refused));
    }
    text
}

/// Removes what was packed: it is in the archive.
pub(crate) fn release(noted: &[NotedMount]) {
    for packed in noted.iter().filter_map(|note| note.packed.as_ref()) {
        let _ = fs::remove_dir_all(&packed.result);
    }
    let results = noted.iter().filter_map(|note| note.packed.as_ref()?.result.parent());
    let fills = noted.iter().filter_map(|note| note.filled.as_ref()?.listing.parent());
    for fill in fills {
        let _ = fs::remove_dir_all(fill);
    }
    let fills = noted.iter().filter_map(|note| note.filled.as_ref()?.listing.parent()?.parent());
    for directory in results.chain(fills) {
        // Only if nothing is left in them.
        let _ = fs::remove_dir(directory);
        let _ = directory.parent().map(fs::remove_dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::predict::cache_mounts::Start;

    #[test]
    fn a_helper_names_the_mount_as_the_users_steps_do() {
        let mount = |id: &str, start| Used {
            mount: CacheMount {
                id: id.to_owned(),
                namespace: String::new(),
                platform: "linux/amd64".to_owned(),
                start,
            },
            sharing: Some("locked".to_owned()),
            places: Vec::new(),
        };
        let plain = options(&mount("/root/.cache", None));
        assert_eq!(plain, "type=cache,target=/mount,id=/root/.cache,sharing=locked");
        let start = Start { user: 5, group: 6, mode: 0o755 };
        let owned = options(&mount("a b", Some(start)));
        let expected = "\"type=cache,target=/mount,id=a b,sharing=locked,uid=5,gid=6,mode=0755\"";
        assert_eq!(owned, expected);
    }

    #[test]
    fn a_step_that_was_cached_has_not_run() {
        let step = |stage: &str, place, outcome| LoggedStep {
            stage: stage.to_owned(),
            place,
            text: "RUN make".to_owned(),
            outcome,
        };
        let place = |number| Place { stage: "b".to_owned(), number, digest: String::new() };
        let steps = [
            step("b", 3, Outcome::Unfinished),
            step("b", 2, Outcome::Cached),
            step("other", 2, Outcome::Executed),
        ];
        assert!(!has_run(&place(0), &steps));
        assert!(has_run(&place(1), &steps));
        assert!(has_run(&place(0), &[]));
    }
}
