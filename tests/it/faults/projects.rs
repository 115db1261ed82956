//! Trials of `key` on Dockerfiles and contexts that are broken, or made to do harm.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::Verdict;
use super::archives::strange_entry;
use super::good::{Good, remove};
use super::sandbox::Sandbox;
use crate::random::Random;

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/dockerfiles/good");

pub(super) fn hostile(sandbox: &Sandbox, _: &Good, random: &mut Random) -> Verdict {
    let project = sandbox.file("project");
    remove(&project);
    fs::create_dir(&project).expect("a directory");
    let mut dockerfile = match random.below(5) {
        0 => growing(random),
        1 => long(random),
        _ => from_corpus(random),
    };
    let mut bytes = std::mem::take(&mut dockerfile).into_bytes();
    for _ in 0..random.below(4) {
        change(&mut bytes, random);
    }
    fs::write(project.join("Dockerfile"), &bytes).expect("a file");
    for name in ["src", "package.json", ".dockerignore", "Dockerfile.dockerignore", "deep/er/file"]
    {
        let path = project.join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("directories");
        match random.below(3) {
            0 => {}
            1 => fs::write(&path, "*\n!**/file\n[a-\n\\\n").expect("a file"),
            _ => strange_entry(&path, &sandbox.outside_file(""), random),
        }
    }
    let path = project.to_str().expect("UTF-8");
    let run = sandbox.run(&["key", "--format", "json", path], &[0, 2]);
    run.map(drop).map_err(|reason| {
        let start: String = String::from_utf8_lossy(&bytes).chars().take(2000).collect();
        format!("{reason}\n{start}")
    })
}

fn from_corpus(random: &mut Random) -> String {
    let mut paths: Vec<_> = fs::read_dir(Path::new(CORPUS)).expect("a corpus").flatten().collect();
    paths.retain(|entry| entry.file_name().to_string_lossy().ends_with(".Dockerfile"));
    paths.sort_by_key(fs::DirEntry::path);
    fs::read_to_string(random.pick(&paths).path()).expect("a Dockerfile")
}

/// Values that grow with each line.
fn growing(random: &mut Random) -> String {
    let mut text = "FROM busybox:1\nENV A=aaaaaaaa\n".to_owned();
    for _ in 0..random.below(60) {
        let line = random.pick(&["ENV A=$A$A", "ENV B=${A:-$A}$A", "ENV A=${B}${A}", "RUN $A"]);
        let _ = writeln!(text, "{line}");
    }
    text
}

/// Many lines.
fn long(random: &mut Random) -> String {
    let mut text = "FROM busybox:1\n".to_owned();
    for number in 0..random.below(4000) {
        let line = random.pick(&["ENV", "RUN echo", "LABEL x=", "ARG", "COPY src", "FROM a AS"]);
        let _ = writeln!(text, "{line} V{number}=v{number}");
    }
    text
}

fn change(bytes: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(bytes.len() + 1);
    let pieces: [&[u8]; 12] = [
        b"\0",
        b"\xff\xfe",
        b"\r",
        b"\\\n",
        b"<<EOF <<EOF2\n",
        b"${A:-${A:-${A",
        b"\"",
        b"# syntax=\n# escape=`\n",
        b"FROM scratch AS \x1b[31m\n",
        b"COPY --from=99999999999999999999 / /\n",
        b"RUN --mount=type=cache,target=../.. true\n",
        b"ONBUILD ONBUILD FROM\n",
    ];
    match random.below(4) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..(at + random.below(40)).min(bytes.len()))),
        2 => {
            let piece = *random.pick(&pieces);
            let times = [1, 1, 3, 3000][random.below(4)];
            bytes.splice(at..at, piece.repeat(times));
        }
        _ if at < bytes.len() => bytes[at] = u8::try_from(random.below(256)).expect("a byte"),
        _ => {}
    }
}
