//! What the compiler refuses, and what it makes of conditions and types.

use std::collections::BTreeMap;

use serde_yaml::Value;

use crate::expand::{Job, expand, plain};
use crate::world::{example, jobs};

const ORB: &str = r"
commands:
  greet:
    parameters:
      name: {type: string}
      loud: {type: boolean, default: false}
      after: {type: steps, default: []}
    steps:
      - run: {name: greet, command: 'echo << parameters.name >> \<<x', environment: {LOUD: << parameters.loud >>}}
      - when: {condition: << parameters.loud >>, steps: [{run: 'echo !'}]}
      - steps: << parameters.after >>
  save_cache:
    steps:
      - save_cache: {key: a, paths: [b]}
executors:
  box:
    parameters:
      image: {type: string, default: a}
    docker: [{image: << parameters.image >>}]
";

fn expanded(steps: &str) -> Result<Vec<Job>, String> {
    let config = format!(
        "jobs: {{one: {{executor: {{name: o/box, image: b}}, steps: [{steps}]}}}}\n\
         commands: {{own: {{steps: [checkout]}}}}\n\
         workflows: {{main: {{jobs: [one]}}}}"
    );
    let orbs = BTreeMap::from([("o".to_owned(), serde_yaml::from_str(ORB).expect("an orb"))]);
    expand(&serde_yaml::from_str(&config).expect("a config"), &orbs)
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
fn a_parameter_of_the_orb_that_does_not_exist_is_an_error() {
    let mut config = example("remote_docker");
    let steps = &mut config["jobs"]["image"]["steps"];
    steps[2]["dockercache/restore_cache"]["imag"] = "x".into();
    assert!(jobs(&config).unwrap_err().contains("not declared"));
}
