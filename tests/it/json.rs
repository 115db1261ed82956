//! `docs/json.md` shows one example of each JSON output: the fields in it are those that the
//! program prints.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::harness::{BUILD, Builder, Generation, Machine};

const DOCKERFILE: &str = "\
FROM busybox:1 AS build
WORKDIR /src
COPY words .
RUN --mount=type=cache,target=/cache touch /cache/used && tr a-z A-Z < words > capitals

FROM busybox:1
COPY --from=build /src/capitals /capitals
";

#[test]
fn the_examples_have_the_fields_that_are_printed() {
    let files = [("Dockerfile", DOCKERFILE), ("words", "some words")];
    let machine = Machine::new(Builder::Buildkit(Generation::V28_5), &files);
    let print = |verb: &str, more: &[&str]| -> Value {
        machine.run([&[verb, "--format", "json"], more].concat()).json()
    };

    let missed = print("restore", &[]);
    let key = print("key", &["-t", "app", "."]);
    machine.run(BUILD).success();
    let saved = print("save", &[]);
    let restored = print("restore", &[]);
    let inspected = print("inspect", &[]);
    let pruned = print("prune", &[]);
    machine.project.write("words", "other words");
    let explained = print("explain", &["-t", "app", "."]);

    let text = reference();
    let documented = documented();
    let mut undocumented = BTreeSet::new();
    for printed in [&key, &saved, &restored, &inspected, &pruned, &explained] {
        let schema = printed["schema"].as_str().expect("a schema");
        let example = documented
            .iter()
            .find(|d| d["schema"] == schema)
            .unwrap_or_else(|| panic!("docs/json.md has no example of {schema}"));
        assert_eq!(fields(example), fields(printed), "{schema}");
        undocumented.extend(fields(printed).into_iter().filter_map(|path| {
            let name = path.rsplit('.').next().unwrap_or(&path);
            let is_described =
                [path.as_str(), name].iter().any(|n| text.contains(&format!("`{n}`")));
            (!is_described).then_some(path)
        }));
    }
    assert!(undocumented.is_empty(), "not described in docs/json.md: {undocumented:?}");
    assert_eq!(missed["hit"], false);
    assert!(missed["reason"].is_string() && reference().contains("`reason`"));
}

fn reference() -> String {
    fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/json.md")).expect("docs/json.md")
}

/// The JSON blocks of the document.
fn documented() -> Vec<Value> {
    reference()
        .split("```json\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap_or_default())
        .map(|block| serde_json::from_str(block).expect("JSON in docs/json.md"))
        .collect()
}

/// The paths of all fields, such as `stages[].name`.
fn fields(value: &Value) -> BTreeSet<String> {
    fn add(prefix: &str, value: &Value, paths: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let path =
                        if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                    add(&path, value, paths);
                    paths.insert(path);
                }
            }
            Value::Array(values) => {
                for value in values {
                    add(&format!("{prefix}[]"), value, paths);
                }
            }
            _ => {}
        }
    }
    let mut paths = BTreeSet::new();
    add("", value, &mut paths);
    paths
}
