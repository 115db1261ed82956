//! Steps of one job that run as different users: what one builds, another one saves, or is told why not.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use crate::harness::{BUILD, Builder, Engine, Generation, Machine, Run, need_programs};

/// The user `nobody`, who may do anything with `sudo`.
const USER: u32 = 65534;
const DOCKERFILE: &str = "\
FROM busybox:1 AS build
RUN head -c 1000 /dev/urandom > /random
FROM busybox:1
COPY --from=build /random /random
";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    User,
    /// The same user, with `sudo`.
    Sudo,
    /// Root, whom no user has called.
    Root,
}

/// A machine on which `nobody` owns the project and what is carried.
fn machine(generation: Generation) -> Machine {
    need_programs(&["sudo=sudo"]);
    let machine = Machine::new(Builder::Buildkit(generation), &[("Dockerfile", DOCKERFILE)]);
    let carried = &machine.carried;
    for name in ["home", "archive"] {
        fs::create_dir(carried.file(name)).expect("a directory");
        chown(carried.file(name), Some(USER), Some(USER)).expect("an owner");
    }
    fs::copy(env!("CARGO_BIN_EXE_dockercache"), carried.file("dockercache")).expect("a program");
    let above = carried.file("home");
    for directory in [above.parent().expect("a directory"), machine.project.path()] {
        chown(directory, Some(USER), Some(USER)).expect("an owner");
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).expect("a mode");
    }
    machine
}

fn run(machine: &Machine, who: Who, words: &[&str]) -> Run {
    let Machine { job, carried, .. } = machine;
    let engine: &Engine = &job.engine;
    let sudoers = carried.file("sudoers");
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", engine.bin().display());
    let rules = format!(
        "Defaults env_keep += \"DOCKERCACHE_DIR DOCKER_HOST DOCKER_CONFIG\"\n\
         Defaults secure_path = \"{path}\"\n\
         nobody ALL = (ALL) NOPASSWD: ALL\n"
    );
    fs::write(&sudoers, rules).expect("a file");
    chown(&sudoers, Some(0), Some(0)).expect("an owner");
    fs::set_permissions(&sudoers, fs::Permissions::from_mode(0o440)).expect("a mode");
    let socket = Path::new(engine.docker_host().strip_prefix("unix://").expect("a socket"));
    let group = fs::metadata(socket).expect("a socket").gid();
    let as_user = format!("setpriv --reuid={USER} --regid={USER} --groups={group}");
    let (switch, home) = match who {
        Who::User => (as_user, carried.file("home")),
        Who::Sudo => (format!("{as_user} sudo -n"), carried.file("home")),
        Who::Root => (String::new(), "/root".into()),
    };
    let program = carried.file("dockercache");
    let words = words.join(" ");
    let line = format!(
        "mount --bind {} /etc/sudoers && exec {switch} {} {words}",
        sudoers.display(),
        program.display()
    );
    eprintln!("as {who:?}:");
    let run = machine.unshared(["--mount", "sh", "-c", &line]);
    run.env("HOME", &home).env("TMPDIR", &home).env("BUILDX_CONFIG", home.join("buildx")).run()
}

#[test]
fn what_a_user_builds_sudo_saves() {
    for generation in [Generation::V28_5, Generation::V28_5Containerd] {
        let machine = machine(generation);
        run(&machine, Who::User, &["restore"]).success();
        run(&machine, Who::User, &BUILD).success();
        let saved = run(&machine, Who::Sudo, &["save"]);
        assert!(saved.success().stderr.contains("save: saved: "), "{}", saved.stderr);
        next(&machine);
        for who in [Who::User, Who::Sudo, Who::User] {
            run(&machine, who, &["restore"]).success();
            run(&machine, who, &BUILD).success().build_report().assert_all_cached();
        }
    }
}

#[test]
fn what_sudo_builds_a_user_saves() {
    for generation in [Generation::V28_5, Generation::V28_5Containerd] {
        let machine = machine(generation);
        run(&machine, Who::Sudo, &["restore"]).success();
        run(&machine, Who::Sudo, &BUILD).success();
        let saved = run(&machine, Who::User, &["save"]);
        assert!(saved.success().stderr.contains("save: saved: "), "{}", saved.stderr);
        next(&machine);
        run(&machine, Who::Sudo, &["restore"]).success();
        run(&machine, Who::Sudo, &BUILD).success().build_report().assert_all_cached();
        // And once more, with what both have written.
        machine.project.edit("Dockerfile", "1000", "2000");
        run(&machine, Who::Sudo, &BUILD).success();
        run(&machine, Who::Sudo, &["save"]).success();
        machine.project.edit("Dockerfile", "2000", "3000");
        run(&machine, Who::User, &BUILD).success();
        run(&machine, Who::User, &["save"]).success();
        next(&machine);
        run(&machine, Who::User, &BUILD).success().build_report().assert_all_cached();
    }
}

/// Root does not believe what just anybody has written.
#[test]
fn root_is_told_why_it_does_not_save_what_a_user_has_built() {
    let machine = machine(Generation::V28_5);
    run(&machine, Who::User, &BUILD).success();
    let told = format!("is not trusted: it belongs to user {USER}");
    let saved = run(&machine, Who::Root, &["save"]);
    assert!(saved.code(5).stderr.contains(&told), "{}", saved.stderr);
    // The build runs all the same.
    let built = run(&machine, Who::Root, &BUILD);
    assert!(built.success().stderr.contains(&told), "{}", built.stderr);
}

fn next(machine: &Machine) {
    machine.job.replace();
}
