//! Saves after a build that nobody saw: a repetition, which must execute nothing.

use super::on_every_engine;
use crate::harness::{Builder, Machine};

const FILES: &[(&str, &str)] = &[
    (
        "Dockerfile",
        "FROM busybox:1 AS build\nRUN head -c 3000 /dev/urandom > /deps\nCOPY src /src\n\
         RUN cat /deps /src > /app\nFROM busybox:1\nCOPY --from=build /app /app\nCMD [\"true\"]\n",
    ),
    ("src", "source\n"),
];

on_every_engine! {
    a_save_of_another_build_executes_nothing,
    a_save_after_a_build_with_a_restored_cache_has_new_and_old_stages,
}

fn a_save_of_another_build_executes_nothing(builder: Builder) {
    let machine = Machine::new(builder, FILES);
    let refused = |instruction: &str| {
        let index = || std::fs::read(machine.carried.archive().join("index.json")).ok();
        let before = (machine.job.engine.image_ids(), index());
        let run = machine.run(["save", "-t", "app", "."]);
        let said = &run.success().stderr;
        assert!(said.contains(&format!("`{instruction}` is not in the engine's cache")), "{said}");
        assert_eq!(index(), before.1);
        // What runs no command is done before anyone knows that it was not in the cache.
        if instruction.starts_with("RUN ") {
            let containers = machine.docker(["ps", "--all", "--quiet"]).run();
            assert_eq!(containers.success().stdout, "", "a step was left");
            assert_eq!(machine.job.engine.image_ids(), before.0);
            machine.run(["save", "--strict", "-t", "app", "."]).code(1);
        }
    };
    refused("RUN head -c 3000 /dev/urandom > /deps");

    machine.plain_build(&["build"]);
    machine.save_build(&["-t", "app", "."]);
    machine.project.edit("Dockerfile", "cat /deps /src", "cat /src /deps");
    refused("RUN cat /src /deps > /app");
    machine.project.edit("Dockerfile", "cat /src /deps", "cat /deps /src");
    machine.save_build(&["-t", "app", "."]);
    machine.project.edit("Dockerfile", "true", "false");
    refused("CMD [\"false\"]");
}

/// With flags of `restore`, later builders find what was built here only below images that are
/// named.
fn a_save_after_a_build_with_a_restored_cache_has_new_and_old_stages(builder: Builder) {
    let (machine, _) = Machine::after_first_build(builder, FILES);
    for content in ["another\n", "another\n", "third\n"] {
        machine.project.write("src", content);
        let flags = machine.restore();
        let mut words = vec!["build"];
        words.extend(flags.iter().map(String::as_str));
        let report = machine.plain_build(&words);
        assert!(report.cached().contains(&"RUN head -c 3000 /dev/urandom > /deps"), "{report:?}");
        let built = machine.image();
        machine.save_build(&["-t", "app", "."]);
        machine.carried.reader().assert_exact();
        machine.replace();
        machine.restore();
        machine.build().assert_all_cached();
        assert_eq!(machine.image(), built);
        machine.replace();
    }
}
