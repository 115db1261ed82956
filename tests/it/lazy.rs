//! What the builder does not need, it does not read: BuildKit takes a stage whose steps are all
//! cached from the cache's records alone, and its layers stay in the cache directory.

use crate::harness::{Builder, Machine, on_buildkit};
use crate::words::{FILES, OUTPUT};

on_buildkit! {
    a_full_hit_reads_only_the_final_stages_layers,
    an_edit_of_the_final_stage_leaves_the_others_where_they_are,
}

/// Proved by taking away all other layers, once the cache has been offered.
fn a_full_hit_reads_only_the_final_stages_layers(builder: Builder) {
    let (machine, first) = Machine::after_first_build(builder, FILES);
    let flags = machine.restore();
    let removed = machine.carried.remove_layers_except(&first.layers());
    // deps has four, build another four, and tools three.
    assert_eq!(removed.len(), 11);
    let mut command = vec!["buildx", "build"];
    command.extend(flags.iter().map(String::as_str));
    let report = machine.plain_build(&command);
    report.assert_all_cached();
    assert!(removed.iter().all(|blob| !report.pulled.contains(blob)), "{:?}", report.pulled);
    assert_eq!(machine.image(), first);
    assert_eq!(machine.output(), OUTPUT);
}

/// Neither the build nor, where we do it, the save brings the toolchain into the engine.
fn an_edit_of_the_final_stage_leaves_the_others_where_they_are(builder: Builder) {
    let (machine, _) = Machine::after_first_build(builder, FILES);
    machine.restore();
    machine.project.edit("run.sh", "words", "WORDS");
    assert_eq!(machine.build().ran(), ["COPY run.sh /run.sh"]);
    machine.assert_nowhere("toolchain");
    let saved = machine.save();
    // An export by the builder itself (`buildkit-local`) reads every layer of the build.
    if builder.strategy() == "buildkit-replay" {
        assert_eq!(saved.taken, ["stage-3"]);
        assert_eq!(saved.kept, ["deps", "build", "tools"]);
        machine.assert_nowhere("toolchain");
    }

    // A change on top of it does read it: the search above would have found it.
    machine.project.edit("src/a", "of", "OF");
    machine.build();
    assert_eq!(machine.job.engine.files_named("toolchain").len(), 1);
}
