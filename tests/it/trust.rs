//! With keys, a builder is given what a good signature covers, whatever way it came, and a job signs
//! only what it has made itself or what was signed before.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::process::Command;

use dockercache::oci::digest::Digest;
use serde_json::Value;

use crate::harness::{BUILD, Builder, Generation, Machine, Run};
use crate::words::{FILES, OUTPUT};

/// 32 bytes in base64, and the public key that belongs to them.
const SIGNING: (&str, &str) =
    ("DOCKERCACHE_SIGNING_KEY", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
const VERIFY: (&str, &str) =
    ("DOCKERCACHE_VERIFY_KEY", "A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=");
const PROJECT: (&str, &str) = ("DOCKERCACHE_PROJECT", "words");
const NOT_SIGNED: &str = "is not used: it is not signed";

const BUILDERS: [Builder; 3] = [
    Builder::Buildkit(Generation::V28_5),
    Builder::Buildkit(Generation::V28_5Containerd),
    Builder::Classic(Generation::V28_5),
];

/// Runs the program as a job of the project, with keys.
fn run(machine: &Machine, words: &[&str], keys: &[(&str, &str)]) -> Run {
    let command = machine.dockercache(words.iter().copied());
    command.envs([PROJECT]).envs(keys.iter().copied()).run()
}

/// The blobs in the directory.
fn blobs(machine: &Machine) -> BTreeSet<PathBuf> {
    machine.carried.blobs().into_iter().map(|(_, path)| path).collect()
}

/// A job on a new machine, with what is carried.
fn next(machine: &Machine) {
    machine.job.replace();
}

/// A machine to which the unsigned cache of another one is carried, with random layers.
fn planted(builder: Builder) -> Machine {
    let machine = Machine::new(builder, FILES);
    run(&machine, &BUILD, &[]).success();
    run(&machine, &["save"], &[]).success();
    next(&machine);
    machine
}

#[test]
fn an_unsigned_directory_is_a_miss_for_who_verifies() {
    for builder in BUILDERS {
        let machine = planted(builder);
        let restored = run(&machine, &["restore"], &[VERIFY]);
        assert!(restored.success().stderr.contains(NOT_SIGNED), "{}", restored.stderr);
        assert_eq!(restored.stdout, "", "no flags");
        let built = run(&machine, &BUILD, &[VERIFY]);
        assert!(built.success().stderr.contains(NOT_SIGNED), "{}", built.stderr);
        assert_eq!(built.build_report().cached(), [""; 0]);
        assert_eq!(machine.output(), OUTPUT);
    }
}

#[test]
fn a_signed_directory_is_a_hit_for_who_verifies() {
    for builder in BUILDERS {
        let machine = Machine::new(builder, FILES);
        run(&machine, &BUILD, &[VERIFY]).success();
        let saved = run(&machine, &["save"], &[SIGNING, VERIFY]);
        let key = format!("DOCKERCACHE_VERIFY_KEY={}", VERIFY.1);
        assert!(saved.success().stderr.contains(&key), "{}", saved.stderr);
        assert!(!saved.stderr.contains(SIGNING.1));
        next(&machine);
        let restored = run(&machine, &["restore", "--strict"], &[VERIFY]);
        restored.success();
        if builder.is_buildkit() {
            assert!(restored.stdout.contains(",digest=sha256:"), "{}", restored.stdout);
        }
        run(&machine, &BUILD, &[VERIFY]).success().build_report().assert_all_cached();
        // Nothing has changed, and the signature stays.
        let index = machine.carried.files();
        run(&machine, &["save"], &[SIGNING, VERIFY]).success();
        assert_eq!(machine.carried.files(), index);
    }
}

/// The archive is planted, no store has anything, and a job of the main branch has both keys: what
/// was planted is neither used nor signed.
#[test]
fn what_came_without_a_signature_is_never_signed() {
    for keys in [&[SIGNING, VERIFY][..], &[SIGNING]] {
        for builder in BUILDERS {
            let machine = planted(builder);
            let foreign = layers(&machine);
            assert!(!foreign.is_empty());
            run(&machine, &["restore"], keys).success();
            assert_eq!(run(&machine, &BUILD, keys).success().build_report().cached(), [""; 0]);
            let saved = run(&machine, &["save"], keys);
            assert!(saved.success().stderr.contains(", 0 kept"), "{}", saved.stderr);
            let own = layers(&machine);
            assert!(own.is_disjoint(&foreign), "{builder:?}: a foreign layer is signed");
            next(&machine);
            let verified = run(&machine, &["restore", "--strict"], &[VERIFY]);
            verified.success();
        }
    }
}

/// The blobs of a random layer: no two builds have the same.
fn layers(machine: &Machine) -> BTreeSet<PathBuf> {
    machine.carried.blobs().into_iter().filter(|(size, _)| *size > 4_000_000).map(|b| b.1).collect()
}

/// The build took what nobody had checked, so its result may be anyone's.
#[test]
fn a_job_whose_build_verified_nothing_signs_nothing() {
    let machine = planted(Builder::Buildkit(Generation::V28_5));
    run(&machine, &["restore"], &[]).success();
    run(&machine, &BUILD, &[]).success().build_report().assert_all_cached();
    let saved = run(&machine, &["save", "--strict"], &[SIGNING, VERIFY]);
    assert!(saved.code(1).stderr.contains("the cache is not signed"), "{}", saved.stderr);
    let restored = run(&machine, &["restore"], &[VERIFY]);
    assert!(restored.success().stderr.contains(NOT_SIGNED), "{}", restored.stderr);
}

fn signed() -> Machine {
    let machine = Machine::new(Builder::Buildkit(Generation::V28_5), FILES);
    run(&machine, &BUILD, &[VERIFY]).success();
    run(&machine, &["save"], &[SIGNING]).success();
    next(&machine);
    machine
}

#[test]
fn an_altered_or_foreign_index_is_a_miss() {
    let machine = signed();
    let path = machine.carried.archive().join("index.json");
    let good = fs::read(&path).expect("an index");
    let restore = |keys: &[(&str, &str)], words: &str| {
        let restored = run(&machine, &["restore"], keys);
        assert!(restored.success().stderr.contains(words), "{}", restored.stderr);
        assert_eq!(restored.stdout, "");
    };
    let altered = |alter: fn(&mut Value)| {
        let mut index = serde_json::from_slice(&good).expect("JSON");
        alter(&mut index);
        fs::write(&path, index.to_string()).expect("a written file");
    };
    altered(|index| {
        let annotations = index["annotations"].as_object_mut().expect("annotations");
        annotations.remove("dev.dockercache.signature").expect("a signature");
    });
    restore(&[VERIFY], NOT_SIGNED);
    altered(|index| {
        index["manifests"].as_array_mut().expect("manifests").pop();
    });
    restore(&[VERIFY], "it was altered");
    fs::write(&path, &good).expect("a written file");
    let foreign = ("DOCKERCACHE_VERIFY_KEY", SIGNING.1);
    restore(&[foreign], "not trusted");
    restore(
        &[VERIFY, ("DOCKERCACHE_PROJECT", "other")],
        "signed for the project `words`, and this is `other`",
    );
    assert!(run(&machine, &["restore", "--strict"], &[VERIFY]).success().stderr.contains("hit"));
}

#[test]
fn inspect_says_whose_the_archive_is() {
    let machine = signed();
    let said = |keys: &[(&str, &str)], state: &str, words: &str| {
        let inspected: Value = run(&machine, &["inspect", "--format", "json"], keys).json();
        assert_eq!(inspected["signature"]["state"], state);
        let text = run(&machine, &["inspect"], keys);
        let text = text.success().stdout.clone();
        assert!(text.contains(&format!("  signature: {words}")), "{text}");
        inspected
    };
    let good = format!("signed with the trusted key {} for `words`, linux/", VERIFY.1);
    let inspected = said(&[VERIFY], "good", &good);
    assert_eq!(inspected["signature"]["key"], VERIFY.1);
    assert_eq!(inspected["signature"]["project"], "words");
    said(&[SIGNING], "good", &good);
    said(&[], "unchecked", "signed; set DOCKERCACHE_VERIFY_KEY to check by whom");
    let foreign = ("DOCKERCACHE_VERIFY_KEY", SIGNING.1);
    said(&[foreign], "foreign", "altered, or signed by someone who is not trusted");
    // As `restore` has it.
    run(&machine, &["inspect"], &[("DOCKERCACHE_VERIFY_KEY", "")]).code(2);
    machine.carried.forget();
    run(&machine, &BUILD, &[]).success();
    run(&machine, &["save"], &[]).success();
    said(&[VERIFY], "unsigned", "not signed");
}

/// What this program makes of a signed archive is as good, on the machine where it made it.
#[test]
fn what_is_left_of_a_damaged_signed_archive_is_used() {
    let machine = signed();
    let (_, largest) = machine.carried.blobs().pop().expect("a blob");
    fs::write(largest, "damaged").expect("a written file");
    let restored = run(&machine, &["restore"], &[VERIFY]);
    assert!(restored.success().stderr.contains("hit"), "{}", restored.stderr);
    let built = run(&machine, &BUILD, &[VERIFY]).success().build_report();
    assert!(!built.cached().is_empty(), "{built:?}");
    // Elsewhere nobody knows what it was made of.
    next(&machine);
    let restored = run(&machine, &["restore"], &[VERIFY]);
    assert!(restored.success().stderr.contains(NOT_SIGNED), "{}", restored.stderr);
}

#[test]
fn a_file_is_signed_and_verified_like_a_directory() {
    let machine = signed();
    let (good, bad) = (machine.carried.file("good.tar.zst"), machine.carried.file("bad.tar"));
    let [good, bad] = [&good, &bad].map(|path| path.to_str().expect("UTF-8"));
    let restore = |file: &str, keys: &[(&str, &str)]| {
        next(&machine);
        run(&machine, &["restore", "--archive", file], keys)
    };
    run(&machine, &BUILD, &[VERIFY]).success();
    run(&machine, &["save", "--archive", good], &[SIGNING]).success();
    run(&machine, &["save", "--archive", bad], &[]).success();
    machine.carried.forget();
    let hit = restore(good, &[VERIFY]);
    assert!(hit.success().stderr.contains("hit"), "{}", hit.stderr);
    run(&machine, &BUILD, &[VERIFY]).success().build_report().assert_all_cached();
    let miss = restore(bad, &[VERIFY]);
    assert!(miss.success().stderr.contains(NOT_SIGNED), "{}", miss.stderr);
    assert!(restore(bad, &[]).success().stderr.contains("hit"));
}

/// Anyone can make a directory in `/tmp`, and write an archive or a journal into it.
#[test]
fn what_another_user_has_put_there_is_not_believed() {
    let machine = planted(Builder::Buildkit(Generation::V28_5));
    let open = tempfile::tempdir().expect("a directory");
    fs::set_permissions(open.path(), fs::Permissions::from_mode(0o1777)).expect("a mode");
    let archive = open.path().join("archive");
    let own = |user| {
        let chown = Command::new("chown").args(["-R", user]).arg(&archive).status();
        assert!(chown.expect("chown runs").success());
    };
    let copied = Command::new("cp").arg("-a").arg(machine.carried.archive()).arg(&archive).status();
    assert!(copied.expect("cp runs").success());
    let path = archive.to_str().expect("UTF-8");
    let run = |words: &[&str]| run(&machine, words, &[("DOCKERCACHE_DIR", path)]);
    let id = Digest::of(path.as_bytes());
    let journal = format!("/tmp/dockercache-journal-{}", id.short());

    own("4711");
    let foreign = "is not used: it belongs to user 4711";
    assert!(run(&["restore"]).success().stderr.contains(foreign));
    let built = run(&BUILD);
    assert!(built.success().stderr.contains(foreign), "{}", built.stderr);
    assert_eq!(built.build_report().cached(), [""; 0]);
    // Whoever has restored it for this job is another matter.
    own("0");
    next(&machine);
    fs::remove_dir_all(&journal).expect("no journal");
    assert!(run(&["restore"]).success().stderr.contains("hit"));

    fs::remove_dir_all(&journal).expect("no journal");
    let elsewhere = tempfile::tempdir().expect("a directory");
    let plant: [(&dyn Fn(), &str); 3] = [
        (&|| symlink(elsewhere.path(), &journal).expect("a link"), "it is not a directory"),
        (
            &|| {
                fs::create_dir(&journal).expect("a directory");
                std::os::unix::fs::chown(&journal, Some(4711), Some(4711)).expect("an owner");
            },
            "it belongs to user 4711",
        ),
        (
            &|| {
                fs::create_dir(&journal).expect("a directory");
                fs::set_permissions(&journal, fs::Permissions::from_mode(0o777)).expect("a mode");
            },
            "other users have access to it",
        ),
    ];
    for (plant, reason) in plant {
        plant();
        let said = format!("is not trusted: {reason}");
        let saved = run(&["save"]);
        assert!(saved.code(5).stderr.contains(&said), "{}", saved.stderr);
        let built = run(&BUILD);
        assert!(built.success().stderr.contains("the build will not be saved"), "{}", built.stderr);
        assert!(fs::read_dir(elsewhere.path()).expect("a directory").next().is_none());
        fs::remove_dir(&journal).or_else(|_| fs::remove_file(&journal)).expect("no journal");
    }
}

/// Such as a secret that a CI does not give to this job: it is no reason to check nothing.
#[test]
fn an_empty_key_is_a_mistake_and_not_off() {
    let machine = planted(Builder::Buildkit(Generation::V28_5));
    for name in [SIGNING.0, VERIFY.0] {
        for value in ["", "  ", "\n", ","] {
            let keys = [(name, value)];
            for words in [&["restore"][..], &["save", "-t", "app", "."]] {
                let refused = run(&machine, words, &keys);
                assert!(refused.code(2).stderr.contains(name), "{}", refused.stderr);
            }
        }
        let built = run(&machine, &BUILD, &[(name, "")]);
        assert!(built.success().stderr.contains(&format!("`{name}` is set, but empty")));
        assert_eq!(built.build_report().cached(), [""; 0]);
        next(&machine);
    }
}

#[test]
fn a_job_that_only_reads_writes_nothing() {
    let machine = planted(Builder::Buildkit(Generation::V28_5));
    let before = (machine.carried.files(), blobs(&machine));
    machine.project.edit("src/a", "of", "OF");
    run(&machine, &["restore"], &[]).success();
    run(&machine, &BUILD, &[]).success();
    let read_only = ("DOCKERCACHE_READ_ONLY", "1");
    for keys in [&[read_only][..], &[read_only, SIGNING]] {
        let saved = run(&machine, &["save"], keys);
        assert!(saved.success().stderr.contains("nothing is written"), "{}", saved.stderr);
        assert_eq!((machine.carried.files(), blobs(&machine)), before);
    }
}
