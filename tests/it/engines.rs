//! The engines themselves: real, of the generation asked for, and empty when they say so.

use crate::harness::{BUILD, BuildReport, Builder, Engine, Generation, Project, dockercache};

const DOCKERFILE: &str = "\
FROM busybox:1 AS build
WORKDIR /src
COPY input .
RUN tr a-z A-Z < input > output

FROM busybox:1
COPY --from=build /src/output /output
RUN wc -c < /output > /size
";

#[test]
fn docker_20_10() {
    starts_builds_and_is_empty_again(Generation::V20_10);
}

#[test]
fn docker_26_1() {
    starts_builds_and_is_empty_again(Generation::V26_1);
}

#[test]
fn docker_28_5() {
    starts_builds_and_is_empty_again(Generation::V28_5);
}

#[test]
fn docker_28_5_containerd() {
    starts_builds_and_is_empty_again(Generation::V28_5Containerd);
}

#[test]
fn commands_read_standard_input_and_fail_with_their_own_code() {
    let engine = Engine::start(Generation::V28_5);
    engine.docker(["load"]).stdin("no archive").run().code(1);
    engine.base_image(&["busybox:1"]);
    let cat = engine.docker(["run", "--interactive", "--rm", "busybox:1", "cat"]).stdin("in").run();
    assert_eq!(cat.success().stdout, "in");
    dockercache(&engine, ["--version"]).run().success();
}

fn starts_builds_and_is_empty_again(generation: Generation) {
    let engine = Engine::shared(generation);
    assert_eq!(engine.generation(), generation);
    let version = engine.docker(["version", "--format", "{{.Server.Version}}"]).run();
    let release = generation.name().trim_end_matches("-containerd");
    assert!(version.success().stdout.starts_with(&format!("{release}.")), "{version:?}");

    for builder in [Builder::Buildkit(generation), Builder::Classic(generation)] {
        if !builder.is_buildkit() && !generation.has_classic_builder() {
            continue;
        }
        engine.wipe();
        assert_eq!(engine.image_ids(), [""; 0]);
        engine.base_image(&["busybox:1", "busybox:latest"]);
        assert_eq!(engine.image_ids().len(), 1);
        let base = engine.image_id("busybox:1");

        let project = Project::new(&[("Dockerfile", DOCKERFILE), ("input", "text")]);
        let cold = build(&engine, &project, builder);
        assert_eq!(cold.cached(), [""; 0]);
        assert_eq!(cold.ran().len(), 5, "{cold:?}");
        let again = build(&engine, &project, builder);
        again.assert_all_cached();
        assert_eq!(again.steps.len(), 5, "{again:?}");

        // The mode counts; the last stage copies the same bytes all the same.
        project.chmod("input", 0o755);
        let after = build(&engine, &project, builder);
        assert_eq!(after.ran(), ["COPY input .", "RUN tr a-z A-Z < input > output"]);
        project.chmod("input", 0o644);
        project.edit("input", "text", "longer text");
        project.write("ignored", "by every instruction");
        project.remove("ignored");
        let after = build(&engine, &project, builder);
        assert_eq!(after.cached(), ["WORKDIR /src"]);
        assert_eq!(after.ran().len(), 4, "{after:?}");
        let size = engine.docker(["run", "--rm", "app", "cat", "/size"]).run();
        assert_eq!(size.success().stdout, "11\n");

        engine.wipe();
        assert_eq!(engine.image_ids(), [""; 0]);
        engine.base_image(&["busybox:1"]);
        assert_eq!(engine.image_id("busybox:1"), base, "the base image has another ID");
        assert_eq!(build(&engine, &project, builder).cached(), [""; 0]);
    }
}

fn build(engine: &Engine, project: &Project, builder: Builder) -> BuildReport {
    let run = builder.choose(engine.docker(BUILD)).in_dir(project.path());
    run.env("BUILDKIT_PROGRESS", "plain").run().success().build_report()
}
