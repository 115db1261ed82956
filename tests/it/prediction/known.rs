//! What is known of builders, each by a project of its own: where they don't follow from their input,
//! where they differ, and what random projects don't have.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::process::Command;

use dockercache::builder::Strategy;

use super::{Subject, build, predict};
use crate::harness::{Engine, Generation};

/// The engine is asked to build the same twice.
#[test]
fn the_classic_builder_never_hits_with_a_dockerfile_outside_of_the_context() {
    let engine = Engine::shared(Generation::V28_5);
    let subject = &mut Subject::new(&engine, Strategy::Classic);
    let dir = tempfile::tempdir().expect("a directory");
    let context = dir.path().join("context");
    fs::create_dir(&context).expect("a directory");
    let file = dir.path().join("Dockerfile");
    fs::write(&file, "FROM base:1\nCOPY . /\n").expect("a Dockerfile");
    let words = ["--file", &file.display().to_string(), &context.display().to_string()];
    let words = words.map(str::to_owned);
    let twice = |ignored: &str| {
        fs::write(context.join(".dockerignore"), ignored).expect("an ignore file");
        let first = both(subject, &words);
        let second = both(subject, &words);
        assert_eq!(first.0, second.0);
        second.1
    };
    assert_eq!(twice("node_modules"), [false], "its name is in `.dockerignore` now");
    assert_eq!(twice(".dockerignore"), [true]);
}

/// The prediction is for an empty engine, which takes the mode into account.
#[test]
fn an_engine_that_has_the_context_misses_a_directory_s_mode() {
    let engine = Engine::shared(Generation::V28_5);
    let subject = &mut Subject::new(&engine, Strategy::BuildkitReplay);
    let dir = tempfile::tempdir().expect("a directory");
    let dockerfile = "FROM base:2 AS other\nFROM base:1\nCOPY d /d\n";
    let context = |name: &str, mode: u32| {
        let context = dir.path().join(name);
        fs::create_dir_all(context.join("d")).expect("a directory");
        fs::write(context.join("Dockerfile"), dockerfile).expect("a Dockerfile");
        fs::set_permissions(context.join("d"), Permissions::from_mode(mode)).expect("a mode");
        vec![context.display().to_string()]
    };
    let here = context("here", 0o755);
    let (then, _) = both(subject, &here);
    let now = context("here", 0o750);
    assert_eq!(both(subject, &here).1, [true], "the builder is told of the mode now");
    let (predicted, hits) = both(subject, &context("there", 0o750));
    assert_eq!(hits, [false], "where the context is new, the mode counts");
    assert_eq!(predicted, both(subject, &now).0);
    assert_ne!(predicted, then);
}

/// Found with the seed 409421580, by a later touch of a file in the directory. Both files let through
/// the same.
#[test]
fn an_engine_that_has_the_context_misses_what_another_ignore_file_means() {
    let engine = Engine::shared(Generation::V28_5);
    let subject = &mut Subject::new(&engine, Strategy::BuildkitReplay);
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    let words = |name: &str| {
        let file = at("Dockerfile").display().to_string();
        ["--file".to_owned(), file, at(name).display().to_string()]
    };
    fs::write(at("Dockerfile"), "FROM base:2 AS other\nFROM base:1\nCOPY . /d\n").expect("a file");
    fs::create_dir_all(at("here/logs")).expect("directories");
    fs::write(at("here/logs/x.log"), "x").expect("a file");
    fs::write(at("here/.dockerignore"), "/logs/\nlogs\n!**/*.log\n").expect("an ignore file");
    both(subject, &words("here"));
    fs::write(at("here/.dockerignore"), "logs\n!**/*.log\n/logs/\n").expect("an ignore file");
    let (predicted, _) = both(subject, &words("here"));
    fs::rename(at("here"), at("there")).expect("a moved directory");
    assert_eq!(both(subject, &words("there")), (predicted, vec![false]));
}

/// What a stage will give is not known before it runs: a miss is predicted where the builder, which
/// looks at the files, may find a hit. It is never the other way round.
#[test]
fn a_copy_from_a_stage_that_gives_the_same_files() {
    let engine = Engine::shared(Generation::V28_5);
    let subject = &mut Subject::new(&engine, Strategy::BuildkitReplay);
    let dir = tempfile::tempdir().expect("a directory");
    let words = [dir.path().display().to_string()];
    let write = |text: &str| {
        let dockerfile = format!(
            "FROM base:1 AS build\nRUN echo same > /file # {text}\n\
             FROM base:1\nCOPY --from=build /file /file\n"
        );
        fs::write(dir.path().join("Dockerfile"), dockerfile).expect("a Dockerfile");
    };
    write("one");
    let (before, hits) = both(subject, &words);
    assert_eq!(hits, [false, false]);
    write("two");
    let (after, hits) = both(subject, &words);
    assert_eq!(hits, [false, true], "the builder saw the same file");
    assert!(before.iter().all(|digest| !after.contains(digest)));
}

/// Found with the seed 725302672. What is behind a link in a directory does not matter to anyone,
/// but builders before Docker 28.5 look at it where the directory was found by a wildcard.
fn edit_behind_a_nested_link(generation: Generation) -> bool {
    let engine = Engine::shared(generation);
    let subject = &mut Subject::new(&engine, Strategy::BuildkitReplay);
    let dir = tempfile::tempdir().expect("a directory");
    let words = [dir.path().display().to_string()];
    fs::create_dir(dir.path().join("src")).expect("a directory");
    symlink("/target", dir.path().join("src/link")).expect("a link");
    // Without the second copy the target would not be sent, and the older builder fail.
    let dockerfile = "FROM base:2 AS other\nFROM base:1\nCOPY s* /src/\nCOPY target /\n";
    fs::write(dir.path().join("target"), "one").expect("a file");
    fs::write(dir.path().join("Dockerfile"), dockerfile).expect("a file");
    let (before, _) = both(subject, &words);
    fs::write(dir.path().join("target"), "other").expect("a file");
    let (after, hits) = both(subject, &words);
    assert_eq!(hits, [before[0] == after[0], false]);
    hits[0]
}

#[test]
fn docker_26_1_follows_links_in_a_directory_that_a_wildcard_finds() {
    assert!(!edit_behind_a_nested_link(Generation::V26_1));
}

#[test]
fn docker_28_5_follows_no_link_in_a_directory() {
    assert!(edit_behind_a_nested_link(Generation::V28_5));
}

/// Found with the seed 842381451: another case of what `RUN` leaves behind. Until `BuildKit`'s change
/// 4624, a secret makes the builder look at the files below.
fn edit_before_a_secret(generation: Generation) -> Vec<bool> {
    let engine = Engine::shared(generation);
    let subject = &mut Subject::new(&engine, Strategy::BuildkitReplay);
    let dir = tempfile::tempdir().expect("a directory");
    let words = [dir.path().display().to_string()];
    let dockerfile = "FROM base:2 AS other\nFROM base:1\nRUN --mount=source=a,target=/a true\n\
                      RUN --mount=type=secret,id=token true\n";
    fs::write(dir.path().join("Dockerfile"), dockerfile).expect("a Dockerfile");
    fs::write(dir.path().join("a"), "one").expect("a file");
    both(subject, &words);
    fs::write(dir.path().join("a"), "other").expect("a file");
    both(subject, &words).1
}

#[test]
fn docker_26_1_compares_files_where_a_secret_is_mounted() {
    assert_eq!(edit_before_a_secret(Generation::V26_1), [false, true]);
}

#[test]
fn docker_28_5_compares_no_files_where_a_secret_is_mounted() {
    assert_eq!(edit_before_a_secret(Generation::V28_5), [false, false]);
}

/// What random projects don't have: each step of the way is a hit exactly if it was predicted.
fn odd_files_and_ways_of_writing(generation: Generation) {
    let engine = Engine::shared(generation);
    let mut subject = Subject::new(&engine, Strategy::BuildkitReplay);
    let dir = tempfile::tempdir().expect("a directory");
    let words = [dir.path().display().to_string()];
    let at = |name: &str| dir.path().join(name);
    let dockerfile = "FROM base:2 AS other\nFROM base:1\nCOPY . /d\nRUN true\n";
    let write = |name: &str, text: &str| fs::write(at(name), text).expect("a file");
    write("Dockerfile", dockerfile);
    write(".dockerignore", "Dockerfile\nignored\n!ignored/kept");
    fs::create_dir(at("ignored")).expect("a directory");
    let mut sockets = Vec::new();
    let mut hit_after = |change: &str| {
        let predicted = predict(&subject, &words).expect("a project");
        let built = build(&subject, &words);
        assert!(built.succeeded, "{change}: {}", built.log);
        for step in &predicted {
            let expected = subject.seen.contains(&step.digest);
            assert_eq!(built.steps[&step.place], expected, "{change}: `{}`", step.instruction);
        }
        let hit = predicted.iter().all(|step| subject.seen.contains(&step.digest));
        subject.seen.extend(predicted.into_iter().map(|step| step.digest));
        hit
    };
    assert!(!hit_after("the first build"));
    sockets.push(UnixListener::bind(at("socket")).expect("a socket"));
    hit_after("a socket");
    assert!(Command::new("mkfifo").arg(at("fifo")).status().expect("mkfifo").success());
    assert!(!hit_after("a FIFO"));
    symlink("../../outside", at("out")).expect("a link");
    assert!(!hit_after("a link that leaves the context"));
    symlink("loop", at("loop")).expect("a link");
    assert!(!hit_after("a link to itself"));
    write("README", "one");
    write("readme", "two");
    assert!(!hit_after("names that differ by case"));
    write("ignored/file", "one");
    assert!(hit_after("an ignored file"));
    write("ignored/kept", "one");
    assert!(!hit_after("a file that is not ignored in a directory that is"));
    write("Dockerfile", &format!("\u{feff}{dockerfile}"));
    assert!(hit_after("a byte order mark"));
    write("Dockerfile", &dockerfile.replace('\n', "\r\n"));
    assert!(hit_after("line ends of Windows"));
    write("Dockerfile", &format!("# escape=`\n{}", dockerfile.replace("RUN", "RUN `\n")));
    assert!(hit_after("the escape character of Windows"));
    write("Dockerfile", dockerfile.trim_end());
    assert!(hit_after("no line end at the end"));
}

#[test]
fn odd_files_and_ways_of_writing_on_docker_28_5() {
    odd_files_and_ways_of_writing(Generation::V28_5);
}

#[test]
fn odd_files_and_ways_of_writing_on_docker_26_1() {
    odd_files_and_ways_of_writing(Generation::V26_1);
}

/// The predicted digests of a build's steps, and which of them were hits.
fn both(subject: &Subject<'_>, words: &[String]) -> (Vec<String>, Vec<bool>) {
    let predicted = predict(subject, words).expect("a project");
    let built = build(subject, words);
    assert!(built.succeeded, "{}", built.log);
    let hits = predicted.iter().map(|step| built.steps[&step.place]).collect();
    (predicted.into_iter().map(|step| step.digest).collect(), hits)
}
