//! `explain`, and the summary at the end of `build`: what was said is what the builder then did.

use serde_json::Value;

use crate::harness::{Builder, Generation, Machine};

const DOCKERFILE: &str = "\
FROM busybox:1 AS build
ARG TOKEN
WORKDIR /src
COPY src .
RUN cat * > /program

FROM busybox:1
COPY --from=build /program /program
";

const BUILD: [&str; 5] = ["--build-arg", "TOKEN=hunter2", "-t", "app", "."];

fn explains(builder: Builder) {
    explains_with(builder, &BUILD);
}

fn explains_with(builder: Builder, arguments: &[&str]) {
    let files = [("Dockerfile", DOCKERFILE), ("src/main.c", "int"), ("src/util.c", "char")];
    let machine = Machine::new(builder, &files);
    let run = |words: &[&str]| machine.run(words.iter().copied());
    let explained = || run(&[&["explain", "--format", "json"], arguments].concat()).json::<Value>();

    let nothing = run(&[&["explain"], arguments].concat());
    assert!(nothing.success().stderr.contains("there is no archive of ours"), "{nothing:?}");
    run(&[&["build"], arguments].concat()).success();
    run(&["save"]).success();
    assert_eq!(explained()["misses"], 0);
    let again = run(&[&["build"], arguments].concat());
    assert!(again.success().stderr.contains("explain: nothing that counts has changed"));

    machine.project.write("src/main.c", "long");
    let found = explained();
    let step = |stage: usize, line: u64| {
        let steps = found["stages"][stage]["steps"].as_array().expect("steps");
        steps.iter().find(|step| step["line"] == line).expect("a step of that line").clone()
    };
    assert_eq!(step(0, 3)["hit"], true);
    let cause = &step(0, 4)["cause"];
    assert_eq!(cause["kind"], "file");
    assert_eq!((&cause["path"], &cause["change"]), (&"src/main.c".into(), &"content".into()));
    assert_eq!(step(0, 5)["cause"]["kind"], "earlier");
    assert_eq!(step(1, 8)["cause"]["name"], "build");
    let text = run(&[&["explain"], arguments].concat());
    assert!(text.success().stdout.contains("file `src/main.c` has other content"), "{text:?}");

    let restored = run(&[&["restore"], arguments].concat());
    let summary: Vec<_> =
        restored.success().stderr.lines().filter(|line| line.contains("explain: ")).collect();
    assert_eq!(summary.len(), 2, "{restored:?}");
    assert!(summary[0].contains("the first that is not is line 4, `COPY src .`"), "{summary:?}");
    assert!(summary[1].contains("file `src/main.c` has other content"), "{summary:?}");
    assert!(!run(&["restore"]).success().stderr.contains("explain: "), "without arguments");

    let build = run(&[&["build"], arguments].concat());
    let messages = &build.success().stderr;
    assert!(messages.contains("the first that is not is line 4, `COPY src .`"), "{messages}");
    assert!(messages.contains("explain: file `src/main.c` has other content"), "{messages}");
    assert_eq!(build.build_report().ran().len(), 3, "{messages}");

    run(&["save"]).success();
    let without_token = ["--target", "build"];
    let others = [&["--build-arg", "TOKEN=other"][..], &without_token];
    let others = if arguments.len() == BUILD.len() { &others[..] } else { &others[..1] };
    for words in others {
        let explained = run(&[&["explain"], *words, &["."]].concat());
        assert!(explained.success().stdout.contains("argument `TOKEN`"), "{explained:?}");
    }
    let index =
        std::fs::read_to_string(machine.carried.archive().join("index.json")).expect("an index");
    assert_eq!(index.contains("variable TOKEN"), arguments.contains(&"TOKEN=hunter2"), "{index}");
    assert!(!index.contains("hunter2"), "{index}");
}

#[test]
fn docker_28_5() {
    explains(Builder::Buildkit(Generation::V28_5));
}

#[test]
fn docker_28_5_containerd() {
    explains(Builder::Buildkit(Generation::V28_5Containerd));
}

#[test]
fn docker_28_5_classic() {
    // A stage whose history shows the value of an argument would not be saved.
    explains_with(Builder::Classic(Generation::V28_5), &BUILD[2..]);
}
