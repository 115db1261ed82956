//! Replays edits of projects through the planner and a CI's cache, and counts what moves.
//!
//! `cargo test --lib packs::simulation -- --nocapture` prints the table that docs/cost.md shows. Layers
//! are names and sizes here, so that months take seconds. Everything else is what jobs run: how uses are
//! guessed, how packs are planned and chosen, and how CircleCI's cache keeps and deletes.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "numbers of a simulation are small, and shown with two digits"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::SLOTS;
use super::plan::{self, Layer, Terms};
use super::table::{Day, Table};
use super::uses::Uses;
use crate::archive::{About, Archive, ImageNote, Role, StageAbout, StepAbout, StoredImage};
use crate::oci::digest::Digest;
use crate::oci::documents::{CONFIG, Descriptor, MANIFEST, Manifest};

const LIFETIME: Duration = Duration::from_hours(24 * 15);
const RENEW: Duration = Duration::from_hours(24 * 10);
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// CircleCI's price of a GB that is kept for 15 days, in credits.
const CREDITS: f64 = 210.0;
/// Jobs of a day.
const JOBS: u64 = 8;
/// Documents of an index beside what is counted: configs and cache records.
const RECORDS: u64 = 40 * KIB;

/// Numbers that are the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    /// About this size.
    fn about(&mut self, size: u64) -> u64 {
        size / 2 + self.below(size)
    }
}

/// Which edits a step of a Dockerfile depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Edit {
    Base,
    Dockerfile,
    Packages,
    Source,
}

/// A step: its text, what changes it, and how large its layer is.
type Step = (&'static str, Edit, u64);

/// A stage: its name, its base's size, and its steps.
type StageOf = (&'static str, u64, &'static [Step]);

/// A Node project: packages and sources in a build stage, and what it makes on a small base.
const NODE: &[StageOf] = &[
    (
        "build",
        164 * MIB,
        &[
            ("RUN apt-get install", Edit::Dockerfile, 22 * MIB),
            ("COPY package.json package-lock.json ./", Edit::Packages, 60 * KIB),
            ("RUN npm ci", Edit::Packages, 85 * MIB),
            ("COPY . .", Edit::Source, 2 * MIB),
            ("RUN npm run build", Edit::Source, 6 * MIB),
        ],
    ),
    (
        "last",
        29 * MIB,
        &[
            ("RUN apk add", Edit::Dockerfile, 9 * MIB),
            ("WORKDIR /app", Edit::Dockerfile, KIB),
            ("COPY --from=build /app/dist .", Edit::Source, 4 * MIB),
        ],
    ),
];

/// A Rust project: dependencies built apart, a large build, a small result.
const RUST: &[StageOf] = &[
    (
        "build",
        280 * MIB,
        &[
            ("COPY Cargo.toml Cargo.lock ./", Edit::Packages, 30 * KIB),
            ("RUN cargo build --release", Edit::Packages, 190 * MIB),
            ("COPY src src", Edit::Source, MIB),
            ("RUN cargo build --release", Edit::Source, 14 * MIB),
        ],
    ),
    ("last", 30 * MIB, &[("COPY --from=build /app /app", Edit::Source, 5 * MIB)]),
];

/// A Python project in one stage.
const PYTHON: &[StageOf] = &[(
    "last",
    52 * MIB,
    &[
        ("RUN apt-get install", Edit::Dockerfile, 35 * MIB),
        ("COPY requirements.txt .", Edit::Packages, 20 * KIB),
        ("RUN pip install", Edit::Packages, 75 * MIB),
        ("COPY . .", Edit::Source, 3 * MIB),
    ],
)];

/// A stage as it is at some commit: what its steps depend on, and so their digests.
#[derive(Clone, Debug)]
struct BuiltStage {
    build: String,
    name: &'static str,
    steps: Vec<(Digest, &'static str)>,
    /// The layers with their sizes, the base's first.
    layers: Vec<(Digest, u64)>,
}

/// The commit of one branch: how often each image was edited, and how.
#[derive(Clone, Debug, Default)]
struct Commit {
    edits: BTreeMap<(usize, Edit), u64>,
}

struct Project {
    images: &'static [&'static [StageOf]],
    /// Sizes of layers by their digests: an edit gives a layer another size.
    sizes: BTreeMap<Digest, u64>,
    random: Random,
}

impl Project {
    fn build(&mut self, commit: &Commit) -> Vec<BuiltStage> {
        let mut stages = Vec::new();
        for (image, definition) in self.images.iter().enumerate() {
            for (name, base, steps) in *definition {
                let edits = |edit| commit.edits.get(&(image, edit)).copied().unwrap_or_default();
                // Images of one kind have one base.
                let base_edits = commit.edits.get(&(0, Edit::Base)).copied().unwrap_or_default();
                let mut chain = Digest::of(format!("{name} {base} {base_edits}").as_bytes());
                let mut stage = BuiltStage {
                    build: format!("image-{image}"),
                    name,
                    steps: Vec::new(),
                    layers: vec![(chain.clone(), self.size(&chain, *base))],
                };
                for (at, (text, edit, size)) in steps.iter().enumerate() {
                    // What is copied from a stage changes with all that the stage is made of.
                    let all = [Edit::Packages, Edit::Source].map(edits);
                    let counted =
                        if text.contains("--from") { all.to_vec() } else { vec![edits(*edit)] };
                    let own = format!("{chain} {image} {at} {text} {counted:?}");
                    chain = Digest::of(own.as_bytes());
                    stage.steps.push((chain.clone(), text));
                    stage.layers.push((chain.clone(), self.size(&chain, *size)));
                }
                stages.push(stage);
            }
        }
        stages
    }

    fn size(&mut self, layer: &Digest, about: u64) -> u64 {
        let random = &mut self.random;
        *self.sizes.entry(layer.clone()).or_insert_with(|| random.about(about))
    }
}

/// The archive of these stages, without blobs.
fn archive(stages: &[BuiltStage]) -> Archive {
    let mut archive = Archive { about: Some(About::default()), ..Archive::default() };
    for stage in stages {
        let layers = stage.layers.iter().map(|(digest, size)| Descriptor {
            digest: digest.clone(),
            size: *size,
            ..Descriptor::of("application/vnd.oci.image.layer.v1.tar+zstd", b"")
        });
        let manifest = Manifest {
            schema_version: 2,
            media_type: None,
            config: Descriptor::of(CONFIG, b"{}"),
            layers: layers.collect(),
        };
        let bytes = serde_json::to_vec(&manifest).unwrap();
        let descriptor = Descriptor::of(MANIFEST, &bytes);
        let steps = stage.steps.iter().map(|(digest, text)| StepAbout {
            text: (*text).to_owned(),
            digest: digest.hex().to_owned(),
            parts: vec!["0 argument".to_owned()],
            files: crate::archive::FileList::default(),
        });
        archive.about.as_mut().unwrap().stages.push(StageAbout {
            name: stage.name.to_owned(),
            build: stage.build.clone(),
            image: Some(descriptor.digest.clone()),
            steps: steps.collect(),
            ..StageAbout::default()
        });
        let note = ImageNote::of(Role::Stage);
        archive.images.push(StoredImage { descriptor, manifest, note });
    }
    archive
}

fn layers(stages: &[BuiltStage]) -> BTreeMap<Digest, u64> {
    stages.iter().flat_map(|stage| stage.layers.clone()).collect()
}

/// The layers that a builder reads of `old` to build `new`.
fn read(old: &BTreeMap<Digest, u64>, new: &[BuiltStage]) -> BTreeSet<Digest> {
    let mut read = BTreeSet::new();
    for (at, stage) in new.iter().enumerate() {
        let is_last = new[at + 1..].iter().all(|later| later.build != stage.build);
        let is_whole = stage.layers.iter().all(|(layer, _)| old.contains_key(layer));
        if is_last || !is_whole {
            let found = stage.layers.iter().take_while(|(layer, _)| old.contains_key(layer));
            read.extend(found.map(|(layer, _)| layer.clone()));
        }
    }
    read
}

/// What was saved under an index's key.
struct Saved {
    stages: Vec<BuiltStage>,
    table: Table,
    day: Day,
}

/// Bytes up and down.
#[derive(Clone, Copy, Debug, Default)]
struct Moved {
    up: u64,
    down: u64,
}

/// What moved in all jobs.
#[derive(Debug, Default)]
struct Counted {
    whole: Moved,
    packs: Moved,
    ideal: Moved,
    /// Of what packs upload, what was saved again since it grew old.
    renewed: u64,
    most_restored: usize,
    most_saved: usize,
    missed: usize,
}

/// Of a hundred jobs, so many follow a change of source, packages, Dockerfile, base; the others none.
const EDITS: [(Edit, u64); 4] =
    [(Edit::Source, 80), (Edit::Packages, 5), (Edit::Dockerfile, 2), (Edit::Base, 1)];

fn replay(
    images: &'static [&'static [StageOf]],
    branches: usize,
    commits: u64,
    seed: u64,
) -> Counted {
    let mut random = Random(seed);
    let mut project = Project { images, sizes: BTreeMap::new(), random: Random(seed ^ 0xface) };
    let mut heads = vec![Commit::default(); branches];
    let mut saved: Vec<Saved> = Vec::new();
    // What the CI has: packs by their keys.
    let mut store: BTreeMap<String, Day> = BTreeMap::new();
    let mut counted = Counted::default();
    for number in 0..commits {
        let today = Day(1000 + number / JOBS);
        let branch = random.below(branches as u64) as usize;
        if branch > 0 && random.below(10) == 0 {
            heads[branch] = heads[0].clone();
        }
        let dice = random.below(100);
        let mut below = 0;
        let edit = EDITS.iter().find_map(|(edit, share)| {
            below += share;
            (dice < below).then_some(*edit)
        });
        if let Some(edit) = edit.filter(|_| number > 0) {
            let image = random.below(images.len() as u64) as usize;
            // A number that no other branch gives to an edit of its own.
            heads[branch].edits.insert((image, edit), number);
        }
        let stages = project.build(&heads[branch]);
        let new = layers(&stages);
        // The newest index that shares most stages, from the first on.
        saved.retain(|old| old.day.age(today) < LIFETIME);
        let shared = |old: &Saved| {
            let pairs = old.stages.iter().zip(&stages);
            pairs.take_while(|(old, new)| old.layers == new.layers).count()
        };
        let found = saved.iter().enumerate().max_by_key(|(at, old)| (shared(old), *at));
        let found = found.map(|(_, old)| old);
        let old = found.map(|found| layers(&found.stages)).unwrap_or_default();
        let needed = read(&old, &stages);
        let is_changed = new.keys().ne(old.keys());

        // Exactly what is read, and exactly what the build has made.
        counted.ideal.down += needed.iter().map(|layer| old[layer]).sum::<u64>();
        let made = new.iter().filter(|(layer, _)| !old.contains_key(layer));
        counted.ideal.up += made.map(|(_, size)| size).sum::<u64>();

        // The whole archive.
        counted.whole.down += old.values().sum::<u64>();
        if is_changed {
            counted.whole.up += new.values().sum::<u64>();
        }

        // Packs.
        let archive = archive(&stages);
        let mut before = found.map(|found| found.table.clone()).unwrap_or_default();
        before.retain_younger(LIFETIME, today);
        let chosen = plan::to_restore(&before, &needed, &|_| false, today, RENEW);
        let mut here: BTreeSet<Digest> =
            new.keys().filter(|l| !old.contains_key(l)).cloned().collect();
        for pack in &chosen {
            let made = store.get(&pack.key()).expect("a pack that a table lists");
            assert!(made.age(today) < LIFETIME, "a pack that has expired");
            counted.packs.down += pack.size();
            here.extend(pack.layers.keys().cloned());
        }
        let small = |layer: &Digest| new.get(layer).is_some_and(|size| *size <= 16 * KIB);
        let missed = needed.iter().filter(|l| !here.contains(l) && !small(l)).count();
        counted.missed += missed;
        counted.most_restored = counted.most_restored.max(chosen.len());
        let uses = Uses::of(&archive);
        let layers: Vec<Layer> = new
            .iter()
            .filter(|(layer, _)| !small(layer))
            .map(|(digest, size)| Layer {
                digest: digest.clone(),
                size: *size,
                here: here.contains(digest),
                usage: uses.layers.get(digest).copied().unwrap_or_default(),
            })
            .collect();
        let terms =
            Terms { shares: &uses.shares, today, renew_after: RENEW, broken: &BTreeSet::new() };
        let plan = plan::plan(&before, &layers, &terms);
        let index = serde_json::to_vec(&archive.to_index()).unwrap().len() as u64
            + serde_json::to_vec(&plan.table).unwrap().len() as u64
            + RECORDS;
        if found.is_some() {
            counted.packs.down += index;
        }
        for pack in &plan.table.packs {
            if plan.new.get(&pack.slot) == Some(&pack.key()) {
                if store.insert(pack.key(), today).is_none() {
                    counted.packs.up += pack.size();
                    let was = before
                        .packs
                        .iter()
                        .find(|p| pack.layers.keys().all(|l| p.layers.contains_key(l)));
                    if was.is_some_and(|was| was.made.age(today) >= RENEW) {
                        counted.renewed += pack.size();
                    }
                }
            } else {
                assert!(store.contains_key(&pack.key()), "a pack that the CI never had");
            }
        }
        counted.most_saved = counted.most_saved.max(plan.new.len());
        let is_old = before.made.age(today) >= RENEW;
        if is_changed || plan.table != before || is_old {
            counted.packs.up += index;
            let mut table = plan.table;
            if is_old {
                table.made = today;
            }
            saved.push(Saved { stages, table, day: today });
        }
    }
    counted
}

fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

#[test]
fn packs_move_little_more_than_is_needed() {
    let scenarios: [(&str, &'static [&'static [StageOf]], usize, u64); 7] = [
        ("Node, one branch", &[NODE], 1, 60),
        ("Node, four branches", &[NODE], 4, 60),
        ("Rust, one branch", &[RUST], 1, 60),
        ("Python, one branch", &[PYTHON], 1, 60),
        ("three images, one branch", &[NODE, NODE, RUST], 1, 60),
        ("three images, four branches", &[NODE, NODE, RUST], 4, 60),
        ("three images, four branches, two months", &[NODE, NODE, RUST], 4, 500),
    ];
    let mut failures = Vec::new();
    println!("GB up and down, credits at 15 days | whole archive | packs | ideal");
    for (name, images, branches, commits) in scenarios {
        let Counted { whole, packs, ideal, renewed, most_restored, most_saved, missed } =
            replay(images, branches, commits, 42);
        let show = |moved: Moved| {
            let (up, down) = (gigabytes(moved.up), gigabytes(moved.down));
            format!("{up:.2} {down:.2} {:.0}", up * CREDITS)
        };
        let ratio = |one: u64, other: u64| one as f64 / other.max(1) as f64;
        let (up, down) = (ratio(packs.up - renewed, ideal.up), ratio(packs.down, ideal.down));
        println!(
            "{name}, {commits} jobs | {} | {} | {} | up {up:.2}, down {down:.2} of ideal; whole \
             / packs: {:.1} up, {:.1} down; {most_restored} restored and {most_saved} saved at \
             most; {:.2} GB renewed, {missed} layers missed",
            show(whole),
            show(packs),
            show(ideal),
            ratio(whole.up, packs.up),
            ratio(whole.down, packs.down),
            gigabytes(renewed),
        );
        // Now and then a job needs more packs than it has steps for, and runs some steps again.
        let is_good = up <= 1.3 && down <= 1.3 && missed as u64 * 25 <= commits;
        if !is_good {
            failures.push(name);
        }
        assert!(most_restored <= SLOTS && most_saved <= SLOTS);
    }
    assert!(failures.is_empty(), "{failures:?}");
}
