//! Cache mounts travel: what a step has left in one is there again on an empty machine, and nothing
//! that no step uses.

use std::fmt::Write as _;
use std::process::Command;

use crate::harness::{Builder, Generation, Machine, Run, on_buildkit};

on_buildkit! {
    what_a_step_left_in_a_mount_is_there_on_the_next_machine,
    mounts_are_kept_apart_by_id_options_and_namespace,
    a_full_hit_moves_no_mount,
    an_edit_moves_what_has_changed_and_drops_what_is_unused,
    a_failed_build_leaves_its_mounts,
    a_damaged_mount_is_a_cold_one,
    mounts_can_be_switched_off_and_chosen,
    mounts_make_no_difference_to_the_image,
    a_save_between_two_builds_of_a_job_loses_nothing,
}

/// A step that counts in a mount how often it has run; no layer has it.
const COUNTING: &str = "\
FROM busybox:1 AS build
COPY src /src
RUN --mount=type=cache,target=/cache echo run >> /cache/runs && wc -l < /cache/runs > /runs
FROM busybox:1
COPY --from=build /runs /runs
CMD [\"cat\", \"/runs\"]
";

fn machine(builder: Builder, dockerfile: &str) -> Machine {
    Machine::new(builder, &[("Dockerfile", dockerfile), ("src", "0")])
}

/// A job on a new machine, after an edit of the source.
#[track_caller]
fn job(machine: &Machine, source: &str, variables: &[(&str, &str)]) {
    let _ = job_seen(machine, source, variables);
}

/// The same; gives what the build said.
#[track_caller]
fn job_seen(machine: &Machine, source: &str, variables: &[(&str, &str)]) -> Run {
    machine.replace();
    machine.project.write("src", source);
    machine.run(["restore"]).success();
    let build = machine.dockercache(["build"]).args(machine.arguments());
    let run = build.envs(variables.iter().copied()).run();
    run.success();
    machine.dockercache(["save", "--strict"]).envs(variables.iter().copied()).run().success();
    machine.carried.assert_clean();
    run
}

fn output(machine: &Machine) -> String {
    machine.output().trim().to_owned()
}

fn what_a_step_left_in_a_mount_is_there_on_the_next_machine(builder: Builder) {
    let machine = machine(builder, COUNTING);
    for generation in ["1", "2", "3"] {
        job(&machine, generation, &[]);
        assert_eq!(output(&machine), generation);
    }
}

fn mounts_are_kept_apart_by_id_options_and_namespace(builder: Builder) {
    let mut mounts = vec![
        ("target=/cache", "0:0:755"),
        ("target=/cache,id=other", "0:0:755"),
        ("target=/cache,id=other,uid=5,gid=6,mode=0750,sharing=locked", "5:6:750"),
    ];
    // On Docker 20.10 these start empty, which docs/cache-mounts.md says.
    if builder.generation() != Generation::V20_10 {
        mounts.push(("target=relative,sharing=private", "0:0:755"));
        mounts.push(("target=/cache,id=$ID", "0:0:755"));
    }
    let mut dockerfile =
        "FROM busybox:1 AS build\nARG ID=by-argument\nWORKDIR /w\nCOPY src /src\n".to_owned();
    for (number, (mount, _)) in mounts.iter().enumerate() {
        let _ = writeln!(
            dockerfile,
            "RUN --mount=type=cache,{mount} cd /cache 2>/dev/null || cd /w/relative; \
             touch {number}-$(wc -l < /src) && ls | sort | tr '\\n' ' ' >> /seen && \
             stat -c %u:%g:%a . >> /seen"
        );
    }
    dockerfile += "FROM busybox:1\nCOPY --from=build /seen /seen\nCMD [\"cat\", \"/seen\"]\n";
    let machine = machine(builder, &dockerfile);
    let in_team = |source: &str| {
        machine_job(&machine, source, &["--build-arg", "BUILDKIT_CACHE_MOUNT_NS=team/a"]);
        output(&machine)
    };
    let seen = |files: &dyn Fn(usize) -> String| {
        let lines =
            mounts.iter().enumerate().map(|(n, (_, start))| format!("{} {start}", files(n)));
        lines.collect::<Vec<_>>().join("\n")
    };
    let first = seen(&|number| format!("{number}-0"));
    assert_eq!(in_team("x"), first);
    assert_eq!(in_team("x\n"), seen(&|number| format!("{number}-0 {number}-1")));
    // In another namespace all of them are empty.
    machine_job(&machine, "x", &[]);
    assert_eq!(output(&machine), first);
}

/// A job with more arguments.
#[track_caller]
fn machine_job(machine: &Machine, source: &str, words: &[&str]) {
    machine.replace();
    machine.project.write("src", source);
    machine.run(["restore"]).success();
    let build = machine.dockercache(["build"]).args(words.iter().copied());
    build.args(machine.arguments()).run().success();
    machine.run(["save", "--strict"]).success();
}

fn a_full_hit_moves_no_mount(builder: Builder) {
    let machine = machine(builder, COUNTING);
    job(&machine, "1", &[]);
    let before = machine.carried.files();
    let run = job_seen(&machine, "1", &[]);
    run.build_report().assert_all_cached();
    assert!(!run.stderr.contains("mounts:"), "{}", run.stderr);
    assert_eq!(machine.carried.files(), before);
    job(&machine, "2", &[]);
    assert_eq!(output(&machine), "2");
}

/// A step that fills a mount once, and then reads a part of it and changes a part.
const PARTLY: &str = "\
FROM busybox:1 AS build
COPY src /src
RUN --mount=type=cache,target=/cache cd /cache; \
  test -e large || { head -c 3000000 /dev/urandom > large; head -c 1000000 /dev/urandom > unused; mkdir d; echo x > d/gone; }; \
  cat large d/gone > /dev/null 2>&1; cp /src small; test $(cat /src) != 2 || rm -r d; ls > /seen; md5sum large >> /seen
FROM busybox:1
COPY --from=build /seen /seen
CMD [\"cat\", \"/seen\"]
";

fn an_edit_moves_what_has_changed_and_drops_what_is_unused(builder: Builder) {
    let machine = machine(builder, PARTLY);
    let size = || machine.carried.blobs().iter().map(|(size, _)| size).sum::<u64>();
    let variables = [("DOCKERCACHE_MOUNTS_UNUSED", "2")];
    job(&machine, "1", &variables);
    let (seen, first) = (output(&machine), size());
    let seen = seen.strip_prefix("d\n").expect("a directory");
    let layers = || machine.carried.blobs().into_iter().filter(|(size, _)| *size > 400_000).count();
    job(&machine, "2", &variables);
    assert_eq!(output(&machine), seen, "the mount is another one");
    assert!(size() < first + 100_000, "an edit moved {} bytes", size() - first);
    job(&machine, "3", &variables);
    // Two builds have not used it: the mount is packed without it at last.
    job(&machine, "4", &variables);
    assert_eq!(output(&machine), seen.replace("unused\n", ""));
    for generation in 5..20 {
        job(&machine, &generation.to_string(), &variables);
    }
    assert!(output(&machine).ends_with(seen.lines().next_back().expect("a digest")));
    assert!(size() < first, "{} bytes after 19 generations, {first} at first", size());
    assert!(layers() <= 2);
}

fn a_failed_build_leaves_its_mounts(builder: Builder) {
    let machine =
        machine(builder, &COUNTING.replace("> /runs\n", "> /runs && grep -q good /src\n"));
    machine.project.write("src", "bad");
    machine.run(["restore"]).success();
    machine.dockercache(["build"]).args(machine.arguments()).run().code(1);
    machine.run(["save"]).success();
    job(&machine, "good", &[]);
    assert_eq!(output(&machine), "2");
}

fn a_damaged_mount_is_a_cold_one(builder: Builder) {
    let machine = machine(
        builder,
        &COUNTING.replace("echo run", "head -c 70000 /dev/urandom > /cache/noise; echo run"),
    );
    job(&machine, "1", &[]);
    let layer = machine.carried.blob(|size, _| (70_000..80_000).contains(&size));
    std::fs::write(layer, "damaged").expect("a written file");
    job(&machine, "2", &[]);
    assert_eq!(output(&machine), "1");
}

fn mounts_can_be_switched_off_and_chosen(builder: Builder) {
    let machine = machine(builder, COUNTING);
    job(&machine, "1", &[]);
    job(&machine, "2", &[("DOCKERCACHE_MOUNTS", "off")]);
    assert_eq!(output(&machine), "1");
    // Switched off, they are not kept either.
    job(&machine, "3", &[]);
    assert_eq!(output(&machine), "1");
    job(&machine, "4", &[("DOCKERCACHE_MOUNTS", "/cache")]);
    assert_eq!(output(&machine), "2");
    job(&machine, "5", &[("DOCKERCACHE_MOUNTS", "!/cache")]);
    assert_eq!(output(&machine), "1");
}

fn mounts_make_no_difference_to_the_image(builder: Builder) {
    let dockerfile = COUNTING.replace("wc -l < /cache/runs", "touch -d 2001-02-03 /src; cat /src");
    let machine = machine(
        builder,
        &dockerfile.replace("COPY --from=build /runs /runs", "COPY --from=build /runs /src /"),
    );
    job(&machine, "1", &[]);
    let build = |mounts| {
        job(&machine, "2", &[("DOCKERCACHE_MOUNTS", mounts)]);
        machine.output()
    };
    let (with, without) = (build("on"), build("off"));
    assert_eq!(with, without);
    let names = machine.docker(["run", "--rm", "app", "ls", "/"]).run();
    assert!(!names.success().stdout.contains("mount"), "{}", names.stdout);
}

fn a_save_between_two_builds_of_a_job_loses_nothing(builder: Builder) {
    let machine = machine(builder, COUNTING);
    job(&machine, "1", &[]);
    job(&machine, "2", &[]);
    for source in ["3", "4"] {
        machine.project.write("src", source);
        machine.build();
        machine.run(["save", "--strict"]).success();
        assert_eq!(output(&machine), source);
    }
    job(&machine, "5", &[]);
    assert_eq!(output(&machine), "5");
}

#[test]
fn any_tool_reads_the_layers_of_a_mount() {
    let machine = machine(Builder::Buildkit(Generation::V28_5), COUNTING);
    job(&machine, "1", &[]);
    let is_mount = |blob: &[u8]| {
        let tar = blob.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]).then(|| zstd::decode_all(blob).ok());
        tar.flatten().is_some_and(|tar| tar.windows(4).any(|bytes| bytes == b"run\n"))
    };
    let layer = machine.carried.blob(|_, blob| is_mount(blob));
    let tar = zstd::decode_all(&std::fs::read(layer).expect("a blob")[..]).expect("zstd");
    let file = machine.carried.file("layer.tar");
    std::fs::write(&file, tar).expect("a written file");
    let listed = Command::new("tar").arg("-tvf").arg(&file).output().expect("tar runs");
    assert!(String::from_utf8_lossy(&listed.stdout).contains(" runs\n"), "{listed:?}");
    let run = machine.run(["inspect"]);
    assert!(run.success().stdout.contains("  mount /cache: "), "{}", run.stdout);
}
