//! Clients, engines and stores that hang: each command ends in time, and a build that has no cache
//! for that reason is the build that it would be without.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::{
    BUILD, Builder, Engine, Generation, Invocation, Job, Machine, PASSWORD, S3Server, S3Settings,
    Server as _, Until, Watched,
};
use crate::stores::faults::{Fault, Proxy};
use crate::words::{FILES, OUTPUT};

/// What no command may take, besides what a build takes by itself.
const LIMIT: Duration = Duration::from_secs(40);
const DEADLINE: &str = "DOCKERCACHE_DEADLINE";

/// A directory with a `docker` that does this before it is the client: `$REAL` is the client.
fn client(engine: &Engine, script: &str) -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("docker");
    let real = engine.bin().join("docker");
    let text = format!("#!/bin/sh\nREAL={}\n{script}\nexec $REAL \"$@\"\n", real.display());
    fs::write(&path, text).expect("a program");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
    dir
}

fn with_path(invocation: Invocation, dir: &Path) -> Invocation {
    invocation.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", dir.display()))
}

#[track_caller]
fn ends(run: &Watched, code: i32, words: &str) {
    assert!(!run.killed, "it hangs: {run:?}");
    assert!(run.code == Some(code) && run.stderr.contains(words), "{words}: {run:#?}");
}

#[test]
fn a_client_that_answers_nothing_costs_the_cache() {
    let machine = Machine::new(Builder::Buildkit(Generation::V28_5), FILES);
    machine.run(BUILD).success();
    machine.run(["save"]).success();
    machine.replace();
    let hangs = "case $1 in build | buildx) ;; *) sleep 600 ;; esac";
    let dir = client(&machine.job.engine, hangs);
    let run = |words: &[&str]| {
        let run = machine.dockercache(words.iter().copied()).env(DEADLINE, "3s");
        with_path(run, dir.path()).watched(Until::Limit(LIMIT))
    };
    ends(&run(&BUILD), 0, "what comes before the build took longer than 3s");
    assert_eq!(machine.output(), OUTPUT);
    ends(&run(&["restore"]), 4, "no answer to");
    ends(&run(&["save", "--tag", "app", "."]), 4, "no answer to");
    ends(&run(&["key", "."]), 0, "the keys name no engine generation: no answer to");
}

/// From its build on, the client does nothing more: the cache of the build is lost, and no time.
#[test]
fn a_client_that_hangs_after_the_build_costs_its_cache() {
    for builder in [
        Builder::Buildkit(Generation::V28_5),
        Builder::Buildkit(Generation::V28_5Containerd),
        Builder::Classic(Generation::V28_5),
    ] {
        let machine = Machine::new(builder, FILES);
        let hangs = "case $1 in build | buildx)\n\
                     if [ -e \"$HOME/built\" ]; then sleep 600; fi; touch \"$HOME/built\" ;; esac";
        let dir = client(&machine.job.engine, hangs);
        // Ten times as long is waited after it.
        let build = machine.dockercache(BUILD).env(DEADLINE, "4s");
        let run = with_path(build, dir.path()).watched(Until::Limit(LIMIT * 2));
        if builder.is_buildkit() {
            ends(
                &run,
                0,
                "the build is not saved: what comes after the build took longer than 40s",
            );
        } else {
            // Its log has said all.
            ends(&run, 0, "");
        }
        assert_eq!(machine.output(), OUTPUT);
        // What it had begun to write is removed by the next command.
        machine.run(["restore"]).success();
        assert!(
            !machine.carried.archive().exists()
                || machine.carried.files().keys().all(|path| !path.starts_with(".dockercache"))
        );
    }
}

#[test]
fn an_engine_that_stops_answering_is_given_up() {
    let own = Box::new(Engine::start(Generation::V28_5));
    let machine = Machine::with(Job::on(own, Builder::Buildkit(Generation::V28_5)), FILES);
    machine.run(BUILD).success();
    let frozen = machine.job.engine.freeze();
    for words in [&["restore"][..], &["save"]] {
        let run = machine.dockercache(words.iter().copied()).watched(Until::Limit(LIMIT));
        ends(&run, 4, "no answer to the first question to the Docker engine within 20 s");
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            // The user's own build waits for the engine.
            thread::sleep(Duration::from_secs(8));
            drop(frozen);
        });
        let build = machine.dockercache(BUILD).env(DEADLINE, "2s");
        ends(&build.watched(Until::Limit(LIMIT)), 0, "the build runs without cache: what comes");
    });
    assert_eq!(machine.output(), OUTPUT);
}

/// In the middle of an export, and of a capture.
#[test]
fn an_engine_that_stops_answering_at_work_is_given_up() {
    let own = Box::new(Engine::start(Generation::V28_5));
    let dockerfile = "FROM busybox:1\nRUN head -c 90000000 /dev/urandom > /big\nCMD [\"true\"]\n";
    let machine = Machine::with(
        Job::on(own, Builder::Buildkit(Generation::V28_5)),
        &[("Dockerfile", dockerfile)],
    );
    machine.run(BUILD).success();
    for after in [500, 1000, 1500] {
        let run = thread::scope(|scope| {
            let save = machine.dockercache(["save", "--tag", "app", "."]);
            let run = scope.spawn(|| save.watched(Until::Limit(LIMIT)));
            thread::sleep(Duration::from_millis(after));
            let _frozen = machine.job.engine.freeze();
            run.join().expect("a watched run")
        });
        assert!(!run.killed, "{after} ms: it hangs: {run:?}");
        assert!(matches!(run.code, Some(0 | 4)), "{after} ms: {run:?}");
    }
    machine.run(["save", "--tag", "app", "."]).success();
    machine.carried.assert_clean();
}

/// Each request by itself is fast enough to go on.
#[test]
fn a_store_that_drips_ends_with_the_deadline() {
    let server = S3Server::start(S3Settings::default());
    let proxy = Proxy::start(server.address(), |_, _| Some(Fault::Drip));
    let machine = Machine::new(Builder::Buildkit(Generation::V28_5), FILES);
    let build = machine
        .dockercache(BUILD)
        .env("DOCKERCACHE_STORE", server.url(proxy.address()))
        .envs(server.variables(proxy.address(), PASSWORD))
        .env(DEADLINE, "4s");
    let run = build.watched(Until::Limit(LIMIT));
    ends(&run, 0, "the build runs without cache: what comes before the build took longer than 4s");
    assert!(run.took < Duration::from_secs(20), "{:?}", run.took);
    assert_eq!(machine.output(), OUTPUT);
}

/// As with the client itself: the build and its client end, and the exit code is what the client makes
/// of the signal.
#[test]
fn a_signal_ends_the_builders_client_too() {
    let dockerfile = "FROM busybox:1\nRUN echo begun && sleep 300\n";
    for signal in ["-TERM", "-INT"] {
        let machine =
            Machine::new(Builder::Buildkit(Generation::V28_5), &[("Dockerfile", dockerfile)]);
        let mut command = machine.dockercache(BUILD).into_command();
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the program starts");
        let lines = BufReader::new(child.stderr.take().expect("a log")).lines();
        let begun = lines.map_while(Result::ok).find(|line| line.ends_with("begun"));
        assert!(begun.is_some(), "the step does not run");
        let id = child.id().to_string();
        let clients = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        let clients = clients.expect("a process");
        let is_there = |client: &&str| Path::new("/proc").join(client).exists();
        assert!(clients.split_whitespace().any(|client| is_there(&client)), "no client");
        let start = Instant::now();
        assert!(Command::new("kill").args([signal, &id]).status().expect("kill runs").success());
        let status = child.wait().expect("an end");
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        assert!(matches!(status.code(), Some(130 | 143)), "{signal}: {status}");
        let left: Vec<_> = clients.split_whitespace().filter(is_there).collect();
        assert!(left.is_empty(), "{signal}: the client goes on: {left:?}");
    }
}

#[test]
fn a_deadline_that_is_none_is_ignored() {
    let machine = Machine::new(Builder::Buildkit(Generation::V28_5), FILES);
    for wrong in ["soon", "0", "-3s"] {
        let run = machine.dockercache(BUILD).env(DEADLINE, wrong).run();
        let said = format!("`{DEADLINE}` is ignored: invalid value `{wrong}`");
        assert!(run.success().stderr.contains(&said), "{}", run.stderr);
    }
}
