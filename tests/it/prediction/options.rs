//! Options, variables and ways of writing that change what a builder digests, or don't, on each engine
//! that may see them differently.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use dockercache::builder::Strategy;
use dockercache::context::BuildContext;

use super::builder::Built;
use super::{Subject, build, predict};
use crate::harness::{Engine, Generation};

/// Builds one project after the other, each with its flags. What the builder takes from its cache must
/// be what was predicted.
fn follow(generation: Generation, strategy: Strategy, name: &str, builds: &[(&str, &[&str])]) {
    let engine = Engine::shared(generation);
    let subject = &Subject::new(&engine, strategy);
    let dir = tempfile::tempdir().expect("a directory");
    fs::create_dir(dir.path().join("d")).expect("a directory");
    for file in ["x", "d/a", "d/b"] {
        // No other test builds the same.
        fs::write(dir.path().join(file), format!("{name} {file}")).expect("a file");
    }
    let mut seen = BTreeSet::new();
    let mut hits = 0;
    for (number, (dockerfile, flags)) in builds.iter().enumerate() {
        fs::write(dir.path().join("Dockerfile"), dockerfile).expect("a Dockerfile");
        let mut words: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
        words.push(dir.path().display().to_string());
        let predicted = predict(subject, &words).expect("a project");
        let built = build(subject, &words);
        assert!(built.succeeded, "{dockerfile}{flags:?}\n{}", built.log);
        let outcomes = in_order(&built, strategy);
        assert_eq!(outcomes.len(), predicted.len(), "{predicted:?} are other steps than {built:?}");
        for (step, hit) in predicted.iter().zip(outcomes) {
            assert_eq!(
                seen.contains(&step.digest),
                hit,
                "build {number} on {}: `{}` with {flags:?} of\n{dockerfile}{}",
                generation.name(),
                step.instruction,
                built.log
            );
            hits += usize::from(hit);
        }
        seen.extend(predicted.into_iter().map(|step| step.digest));
    }
    assert!(hits > 0, "these builds test nothing");
}

/// What became of each step, in the order of the file. Numbers can't be compared: the builder counts
/// `WORKDIR /` and a base that `--build-context` gives, and makes no step of them.
fn in_order(built: &Built, strategy: Strategy) -> Vec<bool> {
    let mut steps: Vec<_> = built.steps.iter().collect();
    if strategy.is_buildkit() {
        // By stage, and then by how many come after it.
        steps.sort_by_key(|((stage, behind), _)| (stage.clone(), Reverse(*behind)));
    }
    steps.into_iter().map(|(_, hit)| *hit).collect()
}

const OPTIONS: &str = "FROM base:1\nCOPY x /\nWORKDIR /w\nRUN : one\n";

fn settings(generation: Generation, strategy: Strategy) {
    let flags: &[&[&str]] = &[
        &[],
        &["--network=default"],
        &["--network=host"],
        &["--network=none"],
        &["--add-host=a:1.2.3.4"],
        &["--add-host=a=1.2.3.5"],
        &["--add-host=b:1.2.3.4"],
        &["--add-host=a:1.2.3.4", "--add-host=b:1.2.3.4"],
        &["--add-host=b:1.2.3.4", "--add-host=a:1.2.3.4"],
        &["--shm-size=64m"],
        &["--shm-size=65536k"],
        &["--shm-size=67108864"],
        &["--shm-size=128m"],
        &["--ulimit=nofile=500"],
        &["--ulimit=nofile=500:500"],
        &["--ulimit=nofile=600", "--ulimit=nofile=500"],
        &["--ulimit=nofile=400:500"],
        &["--cgroup-parent=/x"],
        &["--cgroup-parent=/y"],
        &["--build-arg=BUILDKIT_SANDBOX_HOSTNAME=h"],
        &["--build-arg=BUILDKIT_SANDBOX_HOSTNAME="],
        &["--build-arg=SOURCE_DATE_EPOCH=1"],
        &["--build-arg=SOURCE_DATE_EPOCH=01"],
        &["--build-arg=SOURCE_DATE_EPOCH=2"],
        &["--build-arg=SOURCE_DATE_EPOCH="],
    ];
    let builds: Vec<_> = flags.iter().map(|flags| (OPTIONS, *flags)).collect();
    follow(generation, strategy, "settings", &builds);
}

#[test]
fn settings_count_as_docker_28_5_counts_them() {
    settings(Generation::V28_5, Strategy::BuildkitReplay);
}

#[test]
fn settings_count_as_docker_26_1_counts_them() {
    settings(Generation::V26_1, Strategy::BuildkitReplay);
}

#[test]
fn settings_count_as_docker_20_10_counts_them() {
    settings(Generation::V20_10, Strategy::BuildkitReplay);
}

#[test]
fn the_classic_builder_counts_no_setting() {
    let flags: &[&[&str]] = &[
        &[],
        &["--network=host"],
        &["--add-host=a:1.2.3.4"],
        &["--shm-size=128m"],
        &["--ulimit=nofile=500"],
        &["--cgroup-parent=/x"],
        &["--build-arg=BUILDKIT_SANDBOX_HOSTNAME=h"],
        &["--build-arg=SOURCE_DATE_EPOCH=1"],
    ];
    let dockerfile = "FROM base:1\nCOPY x /\nRUN : one\n";
    let builds: Vec<_> = flags.iter().map(|flags| (dockerfile, *flags)).collect();
    follow(Generation::V28_5, Strategy::Classic, "classic settings", &builds);
}

fn cache_mounts(generation: Generation) {
    let mounts = [
        "target=/c",
        "target=/c,id=/c",
        "target=/c,id=i",
        "target=/c,id=j",
        "target=/c,sharing=locked",
        "target=/c,sharing=locked,id=k",
        "target=c",
        "target=/c/",
        "target=/d,id=x",
    ];
    let written: Vec<String> = mounts
        .iter()
        .map(|mount| format!("FROM base:1\nCOPY x /\nRUN --mount=type=cache,{mount} : one\n"))
        .collect();
    let named = |name: &'static str| [name];
    let (n, m) = (
        named("--build-arg=BUILDKIT_CACHE_MOUNT_NS=n"),
        named("--build-arg=BUILDKIT_CACHE_MOUNT_NS=m"),
    );
    let flags: [&[&str]; 3] = [&[], &n, &m];
    let builds: Vec<(&str, &[&str])> = flags
        .into_iter()
        .flat_map(|flags| written.iter().map(move |text| (text.as_str(), flags)))
        .collect();
    follow(generation, Strategy::BuildkitReplay, "cache mounts", &builds);
}

#[test]
fn cache_mounts_count_as_docker_28_5_counts_them() {
    cache_mounts(Generation::V28_5);
}

#[test]
fn cache_mounts_count_as_docker_20_10_counts_them() {
    cache_mounts(Generation::V20_10);
}

/// A `WORKDIR` that is not clean makes the same directory, and gives commands another one.
fn directories(generation: Generation, strategy: Strategy) {
    let mut texts: Vec<String> = ["/app", "/app/", "//app", "/z/../app", "/app/.", "app", "app/"]
        .map(|path| format!("FROM base:1\nCOPY x /\nWORKDIR {path}\nRUN : one\nCOPY x y\n"))
        .to_vec();
    for path in ["/", "//", "/z/.."] {
        texts.push(format!("FROM base:1\nCOPY x /\nWORKDIR {path}\nRUN : root\n"));
    }
    for path in ["/app", "/app/"] {
        texts.push(format!("FROM base:1 AS b\nCOPY x /\nWORKDIR {path}\nFROM b\nRUN : two\n"));
        texts.push(format!("FROM base:1\nCOPY x /\nWORKDIR {path}\nWORKDIR sub\nRUN : three\n"));
    }
    if strategy.is_buildkit() {
        for target in ["/t", "/t/", "//t", "t"] {
            let mount = format!("--mount=source=d,target={target}");
            texts.push(format!("FROM base:1\nCOPY x /\nRUN {mount} : four\n"));
        }
    }
    let builds: Vec<(&str, &[&str])> = texts.iter().map(|text| (text.as_str(), &[][..])).collect();
    follow(generation, strategy, "directories", &builds);
}

#[test]
fn directories_count_as_docker_28_5_counts_them() {
    directories(Generation::V28_5, Strategy::BuildkitReplay);
}

#[test]
fn directories_count_as_docker_26_1_counts_them() {
    directories(Generation::V26_1, Strategy::BuildkitReplay);
}

#[test]
fn directories_count_as_the_classic_builders_count_them() {
    directories(Generation::V28_5, Strategy::Classic);
    directories(Generation::V20_10, Strategy::Classic);
}

#[test]
fn a_filter_is_not_expanded() {
    let excluding =
        |pattern: &str| format!("FROM base:1\nARG V=a\nCOPY x /\nCOPY --exclude={pattern} d /d\n");
    let texts = [excluding("$V"), excluding("a"), excluding("${V}"), excluding("\"a\"")];
    let mut builds: Vec<(&str, &[&str])> =
        texts.iter().map(|text| (text.as_str(), &[][..])).collect();
    builds.push((&texts[0], &["--build-arg=V=b"]));
    follow(Generation::V28_5, Strategy::BuildkitReplay, "filters", &builds);
}

#[test]
fn nothing_has_no_platform() {
    let texts = ["", "--platform=linux/arm64 ", "--platform=linux/amd64 "].map(|platform| {
        format!(
            "FROM base:1 AS b\nCOPY x /\nFROM {platform}scratch AS s\nCOPY --from=b / /\nRUN : one\n\
             FROM s\nRUN : two\n"
        )
    });
    let builds: Vec<(&str, &[&str])> = texts.iter().map(|text| (text.as_str(), &[][..])).collect();
    follow(Generation::V28_5, Strategy::BuildkitReplay, "nothing", &builds);
}

#[test]
fn an_image_stands_in_for_a_context() {
    let dockerfile = "FROM node:20\nCOPY x /\nRUN : one\nCOPY --from=tools /base /tools\n";
    let node = [
        "--build-context=node:20=docker-image://base:1",
        "--build-context=docker.io/library/node:20=docker-image://base:2",
    ];
    let tools = [
        "--build-context=tools=docker-image://base:1",
        "--build-context=tools=docker-image://base:2",
    ];
    follow(
        Generation::V28_5,
        Strategy::BuildkitReplay,
        "contexts",
        &[
            (dockerfile, &[node[0], tools[0]]),
            (dockerfile, &[node[0], tools[1]]),
            (dockerfile, &[node[1], tools[0]]),
            (dockerfile, &[node[0], tools[0], "--build-context=unused=docker-image://base:2"]),
        ],
    );
}

/// What is sent, compared file by file with what the builder got.
#[test]
fn odd_ignore_patterns_mean_what_they_mean_to_the_client() {
    let engine = Engine::shared(Generation::V28_5);
    let names = [
        "a",
        "aa",
        "aab",
        "ab",
        "abz",
        "ac",
        "b",
        "b1",
        "bb",
        "c",
        "x",
        "ax",
        "ax|",
        "a.log",
        "b.tmp",
        "d.log|e.tmp",
        "a|b",
        "a{2}",
        "a{2}z",
        "{a,b}",
        "{a,b}z",
        "a{",
        "a}",
        "a{,3}",
        "aaa",
        "(a|b)",
        "(a",
        "build1",
        "build-",
        "buildx",
        "#b",
        "xxy",
        "x{1,2}y",
    ];
    let patterns = [
        "*.log|*.tmp",
        "a|b",
        "a|b*",
        "a{2}",
        "a{2}*",
        "x{1,2}?",
        "{a,b}*",
        "(a|b)*",
        "(a",
        "*x|",
        "*{",
        "*}",
        "*a{,3}",
        "*a{2}|c",
        "?{2,}",
        "build*[0-9-]",
        "a\n\u{feff}b",
        "a\n\u{feff}b*",
        "a\n\u{feff}#b",
        "*\n!\u{feff}b*",
        "\u{feff}a\n\u{feff}**b",
        // Refused by both.
        "build[0-9-]",
        "x*[",
        "a**[",
        "*[",
        "a*{2}{3}",
        "*{2}",
        "*a{1001}",
        "!x[",
    ];
    let dir = tempfile::tempdir().expect("a directory");
    let context = dir.path().join("context");
    fs::create_dir(&context).expect("a directory");
    for name in names {
        fs::write(context.join(name), name).expect("a file");
    }
    let dockerfile = dir.path().join("Dockerfile");
    fs::write(&dockerfile, "FROM scratch\nCOPY . /\n").expect("a Dockerfile");
    for (number, pattern) in patterns.iter().enumerate() {
        fs::write(context.join(".dockerignore"), pattern).expect("an ignore file");
        let got = dir.path().join(format!("got-{number}"));
        let run = engine
            .docker(["buildx", "build"])
            .args([
                format!("--output=type=local,dest={}", got.display()).as_str(),
                &format!("--file={}", dockerfile.display()),
                &context.display().to_string(),
            ])
            .silently()
            .run();
        let sent = (run.code == Some(0)).then(|| files(&got));
        let expected = BuildContext::open(&context, Some(&dockerfile))
            .ok()
            .map(|context| context.files().expect("files"))
            .map(|files| files.iter().map(|file| file.display().to_string()).collect());
        assert_eq!(expected, sent, "{pattern:?}\n{}", run.stderr);
    }
}

fn files(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).expect("a directory");
    entries.map(|entry| entry.expect("a file").file_name().to_string_lossy().into_owned()).collect()
}
