//! Base images: their tags are the user's, and a tag that has moved costs one miss.

use serde_json::Value;

use super::{needs_no_flags, on_every_engine, tags};
use crate::harness::bases::{self, Base};
use crate::harness::{
    Access, Builder, Engine, Job, Machine, RegistryServer, RegistrySettings, Server,
};

const DOCKERFILE: &str = "\
FROM {base} AS build
RUN head -c 100000 /dev/urandom > /deps
COPY src /src
RUN echo $BASE | cat /base - /src > /app
FROM {base}
COPY --from=build /app /app
RUN echo $BASE > /variable
CMD [\"cat\", \"/app\", \"/variable\", \"/base\"]
";
/// How a job restores, builds and saves.
#[derive(Clone, Copy, Debug)]
enum Front {
    /// `dockercache build` between `restore` and `save`.
    Ours,
    /// `docker build $(dockercache restore)`, and `save` with the arguments.
    Plain,
}
const FRONTS: [Front; 2] = [Front::Ours, Front::Plain];

on_every_engine! {
    restore_and_build_move_no_tag,
    a_moved_tag_costs_one_miss,
    a_tag_that_moved_in_its_registry_costs_one_miss,
    a_base_that_is_in_the_archive_is_not_fetched_again,
    a_forged_archive_names_nothing,
    a_registry_that_is_away_fails_no_more_than_the_build,
}

fn version(tag: &str, file: &str, variable: &str) -> Base {
    Base { tag: tag.into(), file: file.into(), variable: variable.into(), on_build: &[] }
}

/// An image with other layers, and one that differs in its configuration alone.
fn moved(tag: &str) -> [Base; 2] {
    [version(tag, "two", "a"), version(tag, "one", "b")]
}

fn load(engine: &Engine, base: Base) {
    engine.docker(["load"]).stdin(bases::archive(&[base])).run().success();
}

fn machine(builder: Builder, base: &str) -> Machine {
    let dockerfile = DOCKERFILE.replace("{base}", base);
    Machine::new(builder, &[("Dockerfile", &dockerfile), ("src", "source\n")])
}

/// Restores, builds and saves; gives how many steps were cached.
fn job(machine: &Machine, front: Front) -> usize {
    let report = match front {
        Front::Ours => {
            machine.run(["restore"]).success();
            let report = machine.build();
            machine.save();
            report
        }
        Front::Plain => {
            let flags = machine.run(["restore"]).success().stdout.clone();
            let mut words = vec!["build"];
            words.extend(flags.split_whitespace());
            let report = machine.plain_build(&words);
            machine.save_build(&["-t", "app", "."]);
            report
        }
    };
    report.cached().len()
}

/// What the image must print that is built on the base.
fn output_on(base: &Base) -> String {
    let Base { file, variable, .. } = base;
    format!("{file}{variable}\nsource\n{variable}\n{file}")
}

fn restore_and_build_move_no_tag(builder: Builder) {
    let machine = machine(builder, "base:1");
    load(&machine.job.engine, version("base:1", "one", "a"));
    job(&machine, Front::Ours);
    for base in moved("base:1") {
        machine.replace();
        load(&machine.job.engine, base.clone());
        let mut before = tags(&machine.job.engine);
        for words in [&["restore"][..], &["restore", "-t", "app", "."]] {
            let run = machine.run(words.iter().copied());
            let said = &run.success().stderr;
            assert!(said.contains("miss: base `base:1` has moved"), "{said}");
            assert_eq!(run.stdout, "");
            assert_eq!(tags(&machine.job.engine), before);
        }
        assert_eq!(machine.build().cached(), [""; 0]);
        assert_eq!(machine.output(), output_on(&base));
        let mut after = tags(&machine.job.engine);
        before.remove("app:latest");
        after.remove("app:latest");
        assert_eq!(after, before);
    }
}

fn a_moved_tag_costs_one_miss(builder: Builder) {
    for (front, moved) in FRONTS.into_iter().zip(moved("base:1")) {
        let machine = machine(builder, "base:1");
        load(&machine.job.engine, version("base:1", "one", "a"));
        assert_eq!(job(&machine, front), 0);
        for hits in [0, STEPS, STEPS] {
            machine.replace();
            load(&machine.job.engine, moved.clone());
            assert_eq!(job(&machine, front), hits, "{front:?}");
            assert_eq!(machine.output(), output_on(&moved));
        }
    }
}

/// The steps of [`DOCKERFILE`].
const STEPS: usize = 6;

/// A registry that anyone may read, and the name of a base in it.
fn registry() -> (RegistryServer, String) {
    let settings = RegistrySettings { access: Access::Public, ..RegistrySettings::default() };
    let server = RegistryServer::start(settings);
    let name = format!("{}/team/base:1", server.address());
    (server, name)
}

/// Puts a base into its registry, and takes it from the engine.
fn publish(engine: &Engine, base: Base) {
    let name = base.tag.clone();
    load(engine, base);
    engine.docker(["push", &name]).run().success();
    engine.docker(["image", "rm", &name]).run().success();
}

fn a_tag_that_moved_in_its_registry_costs_one_miss(builder: Builder) {
    for front in FRONTS {
        let (_server, name) = registry();
        let machine = machine(builder, &name);
        publish(&machine.job.engine, version(&name, "one", "a"));
        machine.replace();
        assert_eq!(job(&machine, front), 0);
        machine.replace();
        assert_eq!(job(&machine, front), STEPS, "{front:?}");
        for base in moved(&name) {
            machine.replace();
            publish(&machine.job.engine, base.clone());
            for hits in [0, STEPS] {
                machine.replace();
                assert_eq!(job(&machine, front), hits, "{front:?}");
                assert_eq!(machine.output(), output_on(&base));
            }
        }
    }
}

fn a_base_that_is_in_the_archive_is_not_fetched_again(builder: Builder) {
    let (server, name) = registry();
    let machine = machine(builder, &name);
    publish(&machine.job.engine, version(&name, "one", "a"));
    machine.replace();
    job(&machine, Front::Ours);
    let pulled = tags(&machine.job.engine)[&name].clone();
    // Who wants a layer from it now will fail.
    server.lose_layers();
    for front in FRONTS {
        machine.replace();
        assert_eq!(job(&machine, front), STEPS, "{front:?}");
        let engine = &machine.job.engine;
        assert_eq!(tags(engine).get(&name), Some(&pulled));
        let digests = ["image", "inspect", "--format", "{{len .RepoDigests}}", &name];
        assert_eq!(engine.docker(digests).run().success().stdout, "1\n", "not as a pull leaves it");
    }
}

/// Whatever an archive calls its images: the names of an engine are its user's.
fn a_forged_archive_names_nothing(builder: Builder) {
    let machine = machine(builder, "base:1");
    load(&machine.job.engine, version("base:1", "one", "a"));
    job(&machine, Front::Ours);
    forge(&machine, &["base:1", "mycorp/prod:latest", "absent:1"]);
    let forged = machine.carried.contents();
    for words in [&["restore"][..], &["build", "-t", "app", "."]] {
        machine.replace();
        machine.carried.write(forged.clone());
        let engine = &machine.job.engine;
        load(engine, version("base:1", "one", "a"));
        load(engine, version("mycorp/prod:latest", "prod", "b"));
        let before = tags(engine);
        machine.run(words.iter().copied()).success();
        let mut after = tags(engine);
        after.remove("app:latest");
        assert_eq!(after, before);
    }
    assert_eq!(machine.output(), output_on(&version("", "one", "a")));
}

/// Gives every image of the archive these tags.
fn forge(machine: &Machine, tags: &[&str]) {
    let path = machine.carried.archive().join("index.json");
    let mut index: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for image in index["manifests"].as_array_mut().expect("manifests") {
        let note = &mut image["annotations"]["dev.dockercache.image"];
        let mut parsed: Value = serde_json::from_str(note.as_str().expect("a note")).unwrap();
        parsed["tags"] = tags.into();
        *note = parsed.to_string().into();
    }
    std::fs::write(&path, index.to_string()).unwrap();
}

fn a_registry_that_is_away_fails_no_more_than_the_build(builder: Builder) {
    let (server, name) = registry();
    let machine = machine(builder, &name);
    publish(&machine.job.engine, version(&name, "one", "a"));
    machine.replace();
    job(&machine, Front::Ours);
    drop(server);
    machine.replace();
    let restored: Value = machine.run(["restore", "--format", "json"]).json();
    assert_eq!(restored["hit"], needs_no_flags(builder), "{restored}");
    let plain = machine.docker(["build", "-t", "app", "."]).run();
    let ours = machine.run(["build", "-t", "app", "."]);
    assert_ne!(plain.code, Some(0));
    assert_eq!(ours.code, plain.code);
    assert!(ours.stderr.contains("can't be pulled"), "{}", ours.stderr);
    assert_eq!(tags(&machine.job.engine).keys().collect::<Vec<_>>(), ["busybox:1"]);
    // With a base that needs no registry, the build goes on.
    Job::replace(&machine.job);
    load(&machine.job.engine, version(&name, "one", "a"));
    machine.build().assert_all_cached();
}
