//! Where files come from, and which of them count.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use super::builders::{BUILDKIT, CLASSIC, SYNTAX_1_4};
use super::case::Case;
use crate::harness::Project;

const COPY_ALL: &str = "FROM {base} AS build\nCOPY . /all\nFROM {base}\nCOPY --from=build /all /all\nRUN ls -R /all > /list\n";

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "a Dockerfile, a context and a cache in odd places",
            COPY_ALL,
        ).in_dir("some/where else").cache("a cache, of mine")
        .dockerfile_at("docker files/Docker file")
        .file("my context/input", "text")
        .file("some/where else/unused", "")
        .with(&["-f", "../../docker files/Docker file"])
        .context("../../my context"),
        Case::new("an ignore file in the context", COPY_ALL).touch(write_ignored)
            .file(".dockerignore", "ignored\nlogs/*\n!logs/kept\n")
            .file("input", "text")
            .file("logs/kept", "kept"),
        Case::new("an ignore file of the Dockerfile's own", COPY_ALL).touch(write_ignored)
            .on(BUILDKIT)
            .dockerfile_at("docker/app.Dockerfile")
            .file("docker/app.Dockerfile.dockerignore", "ignored\nlogs/*\n!logs/kept\n")
            .file(".dockerignore", "input\n")
            .file("input", "text")
            .file("logs/kept", "kept")
            .with(&["-f", "docker/app.Dockerfile"]),
        Case::new(
            "named contexts",
            "FROM {base} AS build\nCOPY --from=other /input /input\nFROM {base}\nCOPY --from=build /input /\nCOPY --from=more . /more\n",
        )
        .on(SYNTAX_1_4)
        .file("here/unused", "")
        .file("other/input", "text")
        .file("more/of/it", "text")
        .with(&["-f", "Dockerfile", "--build-context", "other=other", "--build-context=more=more"])
        .context("here"),
        // BuildKit's protocol has names in UTF-8 only: there, the build itself fails.
        Case::new("names that are not UTF-8", COPY_ALL).prepare(write_latin_1).on(CLASSIC),
    ]
}

/// Files that are not to count.
fn write_ignored(project: &Project) {
    project.write("ignored", "by every instruction");
    project.write("logs/of-today", "by every instruction");
}

fn write_latin_1(project: &Project) {
    let name = OsStr::from_bytes(b"caf\xe9");
    std::fs::write(project.path().join(name), "text").expect("a written file");
}
