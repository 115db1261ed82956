//! `kill -9` at any moment of a save or a restore leaves a usable archive: the old or the new.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{BUILD, Builder, Carried, Generation, Machine, Run};
use crate::random::Random;

/// Random bytes, so that nothing is small when it is compressed.
const OLD: &str = "\
FROM busybox:1 AS build
RUN head -c 40000000 /dev/urandom > /big && echo it was run

FROM busybox:1
RUN head -c 2000000 /dev/urandom > /final && echo it was run
COPY --from=build /etc/passwd /copied
RUN wc -c < /final > /size && echo it was run
";

/// Moments, spread over the time that the command takes, its end included.
const KILLS: u32 = 8;

/// Names the build, so that the journal of what was saved doesn't count.
const SAVE: [&str; 4] = ["save", "--tag", "app", "."];

#[test]
fn of_a_save_on_a_graph_driver() {
    saves_survive(Builder::Buildkit(Generation::V28_5));
}

#[test]
fn of_a_save_on_the_containerd_store() {
    saves_survive(Builder::Buildkit(Generation::V28_5Containerd));
}

#[test]
fn of_a_save_with_the_classic_builder() {
    saves_survive(Builder::Classic(Generation::V28_5));
}

fn saves_survive(builder: Builder) {
    let (machine, old) = saved(builder);
    let Machine { project, carried, .. } = &machine;

    // Everything is new, so that the kill meets each phase of a save.
    project.edit("Dockerfile", "40000000", "40000001");
    project.edit("Dockerfile", "2000000", "2000001");
    machine.run(BUILD).success();
    let took = machine.run(["save"]).success().took;
    let (archive, new) = (carried.file("archive.tar.zst"), carried.file("new"));
    carried.copy_to(&new);

    let mut survived = [0, 0];
    for kill in 0..KILLS {
        carried.copy_from(&old);
        // Without arguments, `save` would know of the one that was saved above.
        let save = ["save", "--archive", archive.to_str().expect("UTF-8"), "--tag", "app", "."];
        killed(machine.dockercache(save).into_command(), took * kill * 3 / (KILLS * 2));
        let index = std::fs::read(carried.archive().join("index.json")).expect("an index");
        let is_old = index == std::fs::read(old.join("index.json")).expect("an index");
        survived[usize::from(is_old)] += 1;
        assert_all_blobs_are_good(carried);
    }
    eprintln!("{survived:?} of {KILLS} kills left the new and the old archive; took {took:?}");
    assert!(survived[1] > 0, "no kill came before the end");
    let killed_early = carried.file("killed");
    carried.copy_from(&old);
    killed(machine.dockercache(SAVE).into_command(), took / 2);
    carried.copy_to(&killed_early);

    // The next save succeeds, and leaves nothing of those that were killed.
    machine.run(SAVE).success();
    carried.assert_clean();
    let inspected: serde_json::Value = machine.run(["inspect", "--format", "json"]).json();
    assert_eq!(inspected["dead"]["blobs"], 0);

    // What is left hits.
    machine.replace();
    machine.run(["restore"]).success();
    assert_nothing_ran(&machine.run(BUILD));
    carried.copy_from(&killed_early);
    let index = std::fs::read(carried.archive().join("index.json")).expect("an index");
    if index == std::fs::read(old.join("index.json")).expect("an index") {
        project.write("Dockerfile", OLD);
    }
    machine.replace();
    machine.restore();
    assert_nothing_ran(&machine.run(BUILD));
}

/// While it pushes, the engine has names of ours for a registry that goes with the save.
#[test]
fn of_a_save_that_pushes_on_docker_20_10() {
    pushes_leave_nothing(Generation::V20_10);
}

#[test]
fn of_a_save_that_pushes_on_docker_28_5() {
    pushes_leave_nothing(Generation::V28_5);
}

fn pushes_leave_nothing(generation: Generation) {
    let (machine, _) = saved(Builder::Buildkit(generation));
    let Machine { project, carried, .. } = &machine;
    machine.replace();
    machine.restore();
    project.edit("Dockerfile", "run\n\n", "run\nRUN head -c 8000000 /dev/urandom > /new\n\n");
    machine.run(BUILD).success();

    let temporary = carried.file("tmp");
    let seed = std::process::id().into();
    eprintln!("seed {seed}");
    let mut random = Random::new(seed);
    std::fs::create_dir(&temporary).expect("a directory");
    let inbox = || names(&machine).iter().filter(|name| name.contains("dockercache-inbox")).count();
    let mut left = 0;
    let mut size = 8_000_000;
    for next in [&["restore"][..], &BUILD, &["save"], &["restore"], &BUILD, &["save"]] {
        let mut save = machine.dockercache(["save"]).env("TMPDIR", &temporary).into_command();
        let quiet = save.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = quiet.spawn().expect("the program starts");
        while inbox() == 0 && child.try_wait().expect("a state").is_none() {}
        std::thread::sleep(Duration::from_millis(random.next() % 150));
        child.kill().expect("a kill");
        child.wait().expect("the program's end");
        left += inbox();
        let run = machine.dockercache(next.iter().copied()).env("TMPDIR", &temporary).run();
        run.success();
        assert_eq!(inbox(), 0, "after {next:?}");
        let files = std::fs::read_dir(&temporary).expect("a directory");
        assert_eq!(files.count(), 0, "temporary files are left after {next:?}");
        if next == ["save"] {
            let own = names(&machine).into_iter().filter(|name| name.contains("dockercache"));
            assert_eq!(own.collect::<Vec<_>>(), [""; 0]);
            project.edit("Dockerfile", &size.to_string(), &(size + 1).to_string());
            size += 1;
            machine.run(BUILD).success();
        }
    }
    eprintln!("{left} names were left by kills");
    assert!(left > 0, "no kill came while it pushed");
}

/// The names that the engine's images have.
fn names(machine: &Machine) -> Vec<String> {
    let images = machine.docker(["images", "--format={{.Repository}}:{{.Tag}}"]).silently().run();
    images.success().stdout.lines().map(str::to_owned).collect()
}

#[test]
fn of_a_restore_from_a_file() {
    let (machine, old) = saved(Builder::Buildkit(Generation::V28_5));
    let Machine { project, carried, .. } = &machine;
    project.edit("Dockerfile", "40000000", "40000001");
    machine.run(BUILD).success();
    let file = carried.file("new.tar.zst");
    let file = file.to_str().expect("UTF-8");
    machine.run(["save", "--archive", file]).success();

    // Without an engine: unpacking comes first, and is all that is of interest here.
    let restore = || {
        let command = machine.dockercache(["restore", "--archive", file]);
        command.env("DOCKER_HOST", "unix:///nowhere/docker.sock")
    };
    carried.copy_from(&old);
    let took = restore().run().code(4).took;
    for kill in 0..KILLS {
        carried.copy_from(&old);
        killed(restore().into_command(), took * kill / KILLS);
        assert_all_blobs_are_good(carried);
    }
    carried.copy_from(&old);
    killed(restore().into_command(), took / 3);
    machine.run(["restore", "--strict", "--archive", file]).success();
    carried.assert_clean();
    machine.run(["prune"]).success();
}

/// By what the steps print. BuildKit now and then leaves out `CACHED` for a step whose layers it
/// reads from the cache, so its own word is not enough.
#[track_caller]
fn assert_nothing_ran(build: &Run) {
    let Run { stdout, stderr, .. } = build.success();
    let ran = |line: &&str| line.ends_with("it was run") && !line.contains("RUN ");
    let ran: Vec<_> = stdout.lines().chain(stderr.lines()).filter(ran).collect();
    assert!(ran.is_empty(), "{ran:?}");
}

/// A machine that has saved the old version, and a copy of that archive.
fn saved(builder: Builder) -> (Machine, PathBuf) {
    let machine = Machine::new(builder, &[("Dockerfile", OLD)]);
    machine.run(BUILD).success();
    machine.run(["save"]).success();
    let old = machine.carried.file("old");
    machine.carried.copy_to(&old);
    (machine, old)
}

/// Starts the program and kills it after this time.
fn killed(mut command: Command, after: Duration) {
    let started = Instant::now();
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = quiet.spawn().expect("the program starts");
    std::thread::sleep(after.saturating_sub(started.elapsed()));
    child.kill().expect("a kill");
    child.wait().expect("the program's end");
}

/// All that the index names is there and whole: `prune` keeps just that.
fn assert_all_blobs_are_good(carried: &Carried) {
    let copy = carried.file("looked-at");
    let _ = std::fs::remove_dir_all(&copy);
    carried.copy_to(&copy);
    let layout = dockercache::oci::directory::Layout::at(&copy);
    let reach = dockercache::archive::reach(&layout).expect("an index");
    assert!(reach.blobs.len() > 4, "{reach:?}");
    let bad = dockercache::oci::verify::verify(&layout, &reach, |_| false, &|_| {});
    assert_eq!(bad, [], "{reach:?}");
}
