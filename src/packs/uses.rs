//! How builds to come are likely to use each layer of an archive: what they read, and what they replace.
//!
//! The kinds of builds are: nothing has changed; the files of one stage have changed; its packages
//! have; all its steps have; all files have. Sources come last in a Dockerfile, so the layers from the last
//! group of `COPY` and `ADD` on are taken for those that change most, and those from the group before
//! for packages. It is a guess, from which only costs follow.

use std::collections::BTreeMap;

use super::plan::Usage;
use crate::archive::{Archive, Role, StageAbout, StepAbout, StoredImage};
use crate::oci::digest::Digest;

/// Of a thousand builds: so many change nothing, all files, one stage's files, its packages, all its steps.
const UNCHANGED: u64 = 250;
const ALL_FILES: u64 = 100;
const FILES: u64 = 550;
const PACKAGES: u64 = 70;
const DOCKERFILE: u64 = 30;
/// The most stages that are told apart, three kinds of builds each.
const MOST_STAGES: usize = 20;

/// How the layers of an archive are used, and how often each kind of build comes, of a thousand.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    pub(crate) layers: BTreeMap<Digest, Usage>,
    pub(crate) shares: Vec<u64>,
}

/// A stage's layers, the base's first.
struct Stage<'a> {
    layers: Vec<&'a Digest>,
    /// Where its own begin.
    own: usize,
    /// Where those begin that change with the packages.
    packages: usize,
    /// Where those begin that change most.
    files: usize,
    /// Whether it is what its build is for.
    is_last: bool,
    build: &'a str,
}

impl<'a> Stage<'a> {
    /// The layers before those that change most.
    fn before(&self) -> Vec<&'a Digest> {
        self.layers[..self.files].to_vec()
    }

    /// The layers that change most.
    fn from(&self) -> Vec<&'a Digest> {
        self.layers[self.files..].to_vec()
    }
}

impl Uses {
    /// Guesses for an archive. Without stages to tell apart, every build reads everything.
    pub(crate) fn of(archive: &Archive) -> Self {
        let stages = stages(archive);
        let mut uses = Self::default();
        if stages.is_empty() {
            uses.add(1000, archive.images.iter().flat_map(layers_of), []);
            return uses;
        }
        let lasts = || stages.iter().filter(|stage| stage.is_last);
        let of_mounts: Vec<&Digest> = archive
            .images
            .iter()
            .filter(|i| i.note.role == Role::Mount)
            .flat_map(layers_of)
            .collect();
        let mounts = || of_mounts.iter().copied();
        uses.add(
            UNCHANGED,
            lasts().flat_map(|stage| stage.layers.clone()).chain(mounts()),
            mounts(),
        );
        uses.add(
            ALL_FILES,
            stages.iter().flat_map(Stage::before).chain(mounts()),
            stages.iter().flat_map(Stage::from).chain(mounts()),
        );
        let told_apart = stages.len().min(MOST_STAGES);
        for stage in &stages[..told_apart] {
            let others = lasts().filter(|last| last.build != stage.build);
            let others: Vec<&Digest> = others.flat_map(|last| last.layers.clone()).collect();
            let own_last = lasts().filter(|last| last.build == stage.build);
            // What is copied from a stage into the last one changes with it.
            let own_before: Vec<&Digest> = own_last.clone().flat_map(Stage::before).collect();
            let own_from: Vec<&Digest> = own_last.flat_map(Stage::from).collect();
            let rest = || own_before.iter().chain(&others).copied().chain(mounts());
            let replaced = || own_from.iter().copied().chain(mounts());
            let share = |all: u64| all / told_apart as u64;
            uses.add(
                share(FILES),
                stage.before().into_iter().chain(rest()),
                stage.from().into_iter().chain(replaced()),
            );
            for (all, from) in [(PACKAGES, stage.packages), (DOCKERFILE, stage.own)] {
                let (before, own) = stage.layers.split_at(from);
                uses.add(
                    share(all),
                    before.iter().copied().chain(rest()),
                    own.iter().copied().chain(replaced()),
                );
            }
        }
        uses
    }

    fn add<'a>(
        &mut self,
        share: u64,
        read: impl IntoIterator<Item = &'a Digest>,
        replaced: impl IntoIterator<Item = &'a Digest>,
    ) {
        let bit = 1 << self.shares.len();
        self.shares.push(share);
        read.into_iter().for_each(|l| self.layers.entry(l.clone()).or_default().read |= bit);
        replaced
            .into_iter()
            .for_each(|l| self.layers.entry(l.clone()).or_default().replaced |= bit);
    }
}

fn layers_of(image: &StoredImage) -> impl Iterator<Item = &Digest> {
    image.manifest.layers.iter().map(|layer| &layer.digest)
}

fn stages(archive: &Archive) -> Vec<Stage<'_>> {
    let abouts: Vec<&StageAbout> = archive.about.iter().flat_map(|about| &about.stages).collect();
    let is_last = |at: usize| abouts[at + 1..].iter().all(|later| later.build != abouts[at].build);
    let image = |(at, about): (usize, &&StageAbout)| Some((at, archive.image_of(about)?));
    let known = abouts.iter().enumerate().filter_map(image);
    known
        .map(|(at, image)| {
            let layers: Vec<&Digest> = layers_of(image).collect();
            let made: Vec<&StepAbout> =
                abouts[at].steps.iter().filter(|s| s.makes_layer()).collect();
            let own = layers.len().saturating_sub(made.len());
            let copies = |step: &&StepAbout| {
                let word = step.text.split_whitespace().next().unwrap_or_default();
                ["COPY", "ADD"].iter().any(|copy| word.eq_ignore_ascii_case(copy))
            };
            // Where the last group of copies before a step begins.
            let group = |end: usize| {
                let last = made[..end].iter().rposition(copies)?;
                let other = made[..last].iter().rposition(|step| !copies(step));
                Some(other.map_or(0, |other| other + 1))
            };
            let files = group(made.len());
            let packages = files.and_then(group).unwrap_or_default();
            let place = |step: usize| layers.len().saturating_sub(made.len() - step);
            let (files, packages) = (place(files.unwrap_or(made.len())), place(packages));
            Stage { layers, own, packages, files, is_last: is_last(at), build: &abouts[at].build }
        })
        .collect()
}
