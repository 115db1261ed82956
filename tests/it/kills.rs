//! `kill -9` at any moment of a save or a restore leaves a usable archive: the old or the new.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Cache, Engine, Generation, Project, Run, dockercache};

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

#[test]
fn of_a_save_on_a_graph_driver() {
    saves_survive(&Engine::shared(Generation::V28_5), "1");
}

#[test]
fn of_a_save_on_the_containerd_store() {
    saves_survive(&Engine::shared(Generation::V28_5Containerd), "1");
}

#[test]
fn of_a_save_with_the_classic_builder() {
    saves_survive(&Engine::shared(Generation::V28_5), "0");
}

fn saves_survive(engine: &Engine, buildkit: &str) {
    engine.base_image(&["busybox:1"]);
    let (cache, project) = (Cache::new(), Project::new(&[("Dockerfile", OLD)]));
    let command = |args: &[&str]| {
        let command = cache.command(engine, args.iter().copied()).in_dir(project.path());
        command.env("DOCKER_BUILDKIT", buildkit)
    };
    let build = || command(&["build", "--tag", "app", "."]).run();
    build().success();
    command(&["save"]).run().success();
    let old = cache.beside("old");
    cache.copy_to(&old);

    // Everything is new, so that the kill meets each phase of a save.
    project.edit("Dockerfile", "40000000", "40000001");
    project.edit("Dockerfile", "2000000", "2000001");
    build().success();
    let took = command(&["save"]).run().success().took;
    let (archive, new) = (cache.beside("archive.tar.zst"), cache.beside("new"));
    cache.copy_to(&new);

    let mut survived = [0, 0];
    for kill in 0..KILLS {
        cache.copy_from(&old);
        // Without arguments, `save` would know of the one that was saved above.
        let save = ["save", "--archive", archive.to_str().expect("UTF-8"), "--tag", "app", "."];
        killed(command(&save).into_command(), took * kill * 3 / (KILLS * 2));
        let index = std::fs::read(cache.path().join("index.json")).expect("an index");
        let is_old = index == std::fs::read(old.join("index.json")).expect("an index");
        survived[usize::from(is_old)] += 1;
        assert_all_blobs_are_good(&cache);
    }
    eprintln!("{survived:?} of {KILLS} kills left the new and the old archive; took {took:?}");
    assert!(survived[1] > 0, "no kill came before the end");
    let killed_early = cache.beside("killed");
    cache.copy_from(&old);
    killed(command(&["save", "--tag", "app", "."]).into_command(), took / 2);
    cache.copy_to(&killed_early);

    // The next save succeeds, and leaves nothing of those that were killed.
    command(&["save", "--tag", "app", "."]).run().success();
    cache.assert_clean();
    let inspected = command(&["inspect", "--format", "json"]).run().success().stdout.clone();
    let inspected: serde_json::Value = serde_json::from_str(&inspected).expect("JSON");
    assert_eq!(inspected["dead"]["blobs"], 0);

    // What is left hits.
    fresh(engine);
    command(&["restore"]).run().success();
    assert_nothing_ran(&build());
    cache.copy_from(&killed_early);
    let index = std::fs::read(cache.path().join("index.json")).expect("an index");
    if index == std::fs::read(old.join("index.json")).expect("an index") {
        project.write("Dockerfile", OLD);
    }
    fresh(engine);
    command(&["restore", "--strict"]).run().success();
    assert_nothing_ran(&build());
}

#[test]
fn of_a_restore_from_a_file() {
    let engine = Engine::shared(Generation::V28_5);
    engine.base_image(&["busybox:1"]);
    let (cache, project) = (Cache::new(), Project::new(&[("Dockerfile", OLD)]));
    cache.build(&engine, &project).success();
    cache.save(&engine).success();
    let old = cache.beside("old");
    cache.copy_to(&old);
    project.edit("Dockerfile", "40000000", "40000001");
    cache.build(&engine, &project).success();
    let file = cache.beside("new.tar.zst");
    let file = file.to_str().expect("UTF-8");
    cache.command(&engine, ["save", "--archive", file]).run().success();

    // Without an engine: unpacking comes first, and is all that is of interest here.
    let restore = || {
        let command = cache.command(&engine, ["restore", "--archive", file]);
        command.env("DOCKER_HOST", "unix:///nowhere/docker.sock")
    };
    cache.copy_from(&old);
    let took = restore().run().code(4).took;
    for kill in 0..KILLS {
        cache.copy_from(&old);
        killed(restore().into_command(), took * kill / KILLS);
        assert_all_blobs_are_good(&cache);
    }
    cache.copy_from(&old);
    killed(restore().into_command(), took / 3);
    cache.command(&engine, ["restore", "--strict", "--archive", file]).run().success();
    cache.assert_clean();
    dockercache(&engine, ["prune"]).env("DOCKERCACHE_DIR", cache.path()).run().success();
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

fn fresh(engine: &Engine) {
    engine.wipe();
    engine.base_image(&["busybox:1"]);
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
fn assert_all_blobs_are_good(cache: &Cache) {
    let copy = cache.beside("looked-at");
    let _ = std::fs::remove_dir_all(&copy);
    cache.copy_to(&copy);
    let layout = dockercache::layout::directory::Layout::at(Path::new(&copy));
    let reach = dockercache::layout::archive::reach(&layout).expect("an index");
    assert!(reach.blobs.len() > 4, "{reach:?}");
    let bad = dockercache::layout::verify::verify(&layout, &reach, |_| false, &|_| {});
    assert_eq!(bad, [], "{reach:?}");
}
