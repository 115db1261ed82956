//! Job after job, each on an empty engine, with nothing but CircleCI's cache between them.

use serde_yaml::Value;

use crate::expand::plain;
use crate::harness::{
    Engine, Generation, PASSWORD, RegistryServer, RegistrySettings, Server as _, USER,
};
use crate::runner::{Finished, environment};
use crate::sandbox::{Sandbox, Shell, outside};
use crate::world::{LARGE_LAYER, World, example, jobs};

const INSTALL: &str = "Install dockercache";
const KEYS: &str = "Compute cache keys";
const RESTORE: &str = "Restore Docker layers";
const CHECK: &str = "Check Docker layers";
const BUILD: &str = "Build with cached layers";
const TAKE: &str = "Take Docker layers out of the engine";
const SAVE: &str = "Save Docker layers";

const ALL_STEPS: usize = 7;

#[track_caller]
fn assert_saved(job: &Finished) {
    assert!(job.output(SAVE).starts_with("Stored Cache"), "{}", job.output(SAVE));
}

#[track_caller]
fn assert_not_saved(job: &Finished) {
    assert!(job.output(SAVE).starts_with("Skipping cache generation"), "{}", job.output(SAVE));
}

#[track_caller]
fn assert_cold(job: &Finished, step: &str) {
    assert_eq!(job.success().build(step).cached(), [""; 0]);
}

/// A first build, one without changes, one with new sources, one with a new Dockerfile.
fn four_jobs(world: &World, engine: &Engine, name: &str) {
    let first = world.run(engine, name);
    assert!(first.output(RESTORE).starts_with("No cache"));
    assert_cold(&first, BUILD);
    assert_saved(&first);

    let same = world.run(engine, name);
    same.success().build(BUILD).assert_all_cached();
    assert!(same.output(RESTORE).starts_with("Found a cache"));
    assert!(same.output(CHECK).contains("restore: hit"), "{}", same.output(CHECK));
    assert_not_saved(&same);
    assert!(same.output(TAKE).contains("DOCKERCACHE_SAVED='false'"));

    world.project.edit("source", "main", "other");
    let source = world.run(engine, name);
    let report = source.success().build(BUILD);
    assert_eq!(report.steps.len(), ALL_STEPS);
    assert!(report.cached().contains(&"RUN sort dependencies > sorted"), "{report:?}");
    assert!(report.ran().contains(&"RUN cat sorted source > app"), "{report:?}");
    assert_saved(&source);
    let same = world.run(engine, name);
    same.success().build(BUILD).assert_all_cached();
    assert_not_saved(&same);

    world.project.edit("Dockerfile", "echo hello", "echo  hello");
    let dockerfile = world.run(engine, name);
    let report = dockerfile.success().build(BUILD);
    assert!(report.ran().iter().any(|step| step.contains("echo  hello")), "{report:?}");
    assert!(report.cached().contains(&"RUN cat sorted source > app"), "{report:?}");
    assert_saved(&dockerfile);
    assert_eq!(world.cache.entries().len(), 3);
}

#[test]
fn remote_docker() {
    let engine = Engine::shared(Generation::V28_5);
    four_jobs(&World::new(), &engine, "remote_docker");
}

#[test]
fn alpine() {
    let engine = Engine::shared(Generation::V28_5);
    four_jobs(&World::new(), &engine, "alpine");
}

#[test]
fn a_shell_without_pipefail() {
    let engine = Engine::shared(Generation::V28_5);
    let world = World { shell: Some(Shell::Dash), ..World::new() };
    four_jobs(&world, &engine, "remote_docker");
}

#[test]
fn containerd_store() {
    let engine = Engine::shared(Generation::V28_5Containerd);
    four_jobs(&World::new(), &engine, "remote_docker");
}

#[test]
fn machine_with_a_tag_for_each_revision() {
    let engine = Engine::shared(Generation::V28_5);
    let mut world = World::new();
    assert_cold(&world.run(&engine, "machine"), BUILD);
    // The tag and the argument are new, and only what the argument is for is built again.
    world.environment.insert("CIRCLE_SHA1".to_owned(), "4567cdef".to_owned());
    let next = world.run(&engine, "machine");
    let report = next.success().build(BUILD);
    assert!(report.cached().contains(&"RUN cat sorted source > app"), "{report:?}");
    assert!(next.output("Try the image").contains("hello"));
    assert!(!engine.image_id("acme/app:4567cdef").is_empty());
}

#[test]
fn own_build_command() {
    const OWN: &str = "Build as always";
    let engine = Engine::shared(Generation::V28_5);
    let world = World::new();
    let first = world.run(&engine, "own_build_command");
    assert_cold(&first, OWN);
    assert_saved(&first);
    let same = world.run(&engine, "own_build_command");
    same.success().build(OWN).assert_all_cached();
    assert_not_saved(&same);
    assert!(!engine.image_id("acme/app").is_empty());
}

#[test]
fn several_images_in_one_archive() {
    let engine = Engine::shared(Generation::V28_5);
    let world = World::new();
    assert_saved(world.run(&engine, "several_images").success());
    let same = world.run(&engine, "several_images");
    same.success().build("Build the app").assert_all_cached();
    same.build("Build the worker").assert_all_cached();
    assert_not_saved(&same);
    // The other image is a part of the key.
    world.project.edit("worker/job", "job", "other job");
    let next = world.run(&engine, "several_images");
    next.success().build("Build the app").assert_all_cached();
    assert_eq!(next.build("Build the worker").ran().len(), 2);
    assert_saved(&next);
    assert_eq!(world.cache.entries().len(), 2);
}

#[test]
fn several_images_with_an_archive_each() {
    let engine = Engine::shared(Generation::V28_5);
    let world = World::new();
    world.run(&engine, "separate_archives").success();
    assert_eq!(world.cache.entries().len(), 2);
    world.project.edit("worker/job", "job", "other job");
    let next = world.run(&engine, "separate_archives");
    let outputs = |name| next.steps.iter().filter(move |s| s.name == name).map(|s| &s.output);
    let reports: Vec<_> = outputs(BUILD).map(|o| crate::harness::BuildReport::parse(o)).collect();
    reports[0].assert_all_cached();
    assert_eq!(reports[1].ran().len(), 2, "{reports:?}");
    let saves: Vec<_> = outputs(SAVE).collect();
    assert!(saves[0].starts_with("Skipping"), "{saves:?}");
    assert!(saves[1].starts_with("Stored"), "{saves:?}");
}

#[test]
fn a_branch_falls_back_to_the_cache_of_another() {
    let engine = Engine::shared(Generation::V28_5);
    let mut world = World::new();
    world.run(&engine, "remote_docker").success();
    world.environment.insert("CIRCLE_BRANCH".to_owned(), "feature".to_owned());
    world.project.write("source", "feature\n");
    let feature = world.run(&engine, "remote_docker");
    assert!(feature.success().build(BUILD).cached().contains(&"RUN sort dependencies > sorted"));
    // What the branch saved is not what main gets: that has an exact key of its own.
    world.environment.insert("CIRCLE_BRANCH".to_owned(), "main".to_owned());
    world.project.write("source", "main\n");
    let main = world.run(&engine, "remote_docker");
    main.success().build(BUILD).assert_all_cached();
    assert_not_saved(&main);
}

#[test]
fn two_parallel_jobs_save() {
    let engines = [Generation::V28_5; 2].map(Engine::start);
    let world = World::new();
    let config = example("remote_docker");
    let finished: Vec<_> = std::thread::scope(|scope| {
        let jobs = engines.each_ref().map(|e| scope.spawn(|| world.run_config(e, &config)));
        jobs.into_iter().map(|job| job.join().expect("a finished job")).collect()
    });
    for job in &finished {
        assert_cold(job, BUILD);
    }
    assert_eq!(world.cache.entries().len(), 1, "one of them is kept, and paid for");
    world.run(&engines[0], "remote_docker").success().build(BUILD).assert_all_cached();
}

/// Changes the archive that CircleCI would restore next.
fn tamper(world: &World, change: &str) {
    let entry = world.cache.entries().pop().expect("an entry");
    let dir = tempfile::tempdir().expect("a directory");
    let script = format!(
        "tar -xf \"$1\" -C \"$2\" --strip-components=1 && cd \"$2/dockercache\" && {change} && \
         tar -cPf \"$1\" --transform 's,^,/tmp/dockercache/,' *"
    );
    let status = std::process::Command::new("bash")
        .args(["-euc", &script, "tamper"])
        .args([&entry.file, dir.path()])
        .status();
    assert!(status.expect("bash").success(), "{change}");
}

#[test]
fn a_damaged_cache_is_replaced() {
    let engine = Engine::shared(Generation::V28_5);
    for damage in [
        "for f in blobs/sha256/*; do echo x >> $f; done",
        "rm -r blobs",
        "echo '{' > index.json",
        "rm index.json",
    ] {
        let world = World::new();
        world.run(&engine, "remote_docker").success();
        tamper(&world, damage);
        let damaged = world.run(&engine, "remote_docker");
        assert_cold(&damaged, BUILD);
        // The key is taken, by what is damaged. The new archive gets one that is found before it.
        assert_saved(&damaged);
        let next = world.run(&engine, "remote_docker");
        next.success().build(BUILD).assert_all_cached();
        assert_not_saved(&next);
    }
}

#[test]
fn a_cache_of_another_format_is_replaced() {
    let engine = Engine::shared(Generation::V28_5);
    let world = World::new();
    world.run(&engine, "remote_docker").success();
    // As a release with another format would have left it.
    let newer = r#"sed -i 's/\\"format\\":1/\\"format\\":99/' index.json && grep -q 99 index.json"#;
    tamper(&world, newer);
    let job = world.run(&engine, "remote_docker");
    job.success();
    assert!(job.output(CHECK).contains("newer dockercache"), "{}", job.output(CHECK));
    assert_cold(&job, BUILD);
    assert_saved(&job);
    world.run(&engine, "remote_docker").success().build(BUILD).assert_all_cached();
}

#[test]
fn a_moved_base_image_is_saved_once() {
    let engine = Engine::shared(Generation::V28_5);
    let world = World::new();
    world.run(&engine, "remote_docker").success();
    let moved = |engine: &Engine| {
        engine.wipe();
        engine.base_image(&["base:1"]);
        let build = engine.docker(["build", "-q", "-t", "busybox:1", "-"]);
        build.stdin("FROM base:1\nRUN echo moved > /moved\n").run().success();
        world.run_here(engine, &example("remote_docker"))
    };
    let first = moved(&engine);
    assert!(!first.success().build(BUILD).ran().is_empty());
    assert_saved(&first);
}

#[test]
fn an_engine_out_of_reach_fails_the_build_and_nothing_before() {
    let engine = Engine::shared(Generation::V28_5);
    let world = World::new();
    let mut config = example("remote_docker");
    let steps = config["jobs"]["image"]["steps"].as_sequence_mut().expect("steps");
    steps.retain(|step| step != "setup_remote_docker");
    let job = world.run_config(&engine, &config);
    assert!(!job.succeeded);
    assert!(job.output(CHECK).contains("ended with 4"), "{}", job.output(CHECK));
    assert!(!job.steps.last().expect("a step").succeeded);
    assert_eq!(job.steps.last().expect("a step").name, BUILD);
    // Where the build is something else, the job goes on.
    let steps = config["jobs"]["image"]["steps"].as_sequence_mut().expect("steps");
    steps.retain(|step| step.get("dockercache/build").is_none());
    let job = world.run_config(&engine, &config);
    assert!(job.success().output(TAKE).contains("ended with 4"));
    // What is not there is not saved under the name of a build.
    let next = world.run(&engine, "remote_docker");
    assert!(next.success().output(RESTORE).starts_with("No cache"));
    assert_saved(&next);
}

/// The config of the first example, with other parameters for all of the orb's commands.
fn with(parameters: &[(&str, Value)], for_all: bool) -> Value {
    let mut config = example("remote_docker");
    for step in config["jobs"]["image"]["steps"].as_sequence_mut().expect("steps") {
        if step == "dockercache/save_cache" && for_all {
            *step = serde_yaml::from_str("dockercache/save_cache: {}").expect("a step");
        }
        for (name, arguments) in step.as_mapping_mut().into_iter().flatten() {
            let name = name.as_str().expect("a name");
            if name == "dockercache/restore_cache" || for_all {
                for (parameter, value) in parameters {
                    arguments[*parameter] = value.clone();
                }
            }
        }
    }
    config
}

#[test]
fn the_helper_is_verified_before_it_is_a_program() {
    let engine = Engine::shared(Generation::V28_5);
    let world = World::new();
    let wrong = with(&[("sha256", "0".repeat(64).into())], false);
    let job = world.run_config(&engine, &wrong);
    assert!(!job.succeeded);
    let step = job.steps.last().expect("a step");
    assert!(step.output.contains("has another SHA-256"), "{}", step.output);
    assert!(!outside(job.root.path(), "/usr/local/bin/dockercache").exists());

    let unknown = with(&[("version", "9.9.9".into()), ("sha256", "1".repeat(64).into())], false);
    let job = world.run_config(&engine, &unknown);
    assert!(job.output(INSTALL).contains("failed to download"));
    assert!(job.output(BUILD).contains("runs without cache"));
    assert_cold(&job, BUILD);
}

/// Runs the first example with an image that has a `dockercache` of its own, which nobody verified.
fn beside_another_helper(world: &mut World, engine: &Engine, config: &Value) -> Finished {
    let bin = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let other = bin.path().join("dockercache");
    std::fs::write(&other, "#!/bin/sh\necho unverified \"$@\"\n").expect("a program");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&other, mode).expect("a mode");
    world.programs = vec![bin.path().to_owned()];
    world.run_config(engine, config)
}

#[test]
fn only_the_verified_helper_runs() {
    let engine = Engine::shared(Generation::V28_5);
    let mut world = World::new();
    let unwritable = with(&[("install_dir", "/proc/nowhere".into())], false);
    let job = beside_another_helper(&mut world, &engine, &unwritable);
    assert_saved(job.success());
    assert!(job.output(INSTALL).contains("`/proc/nowhere` is not writable"));
    assert!(job.output(CHECK).contains("restore:"), "{}", job.output(CHECK));
    assert!(job.steps.iter().all(|step| !step.output.contains("unverified")));

    let gone = with(&[("base_url", "http://127.0.0.1:1".into())], false);
    let job = beside_another_helper(&mut world, &engine, &gone);
    assert_cold(&job, BUILD);
    assert!(job.steps.iter().all(|step| !step.output.contains("unverified")));

    // Where nothing is to be installed, it is the image's that is meant.
    let own = with(&[("install", false.into())], false);
    let job = beside_another_helper(&mut world, &engine, &own);
    assert!(job.success().output(BUILD).contains("unverified circleci build"));
}

#[test]
fn without_the_helper_the_build_has_all_of_its_arguments() {
    let engine = Engine::shared(Generation::V28_5);
    for shell in [Shell::Bash, Shell::Dash, Shell::Busybox] {
        let mut world = World { shell: Some(shell), ..World::new() };
        world.environment.insert("TOKEN".to_owned(), "a $HOME 'b'".to_owned());
        world.project.write(
            "my dir/File",
            "FROM busybox:1 AS one\nARG A\nRUN echo \"$A\" > /a\nFROM one\nRUN false\n",
        );
        let mut config = with(&[("base_url", "http://127.0.0.1:1".into())], false);
        let parameters = [
            ("image", "acme/one\nacme/other"),
            ("tag", "latest, $CIRCLE_SHA1"),
            ("dockerfile", "my dir/File"),
            ("docker_context", "my dir"),
            ("target", "one"),
            ("build_args", "A=1 ${TOKEN} $$X\n"),
            ("extra_args", "--label=a=b c\n--label\nd=$CIRCLE_SHA1"),
        ];
        for step in config["jobs"]["image"]["steps"].as_sequence_mut().expect("steps") {
            if let Some(build) = step.get_mut("dockercache/build") {
                for (name, value) in parameters {
                    build[name] = value.into();
                }
            }
        }
        let job = world.run_config(&engine, &config);
        assert!(job.success().output(BUILD).contains("runs without cache"), "{shell:?}");
        for name in ["acme/one:latest", "acme/other:0123abcd"] {
            let printed = engine.docker(["run", "--rm", name, "cat", "/a"]).run();
            assert_eq!(printed.success().stdout, "1 a $HOME 'b' $X\n", "{name}, {shell:?}");
        }
        let format = "{{.Config.Labels.a}} {{.Config.Labels.d}}";
        let labels = engine.docker(["image", "inspect", "-f", format, "acme/one"]).run();
        assert_eq!(labels.success().stdout, "b c 0123abcd\n", "{shell:?}");
    }
}

#[test]
fn extra_arguments_arrive() {
    let engine = Engine::shared(Generation::V28_5);
    let world = World::new();
    let extra = [("extra_args", Value::from("--label=revision=$CIRCLE_SHA1\n--pull=false"))];
    let mut config = with(&extra, false);
    for step in config["jobs"]["image"]["steps"].as_sequence_mut().expect("steps") {
        if let Some(build) = step.get_mut("dockercache/build") {
            build["extra_args"] = extra[0].1.clone();
        }
    }
    assert_saved(world.run_config(&engine, &config).success());
    let format = "{{.Config.Labels.revision}}";
    let label = engine.docker(["image", "inspect", "-f", format, "acme/app"]).run();
    assert_eq!(label.success().stdout, "0123abcd\n");
}

#[test]
fn every_tag_is_pushed_after_the_login() {
    let registry = RegistryServer::start(RegistrySettings::default());
    let address = registry.address();
    let engine = Engine::shared(Generation::V28_5);
    let image = format!("{address}/acme/app");
    let mut config = example("push_with_tags");
    let job = &mut config["workflows"]["main"]["jobs"][0]["dockercache/build"];
    job["registry"] = address.into();
    job["image"] = image.as_str().into();
    job["after_build"] = Value::Sequence(Vec::new());
    // What the helper builds and what docker builds alone is pushed alike.
    for base_url in [None, Some("http://127.0.0.1:1")] {
        let mut world = World::new();
        for (name, value) in [("DOCKER_LOGIN", USER), ("DOCKER_PASSWORD", PASSWORD)] {
            world.environment.insert(name.to_owned(), value.to_owned());
        }
        if let Some(url) = base_url {
            config["workflows"]["main"]["jobs"][0]["dockercache/build"]["base_url"] = url.into();
            world.environment.insert("CIRCLE_SHA1".to_owned(), "4567cdef".to_owned());
        }
        let done = world.run_config(&engine, &config);
        assert!(done.success().output("Log in to the registry").contains("Login Succeeded"));
        assert!(done.steps.iter().all(|step| !step.output.contains(PASSWORD)));
    }
    engine.docker(["logout", address]).run().success();
    engine.wipe();
    for tag in ["latest", "0123abcd", "4567cdef"] {
        let pull = engine.docker(["pull", &format!("{image}:{tag}")]);
        let known = registry.variables(address, PASSWORD);
        known.iter().fold(pull, |pull, (name, value)| pull.env(name, value)).run().success();
    }
}

#[test]
fn a_login_without_a_variable_says_which() {
    let engine = Engine::shared(Generation::V28_5);
    let job = World::new().run_config(&engine, &example("push_with_tags"));
    assert!(!job.succeeded);
    let last = job.steps.last().expect("a step");
    assert!(last.output.contains("set DOCKER_LOGIN and DOCKER_PASSWORD"), "{}", last.output);
}

#[test]
fn an_undefined_variable_is_named() {
    let engine = Engine::shared(Generation::V28_5);
    let world = World::new();
    let job = world.run_config(&engine, &with(&[("build_args", "A=$NOBODY".into())], false));
    assert!(!job.succeeded);
    let last = job.steps.last().expect("a step");
    assert_eq!(last.name, KEYS);
    assert!(last.output.contains("parameter `build_args`: the variable `NOBODY`"));
}

#[test]
fn the_helper_is_installed_without_curl() {
    let engine = Engine::shared(Generation::V28_5);
    let sandbox = Sandbox::new(&engine, Shell::Dash);
    let jobs = jobs(&example("remote_docker")).expect("jobs");
    let mut steps = jobs[0].steps.iter().map(|step| &step.arguments);
    let install = steps.find(|step| step.get("name") == Some(&INSTALL.into()));
    let install = install.expect("a step");
    let script = format!(
        "mkdir /tmp/few && for program in cat chmod mkdir mv sed sh sha256sum uname wget; do \
         ln -s \"$(command -v $program)\" /tmp/few/; done && PATH=/tmp/few\n{}",
        plain(&install["command"])
    );
    let mut command = sandbox.script(&script, "/tmp");
    command.envs(environment(&install["environment"]));
    let output = command.output().expect("a shell");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("installed as /usr/local/bin/dockercache"), "{text}");
}

#[test]
fn the_helper_is_reused_or_brought_along() {
    let engine = Engine::shared(Generation::V28_5);
    let world = World::new();
    let job = world.run_config(&engine, &example("separate_archives"));
    let installed = job.success().steps.iter().filter(|s| s.name == INSTALL);
    assert!(installed.into_iter().all(|s| s.output.contains("as /usr/local/bin/dockercache")));

    let path = env!("CARGO_BIN_EXE_dockercache");
    let brought =
        with(&[("binary_path", path.into()), ("base_url", "http://127.0.0.1:1".into())], false);
    let job = World::new().run_config(&engine, &brought);
    assert_saved(job.success());
    assert!(job.output(INSTALL).contains(path));
}

#[test]
fn odd_parameters_are_taken_as_they_are() {
    let engine = Engine::shared(Generation::V28_5);
    let mut world = World::new();
    world.environment.insert("TOKEN".to_owned(), "s3cr3t-value".to_owned());
    let odd = "a \"b\" 'c' $(touch /tmp/pwned) `id` ; #";
    world.project.write(
        "my context/it's/Dockerfile",
        "FROM busybox:1\nARG A\nARG TOKEN\nRUN echo \"$A\" > /a\n",
    );
    let context = "my context/it's";
    let parameters = [
        ("image", Value::from("localhost:5000/acme/sub_dir/app:1.0")),
        ("docker_context", context.into()),
        ("build_args", format!("A={odd}\nTOKEN=$TOKEN").into()),
    ];
    let mut config = with(&parameters, false);
    for step in config["jobs"]["image"]["steps"].as_sequence_mut().expect("steps") {
        if let Some(build) = step.get_mut("dockercache/build") {
            for (name, value) in &parameters {
                build[*name] = value.clone();
            }
        }
        if let Some(restore) = step.get_mut("dockercache/restore_cache") {
            restore["key_prefix"] = format!("{odd}{}", "x/:?&".repeat(300)).into();
        }
    }
    let first = world.run_config(&engine, &config);
    assert_cold(&first, BUILD);
    assert_saved(&first);
    assert!(!outside(first.root.path(), "/tmp/pwned").exists());
    let printed =
        engine.docker(["run", "--rm", "localhost:5000/acme/sub_dir/app:1.0", "cat", "/a"]).run();
    assert_eq!(printed.success().stdout, format!("{odd}\n"));
    for step in &first.steps {
        assert!(!step.output.contains("s3cr3t"), "{}: {}", step.name, step.output);
    }
    for file in
        std::fs::read_dir(outside(first.root.path(), "/tmp/dockercache.keys")).expect("keys")
    {
        let text = std::fs::read(file.expect("a file").path()).expect("a file");
        assert!(!String::from_utf8_lossy(&text).contains("s3cr3t"));
    }
    world.run_config(&engine, &config).success().build(BUILD).assert_all_cached();
}

#[test]
fn a_cache_directory_that_cannot_be_written_costs_the_cache_only() {
    let engine = Engine::shared(Generation::V28_5);
    let world = World::new();
    let config = with(&[("cache_dir", "/proc/dockercache".into())], true);
    let job = world.run_config(&engine, &config);
    assert_cold(&job, BUILD);
    assert!(job.output(KEYS).contains("no cache for this job"));
    assert!(job.output(SAVE).contains("error computing cache key"));
}

#[test]
fn a_missing_dockerfile_is_for_the_build_to_say() {
    let engine = Engine::shared(Generation::V28_5);
    let world = World::new();
    let mut config = with(&[("dockerfile", "missing/Dockerfile".into())], false);
    for step in config["jobs"]["image"]["steps"].as_sequence_mut().expect("steps") {
        if let Some(build) = step.get_mut("dockercache/build") {
            build["dockerfile"] = "missing/Dockerfile".into();
        }
    }
    let job = world.run_config(&engine, &config);
    assert!(!job.succeeded);
    assert_eq!(job.steps.last().expect("a step").name, BUILD);
    assert!(job.output(KEYS).contains("`dockercache key` ended with 2; the job goes on"));
}

const INDEX: &str = "Restore the index of Docker layers";
const CHOOSE: &str = "Choose packs of Docker layers";

/// Runs a job with packs; gives it with the sizes of what it has added to CircleCI's cache, without the
/// empty entry of steps that save nothing.
fn with_packs(world: &World, engine: &Engine) -> (Finished, Vec<u64>) {
    let before = world.cache.entries().len();
    let job = world.run(engine, "packs");
    let entries = world.cache.entries();
    let new = entries[before..].iter().map(|e| e.size).filter(|size| *size > 10_240);
    (job, new.collect())
}

/// Bytes that the steps have downloaded.
fn downloaded(job: &Finished) -> u64 {
    let found = job.steps.iter().filter_map(|step| step.output.strip_prefix("Found a cache from "));
    let sizes = found
        .filter_map(|rest| rest.rsplit_once(", ")?.1.strip_suffix(" bytes\n")?.parse::<u64>().ok());
    sizes.sum()
}

#[test]
fn packs_move_what_is_new_and_what_is_read() {
    let engine = Engine::shared(Generation::V28_5);
    let world = World::with_a_large_layer();
    let (first, saved) = with_packs(&world, &engine);
    assert!(first.output(INDEX).starts_with("No cache"));
    assert_cold(&first, BUILD);
    assert!(saved.iter().any(|size| *size > LARGE_LAYER), "{saved:?}");

    let (same, saved) = with_packs(&world, &engine);
    same.success().build(BUILD).assert_all_cached();
    assert!(same.output(INDEX).starts_with("Found a cache"));
    assert!(same.output(CHECK).contains("restore: hit"), "{}", same.output(CHECK));
    assert_eq!(saved, [0; 0], "an unchanged job uploads nothing");
    // The last stage reads its base.
    assert!(downloaded(&same) < LARGE_LAYER, "{}", same.output(CHOOSE));

    world.project.edit("source", "main", "other");
    let (source, saved) = with_packs(&world, &engine);
    let report = source.success().build(BUILD);
    assert!(report.cached().iter().any(|step| step.contains("urandom")), "{report:?}");
    assert!(report.ran().contains(&"RUN cat sorted source > app"), "{report:?}");
    assert!(!saved.is_empty() && saved.iter().all(|size| *size < LARGE_LAYER / 10), "{saved:?}");
    assert!(downloaded(&source) > LARGE_LAYER);
    let (same, saved) = with_packs(&world, &engine);
    same.success().build(BUILD).assert_all_cached();
    assert_eq!(saved, [0; 0]);
}

#[test]
fn packs_that_have_expired_are_a_miss() {
    let engine = Engine::shared(Generation::V28_5);
    let world = World::with_a_large_layer();
    with_packs(&world, &engine);
    world.cache.forget("dockercache-pack-");
    world.project.edit("source", "main", "other");
    let (lost, saved) = with_packs(&world, &engine);
    let report = lost.success().build(BUILD);
    assert!(report.ran().iter().any(|step| step.contains("urandom")), "{report:?}");
    assert!(saved.iter().any(|size| *size > LARGE_LAYER), "{saved:?}");
    let (same, _) = with_packs(&world, &engine);
    same.success().build(BUILD).assert_all_cached();
}
