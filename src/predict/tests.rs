use super::*;
use crate::dockerfile::{Action, BuildGraph, BuildOptions, Dockerfile, NamedContext, Platform};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Write as _;

fn options(arguments: &[(&str, &str)]) -> BuildOptions {
    let platform = Platform::parse("linux/amd64").unwrap();
    BuildOptions {
        build_args: arguments
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        target_platform: platform.clone(),
        build_platform: platform,
        ..BuildOptions::default()
    }
}

#[track_caller]
fn plan(source: &str, options: &BuildOptions) -> BuildGraph {
    Dockerfile::parse(source.as_bytes(), "Dockerfile").unwrap().plan(options).unwrap()
}

/// Digests a build whose files are called by the names of their sources.
fn digest(graph: &BuildGraph, rules: Rules) -> Vec<StageDigest> {
    let mut context = |query: &ContextQuery| {
        let names: Vec<&str> =
            query.sources.iter().filter_map(|source| source.rsplit('/').next()).collect();
        Ok::<_, Infallible>(format!("{:?} {}", query.named_context, names.join(" ")))
    };
    digest_build(graph, rules, &mut context, &BTreeMap::new()).unwrap()
}

const PLAIN: Rules =
    Rules { independent_links: false, every_instruction: false, cache_identities: false };
const LINKS: Rules =
    Rules { independent_links: true, every_instruction: false, cache_identities: false };

/// Returns the digest of the target.
#[track_caller]
fn target(source: &str, arguments: &[(&str, &str)]) -> String {
    digest(&plan(source, &options(arguments)), PLAIN).pop().unwrap().digest
}

#[test]
fn what_never_counts() {
    for (one, other) in [
        // Names, comments, case, and white space between words.
        ("FROM a AS x\nRUN y", "FROM a AS z\nRUN y"),
        ("FROM a\nRUN y \\\n  z", "# c\nfrom   a\n\nrun y \\\n# d\n  z\n"),
        ("FROM a\nCOPY x y /z/", "FROM a\nCOPY x \\\n  y \\\n  /z/"),
        // Instructions that make no layer.
        (
            "FROM a\nRUN y",
            "FROM a\nLABEL l=1\nEXPOSE 80\nRUN y\nCMD x\nENTRYPOINT [\"y\"]\nVOLUME /v\nSTOPSIGNAL 9\nHEALTHCHECK NONE\nMAINTAINER m",
        ),
        ("FROM a\nRUN y", "FROM a\nRUN y\nENV A=1\nARG B=2\nUSER u\nSHELL [\"s\"]"),
        ("FROM a\nCOPY x /", "FROM a\nENV A=1\nUSER u\nCOPY x /"),
        ("FROM a\nRUN y", "FROM a\nWORKDIR /\nRUN y"),
        // Arguments out of scope.
        ("FROM a\nRUN y", "ARG G=1\nFROM a\nRUN y"),
        ("FROM a\nRUN y", "FROM a\nARG NOVALUE\nRUN y"),
        ("FROM a\nRUN y", "FROM a\nRUN y\nARG X=1"),
        // Stages that the target does not need.
        ("FROM a\nRUN y", "FROM b AS unneeded\nRUN z\nFROM a\nRUN y"),
        // Two ways to write the same.
        ("FROM a\nRUN y", "FROM docker.io/library/a:latest\nRUN y"),
        ("FROM a\nRUN [\"/bin/sh\", \"-c\", \"y\"]", "FROM a\nRUN y"),
        ("FROM a\nRUN <<E\ny\nE", "FROM a\nRUN <<OTHER\ny\nOTHER"),
        ("FROM a\nRUN --network=default y", "FROM a\nRUN y"),
        ("FROM a\nWORKDIR /w\nCOPY x .", "FROM a\nWORKDIR /w\nCOPY x /w/"),
        ("FROM a\nARG D=x\nCOPY $D /", "FROM a\nCOPY x /"),
        ("FROM a\nCOPY --chmod=644 x /", "FROM a\nCOPY --chmod=0644 x /"),
        ("FROM a\nCOPY d/x /", "FROM a\nCOPY e/x /"),
        ("FROM a\nENV A=1 B=2\nRUN y", "FROM a\nENV A=1\nENV B=2\nRUN y"),
        ("FROM a\nENV A=$A\nRUN y", "FROM a\nENV A=\nRUN y"),
        ("FROM a AS b\nRUN y\nFROM b\nRUN z", "FROM a\nRUN y\nRUN z"),
        ("FROM a AS b\nFROM c\nCOPY --from=b /x /", "FROM a AS b\nFROM c\nCOPY --from=0 /x /"),
        ("FROM c\nCOPY --from=a /x /", "FROM a AS b\nFROM c\nCOPY --from=b /x /"),
        ("FROM a\nCOPY --chown=1:2 x /", "FROM a\nCOPY --chown=01:02 x /"),
        // A secret, with its defaults written or not.
        (
            "FROM a\nRUN --mount=type=secret,id=d/s y",
            "FROM a\nRUN --mount=type=secret,source=d/s,target=/run/secrets/s,mode=0400,uid=0 y",
        ),
        (
            "FROM a\nRUN --mount=type=secret,target=/t/s y",
            "FROM a\nRUN --mount=type=secret,id=s,target=/t/s y",
        ),
        // The identity of a cache that is not the default one.
        (
            "FROM a\nRUN --mount=type=cache,id=i,target=/c y",
            "FROM a\nRUN --mount=type=cache,id=j,sharing=locked,target=/c y",
        ),
        (
            "FROM a\nRUN --mount=type=cache,target=/c y",
            "FROM a\nRUN --mount=type=cache,id=/c,target=/c y",
        ),
    ] {
        assert_eq!(target(one, &[]), target(other, &[]), "{one}\n---\n{other}");
    }
}

#[test]
fn what_counts() {
    let sources = [
        "FROM a",
        "FROM b",
        "FROM a:1",
        "FROM --platform=linux/arm64 a",
        "FROM scratch",
        "FROM a\nRUN y",
        "FROM a\nRUN y  z",
        "FROM a\nRUN y z",
        "FROM a\nRUN [\"y\", \"z\"]",
        "FROM a\nRUN [\"y z\"]",
        "FROM a\nRUN y\nRUN y",
        "FROM a\nENV A=1\nRUN y",
        "FROM a\nENV A=2\nRUN y",
        "FROM a\nENV A=1\nENV B=2\nRUN y",
        "FROM a\nENV B=2\nENV A=1\nRUN y",
        "FROM a\nENV A=\nRUN y",
        "FROM a\nUSER u\nRUN y",
        "FROM a\nWORKDIR /w\nRUN y",
        "FROM a\nWORKDIR /w",
        "FROM a\nUSER u\nWORKDIR /w",
        "FROM a\nSHELL [\"s\"]\nRUN y",
        "FROM a\nRUN --network=none y",
        "FROM a\nRUN --security=insecure y",
        "FROM a\nRUN --mount=type=cache,target=/c y",
        "FROM a\nRUN --mount=type=cache,target=/d y",
        "FROM a\nRUN --mount=type=cache,id=i,target=/c y",
        "FROM a\nRUN --mount=type=tmpfs,target=/c y",
        "FROM a\nRUN --mount=type=secret,id=s y",
        "FROM a\nRUN --mount=type=secret,id=t y",
        "FROM a\nRUN --mount=type=secret,id=s,env=S y",
        "FROM a\nRUN --mount=type=secret,id=s,mode=0444 y",
        "FROM a\nRUN --mount=type=ssh y",
        "FROM a\nRUN --mount=type=ssh,id=default y",
        "FROM a\nRUN --mount=source=x,target=/c y",
        "FROM a\nRUN --mount=source=x,target=/c,rw y",
        "FROM a\nRUN --mount=source=z,target=/c y",
        "FROM a\nRUN --mount=from=b,source=x,target=/c y",
        "FROM a\nRUN --mount=from=b,source=z,target=/c y",
        "FROM a\nRUN <<E\n#!/x\nE",
        "FROM a\nRUN <<E\n#!/y\nE",
        "FROM a\nRUN cat <<E\n1\nE",
        "FROM a\nRUN cat <<E\n2\nE",
        "FROM a\nCOPY x /",
        "FROM a\nCOPY x /x",
        "FROM a\nCOPY x /x/",
        "FROM a\nCOPY z /",
        "FROM a\nCOPY x z /",
        "FROM a\nCOPY --chown=1 x /",
        "FROM a\nCOPY --chmod=600 x /",
        "FROM a\nCOPY --exclude=e x /",
        "FROM a\nCOPY --parents x /",
        "FROM a\nADD x /",
        "FROM a\nADD https://h/x /",
        "FROM a\nADD https://h/z /",
        "FROM a\nADD --checksum=sha256:1 https://h/x /",
        "FROM a\nADD git@h:x.git /",
        "FROM a\nADD --keep-git-dir git@h:x.git /",
        "FROM a\nCOPY <<x /\n1\nx",
        "FROM a\nCOPY <<x /\n2\nx",
        "FROM a\nCOPY <<z /\n1\nz",
        "FROM a\nCOPY --from=b /x /",
        "FROM a\nCOPY --from=b /d/x /",
        "FROM a\nCOPY --from=c /x /",
        "FROM b AS s\nRUN y\nFROM a\nCOPY --from=s /x /",
        "FROM b AS s\nRUN z\nFROM a\nCOPY --from=s /x /",
    ];
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for source in sources {
        if let Some(same) = seen.insert(target(source, &[]), source) {
            panic!("the same digest:\n{same}\n---\n{source}");
        }
    }
}

#[test]
fn build_arguments_count_where_they_are_in_scope() {
    let used = "FROM a\nARG X\nRUN y\n";
    assert_ne!(target(used, &[]), target(used, &[("X", "1")]), "used or not");
    assert_ne!(target(used, &[("X", "2")]), target(used, &[("X", "1")]));
    assert_eq!(target(used, &[("OTHER", "1")]), target(used, &[]));
    assert_eq!(target(used, &[("HTTPS_PROXY", "p"), ("no_proxy", "q")]), target(used, &[]));
    let late = "FROM a\nRUN y\nARG X\n";
    assert_eq!(target(late, &[]), target(late, &[("X", "1")]));
    let declared = "FROM a\nARG HTTPS_PROXY\nRUN y\n";
    assert_ne!(target(declared, &[("HTTPS_PROXY", "p")]), target(declared, &[]));
}

#[test]
fn a_base_counts_by_its_digest() {
    let digest_with = |source: &str, digest: &str| {
        let graph = plan(source, &options(&[]));
        let bases = [(graph.images()[0].reference.clone(), digest.to_owned())].into();
        let mut context = |_: &ContextQuery| Ok::<_, Infallible>(String::new());
        digest_build(&graph, PLAIN, &mut context, &bases).unwrap().pop().unwrap().digest
    };
    assert_eq!(digest_with("FROM a:1", "sha256:x"), digest_with("FROM a:2", "sha256:x"));
    assert_ne!(digest_with("FROM a:1", "sha256:x"), digest_with("FROM a:1", "sha256:y"));
}

#[test]
fn a_link_stands_by_itself_where_the_builder_merges() {
    let copies = |run: &str, rules| {
        let source = format!("FROM a\nRUN {run}\nCOPY --link x /\nRUN last\n");
        let steps = digest(&plan(&source, &options(&[])), rules).pop().unwrap().steps;
        (steps[1].digest.clone(), steps[2].digest.clone())
    };
    let (one, other) = (copies("1", LINKS), copies("2", LINKS));
    assert_eq!(one.0, other.0);
    assert_ne!(one.1, other.1);
    assert_ne!(copies("1", PLAIN).0, copies("2", PLAIN).0);
}

#[test]
fn an_error_of_the_context_is_passed_on() {
    let graph = plan("FROM a\nCOPY missing /", &options(&[]));
    let mut context = |query: &ContextQuery| Err::<String, _>(query.sources.clone());
    let error = digest_build(&graph, PLAIN, &mut context, &BTreeMap::new()).unwrap_err();
    assert_eq!(error.error, ["/missing"]);
    assert_eq!((error.lines.first, error.instruction.as_str()), (2, "COPY missing /"));
}

#[test]
fn files_that_no_step_sees_are_not_asked_for() {
    let graph = plan(
        "FROM a AS s\nCOPY one /\nFROM b\nCOPY --from=s /x /\nCOPY --parents --exclude=e p/./q/*.c .\nADD https://h/x <<E /\nE\nRUN --mount=source=two,target=/t --mount=type=cache,target=/c y\nCOPY --from=ctx three /",
        &BuildOptions {
            named_contexts: [("ctx".to_owned(), NamedContext::Files)].into(),
            ..options(&[])
        },
    );
    let mut asked = Vec::new();
    let mut context = |query: &ContextQuery| {
        asked.push(query.clone());
        Ok::<_, Infallible>(String::new())
    };
    digest_build(&graph, PLAIN, &mut context, &BTreeMap::new()).unwrap();
    let sources: Vec<&str> = asked.iter().map(|query| query.sources[0].as_str()).collect();
    assert_eq!(sources, ["/one", "/p/./q/*.c", "/two", "/three"]);
    assert!(asked[1].parents && asked[1].wildcards && !asked[2].wildcards);
    assert_eq!(asked[1].excludes, ["e"]);
    assert_eq!(asked[3].named_context.as_deref(), Some("ctx"));
}

const CLASSIC: Rules =
    Rules { independent_links: false, every_instruction: true, cache_identities: false };

/// The digests of all steps by the classic builder's rules.
fn classic(source: &str, arguments: &[(&str, &str)]) -> Vec<String> {
    let options = BuildOptions { classic: true, ..options(arguments) };
    let stages = digest(&plan(source, &options), CLASSIC);
    stages.into_iter().flat_map(|stage| stage.steps).map(|step| step.digest).collect()
}

#[test]
fn every_instruction_is_a_step_of_the_classic_builder() {
    let plain = classic("FROM a\nLABEL l=1\nENV A=1\nRUN y", &[]);
    assert_eq!(plain.len(), 3);
    let label = classic("FROM a\nLABEL l=2\nENV A=1\nRUN y", &[]);
    assert!(plain.iter().all(|digest| !label.contains(digest)));
    let command = classic("FROM a\nLABEL l=1\nENV A=1\nCMD x\nRUN y", &[]);
    assert_eq!(command[..2], plain[..2]);
    assert_ne!(command[3], plain[2]);
    let written = classic("FROM a\n# c\nlabel   l=1\nENV A=1\nRUN y", &[]);
    assert_eq!(written, plain);
    // An argument's value counts where it is used.
    let source = "FROM a\nARG V=1\nCOPY x /\nRUN y";
    let (default, given) = (classic(source, &[]), classic(source, &[("V", "2")]));
    assert_eq!(default[..2], given[..2]);
    assert_ne!(default[2], given[2]);
}

#[test]
fn the_classic_builder_builds_stages_that_nothing_needs() {
    let source = "FROM a\nRUN x\nFROM a AS b\nRUN y\nFROM a\nRUN z\nFROM a\nRUN w";
    assert_eq!(classic(source, &[]).len(), 4);
    let options = BuildOptions { classic: true, target: Some("b".to_owned()), ..options(&[]) };
    let indexes: Vec<_> = plan(source, &options).stages.iter().map(|s| s.index).collect();
    assert_eq!(indexes, [0, 1]);
}

/// Found by `prediction::docker_28_5_classic`: the builder writes the number of arguments before a
/// command where there is any, and then leaves proxies out of the count.
#[test]
fn a_proxy_counts_with_the_classic_builder_where_there_is_no_other_argument() {
    let proxy = &[("HTTP_PROXY", "p")];
    let none = "FROM a\nENV A=1\nRUN y";
    assert_ne!(classic(none, proxy), classic(none, &[]));
    assert_eq!(classic(none, proxy), classic(none, &[("https_proxy", "q")]));
    let one = "FROM a\nARG V=1\nRUN y";
    assert_eq!(classic(one, proxy), classic(one, &[]));
    let copy = "FROM a\nCOPY x /";
    assert_eq!(classic(copy, proxy), classic(copy, &[]));
    assert_eq!(target(none, proxy), target(none, &[]), "BuildKit never counts it");
}

/// Found by `prediction::docker_28_5_classic` with the seed 545967865: a proxy counted in a stage on
/// one that has an argument, since there is none in its own scope.
#[test]
fn the_classic_builder_hands_no_argument_on_to_the_next_stage() {
    let source = "FROM a AS b\nARG V=1\nENV E=$V\nFROM b\nCOPY $V /v\nRUN $E";
    let last = |source: &str, arguments: &[(&str, &str)]| classic(source, arguments).pop();
    assert_ne!(last(source, &[("HTTP_PROXY", "p")]), last(source, &[]));
    let stages = |classic: bool| {
        let options = BuildOptions { classic, ..options(&[]) };
        let graph = plan(source, &options);
        let Action::Copy(copy) = &graph.stages[1].steps[0].action else { panic!("a copy") };
        format!("{:?}", copy.sources)
    };
    assert_ne!(stages(true), stages(false));
}

#[test]
fn a_whole_build_has_a_stable_key() {
    let source = "FROM golang:1 AS build\nARG V=1\nWORKDIR /src\nCOPY go.mod ./\nRUN --mount=type=cache,target=/go go build\nFROM scratch\nCOPY --from=build /src/app /app\nCMD [\"/app\"]\n";
    let stages = digest(&plan(source, &options(&[])), PLAIN);
    let scope = KeyScope {
        generation: "28".to_owned(),
        strategy: "buildkit-replay".to_owned(),
        platform: "linux/amd64".to_owned(),
        project: "Example".to_owned(),
        salt: String::new(),
        ..KeyScope::default()
    };
    assert_eq!(
        Keys::new(&scope, &stages).exact(),
        "dockercache-v1--28--buildkit-replay--linux-amd64-7e804e85--Example--607bef02b7be-b1151b2e2077-xe5d23d2e17983e87de10fc558614b716--end"
    );
}

/// A random build, to be written in different ways.
#[derive(Clone, Debug)]
struct Model(Vec<(Start, Vec<Op>)>);

#[derive(Clone, Debug)]
enum Start {
    Image(u8),
    /// An earlier stage, modulo how many there are.
    Stage(usize),
}

#[derive(Clone, Debug)]
enum Op {
    Run(u8),
    Copy(u8),
    CopyFrom(usize),
    Env(u8),
    Label(u8),
    Workdir(u8),
}

impl Model {
    fn start(&self, index: usize) -> Option<usize> {
        match self.0[index].0 {
            Start::Stage(from) if index > 0 => Some(from % index),
            _ => None,
        }
    }

    fn write(&self, named: &str, noise: &[u8]) -> String {
        let mut noise = noise.iter().copied().cycle();
        let mut text = String::new();
        for (index, (start, ops)) in self.0.iter().enumerate() {
            let base = match (self.start(index), start) {
                (Some(from), _) => format!("{named}{from}"),
                (None, Start::Image(image)) => format!("image{image}"),
                (None, Start::Stage(_)) => "image".to_owned(),
            };
            let mut lines = vec![format!("FROM {base} AS {named}{index}")];
            lines.extend(ops.iter().map(|op| match op {
                Op::Run(command) => format!("RUN command {command}"),
                Op::Copy(file) => format!("COPY file{file} /to/"),
                Op::CopyFrom(from) if index > 0 => {
                    format!("COPY --from={named}{} /file /to/", from % index)
                }
                Op::CopyFrom(_) => "COPY file /to/".to_owned(),
                Op::Env(value) => format!("ENV A={value}"),
                Op::Label(value) => format!("LABEL a={value}"),
                Op::Workdir(directory) => format!("WORKDIR /w{directory}"),
            }));
            for line in lines {
                let (word, rest) = line.split_once(' ').unwrap();
                let line = match noise.next() {
                    Some(0) => format!("# comment\n{line}"),
                    Some(1) => format!("{} {rest}", word.to_lowercase()),
                    Some(2) => format!("\n  {word} \t {rest}  \r"),
                    Some(3) => format!("{word} \\\n  # inside\n\n  {rest}"),
                    _ => line,
                };
                writeln!(text, "{line}").unwrap();
            }
        }
        text
    }

    /// Says which steps see a change of one `RUN`: those behind it, and those that build on it.
    fn affected(&self, stage: usize, step: usize) -> Vec<Vec<bool>> {
        let mut stages: Vec<bool> = Vec::new();
        let mut all = Vec::new();
        for (index, (_, ops)) in self.0.iter().enumerate() {
            let mut changed = self.start(index).is_some_and(|from| stages[from]);
            let mut steps = Vec::new();
            for (position, op) in ops.iter().enumerate() {
                changed |= (index, position) == (stage, step);
                if let Op::CopyFrom(from) = op
                    && index > 0
                {
                    changed |= stages[from % index];
                }
                steps.push(changed);
            }
            stages.push(changed);
            all.push(steps);
        }
        all
    }
}

fn model() -> impl Strategy<Value = Model> {
    let op = prop_oneof![
        (0_u8..3).prop_map(Op::Run),
        (0_u8..3).prop_map(Op::Copy),
        (0_usize..9).prop_map(Op::CopyFrom),
        (0_u8..3).prop_map(Op::Env),
        (0_u8..3).prop_map(Op::Label),
        (0_u8..3).prop_map(Op::Workdir),
    ];
    let start = prop_oneof![(0_u8..3).prop_map(Start::Image), (0_usize..9).prop_map(Start::Stage)];
    prop::collection::vec((start, prop::collection::vec(op, 0..6)), 1..5).prop_map(Model)
}

fn digests_of(source: &str) -> BTreeMap<usize, Vec<String>> {
    digest(&plan(source, &options(&[])), PLAIN)
        .into_iter()
        .map(|stage| (stage.index, stage.steps.into_iter().map(|step| step.digest).collect()))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn the_way_of_writing_never_counts(model in model(), noise in prop::collection::vec(0_u8..6, 1..9)) {
        let plain = digests_of(&model.write("s", &[9]));
        let noisy = digests_of(&model.write("other-", &noise));
        prop_assert_eq!(plain, noisy);
    }

    #[test]
    fn an_edit_changes_what_builds_on_it_and_nothing_else(model in model(), place in any::<prop::sample::Index>()) {
        let runs: Vec<(usize, usize)> = model
            .0
            .iter()
            .enumerate()
            .flat_map(|(stage, (_, ops))| {
                let is_run = |(_, op): &(usize, &Op)| matches!(op, Op::Run(_));
                ops.iter().enumerate().filter(is_run).map(move |(step, _)| (stage, step))
            })
            .collect();
        prop_assume!(!runs.is_empty());
        let (stage, step) = *place.get(&runs);
        let mut edited = model.clone();
        edited.0[stage].1[step] = Op::Run(200);
        let before = digests_of(&model.write("s", &[9]));
        let after = digests_of(&edited.write("s", &[9]));
        let affected = model.affected(stage, step);
        for (index, steps) in &before {
            let changed: Vec<bool> =
                steps.iter().zip(&after[index]).map(|(one, other)| one != other).collect();
            prop_assert_eq!(&changed, &affected[*index], "stage {}", index);
        }
    }
}
