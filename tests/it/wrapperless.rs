//! Half of the job without us: the user's own build command on one side or the other.

use crate::harness::{Builder, Generation, Machine, on_every_builder};
use crate::words::{FILES, OUTPUT, STAGES};

on_every_builder! {
    restore_helps_a_plain_build,
    save_takes_what_a_plain_build_built,
}

fn restore_helps_a_plain_build(builder: Builder) {
    let (machine, first) = Machine::after_first_build(builder, FILES);
    let flags = machine.restore();
    if builder == Builder::Classic(Generation::V20_10) {
        assert_eq!(flags, [""; 0], "loaded images are enough for this builder");
    } else {
        assert!(!flags.is_empty());
        assert!(flags.iter().all(|flag| flag.starts_with("--cache-from=")), "{flags:?}");
    }
    let mut command = commands(builder)[0].to_vec();
    command.extend(flags.iter().map(String::as_str));
    machine.plain_build(&command).assert_all_cached();
    assert_eq!(machine.image(), first);
    assert_eq!(machine.output(), OUTPUT);
}

fn save_takes_what_a_plain_build_built(builder: Builder) {
    let machine = Machine::new(builder, FILES);
    for (round, command) in commands(builder).iter().enumerate() {
        if round > 0 {
            machine.replace_without_cache();
        }
        assert_eq!(machine.plain_build(command).cached(), [""; 0]);
        let built = machine.image();
        assert_eq!(machine.save_build(&machine.arguments()).taken, STAGES);

        machine.replace();
        machine.restore();
        machine.build().assert_all_cached();
        assert_eq!(machine.image(), built);
    }
}

/// A client before 23 builds with the classic builder, but not for `docker buildx build`.
#[test]
fn a_build_with_buildx_of_an_old_client() {
    let machine = Machine::new(Builder::Classic(Generation::V20_10), FILES);
    let job = || {
        let restored = machine.run(["restore"]);
        let flags = restored.success().stdout.split_whitespace();
        let words = ["buildx", "build"].into_iter().chain(flags);
        let report = machine.plain_build(&words.collect::<Vec<_>>());
        machine.run(["save", "--strict", "--tag", "app", "."]).success();
        (report, machine.image())
    };
    let (report, built) = job();
    assert_eq!(report.cached(), [""; 0]);
    for _ in 0..2 {
        machine.replace();
        let (report, image) = job();
        report.assert_all_cached();
        assert_eq!(image, built);
    }
}

/// The ways to type a build, the one that can take a cache directory first.
fn commands(builder: Builder) -> &'static [&'static [&'static str]] {
    if builder.is_buildkit() { &[&["buildx", "build"], &["build"]] } else { &[&["build"]] }
}
