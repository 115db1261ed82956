//! `save --compression`: for new layers only, and never what the engine would fail on.

use std::collections::BTreeSet;

use crate::harness::{Builder, Generation, Machine, on_buildkit};
use crate::words::FILES;

on_buildkit! {
    new_layers_are_compressed_as_asked_and_old_ones_stay,
}

/// How the layers are compressed that the cache lists.
fn compressions(machine: &Machine) -> BTreeSet<String> {
    let inspected: serde_json::Value = machine.run(["inspect", "--format", "json"]).json();
    let blobs = inspected["blobs"].as_array().expect("blobs").iter();
    let types = blobs.filter_map(|blob| blob["media_type"].as_str());
    let layers = types.filter(|t| t.contains("layer") || t.contains("rootfs"));
    layers.map(|t| t.rsplit(['.', '+']).next().expect("an end").to_owned()).collect()
}

fn new_layers_are_compressed_as_asked_and_old_ones_stay(builder: Builder) {
    let (machine, _) = Machine::after_first_build(builder, FILES);
    let before = compressions(&machine);
    // Some builders list the base as it was imported.
    let (asked, new) =
        if before.contains("tar") { ("zstd", "zstd") } else { ("uncompressed", "tar") };
    assert!(!before.contains(new), "{before:?}");
    machine.restore();
    // Not the final stage: what is in the image, some builders keep as the image has it.
    machine.project.edit("src/a", "of", "OF");
    // A builder that exports by itself compresses as it builds.
    let asking = ("DOCKERCACHE_COMPRESSION", asked);
    machine.dockercache(["build", "-t", "app", "."]).envs([asking]).run().success();
    assert!(!machine.save_build(&["--compression", asked]).taken.is_empty());
    let mut expected = before;
    expected.insert(new.to_owned());
    assert_eq!(compressions(&machine), expected);
    machine.replace();
    machine.restore();
    machine.build().assert_all_cached();
}

#[test]
fn levels_are_taken_by_every_way_to_export_28_5() {
    for generation in [Generation::V28_5, Generation::V28_5Containerd] {
        let machine = Machine::new(Builder::Buildkit(generation), FILES);
        let asking = ("DOCKERCACHE_COMPRESSION", "zstd:9");
        machine.dockercache(["build", "-t", "app", "."]).envs([asking]).run().success();
        machine.save_build(&["--compression", "zstd:9"]);
        // The builder exports its base as it is.
        assert!(compressions(&machine).contains("zstd"), "{:?}", compressions(&machine));
        machine.replace();
        machine.restore();
        machine.build().assert_all_cached();
    }
}

#[test]
fn what_the_engine_fails_on_is_not_written_20_10() {
    let machine = Machine::new(Builder::Buildkit(Generation::V20_10), FILES);
    machine.build();
    let run = machine.dockercache(["save"]).env("DOCKERCACHE_COMPRESSION", "zstd").run();
    let told = "compressed with gzip, because Docker 20.10.24 fails on zstd";
    assert!(run.success().stderr.contains(told), "{}", run.stderr);
    assert_eq!(compressions(&machine), ["gzip".to_owned()].into());
    machine.replace();
    machine.restore();
    machine.build().assert_all_cached();
}

#[test]
fn a_compression_that_is_none_is_wrong_usage_28_5() {
    let machine = Machine::new(Builder::Buildkit(Generation::V28_5), FILES);
    let run = machine.run(["save", "--compression", "zstd:99"]);
    assert!(run.code(2).stderr.contains("`99` is no level of zstd: they go from 1 to 19"));
}
