//! The oracle: random projects and random moves of their bases, built with what other machines
//! have left and without. Both images must be the same, step for step.
//!
//! `DOCKERCACHE_TEST_SEED` is the seed, `DOCKERCACHE_TEST_ROUNDS` the number of builds on an engine.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;

use serde_json::Value;

use super::on_every_engine;
use crate::harness::bases::{self, Base};
use crate::harness::{Builder, Machine};
use crate::random::Random;

const SEED: u64 = 20_261_129;
const ROUNDS: usize = 12;
const TAGS: [&str; 2] = ["one:1", "two:1"];

on_every_engine! {
    images_are_those_of_clean_builds,
}

fn images_are_those_of_clean_builds(builder: Builder) {
    let number = |name| std::env::var(name).ok().map(|n| n.parse::<u64>().expect("a number"));
    let seed = number("DOCKERCACHE_TEST_SEED").unwrap_or(SEED);
    let rounds = number("DOCKERCACHE_TEST_ROUNDS").map_or(ROUNDS, |n| n.try_into().unwrap());
    eprintln!("seed {seed}");
    let mut random = Random::new(seed);
    let machine = Machine::new(builder, &[]);
    let mut world = World::new(&mut random);
    let mut hits = 0;
    for round in 0..rounds {
        let is_same = round > 0 && !world.change(&mut random);
        machine.replace();
        world.set_up(&machine);
        if random.once_in(2) {
            machine.run(["restore"]).success();
        }
        let report = machine.build();
        hits += report.cached().len();
        if is_same && !world.has_twins() {
            report.assert_all_cached();
        }
        machine.save();
        let clean = ["build", "--no-cache", "--tag", "clean", "."];
        machine.docker(clean).run().success();
        let (ours, clean) = (Contents::of(&machine, "app"), Contents::of(&machine, "clean"));
        assert_eq!(ours, clean, "round {round} of seed {seed}");
    }
    assert!(hits > 0, "no cache was ever of use");
}

/// What builds are made from.
#[derive(Clone, Debug)]
struct World {
    /// For each tag, the content and the variable of its image.
    bases: [(&'static str, &'static str); 2],
    stages: Vec<(String, Vec<String>)>,
    file: u64,
}

impl World {
    fn new(random: &mut Random) -> Self {
        let mut world = Self { bases: [("x", "a"), ("y", "b")], stages: Vec::new(), file: 0 };
        for stage in 0..=random.below(3) {
            let base = match random.below(3) {
                0 if stage > 0 => format!("s{}", random.below(stage)),
                _ => (*random.pick(&TAGS)).to_owned(),
            };
            let steps = (0..=random.below(4)).map(|_| Self::step(random, stage)).collect();
            world.stages.push((base, steps));
        }
        world
    }

    fn step(random: &mut Random, stage: usize) -> String {
        let n = random.below(3);
        match random.below(6) {
            0 => format!("RUN echo {n} $BASE $V >> /r{n}"),
            1 => format!("RUN cat /base >> /r{n}"),
            2 => format!("COPY file /f{n}"),
            3 => format!("ENV V={n}$BASE"),
            4 if stage > 0 => format!("COPY --from=s{} /base /b{n}", random.below(stage)),
            _ => format!("LABEL l{n}=$BASE"),
        }
    }

    /// Changes something; says whether it has.
    fn change(&mut self, random: &mut Random) -> bool {
        let before = format!("{self:?}");
        match random.below(5) {
            0 | 1 => {
                let base = (*random.pick(&["x", "y"]), *random.pick(&["a", "b"]));
                self.bases[random.below(2)] = base;
            }
            2 => self.file += 1,
            3 => {
                let stage = random.below(self.stages.len());
                let step = Self::step(random, stage);
                let steps = &mut self.stages[stage].1;
                let at = random.below(steps.len());
                steps[at] = step;
            }
            _ => {}
        }
        format!("{self:?}") != before
    }

    /// Whether two bases of the build have the same layers: later engines confuse them, so that they
    /// are not offered.
    fn has_twins(&self) -> bool {
        let used: BTreeSet<_> = self.stages.iter().map(|(base, _)| base.as_str()).collect();
        let [one, two] = self.bases;
        TAGS.iter().all(|tag| used.contains(tag)) && one.0 == two.0
    }

    fn set_up(&self, machine: &Machine) {
        let bases = TAGS.iter().zip(self.bases).map(|(tag, (file, variable))| Base {
            tag: (*tag).into(),
            file: file.into(),
            variable: variable.into(),
            on_build: &[],
        });
        let bases: Vec<_> = bases.collect();
        machine.docker(["load"]).stdin(bases::archive(&bases)).run().success();
        let stages = self.stages.iter().enumerate();
        let text =
            stages.map(|(n, (base, steps))| format!("FROM {base} AS s{n}\n{}\n", steps.join("\n")));
        machine.project.write("Dockerfile", text.collect::<String>());
        machine.project.write("file", self.file.to_string());
    }
}

/// All of an image that does not depend on when it was built.
#[derive(Debug, PartialEq)]
struct Contents {
    files: BTreeMap<String, (u32, Vec<u8>)>,
    config: Value,
    layers: usize,
    /// The instructions of its history.
    history: String,
}

impl Contents {
    fn of(machine: &Machine, image: &str) -> Self {
        let output =
            |words: &[&str]| machine.docker(words.iter().copied()).run().success().stdout.clone();
        let inspected: Value =
            serde_json::from_str(&output(&["image", "inspect", image])).expect("JSON");
        let mut config = inspected[0]["Config"].clone();
        // The ID of the image before it.
        config.as_object_mut().expect("an object").remove("Image");
        let layers = inspected[0]["RootFS"]["Layers"].as_array().map_or(0, Vec::len);
        let history = output(&["history", "--no-trunc", "--format", "{{.CreatedBy}}", image]);
        let container = output(&["create", image, "/none"]);
        let path = machine.carried.file("export.tar");
        let path = path.to_str().expect("UTF-8");
        output(&["export", "--output", path, container.trim()]);
        output(&["rm", container.trim()]);
        let mut files = BTreeMap::new();
        let mut tar = tar::Archive::new(std::fs::File::open(path).expect("an export"));
        for entry in tar.entries().expect("a tar") {
            let mut entry = entry.expect("an entry");
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let mut bytes = Vec::new();
            // Busybox itself is in every image.
            if entry.size() < 100_000 {
                entry.read_to_end(&mut bytes).expect("a file");
            }
            files.insert(name, (entry.header().mode().expect("a mode"), bytes));
        }
        Self { files, config, layers, history }
    }
}
