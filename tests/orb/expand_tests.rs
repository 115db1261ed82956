//! What the compiler refuses, and what it makes of conditions and types.

use std::collections::BTreeMap;

use serde_yaml::Value;

use crate::expand::{Job, expand, plain};
use crate::pack::pack;
use crate::world::{example, jobs, orb_directory};

const ORB: &str = r"
commands:
  greet:
    parameters:
      name: {type: string}
      token: {type: env_var_name, default: TOKEN}
      loud: {type: boolean, default: false}
      after: {type: steps, default: []}
    steps:
      - run: {name: greet, command: 'echo << parameters.name >> \<<x', environment: {LOUD: << parameters.loud >>}}
      - when: {condition: << parameters.loud >>, steps: [{run: 'echo !'}]}
      - steps: << parameters.after >>
  save_cache:
    steps:
      - save_cache: {key: a, paths: [b]}
jobs:
  reserved:
    parameters:
      context: {type: string, default: .}
    docker: [{image: a}]
    steps: [checkout]
  kept:
    parameters:
      days: {type: string, default: 7d}
    docker: [{image: a}]
    retention: {caches: << parameters.days >>}
    steps: [checkout]
  too_long:
    docker: [{image: a}]
    retention: {caches: 16d}
    steps: [checkout]
executors:
  box:
    parameters:
      image: {type: string, default: a}
    docker: [{image: << parameters.image >>}]
";

fn expanded(steps: &str) -> Result<Vec<Job>, String> {
    compiled(&format!(
        "jobs: {{one: {{executor: {{name: o/box, image: b}}, steps: [{steps}]}}}}\n\
         commands: {{own: {{steps: [checkout]}}}}\n\
         workflows: {{main: {{jobs: [one]}}}}"
    ))
}

fn compiled(config: &str) -> Result<Vec<Job>, String> {
    let orbs = BTreeMap::from([("o".to_owned(), serde_yaml::from_str(ORB).expect("an orb"))]);
    expand(&serde_yaml::from_str(config).expect("a config"), &orbs)
}

#[test]
fn commands_conditions_and_types() {
    let jobs = expanded(
        "{o/greet: {name: you, loud: true, after: [own]}}, {unless: {condition: '', steps: [checkout]}}",
    );
    let job = &jobs.unwrap()[0];
    let kinds: Vec<_> = job.steps.iter().map(|step| step.kind.as_str()).collect();
    assert_eq!(kinds, ["run", "run", "checkout", "checkout"]);
    assert_eq!(plain(&job.steps[0].arguments["command"]), "echo you <<x");
    assert_eq!(plain(&job.steps[0].arguments["environment"]["LOUD"]), "1");
    assert_eq!(job.settings["docker"][0]["image"], Value::from("b"));
}

#[test]
fn mistakes_are_errors() {
    for (steps, error) in [
        ("{o/greet: {name: a, nam: b}}", "not declared"),
        ("o/greet", "parameter name is missing"),
        ("{o/greet: {name: a, loud: 'true'}}", "is no boolean"),
        ("{o/greet: {name: 2}}", "is no string"),
        ("{o/greet: {name: a, token: 'a b'}}", "is no env_var_name"),
        ("o/gret", "there is no command named o/gret"),
        ("{run: 'echo << parameters.x >>'}", "parameter x is not declared"),
        // A command hides the built-in step of its name, from itself too.
        ("o/save_cache", "calls itself"),
    ] {
        let found = expanded(steps).unwrap_err();
        assert!(found.contains(error), "{steps}: {found}");
    }
}

#[test]
fn jobs_that_circleci_refuses_are_refused() {
    for (job, error) in
        [("reserved", "reserved name"), ("kept", "retention"), ("too_long", "retention")]
    {
        let found = compiled(&format!("workflows: {{main: {{jobs: [o/{job}]}}}}")).unwrap_err();
        assert!(found.contains(error), "{job}: {found}");
    }
}

#[test]
fn a_parameter_of_the_orb_that_does_not_exist_is_an_error() {
    let mut config = example("remote_docker");
    let steps = &mut config["jobs"]["image"]["steps"];
    steps[2]["dockercache/restore_cache"]["imag"] = "x".into();
    assert!(jobs(&config).unwrap_err().contains("not declared"));
}

/// A default of the wrong type fails only the configs that don't set the parameter.
#[test]
fn everything_in_the_orb_compiles_with_its_defaults_and_with_every_switch() {
    let orb = pack(&orb_directory()).expect("an orb");
    for (section, name, on) in [
        ("jobs", "build", false),
        ("jobs", "build", true),
        ("jobs", "build_on_machine", false),
        ("jobs", "build_on_machine", true),
        ("commands", "restore", true),
        ("commands", "restore_cache", true),
        ("commands", "save_cache", true),
        ("commands", "cached_build", true),
        ("commands", "login", true),
        ("commands", "push", true),
        ("commands", "install", true),
    ] {
        let mut arguments = serde_yaml::Mapping::new();
        for (parameter, declaration) in
            orb[section][name]["parameters"].as_mapping().expect("parameters")
        {
            let value = match declaration["type"].as_str().expect("a type") {
                "boolean" if on => true.into(),
                "string" if on || declaration.get("default").is_none() => "/x".into(),
                "steps" if on => serde_yaml::from_str("[checkout]").expect("steps"),
                _ => continue,
            };
            arguments.insert(parameter.clone(), value);
        }
        let mut call = serde_yaml::Mapping::new();
        call.insert(format!("dockercache/{name}").into(), arguments.into());
        let call = Value::from(call);
        let mut config: Value = if section == "jobs" {
            serde_yaml::from_str("workflows: {main: {jobs: []}}").expect("a config")
        } else {
            serde_yaml::from_str(
                "{jobs: {one: {docker: [{image: a}], steps: []}}, workflows: {main: {jobs: [one]}}}",
            )
            .expect("a config")
        };
        if section == "jobs" {
            config["workflows"]["main"]["jobs"] = vec![call].into();
        } else {
            config["jobs"]["one"]["steps"] = vec![call].into();
        }
        let found = jobs(&config).unwrap_or_else(|error| panic!("{section}/{name}: {error}"));
        let kinds: Vec<_> = found[0].steps.iter().map(|step| step.kind.as_str()).collect();
        if section == "jobs" {
            assert_eq!(kinds.contains(&"attach_workspace"), on, "{name}: {kinds:?}");
            assert_eq!(kinds.contains(&"persist_to_workspace"), on, "{name}: {kinds:?}");
            assert_eq!(kinds.contains(&"setup_remote_docker"), name == "build", "{kinds:?}");
        }
    }
}
