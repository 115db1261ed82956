//! Each cause, told apart: a project is noted, changed in one place, and compared. What the next
//! build will read is foretold in the same way.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::{Cause, Change, Explanation, explain, notes};
use crate::archive::{About, Archive, ImageNote, Role, StoredImage};
use crate::build::arguments::BuildArguments;
use crate::builder::Builder;
use crate::builder::Strategy;
use crate::oci::codec::Codec;
use crate::oci::documents::{CONFIG, Descriptor, MANIFEST, Manifest};
use crate::predict::needed_layers;
use crate::predict::project::{Detail, Project};

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

/// A project, and then the same after a change.
fn twice(change: impl FnOnce(&Path), words: &[&str]) -> (Project, Project) {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    fs::create_dir(dir.join("src")).unwrap();
    for (name, text) in
        [("Dockerfile", DOCKERFILE), ("src/main.c", "int"), ("src/util.c", "char"), ("other", "")]
    {
        fs::write(dir.join(name), text).unwrap();
    }
    let old = read(dir, &[]);
    change(dir);
    (old, read(dir, words))
}

/// Notes a project, changes it, and compares; `words` are build arguments of the second build.
fn after(change: impl FnOnce(&Path), words: &[&str]) -> Explanation {
    let (old, new) = twice(change, words);
    explain(&about(&old), None, &new)
}

/// An archive of a project in which each stage has an image with one layer.
fn archive(project: &Project) -> Archive {
    let mut about = about(project);
    let mut images = Vec::new();
    for stage in &mut about.stages {
        let descriptor = Descriptor::of(MANIFEST, stage.name.as_bytes());
        let manifest = Manifest {
            schema_version: 2,
            media_type: None,
            config: Descriptor::of(CONFIG, b"{}"),
            layers: vec![layer(&stage.name)],
        };
        stage.image = Some(descriptor.digest.clone());
        let note = ImageNote::of(Role::Stage);
        images.push(StoredImage { descriptor, manifest, note });
    }
    Archive { about: Some(about), images, ..Archive::default() }
}

fn layer(stage: &str) -> Descriptor {
    Descriptor::of(Codec::Zstd.media_type(), format!("layer of {stage}").as_bytes())
}

/// The stages whose layers a build is foretold to read after a change.
fn needed(change: impl FnOnce(&Path)) -> Vec<&'static str> {
    let (old, new) = twice(change, &[]);
    let layers = needed_layers(&archive(&old), &new).unwrap();
    let is_needed = |stage: &&str| layers.contains(&layer(stage).digest);
    ["build", "stage-1"].into_iter().filter(is_needed).collect()
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

#[test]
fn of_an_unchanged_build_only_the_target_is_read() {
    assert_eq!(needed(|_| {}), ["stage-1"]);
}

#[test]
fn of_a_changed_stage_what_it_builds_on_is_read() {
    let edit = |dir: &Path| fs::write(dir.join("src/main.c"), "long").unwrap();
    assert_eq!(needed(edit), ["build"]);
}

#[test]
fn of_a_build_with_nothing_in_common_no_layer_is_read() {
    let edit = |dir: &Path| {
        fs::write(dir.join("Dockerfile"), DOCKERFILE.replace("base:1", "base:2")).unwrap();
    };
    assert!(needed(edit).is_empty());
}

#[test]
fn where_no_stage_has_an_image_all_layers_may_be_read() {
    let (old, new) = twice(|_| {}, &[]);
    let archive = Archive { about: Some(about(&old)), ..Archive::default() };
    assert_eq!(needed_layers(&archive, &new), None);
}
