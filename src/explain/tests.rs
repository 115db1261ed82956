//! Each cause, told apart: a project is noted, changed in one place, and compared.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::{Cause, Change, Explanation, explain, notes};
use crate::builder::Builder;
use crate::engine::arguments::BuildArguments;
use crate::engine::strategy::Strategy;
use crate::layout::archive::About;
use crate::project::{Detail, Project};

const DOCKERFILE: &str = "\
FROM base:1 AS build
ARG VERSION=1
ENV MODE=fast
WORKDIR /src
COPY src .
RUN make

FROM base:1
COPY --from=build /src/app /app
";

fn read(dir: &Path, words: &[&str]) -> Project {
    let file = format!("--file={}", dir.join("Dockerfile").display());
    let words = [&[file.as_str(), dir.to_str().unwrap()], words].concat();
    let arguments = BuildArguments::parse(words.iter().map(OsString::from));
    let builder = Builder::new(Strategy::BuildkitReplay, "linux/amd64", None);
    Project::read(&arguments, &builder, Detail::Files).unwrap()
}

fn about(project: &Project) -> About {
    About { stages: notes(project), ..About::default() }
}

/// Notes a project, changes it, and compares; `words` are build arguments of the second build.
fn after(change: impl FnOnce(&Path), words: &[&str]) -> Explanation {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    fs::create_dir(dir.join("src")).unwrap();
    for (name, text) in
        [("Dockerfile", DOCKERFILE), ("src/main.c", "int"), ("src/util.c", "char"), ("other", "")]
    {
        fs::write(dir.join(name), text).unwrap();
    }
    let old = about(&read(dir, &[]));
    change(dir);
    explain(&old, None, &read(dir, words))
}

/// The steps that miss, each with its cause.
fn causes(explanation: &Explanation) -> Vec<String> {
    let steps = explanation.stages.iter().flat_map(|stage| &stage.steps);
    steps.filter_map(|s| Some(format!("{}: {}", s.line, s.cause.as_ref()?))).collect()
}

/// The first cause, after a replacement in the Dockerfile.
#[track_caller]
fn rewritten(from: &str, to: &str) -> String {
    assert!(DOCKERFILE.contains(from));
    let change =
        |dir: &Path| fs::write(dir.join("Dockerfile"), DOCKERFILE.replace(from, to)).unwrap();
    causes(&after(change, &[])).swap_remove(0)
}

#[test]
fn nothing_that_counts_has_changed() {
    let explanation = after(|dir| fs::write(dir.join("other"), "else").unwrap(), &[]);
    assert_eq!((explanation.hits(), explanation.misses()), (4, 0));
    assert_eq!(
        explanation.summary(),
        ["explain: all 4 steps are in the archive", "explain: nothing that counts has changed"]
    );
}

#[test]
fn a_changed_file_is_named_and_so_is_what_follows_from_it() {
    let explanation = after(|dir| fs::write(dir.join("src/main.c"), "long").unwrap(), &[]);
    assert_eq!(
        causes(&explanation),
        [
            "5: file `src/main.c` has other content",
            "6: the step in line 5 runs",
            "9: `build`, which it takes files from, has changed"
        ]
    );
    assert_eq!(
        explanation.summary(),
        [
            "explain: 1 of 4 steps are in the archive; the first that is not is line 5, `COPY src .`",
            "explain: file `src/main.c` has other content"
        ]
    );
}

#[test]
fn what_became_of_a_file_is_told() {
    let mode = |dir: &Path| {
        fs::set_permissions(dir.join("src/util.c"), Permissions::from_mode(0o755)).unwrap();
    };
    let first = |explanation: &Explanation| causes(explanation).swap_remove(0);
    assert_eq!(first(&after(mode, &[])), "5: file `src/util.c` has another mode");
    let gone = |dir: &Path| fs::remove_file(dir.join("src/util.c")).unwrap();
    assert_eq!(first(&after(gone, &[])), "5: file `src/util.c` is gone");
    let new = |dir: &Path| fs::write(dir.join("src/a.c"), "").unwrap();
    assert_eq!(first(&after(new, &[])), "5: file `src/a.c` is new");
    let moved = |dir: &Path| fs::rename(dir.join("src/util.c"), dir.join("src/a.c")).unwrap();
    assert_eq!(first(&after(moved, &[])), "5: file `src/a.c` is new, and 1 more file has changed");
}

#[test]
fn arguments_and_variables_are_told_apart() {
    let given = after(|_| {}, &["--build-arg", "VERSION=2"]);
    assert_eq!(causes(&given)[0], "6: argument `VERSION` has another value");
    assert_eq!(rewritten("ARG VERSION=1", "ARG VERSION=3"), causes(&given)[0]);
    assert_eq!(rewritten("MODE=fast", "MODE=slow"), "6: variable `MODE` has another value");
    assert_eq!(rewritten("MODE=fast", "MODE=fast X=1"), "6: variable `X` is new");
    assert_eq!(
        rewritten("ARG VERSION=1\n", ""),
        "5: argument `VERSION` is gone".replace("argument", "variable")
    );
}

#[test]
fn instructions_that_changed_came_or_went() {
    assert_eq!(rewritten("RUN make", "RUN make all"), "6: the instruction was `RUN make`");
    assert_eq!(rewritten("RUN make", "RUN id\nRUN make"), "6: the instruction is new");
    assert_eq!(rewritten("COPY src .\n", ""), "5: `COPY src .` before it is gone");
    assert_eq!(
        rewritten("/src/app /app\n", "/src/app /app\nRUN x\n"),
        "10: the instruction is new"
    );
    assert_eq!(rewritten("RUN make", "USER 1\nRUN make"), "7: the user has changed");
}

#[test]
fn another_base_is_named() {
    assert_eq!(
        rewritten("FROM base:1 AS", "FROM base:2 AS"),
        "4: the base is `docker.io/library/base:2` and was `docker.io/library/base:1`"
    );
}

#[test]
fn a_base_that_is_another_image_under_the_same_name() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("Dockerfile"), "FROM base:1 AS a\nRUN x\nFROM a\nRUN y").unwrap();
    let mut project = read(temp.path(), &[]);
    project.bases[0].identity = Some("one".to_owned());
    let old = about(&project);
    assert_eq!(explain(&old, None, &project).misses(), 0);
    project.bases[0].identity = Some("other".to_owned());
    assert_eq!(
        causes(&explain(&old, None, &project)),
        [
            "2: base `docker.io/library/base:1` is another image now",
            "4: `a`, which it takes files from, has changed"
        ]
    );
}

#[test]
fn a_renamed_stage_is_the_same_stage() {
    let change = |dir: &Path| {
        let text = DOCKERFILE.replace("AS build", "AS other").replace("=build", "=other");
        fs::write(dir.join("Dockerfile"), text.replace("RUN make", "RUN make all")).unwrap();
    };
    let explanation = after(change, &[]);
    assert_eq!(causes(&explanation)[0], "6: the instruction was `RUN make`");
}

#[test]
fn an_archive_of_an_older_version_only_tells_hits_from_misses() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("Dockerfile"), "FROM base:1\nRUN x\nRUN y").unwrap();
    let mut old = about(&read(temp.path(), &[]));
    for step in old.stages.iter_mut().flat_map(|stage| &mut stage.steps) {
        step.parts.clear();
    }
    old.stages[0].steps[1].digest = String::new();
    let explanation = explain(&old, None, &read(temp.path(), &[]));
    assert_eq!(causes(&explanation), ["3: the archive does not say what it was made from"]);
}

#[test]
fn many_files_are_noted_by_their_directories() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    fs::write(dir.join("Dockerfile"), "FROM base:1\nCOPY src /src").unwrap();
    for directory in 0..30 {
        fs::create_dir_all(dir.join(format!("src/{directory}"))).unwrap();
        for file in 0..20 {
            fs::write(dir.join(format!("src/{directory}/{file}")), "x").unwrap();
        }
    }
    let old = about(&read(dir, &[]));
    assert!(old.stages[0].steps[0].files.files.len() < 100, "{old:?}");
    fs::write(dir.join("src/7/7"), "y").unwrap();
    let explanation = explain(&old, None, &read(dir, &[]));
    let cause = explanation.stages[0].steps[0].cause.clone().unwrap();
    let (path, change) = ("src/7/".to_owned(), Change::Content);
    assert_eq!(cause, Cause::File { path, change, others: 0 });
}

#[test]
fn no_value_is_noted() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("Dockerfile"), "FROM base:1\nARG TOKEN\nRUN x").unwrap();
    let project = read(temp.path(), &["--build-arg", "TOKEN=hunter2"]);
    let json = serde_json::to_string(&about(&project)).unwrap();
    assert!(json.contains("variable TOKEN"), "{json}");
    assert!(!json.contains("hunter2"), "{json}");
}
