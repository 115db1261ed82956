use super::*;
use crate::dockerfile::{BaseConfig, CopySource, NamedContext, Platform};

fn options() -> BuildOptions {
    let platform = Platform::parse("linux/amd64").unwrap();
    BuildOptions {
        target_platform: platform.clone(),
        build_platform: platform,
        ..BuildOptions::default()
    }
}

fn plan_with(source: &str, options: &BuildOptions) -> Result<BuildGraph, String> {
    Dockerfile::parse(source.as_bytes(), "Dockerfile")
        .and_then(|dockerfile| dockerfile.plan(options))
        .map_err(|error| error.to_string())
}

#[track_caller]
fn plan(source: &str) -> BuildGraph {
    plan_with(source, &options()).unwrap()
}

/// Returns the `RUN` steps of the last stage.
#[track_caller]
fn runs(graph: &BuildGraph) -> Vec<super::super::RunAction> {
    let steps = &graph.stages.last().unwrap().steps;
    steps
        .iter()
        .filter_map(|step| match &step.action {
            Action::Run(run) => Some(run.clone()),
            _ => None,
        })
        .collect()
}

#[track_caller]
fn copies(graph: &BuildGraph) -> Vec<super::super::CopyAction> {
    let steps = &graph.stages.last().unwrap().steps;
    steps
        .iter()
        .filter_map(|step| match &step.action {
            Action::Copy(copy) => Some(copy.clone()),
            _ => None,
        })
        .collect()
}

fn variable(run: &super::super::RunAction, name: &str) -> Option<String> {
    run.environment.get(name).map(str::to_owned)
}

#[test]
fn only_stages_that_the_target_needs_are_planned() {
    let source = "FROM a AS one\nFROM b AS two\nFROM one AS three\nCOPY --from=TWO /x /y\nFROM c AS four\nCOPY --from=2 / /\n";
    let indexes = |graph: BuildGraph| -> Vec<usize> {
        graph.stages.iter().map(|stage| stage.index).collect()
    };
    assert_eq!(indexes(plan(source)), [0, 1, 2, 3]);
    let target = |name: &str| BuildOptions { target: Some(name.to_owned()), ..options() };
    assert_eq!(indexes(plan_with(source, &target("Three")).unwrap()), [0, 1, 2]);
    assert_eq!(indexes(plan_with(source, &target("two")).unwrap()), [1]);
    let graph = plan_with(source, &target("three")).unwrap();
    assert_eq!(graph.stages[2].base, Base::Stage(0));
    assert_eq!(graph.stages[2].dependencies, [0, 1]);
    assert_eq!(graph.images()[0].reference, "docker.io/library/a:latest");
    assert_eq!(
        plan_with(source, &target("thre")).unwrap_err(),
        "Dockerfile: target stage \"thre\" could not be found (did you mean three?)"
    );
}

#[test]
fn global_arguments_count_where_they_are_redeclared() {
    let source = "ARG V=1\nARG TAG=t$V\nFROM image:$TAG\nARG V\nARG W=w$V\nRUN x\nARG X\nRUN y\n";
    let graph = plan(source);
    assert_eq!(graph.stages[0].images[0].reference, "docker.io/library/image:t1");
    let first = &runs(&graph)[0];
    assert_eq!(variable(first, "V").as_deref(), Some("1"));
    assert_eq!(variable(first, "W").as_deref(), Some("w1"));
    assert_eq!(variable(first, "TAG"), None);
    assert_eq!(variable(&runs(&graph)[1], "X"), None);

    let mut options = options();
    options.build_args.insert("V".to_owned(), "2".to_owned());
    options.build_args.insert("UNKNOWN".to_owned(), "3".to_owned());
    options.build_args.insert("HTTP_PROXY".to_owned(), "http://p".to_owned());
    let graph = plan_with(source, &options).unwrap();
    assert_eq!(graph.stages[0].images[0].reference, "docker.io/library/image:t2");
    let first = &runs(&graph)[0];
    assert_eq!(variable(first, "W").as_deref(), Some("w2"));
    assert_eq!(variable(first, "UNKNOWN"), None);
    assert_eq!(variable(first, "HTTP_PROXY"), None, "a proxy counts only where it is declared");
}

#[test]
fn platform_arguments_are_predefined() {
    let mut options = options();
    options.target_platform = Platform::parse("linux/arm/v7").unwrap();
    let graph = plan_with(
        "FROM --platform=$BUILDPLATFORM a AS b\nARG TARGETARCH TARGETVARIANT\nARG TARGETSTAGE\nRUN x",
        &options,
    )
    .unwrap();
    assert_eq!(graph.stages[0].platform.to_string(), "linux/amd64");
    let run = &runs(&graph)[0];
    assert_eq!(variable(run, "TARGETARCH").as_deref(), Some("arm"));
    assert_eq!(variable(run, "TARGETVARIANT").as_deref(), Some("v7"));
    assert_eq!(variable(run, "TARGETSTAGE").as_deref(), Some("b"));
    assert_eq!(variable(run, "TARGETOS"), None, "only what is declared is seen");
    options.knows_newer_arguments = false;
    let old =
        plan_with("FROM a\nARG TARGETSTAGE TARGETOSVERSION TARGETOS\nRUN x", &options).unwrap();
    let run = &runs(&old)[0];
    assert_eq!(variable(run, "TARGETSTAGE"), None);
    assert_eq!(variable(run, "TARGETOSVERSION"), None);
    assert_eq!(variable(run, "TARGETOS").as_deref(), Some("linux"));
}

#[test]
fn state_passes_from_stage_to_stage() {
    let graph = plan(
        "FROM a AS base\nARG A=1\nENV E=e\nUSER u\nWORKDIR w\nSHELL [\"sh\", \"-x\"]\nFROM base\nWORKDIR ../v\nRUN cmd  arg\n",
    );
    let run = &runs(&graph)[0];
    assert_eq!(run.arguments, ["sh", "-x", "cmd  arg"]);
    assert_eq!(run.user.as_deref(), Some("u"));
    assert_eq!(run.workdir, "/v");
    let environment: Vec<_> = run.environment.iter().map(|(name, _)| name).collect();
    assert_eq!(environment, ["A", "PATH", "E"], "what the image holds comes last");
    assert_eq!(
        graph.stages[1].steps[0].action,
        Action::Workdir { path: "/v".to_owned(), owner: Some("u".to_owned()), time: None }
    );
}

#[test]
fn the_config_of_a_base_is_used() {
    let source = "FROM a\nRUN $X x\nENV PATH=/mine:$PATH\nRUN y";
    let mut options = options();
    let image = plan(source).images()[0].clone();
    let config = BaseConfig {
        environment: [("PATH", "/bin"), ("X", "1")].into_iter().collect(),
        user: Some("u".to_owned()),
        workdir: Some("/w".to_owned()),
        shell: Some(vec!["bash".to_owned()]),
        onbuild: vec!["COPY . .".to_owned(), "RUN <<E\nz\nE".to_owned()],
    };
    options.base_configs.insert(image, config);
    let graph = plan_with(source, &options).unwrap();
    let runs = runs(&graph);
    assert_eq!(runs[0].arguments, ["bash", "z\n"]);
    assert_eq!(runs[1].workdir, "/w");
    assert_eq!(variable(&runs[2], "PATH").as_deref(), Some("/mine:/bin"));
    assert!(graph.stages[0].steps[0].on_build);
    assert_eq!(copies(&graph)[0].destination, "/w/");
}

#[test]
fn triggers_run_in_the_next_stage_only() {
    let graph = plan(
        "FROM x AS tools\nFROM a AS base\nONBUILD COPY --from=tools <<E /t/\nb\nE\nONBUILD RUN <<E\none\nE\nFROM base AS mid\nFROM mid\nRUN last",
    );
    assert_eq!(graph.stages.iter().map(|stage| stage.index).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(graph.stages[2].dependencies, [0, 1]);
    assert_eq!(graph.stages[2].steps.len(), 2);
    assert_eq!(graph.stages[3].steps.len(), 1);
    let Action::Run(run) = &graph.stages[2].steps[1].action else { panic!() };
    assert_eq!(run.arguments, ["/bin/sh", "-c", "one\n"]);
}

#[test]
fn commands_come_in_all_forms() {
    let graph = plan(
        "FROM a\nRUN [\"a\", \"b c\"]\nRUN <<EOF\n$x\nEOF\nRUN <<-'EOF'\n\t#!/bin/x\n\ty\n\tEOF\nRUN cat <<A <<B\n1\nA\n2\nB\nRUN\n",
    );
    let runs = runs(&graph);
    assert_eq!(runs[0].arguments, ["a", "b c"]);
    assert_eq!(runs[1].arguments, ["/bin/sh", "-c", "$x\n"]);
    assert_eq!(runs[2].arguments, ["/dev/pipes/EOF"]);
    assert_eq!(runs[2].script, Some(("EOF".to_owned(), "#!/bin/x\ny\n".to_owned())));
    assert_eq!(runs[3].arguments[2], "cat <<A <<B\n1\nA\n2\nB");
    assert_eq!(runs[4].arguments, ["/bin/sh", "-c", ""]);
}

#[test]
fn copies_are_expanded() {
    let graph = plan(
        "FROM a\nENV D=dir X=x\nWORKDIR /w\nCOPY --chown=$X --exclude=*.$X $D/../f* \"$D\"/\nADD https://h/f git@h:r.git <<E <<'F' /d\n$X '$X'\nE\n$X\nF\nCOPY --from=img:1 --parents a/./b/c .\n",
    );
    let copies = copies(&graph);
    assert_eq!(copies[0].sources, [CopySource::Files { path: "/f*".to_owned(), below: None }]);
    assert_eq!(copies[0].destination, "/w/dir/");
    assert_eq!(copies[0].owner.as_deref(), Some("x"));
    assert_eq!(copies[0].exclude, ["*.$X"]);
    assert_eq!(copies[0].origin, None);
    let inline = |name: &str, content: &str| CopySource::Inline {
        name: name.to_owned(),
        content: content.to_owned(),
    };
    assert_eq!(copies[1].sources[0], CopySource::Url("https://h/f".to_owned()));
    assert_eq!(copies[1].sources[1], CopySource::Git("git@h:r.git".to_owned()));
    assert_eq!(copies[1].sources[2..], [inline("E", "x 'x'\n"), inline("F", "$X\n")]);
    assert!(
        matches!(&copies[2].origin, Some(Base::Image(image)) if image.reference.ends_with("img:1"))
    );
}

#[test]
fn mounts_are_resolved() {
    let graph = plan(
        "FROM a AS s\nFROM b\nWORKDIR /w\nENV T=t\nRUN --mount=from=S,source=x,target=$T --mount=type=cache,target=/c --mount=type=bind,target=. --mount=type=secret,id=i --mount=from=img,target=/i true\n",
    );
    let run = &runs(&graph)[0];
    let origins: Vec<_> = run.mounts.iter().map(|mount| mount.origin.clone()).collect();
    assert_eq!(origins[..4], [Some(Base::Stage(0)), Some(Base::Scratch), None, None]);
    assert!(matches!(origins[4], Some(Base::Image(_))));
    assert_eq!(run.mounts[0].mount.target, "/w/t");
    assert_eq!(run.mounts[0].mount.source, "/x");
    assert_eq!(run.mounts[2].mount.target, "/w");
    assert_eq!(graph.stages[1].dependencies, [0]);
    assert_eq!(graph.stages[1].images.len(), 2);
}

#[test]
fn named_contexts_take_the_place_of_stages_and_images() {
    let source = "FROM a AS one\nRUN x\nFROM docker.io/library/b:latest\nCOPY --from=one / /\nCOPY --from=ctx / /";
    let mut options = options();
    options.named_contexts =
        ["one", "b", "ctx"].map(|n| (n.to_owned(), NamedContext::Files)).into();
    let graph = plan_with(source, &options).unwrap();
    assert_eq!(graph.stages.len(), 1, "nothing needs the stage that is replaced");
    assert_eq!(graph.stages[0].base, Base::NamedContext("b".to_owned()));
    assert_eq!(copies(&graph)[0].origin, Some(Base::NamedContext("one".to_owned())));
    assert_eq!(copies(&graph)[1].origin, Some(Base::NamedContext("ctx".to_owned())));
}

#[test]
fn an_image_takes_the_place_of_a_stage_or_an_image() {
    let source = "FROM a AS one\nRUN x\nFROM node:20\nRUN y\nCOPY --from=one / /\nCOPY --from=ctx / /\nRUN --mount=from=ctx,target=/t z";
    let mut options = options();
    options.named_contexts = [
        ("one", "b:1"),
        ("docker.io/library/node:20", "bb:1"),
        ("ctx", "c@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"),
    ]
    .map(|(name, image)| (name.to_owned(), NamedContext::Image(image.to_owned())))
    .into();
    let graph = plan_with(source, &options).unwrap();
    assert_eq!(graph.stages.len(), 1, "nothing needs the stage that is replaced");
    let references: Vec<_> = graph.images().iter().map(|i| i.reference.as_str()).collect();
    assert_eq!(references[..2], ["docker.io/library/b:1", "docker.io/library/bb:1"]);
    assert!(references[2].starts_with("docker.io/library/c@sha256:"));
    let Base::Image(base) = &graph.stages[0].base else { panic!("an image") };
    assert_eq!(base.reference, "docker.io/library/bb:1");
}

#[test]
fn errors_of_the_whole_are_found() {
    for (source, expected) in [
        (
            "FROM $NOTHING",
            "Dockerfile: dockerfile parse error on line 1: base name ($NOTHING) should not be blank",
        ),
        (
            "FROM a AS x\nCOPY --from=y / /\nFROM b AS y\nCOPY --from=x / /",
            "Dockerfile: dockerfile parse error on line 1: circular dependency detected on stage: x",
        ),
        (
            "FROM a AS x\nCOPY --from=0 / /",
            "Dockerfile: dockerfile parse error on line 1: circular dependency detected on stage: x",
        ),
        (
            "FROM a\nCOPY --from=1 / /\nFROM b\nCOPY --from=0 / /\nFROM c",
            "Dockerfile: dockerfile parse error on line 1: circular dependency detected on stage: stage-0",
        ),
        (
            "FROM a AS x\nCOPY --from=y / /\nFROM b AS y\nFROM x",
            "Dockerfile: dockerfile parse error on line 2: cannot copy from stage \"y\", it needs to be defined before current stage \"x\"",
        ),
        (
            "FROM a\nCOPY --from=7 / /",
            "Dockerfile: dockerfile parse error on line 2: invalid stage index 7",
        ),
        (
            "FROM a\nCOPY --from=$x / /",
            "Dockerfile: dockerfile parse error on line 2: variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround",
        ),
        (
            "FROM --platform=$X a",
            "Dockerfile: dockerfile parse error on line 1: empty platform value from expression $X",
        ),
        (
            "FROM a\nRUN --mount=target=/ x",
            "Dockerfile: dockerfile parse error on line 2: invalid mount target \"/\"",
        ),
        (
            "FROM a\nCOPY https://x/y /",
            "Dockerfile: dockerfile parse error on line 2: source can't be a URL for COPY",
        ),
        (
            "FROM a\nENV A=${B:?needed}",
            "Dockerfile: dockerfile parse error on line 2: failed to process \"${B:?needed}\": B: needed",
        ),
        (
            "FROM a AS base\nONBUILD COPY x\nFROM base",
            "Dockerfile: dockerfile parse error on line 3: COPY requires at least two arguments, but only one was provided. Destination could not be determined",
        ),
    ] {
        assert_eq!(plan_with(source, &options()).unwrap_err(), expected, "{source}");
    }
    let unneeded = "FROM a AS x\nCOPY --from=y / /\nFROM b AS y\nFROM c";
    assert!(plan_with(unneeded, &options()).is_ok(), "the target does not need it");
}

#[test]
fn a_stage_with_the_name_of_its_image_is_no_circle() {
    let graph = plan("FROM alpine AS alpine\nFROM alpine\nRUN x");
    assert!(matches!(graph.stages[0].base, Base::Image(_)));
    assert_eq!(graph.stages[1].base, Base::Stage(0));
}
