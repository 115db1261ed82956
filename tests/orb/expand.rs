//! Expands a config with orbs into jobs with plain steps, as CircleCI's compiler does.
//!
//! Replaces parameters, resolves commands, jobs, and executors, and evaluates conditions. What is
//! an error there is an error here: a parameter that is reserved, not declared, missing, or of the
//! wrong type, a command that does not exist, and a retention that is no plain number of days. A
//! command of one's own hides a built-in step of the same name, from itself too, so a command
//! `save_cache` reaches the step `save_cache` only from within another orb.

use std::collections::BTreeMap;

use serde_yaml::{Mapping, Value};

const BUILT_IN: &[&str] = &[
    "add_ssh_keys",
    "attach_workspace",
    "checkout",
    "persist_to_workspace",
    "restore_cache",
    "run",
    "save_cache",
    "setup_remote_docker",
    "store_artifacts",
    "store_test_results",
];

/// What a workflow says of a job; so a job can't have a parameter of such a name.
const RESERVED: &[&str] = &["name", "requires", "context", "type", "filters", "matrix"];

/// A job with all of its steps.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) name: String,
    /// Everything but the name and the steps: executor, environment, retention.
    pub(crate) settings: Mapping,
    pub(crate) steps: Vec<Step>,
}

/// One built-in step.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) kind: String,
    pub(crate) arguments: Mapping,
}

/// Where names are looked up: a config or an orb.
#[derive(Clone, Copy)]
struct Scope<'a> {
    document: &'a Value,
    orbs: &'a BTreeMap<String, Value>,
}

type Parameters = BTreeMap<String, Value>;

/// Expands the jobs of the config's workflows, in the order in which they are written.
pub(crate) fn expand(config: &Value, orbs: &BTreeMap<String, Value>) -> Result<Vec<Job>, String> {
    let scope = Scope { document: config, orbs };
    let mut jobs = Vec::new();
    for (_, workflow) in section(config, "workflows") {
        for entry in sequence(workflow.get("jobs")) {
            let (name, arguments) = named(entry)?;
            jobs.push(scope.job(&name, arguments).map_err(|e| format!("job {name}: {e}"))?);
        }
    }
    Ok(jobs)
}

/// The expanded jobs as a config again, for checks of its schema.
pub(crate) fn as_config(jobs: &[Job]) -> Value {
    let mut all = Mapping::new();
    for job in jobs {
        let steps = job.steps.iter().map(|step| {
            if step.arguments.is_empty() {
                return Value::from(step.kind.as_str());
            }
            Value::from(map([(&step.kind, step.arguments.clone().into())]))
        });
        let mut settings = job.settings.clone();
        settings.insert("steps".into(), steps.collect::<Vec<_>>().into());
        all.insert(job.name.as_str().into(), settings.into());
    }
    let names = jobs.iter().map(|job| Value::from(job.name.as_str())).collect::<Vec<_>>();
    let main = map([("jobs", Value::from(names))]);
    let workflows = map([("main", main.into())]);
    map([
        ("version", serde_yaml::from_str("2.1").expect("a number")),
        ("jobs", all.into()),
        ("workflows", workflows.into()),
    ])
    .into()
}

impl<'a> Scope<'a> {
    fn job(self, name: &str, arguments: Mapping) -> Result<Job, String> {
        let shown = arguments.get("name").and_then(Value::as_str).unwrap_or(name).to_owned();
        let arguments = arguments
            .into_iter()
            .filter(|(key, _)| !key.as_str().is_some_and(|k| RESERVED.contains(&k)))
            .collect();
        let (scope, definition) =
            self.find("jobs", name).ok_or_else(|| format!("there is no job named {name}"))?;
        for (parameter, _) in section(definition, "parameters") {
            if parameter.as_str().is_some_and(|name| RESERVED.contains(&name)) {
                return Err(format!("parameter {parameter:?} has a reserved name"));
            }
        }
        // Nobody has seen a parameter work there.
        if let Some(days) = definition.get("retention").and_then(|r| r.get("caches")) {
            let days = days.as_str().and_then(|text| text.strip_suffix('d')?.parse::<u8>().ok());
            if !days.is_some_and(|days| (1..=15).contains(&days)) {
                return Err("retention is neither 1d nor 15d nor between".to_owned());
            }
        }
        let parameters = bind(definition, &arguments)?;
        let mut settings = replaced(definition, &parameters)?;
        let settings = settings.as_mapping_mut().ok_or("a job is a mapping")?;
        settings.remove("parameters");
        settings.remove("description");
        let steps = settings.remove("steps");
        if let Some(executor) = settings.remove("executor") {
            let (name, arguments) = named(&executor)?;
            let (_, definition) = [scope, self]
                .iter()
                .find_map(|scope| scope.find("executors", &name))
                .ok_or_else(|| format!("there is no executor named {name}"))?;
            let parameters = bind(definition, &arguments)?;
            for (key, value) in mapping(&replaced(definition, &parameters)?) {
                if key != "parameters" && key != "description" {
                    settings.insert(key, value);
                }
            }
        }
        let mut expanded = Vec::new();
        let name = shown.replace('/', "-");
        scope.steps(steps.as_ref(), self, &mut Vec::new(), &mut expanded)?;
        Ok(Job { name, settings: settings.clone(), steps: expanded })
    }

    /// Expands steps; those that came in as a parameter are the caller's.
    fn steps(
        self,
        steps: Option<&Value>,
        caller: Self,
        calls: &mut Vec<&'a Value>,
        into: &mut Vec<Step>,
    ) -> Result<(), String> {
        for step in sequence(steps) {
            let (name, arguments) = named(step)?;
            match name.as_str() {
                "when" | "unless" => {
                    let condition = arguments.get("condition").ok_or("no condition")?;
                    if truth(condition)? == (name == "when") {
                        self.steps(arguments.get("steps"), caller, calls, into)?;
                    }
                }
                "steps" => caller.steps(step.get("steps"), caller, calls, into)?,
                _ => match self.find("commands", &name) {
                    Some((scope, definition)) => {
                        if calls.iter().any(|call| std::ptr::eq(*call, definition)) {
                            return Err(format!("command {name} calls itself"));
                        }
                        let parameters = bind(definition, &arguments)
                            .map_err(|e| format!("command {name}: {e}"))?;
                        let body = definition.get("steps").unwrap_or(&Value::Null);
                        let body = replaced(body, &parameters)
                            .map_err(|e| format!("command {name}: {e}"))?;
                        calls.push(definition);
                        scope.steps(Some(&body), caller, calls, into)?;
                        calls.pop();
                    }
                    None if BUILT_IN.contains(&name.as_str()) => {
                        into.push(Step { kind: name, arguments: short_form(step, arguments) });
                    }
                    None => return Err(format!("there is no command named {name}")),
                },
            }
        }
        Ok(())
    }

    fn find(self, kind: &str, name: &str) -> Option<(Self, &'a Value)> {
        if let Some((alias, name)) = name.split_once('/') {
            // An orb that the document holds itself comes before those that it names.
            let own = self.document.get("orbs").and_then(|orbs| orbs.get(alias));
            let document = own.filter(|orb| orb.is_mapping()).or_else(|| self.orbs.get(alias))?;
            return Some((Self { document, ..self }, document.get(kind)?.get(name)?));
        }
        Some((self, self.document.get(kind)?.get(name)?))
    }
}

/// `run: COMMAND` is short for `run: {command: COMMAND}`.
fn short_form(step: &Value, arguments: Mapping) -> Mapping {
    match step.get("run") {
        Some(Value::String(command)) => map([("command", Value::from(command.as_str()))]),
        _ => arguments,
    }
}

/// Gives every declared parameter a value of its type.
fn bind(definition: &Value, arguments: &Mapping) -> Result<Parameters, String> {
    let declared = section(definition, "parameters");
    for key in arguments.keys() {
        if !declared.iter().any(|(name, _)| name == key) {
            return Err(format!("parameter {key:?} is not declared"));
        }
    }
    let mut bound = Parameters::new();
    for (name, declaration) in &declared {
        let name = name.as_str().ok_or("a parameter's name is a string")?.to_owned();
        let value = arguments.get(&*name).or_else(|| declaration.get("default")).cloned();
        let value = value.ok_or_else(|| format!("parameter {name} is missing"))?;
        let kind = declaration.get("type").and_then(Value::as_str).unwrap_or_default();
        let fits = match kind {
            "string" => value.is_string(),
            "env_var_name" => value.as_str().is_some_and(is_variable_name),
            "boolean" => value.is_bool(),
            "integer" => value.is_i64(),
            "enum" => sequence(declaration.get("enum")).contains(&value),
            "steps" => value.is_sequence(),
            "executor" => value.is_string() || value.is_mapping(),
            other => return Err(format!("parameter {name} has the unknown type {other}")),
        };
        if !fits {
            return Err(format!("parameter {name}: {value:?} is no {kind}"));
        }
        bound.insert(name, value);
    }
    Ok(bound)
}

fn is_variable_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Replaces `<< parameters.NAME >>`. Where it is all of a string, the value keeps its type.
fn replaced(value: &Value, parameters: &Parameters) -> Result<Value, String> {
    Ok(match value {
        Value::String(text) => {
            if let Some(name) = parameter(text.trim()).filter(|(_, rest)| rest.is_empty()) {
                return lookup(name.0, parameters).cloned();
            }
            let (mut result, mut rest) = (String::new(), text.as_str());
            while let Some(start) = rest.find("<<") {
                if let Some(before) = rest[..start].strip_suffix('\\') {
                    result.push_str(before);
                    result.push_str("<<");
                    rest = &rest[start + 2..];
                    continue;
                }
                let (name, after) = parameter(&rest[start..])
                    .ok_or_else(|| format!("`{}` is no parameter", &rest[start..]))?;
                result.push_str(&rest[..start]);
                result.push_str(&plain(lookup(name, parameters)?));
                rest = after;
            }
            Value::from(result + rest)
        }
        Value::Sequence(items) => {
            items.iter().map(|i| replaced(i, parameters)).collect::<Result<Vec<_>, _>>()?.into()
        }
        Value::Mapping(entries) => {
            let mut result = Mapping::new();
            for (key, entry) in entries {
                // The declarations themselves have nothing to be replaced.
                let entry =
                    if key == "parameters" { entry.clone() } else { replaced(entry, parameters)? };
                result.insert(key.clone(), entry);
            }
            result.into()
        }
        other => other.clone(),
    })
}

/// Splits `<< parameters.NAME >>REST`.
fn parameter(text: &str) -> Option<(&str, &str)> {
    let (inside, rest) = text.strip_prefix("<<")?.split_once(">>")?;
    Some((inside.trim().strip_prefix("parameters.")?, rest))
}

fn lookup<'a>(name: &str, parameters: &'a Parameters) -> Result<&'a Value, String> {
    parameters.get(name).ok_or_else(|| format!("parameter {name} is not declared"))
}

/// A value as it stands in a string. Booleans reach scripts as 1 and 0.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(true) => "1".to_owned(),
        Value::Bool(false) => "0".to_owned(),
        Value::Number(number) => number.to_string(),
        other => panic!("{other:?} can't stand in a string"),
    }
}

/// A condition at compile time: a value, or `and`, `or`, `not`, and `equal` of some.
fn truth(condition: &Value) -> Result<bool, String> {
    let Some(logic) = condition.as_mapping() else {
        return Ok(match condition {
            Value::Null => false,
            Value::Bool(value) => *value,
            Value::Number(number) => number.as_i64() != Some(0),
            Value::String(text) => !text.is_empty(),
            _ => true,
        });
    };
    let (name, operands) = logic.iter().next().ok_or("an empty condition")?;
    let all = || sequence(Some(operands)).iter().map(truth).collect::<Result<Vec<_>, _>>();
    match name.as_str() {
        Some("and") => Ok(all()?.iter().all(|v| *v)),
        Some("or") => Ok(all()?.iter().any(|v| *v)),
        Some("not") => Ok(!truth(operands)?),
        Some("equal") => Ok(sequence(Some(operands)).windows(2).all(|pair| pair[0] == pair[1])),
        _ => Err(format!("unknown condition {name:?}")),
    }
}

/// `NAME` or `{NAME: {…}}`.
fn named(entry: &Value) -> Result<(String, Mapping), String> {
    match entry {
        Value::String(name) => Ok((name.clone(), Mapping::new())),
        Value::Mapping(map) => {
            if let Some(Value::String(name)) = map.get("name").filter(|_| map.len() > 1) {
                let mut arguments = map.clone();
                arguments.remove("name");
                return Ok((name.clone(), arguments));
            }
            let (name, arguments) = map.iter().next().ok_or("an empty mapping")?;
            let name = name.as_str().ok_or("a name is a string")?.to_owned();
            Ok((name, arguments.as_mapping().cloned().unwrap_or_default()))
        }
        other => Err(format!("{other:?} is no step")),
    }
}

fn section(document: &Value, name: &str) -> Vec<(Value, Value)> {
    document.get(name).map(|value| mapping(value).into_iter().collect()).unwrap_or_default()
}

fn mapping(value: &Value) -> Mapping {
    value.as_mapping().cloned().unwrap_or_default()
}

fn sequence(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_sequence).map_or(&[], Vec::as_slice)
}

fn map<const N: usize>(entries: [(impl AsRef<str>, Value); N]) -> Mapping {
    entries.into_iter().map(|(key, value)| (Value::from(key.as_ref()), value)).collect()
}
