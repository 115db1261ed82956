//! What is saved is what was built, when it was built: whatever is gone, changed or new by the time of
//! `save`, the next machine runs nothing.

use std::fs;

use dockercache::oci::digest::Digest;

use crate::harness::{
    Builder, Generation, Image, Machine, busybox_tree, on_buildkit, on_every_builder,
};

on_buildkit! {
    a_secret_may_be_gone_by_the_time_of_save,
    a_context_may_change_between_build_and_save,
    a_good_archive_outlives_a_changed_context,
    values_from_the_environment_of_the_build_are_enough,
    builds_at_the_same_time_are_all_saved_by_saves_at_the_same_time,
    a_save_of_what_was_never_built_builds_nothing,
    a_moved_base_costs_one_miss_whatever_is_shown,
    a_base_that_moves_costs_a_plain_build_one_miss,
    what_comes_from_standard_input_is_saved,
    a_step_of_another_temporary_directory_finds_the_build,
    a_quiet_build_that_writes_files_is_saved,
}

on_every_builder! {
    the_steps_of_a_failed_build_hit,
    a_failed_build_costs_no_good_stage,
}

/// Steps that give other bytes each time they run.
const RANDOM: &str = "\
FROM busybox:1 AS deps
COPY lock /lock
RUN head -c 1000 /dev/urandom > /deps
FROM deps AS build
COPY src /src
RUN head -c 1000 /dev/urandom > /app
FROM busybox:1
COPY --from=build /app /app
";

fn machine(builder: Builder, dockerfile: &str) -> Machine {
    Machine::new(builder, &[("Dockerfile", dockerfile), ("lock", "l"), ("src", "s")])
}

/// A job: restore, a build with these words and variables, what happens then, save.
fn job(machine: &Machine, words: &[&str], variables: &[(&str, &str)], then: impl Fn(&Machine)) {
    machine.run(["restore"]).success();
    let build = ["build"].into_iter().chain(words.iter().copied()).chain(["-t", "app", "."]);
    machine.dockercache(build).envs(variables.iter().copied()).run().success();
    then(machine);
    machine.run(["save"]).success();
    machine.carried.assert_clean();
}

/// On another machine, the build runs nothing and gives the same image.
fn assert_hits(machine: &Machine, words: &[&str], variables: &[(&str, &str)]) {
    let built = machine.image();
    machine.replace();
    machine.run(["restore"]).success();
    let again = ["build"].into_iter().chain(words.iter().copied()).chain(["-t", "app", "."]);
    let run = machine.dockercache(again).envs(variables.iter().copied()).run();
    run.success().build_report().assert_all_cached();
    assert_eq!(machine.image().layers(), built.layers());
}

fn a_secret_may_be_gone_by_the_time_of_save(builder: Builder) {
    let dockerfile = RANDOM.replace(
        "RUN head -c 1000 /dev/urandom > /deps",
        "RUN --mount=type=secret,id=token test -s /run/secrets/token && head -c 1000 /dev/urandom > /deps",
    );
    let machine = machine(builder, &dockerfile);
    let secret = ["--secret", "id=token,src=token"];
    machine.project.write("token", "hunter2");
    job(&machine, &secret, &[], |machine| machine.project.remove("token"));
    machine.project.write("token", "hunter2");
    assert_hits(&machine, &secret, &[]);
}

fn a_context_may_change_between_build_and_save(builder: Builder) {
    let machine = machine(builder, &RANDOM.replace("COPY src /src", "COPY . /src"));
    job(&machine, &[], &[], |machine| machine.project.write("report.xml", "tests passed"));
    machine.project.remove("report.xml");
    assert_hits(&machine, &[], &[]);
}

fn a_good_archive_outlives_a_changed_context(builder: Builder) {
    let machine = machine(builder, &RANDOM.replace("COPY src /src", "COPY . /src"));
    job(&machine, &[], &[], |_| ());
    machine.replace();
    job(&machine, &[], &[], |machine| machine.project.write("report.xml", "tests passed"));
    machine.project.remove("report.xml");
    assert_hits(&machine, &[], &[]);
}

fn values_from_the_environment_of_the_build_are_enough(builder: Builder) {
    let dockerfile = RANDOM.replace("COPY lock", "ARG TOKEN\nWORKDIR /w\nCOPY lock");
    let machine = machine(builder, &dockerfile);
    let words = ["--build-arg", "TOKEN"];
    let variables = [("TOKEN", "hunter2"), ("SOURCE_DATE_EPOCH", "1700000000")];
    job(&machine, &words, &variables, |_| ());
    assert_hits(&machine, &words, &variables);
}

fn builds_at_the_same_time_are_all_saved_by_saves_at_the_same_time(builder: Builder) {
    let machine = Machine::new(builder, &[]);
    let names = ["a", "b", "c"];
    for name in names {
        fs::create_dir(machine.project.path().join(name)).expect("a directory");
        let dockerfile = format!("FROM busybox:1\nRUN head -c 1000 /dev/urandom > /{name}\n");
        machine.project.write(&format!("{name}/Dockerfile"), dockerfile);
    }
    machine.run(["restore"]).success();
    std::thread::scope(|scope| {
        for name in names {
            let build = machine.dockercache(["build", "-t", name, name]);
            scope.spawn(|| build.run().success().code);
        }
    });
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let save = machine.dockercache(["save"]);
            scope.spawn(|| save.run().success().code);
        }
    });
    machine.replace();
    machine.run(["restore"]).success();
    for name in names {
        machine.run(["build", "-t", name, name]).success().build_report().assert_all_cached();
    }
}

/// A build of which a step in the middle fails as long as the source is bad.
const FAILING: &str = "\
FROM busybox:1 AS deps
COPY lock /lock
RUN head -c 1000 /dev/urandom > /deps
FROM deps AS test
RUN head -c 1000 /dev/urandom > /tools
COPY src /src
RUN grep -q good /src
FROM busybox:1
COPY --from=test /deps /deps
";

fn the_steps_of_a_failed_build_hit(builder: Builder) {
    let machine = machine(builder, FAILING);
    machine.run(["restore"]).success();
    machine.run(["build", "-t", "app", "."]).code(1);
    machine.run(["save"]).success();
    machine.replace();
    machine.project.write("src", "good");
    machine.run(["restore"]).success();
    let report = machine.run(["build", "-t", "app", "."]).success().build_report();
    let cached = report.cached();
    for step in ["COPY lock /lock", "RUN head -c 1000 /dev/urandom > /deps"] {
        assert!(cached.contains(&step), "{cached:?}");
    }
    assert!(cached.contains(&"RUN head -c 1000 /dev/urandom > /tools"), "{cached:?}");
}

fn a_failed_build_costs_no_good_stage(builder: Builder) {
    let machine = machine(builder, FAILING);
    machine.project.write("src", "good");
    job(&machine, &[], &[], |_| ());
    machine.replace();
    machine.project.write("src", "bad");
    machine.run(["restore"]).success();
    machine.run(["build", "-t", "app", "."]).code(1);
    machine.run(["save"]).success();
    machine.project.write("src", "good");
    machine.replace();
    machine.run(["restore"]).success();
    machine.run(["build", "-t", "app", "."]).success().build_report().assert_all_cached();
}

fn a_save_of_what_was_never_built_builds_nothing(builder: Builder) {
    let machine = machine(builder, &RANDOM.replace("RUN head", "RUN sleep 30; head"));
    let run = machine.run(["save", "-t", "app", "."]);
    assert!(run.success().stderr.contains("would run again"), "{}", run.stderr);
    assert!(run.took.as_secs() < 25, "a step has run: {run:?}");
    assert!(!machine.carried.archive().join("index.json").exists());
}

/// Goes on on another machine, and nothing is carried to it.
fn begin_again(machine: &Machine) {
    if machine.carried.archive().exists() {
        machine.carried.forget();
    }
    machine.replace();
}

/// Moves the tag of the base image.
fn move_base(machine: &Machine) {
    let tree = machine.carried.file("another-base");
    if !tree.exists() {
        let copied = std::process::Command::new("cp")
            .args(["-a".as_ref(), busybox_tree().as_os_str(), tree.as_os_str()])
            .status();
        assert!(copied.expect("cp").success());
        fs::write(tree.join("etc/patched"), "patched").expect("a file");
    }
    machine.job.engine.import(&tree, "busybox:1");
}

fn a_moved_base_costs_one_miss_whatever_is_shown(builder: Builder) {
    let machine = machine(builder, RANDOM);
    for shown in ["--progress=plain", "-q", "--progress=rawjson"] {
        begin_again(&machine);
        job(&machine, &[shown], &[], |_| ());
        let before = machine.image();
        machine.replace();
        move_base(&machine);
        job(&machine, &[shown], &[], |_| ());
        let moved = machine.image();
        assert_ne!(moved.layers(), before.layers(), "{shown}");
        machine.replace();
        move_base(&machine);
        job(&machine, &[shown], &[], |_| ());
        assert_eq!(machine.image().layers(), moved.layers(), "{shown}");
    }
}

fn a_base_that_moves_costs_a_plain_build_one_miss(builder: Builder) {
    let machine = machine(builder, RANDOM);
    let job = |is_moved: bool| {
        machine.replace();
        if is_moved {
            move_base(&machine);
        }
        let run = machine.run(["restore"]);
        let flags = run.success().stdout.split_whitespace();
        let command: Vec<&str> =
            ["buildx", "build", "-t", "app"].into_iter().chain(flags).collect();
        machine.docker(command).args(["."]).run().success();
        machine.run(["save", "-t", "app", "."]).success();
        machine.image().layers()
    };
    let first = job(false);
    let moved = job(true);
    assert_ne!(first, moved);
    assert_eq!(job(true), moved);
}

fn what_comes_from_standard_input_is_saved(builder: Builder) {
    let machine = machine(builder, RANDOM);
    let build = || {
        let build = machine.dockercache(["build", "-t", "app", "-f", "-", "."]);
        build.stdin(RANDOM.as_bytes()).run()
    };
    machine.run(["restore"]).success();
    build().success();
    machine.run(["save"]).success();
    machine.replace();
    machine.run(["restore"]).success();
    build().success().build_report().assert_all_cached();
}

fn a_step_of_another_temporary_directory_finds_the_build(builder: Builder) {
    let machine = machine(builder, RANDOM);
    let (one, another) = (machine.carried.file("one"), machine.carried.file("another"));
    for dir in [&one, &another] {
        fs::create_dir(dir).expect("a directory");
    }
    machine.dockercache(["build", "-t", "app", "."]).env("TMPDIR", &one).run().success();
    machine.dockercache(["save"]).env("TMPDIR", &another).run().success();
    assert_hits(&machine, &[], &[]);
}

fn a_quiet_build_that_writes_files_is_saved(builder: Builder) {
    let machine = machine(builder, RANDOM);
    let build = || {
        machine.run(["restore"]).success();
        let out = machine.project.path().join("out");
        let words = ["build", "-q", "-o", "out", "."];
        machine.run(words).success();
        fs::read(out.join("app")).expect("what was built")
    };
    let first = build();
    machine.run(["save"]).success();
    machine.replace();
    assert_eq!(build(), first);
    let tar = machine.run(["build", "-q", "-o", "-", "."]);
    assert!(tar.success().stdout.contains("ustar"), "{}", tar.stderr);
}

#[test]
fn bake_and_compose_hit_however_many_targets_they_build_at_once() {
    let machine = Machine::new(Builder::Buildkit(Generation::V28_5), &[]);
    let stages = (1..=4).map(|n| {
        format!("FROM shared AS s{n}\nCOPY --from=deps /deps /deps\nRUN head -c {n} /dev/urandom > /{n}\n")
    });
    let dockerfile = "FROM busybox:1 AS deps\nRUN head -c 1000 /dev/urandom > /deps\n\
                      FROM busybox:1 AS shared\nWORKDIR /app\n"
        .to_owned();
    machine.project.write("Dockerfile", dockerfile + &stages.collect::<String>());
    let services = (1..=4).map(|n| {
        format!("  s{n}:\n    image: s{n}\n    build:\n      context: .\n      target: s{n}\n")
    });
    machine.project.write("compose.yaml", format!("services:\n{}", services.collect::<String>()));
    let layers = || (1..=4).map(|n| Image::of(&machine.job.engine, &format!("s{n}")).layers());
    for command in [&["compose", "build"][..], &["buildx", "bake"]] {
        begin_again(&machine);
        let job = || {
            machine.run(["restore"]).success();
            machine.run(command.iter().copied()).success();
            machine.run(["save"]).success();
            layers().collect::<Vec<_>>()
        };
        let first = job();
        for _ in 0..2 {
            machine.replace();
            assert_eq!(job(), first, "{command:?}");
        }
    }
}

#[test]
fn a_shim_sends_any_docker_build_through_the_cache() {
    let machine = machine(Builder::Buildkit(Generation::V28_5), RANDOM);
    let shim = machine.run(["shim"]).success().stdout.trim().to_owned();
    let build = || {
        let script =
            format!("PATH={shim}:$PATH; docker build -t app . && docker image inspect app");
        machine.unshared(["--mount", "sh", "-c", &script]).run()
    };
    machine.run(["restore"]).success();
    build().success();
    machine.run(["save"]).success();
    machine.replace();
    machine.run(["restore"]).success();
    build().success().build_report().assert_all_cached();
}

#[test]
fn what_a_killed_job_left_in_the_engine_goes_with_the_next_command() {
    let machine = machine(Builder::Buildkit(Generation::V28_5), RANDOM);
    machine.run(["build", "-t", "app", "."]).success();
    let carriers = || {
        let run = machine.docker(["images", "-q", "dockercache-carrier"]).run();
        run.success().stdout.lines().count()
    };
    assert_eq!(carriers(), 3);
    // As a kill in the middle of a build leaves it: the images, and a note that nobody finished.
    let archive = machine.carried.archive();
    let id = Digest::of(archive.as_os_str().as_encoded_bytes());
    let journal = format!("/tmp/dockercache-journal-{}", id.short());
    let notes = fs::read_dir(journal).expect("a journal").flatten();
    let removed = notes.filter_map(|note| fs::remove_file(note.path().join("note.json")).ok());
    assert_eq!(removed.count(), 1);
    machine.run(["restore"]).success();
    assert_eq!(carriers(), 0);
}
