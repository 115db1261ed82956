//! Reads the corpus of Dockerfiles, good and broken, and checks properties of random ones.
//!
//! Each Dockerfile stands beside a file with what is expected of it. To write those files anew,
//! run with `UPDATE_CORPUS=1`, and read the difference.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use dockercache::dockerfile::{
    Action, Base, BuildGraph, BuildOptions, CopySource, Dockerfile, Environment, Platform,
};
use proptest::prelude::*;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

fn options() -> BuildOptions {
    let platform = Platform::parse("linux/amd64").unwrap();
    BuildOptions {
        target_platform: platform.clone(),
        build_platform: platform,
        ..BuildOptions::default()
    }
}

fn corpus(kind: &str) -> Vec<PathBuf> {
    let directory =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/dockerfiles").join(kind);
    let mut files: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "Dockerfile"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

#[track_caller]
fn check_against(path: &Path, extension: &str, found: &str) {
    let expected = path.with_extension(extension);
    if std::env::var_os("UPDATE_CORPUS").is_some() {
        fs::write(&expected, found).unwrap();
    }
    let expected = fs::read_to_string(&expected).unwrap();
    assert_eq!(found, expected, "{}", path.display());
}

#[test]
fn good_dockerfiles_plan_as_expected() {
    for path in corpus("good") {
        let source = fs::read(&path).unwrap();
        let dockerfile = Dockerfile::parse(&source, "Dockerfile").unwrap();
        let graph = dockerfile.plan(&options()).unwrap();
        check_against(&path, "plan", &render(&graph));
        check_names(&dockerfile);
    }
}

#[test]
fn broken_dockerfiles_are_refused_as_expected() {
    for path in corpus("broken") {
        let source = fs::read(&path).unwrap();
        let error = Dockerfile::parse(&source, "Dockerfile")
            .and_then(|dockerfile| dockerfile.plan(&options()))
            .expect_err(&path.display().to_string());
        check_against(&path, "error", &format!("{error}\n"));
    }
}

/// Where another parser differs, and why.
const ORACLE_DIFFERS: [(&str, &str); 1] = [("heredocs", "it takes one heredoc an instruction")];

#[test]
fn another_parser_finds_the_same_instructions() {
    for path in corpus("good") {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let source = fs::read_to_string(&path).unwrap();
        let ours = Dockerfile::parse(source.as_bytes(), "Dockerfile").unwrap();
        let mut kinds: Vec<String> = ours.global_arguments().map(|_| "arg".to_owned()).collect();
        for stage in ours.stages() {
            kinds.push("from".to_owned());
            kinds.extend(stage.instructions.iter().map(|found| variant(&found.kind)));
        }
        let theirs = parse_dockerfile::parse(&source)
            .map(|theirs| theirs.instructions.iter().map(variant).collect::<Vec<_>>());
        let differs = ORACLE_DIFFERS.iter().any(|(known, _)| *known == name);
        assert_eq!(theirs.is_ok_and(|theirs| theirs == kinds), !differs, "{name}");
    }
}

/// Returns the name of an enum's variant, in lower case.
fn variant(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    text.split('(').next().unwrap_or_default().to_lowercase()
}

/// Writes what a build would do, for people to compare.
fn render(graph: &BuildGraph) -> String {
    let mut text = String::new();
    for stage in &graph.stages {
        let name = stage.name.as_deref().unwrap_or("-");
        let base = origin(Some(&stage.base));
        writeln!(text, "stage {} {name} from {base} for {}", stage.index, stage.platform).unwrap();
        for step in &stage.steps {
            let lines = format!("{}-{}", step.lines.first, step.lines.last);
            match &step.action {
                Action::Metadata { .. } => {
                    writeln!(text, "  {lines} metadata: {}", step.text).unwrap();
                }
                Action::Workdir { path, owner, .. } => {
                    writeln!(text, "  {lines} workdir {path} {owner:?}").unwrap();
                }
                Action::Run(run) => {
                    writeln!(text, "  {lines} run {:?} in {}", run.arguments, run.workdir).unwrap();
                    writeln!(text, "    environment {}", environment(&run.environment)).unwrap();
                    if let Some((name, script)) = &run.script {
                        writeln!(text, "    script {name} {script:?}").unwrap();
                    }
                    for mount in &run.mounts {
                        let kind = mount.mount.kind.as_str();
                        let from = origin(mount.origin.as_ref());
                        let (source, target) = (&mount.mount.source, &mount.mount.target);
                        writeln!(text, "    mount {kind} {from}{source} at {target}").unwrap();
                    }
                }
                Action::Copy(copy) => {
                    let from = origin(copy.origin.as_ref());
                    let to = &copy.destination;
                    writeln!(text, "  {lines} copy from {from} to {to}").unwrap();
                    for source in &copy.sources {
                        match source {
                            CopySource::Files { path, below: None } => {
                                writeln!(text, "    files {path}").unwrap();
                            }
                            CopySource::Files { path, below: Some(below) } => {
                                writeln!(text, "    files {path} and parents {below}").unwrap();
                            }
                            CopySource::Url(url) => writeln!(text, "    url {url}").unwrap(),
                            CopySource::Git(url) => writeln!(text, "    git {url}").unwrap(),
                            CopySource::Inline { name, content } => {
                                writeln!(text, "    inline {name} {content:?}").unwrap();
                            }
                        }
                    }
                }
            }
        }
    }
    text
}

fn origin(base: Option<&Base>) -> String {
    match base {
        None => "context".to_owned(),
        Some(Base::Stage(index)) => format!("stage {index}"),
        Some(Base::Image(image)) => format!("{} ({})", image.reference, image.platform),
        Some(Base::Scratch) => "scratch".to_owned(),
        Some(Base::NamedContext(name)) => format!("context {name}"),
    }
}

fn environment(environment: &Environment) -> String {
    let pairs: Vec<String> = environment
        .iter()
        .filter(|(name, _)| *name != "PATH")
        .map(|(name, value)| format!("{name}={value:?}"))
        .collect();
    format!("[{}]", pairs.join(" "))
}

/// Checks that naming the stages changes nothing but the names.
fn check_names(dockerfile: &Dockerfile) {
    let (source, names) = dockerfile.with_names();
    let again = Dockerfile::parse(&source, "Dockerfile").unwrap();
    let (directives, before) = (again.directives(), dockerfile.directives());
    assert_eq!((&directives.syntax, directives.escape), (&before.syntax, before.escape));
    assert_eq!(again.stages().len(), dockerfile.stages().len());
    for ((old, new), name) in dockerfile.stages().iter().zip(again.stages()).zip(&names) {
        assert_eq!(new.base, old.base);
        assert_eq!(new.platform, old.platform);
        assert_eq!(new.lines, old.lines);
        assert_eq!(new.instructions, old.instructions);
        assert!(new.name.is_some());
        if let Some(name) = name {
            assert_eq!(new.name.as_ref(), Some(name));
        }
    }
    let kept = names.iter().flatten();
    let mut unique: Vec<&String> = kept.clone().collect();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), kept.count(), "names that can be reached are unique");
}

/// Makes text that is often a Dockerfile, and often nearly one.
fn nearly_a_dockerfile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec![
            "FROM a", "from b AS c", "FROM --platform=linux/arm64 d", "FROM $X", "FROM c", "RUN x",
            "COPY a b", "COPY --from=0 a b", "COPY --from=c a b", "RUN <<E", "E", "RUN <<-'F' <<G",
            "\tF", "G", "COPY <<E /d", "ENV A=b C='d e'", "ENV A b", "ARG X=1", "ARG X",
            "# escape=`", "# syntax=s", "# comment", "ONBUILD RUN y", "ONBUILD COPY <<E /", "SHELL [\"s\"]",
            "WORKDIR w", "USER u", "RUN --mount=type=cache,target=/c z", "HEALTHCHECK NONE", "CMD [\"a\"]",
        ]).prop_map(str::to_owned),
        1 => "[A-Za-z$\\{\\}:/%#'\"<=\\\\` \t-]{0,20}",
        1 => any::<String>(),
    ];
    let end = prop::sample::select(vec![
        "\n", "\n", "\n", "\r\n", " \\\n", " `\n", "\\\\\n", "\n\n", "\u{a0}\n", "",
    ]);
    prop::collection::vec((piece, end), 0..12).prop_map(|pieces| {
        pieces.into_iter().flat_map(|(piece, end)| [piece, end.to_owned()]).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn reading_never_panics(source in nearly_a_dockerfile()) {
        if let Ok(dockerfile) = Dockerfile::parse(source.as_bytes(), "Dockerfile") {
            let _ = dockerfile.plan(&options());
            check_names(&dockerfile);
        }
    }

    #[test]
    fn reading_bytes_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let source = [b"FROM a\n".as_slice(), &bytes].concat();
        for source in [&source, &bytes] {
            if let Ok(dockerfile) = Dockerfile::parse(source, "Dockerfile") {
                let _ = dockerfile.plan(&options());
                check_names(&dockerfile);
            }
        }
    }
}
