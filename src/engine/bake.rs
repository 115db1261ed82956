//! What `docker buildx bake` would build, as the plain builds that it stands for.
//!
//! The builder itself reads its files, compose files among them: `bake --print` gives every
//! target with all that is inherited, set and interpolated.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::arguments::BuildArguments;
use super::client::Client;
use super::error::EngineError;

#[derive(Deserialize)]
struct Plan {
    #[serde(default)]
    target: BTreeMap<String, Target>,
}

/// What counts for the cache of a target.
#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Target {
    context: Option<String>,
    contexts: BTreeMap<String, String>,
    dockerfile: Option<String>,
    dockerfile_inline: Option<String>,
    args: BTreeMap<String, Option<String>>,
    tags: Vec<String>,
    #[serde(rename = "target")]
    stage: Option<String>,
    platforms: Vec<String>,
    secret: Vec<Value>,
    ssh: Vec<Value>,
    network: Option<String>,
    shm_size: Option<String>,
    ulimits: Vec<String>,
    extra_hosts: BTreeMap<String, String>,
}

/// Asks the client what a bake with these words builds. Targets that no plain build can repeat
/// are an error.
pub fn builds(client: &Client, words: &[OsString]) -> Result<Vec<BuildArguments>, EngineError> {
    let mut command = client.command(["buildx", "bake", "--print"]);
    let output = command.args(words).output().map_err(|e| client.no_client(e))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let reason = said.lines().rev().find(|line| !line.trim().is_empty());
        let reason = reason.unwrap_or("it gave no reason").to_owned();
        return Err(EngineError::Usage(format!(
            "`docker buildx bake` has nothing to build: {reason}"
        )));
    }
    plan(&output.stdout)
}

fn plan(json: &[u8]) -> Result<Vec<BuildArguments>, EngineError> {
    let plan: Plan = serde_json::from_slice(json)
        .map_err(|e| EngineError::failed("read what bake would build", e.to_string()))?;
    plan.target.iter().map(|(name, target)| target.arguments(name)).collect()
}

impl Target {
    fn arguments(&self, name: &str) -> Result<BuildArguments, EngineError> {
        let unsupported = |what: &str| {
            EngineError::Unsupported(format!(
                "bake target `{name}` has {what}, which no plain `docker build` can repeat; name \
                 the other targets"
            ))
        };
        if self.dockerfile_inline.is_some() {
            return Err(unsupported("its Dockerfile in the bake file"));
        }
        if self.contexts.values().any(|context| context.starts_with("target:")) {
            return Err(unsupported("another target as its context"));
        }
        let context = self.context.as_deref().unwrap_or(".");
        let dockerfile = self.dockerfile.as_deref().unwrap_or("Dockerfile");
        let mut words: Vec<String> = Vec::new();
        let mut flag = |name: &str, value: &str| words.push(format!("--{name}={value}"));
        // The target's name stands for the image's where that has none.
        let unnamed = [name.to_owned()];
        let tags = if self.tags.is_empty() { &unnamed[..] } else { &self.tags };
        for tag in tags {
            flag("tag", tag);
        }
        flag("file", &Path::new(context).join(dockerfile).to_string_lossy());
        for (name, value) in &self.args {
            // Without a value, it is taken from the environment.
            flag("build-arg", &value.as_ref().map_or(name.clone(), |v| format!("{name}={v}")));
        }
        for (name, context) in &self.contexts {
            flag("build-context", &format!("{name}={context}"));
        }
        for (name, host) in &self.extra_hosts {
            flag("add-host", &format!("{name}={host}"));
        }
        self.stage.iter().for_each(|value| flag("target", value));
        self.network.iter().for_each(|value| flag("network", value));
        self.shm_size.iter().for_each(|value| flag("shm-size", value));
        self.ulimits.iter().for_each(|value| flag("ulimit", value));
        self.secret.iter().for_each(|value| flag("secret", &fields(value)));
        self.ssh.iter().for_each(|value| flag("ssh", &fields(value)));
        if !self.platforms.is_empty() {
            flag("platform", &self.platforms.join(","));
        }
        words.push(context.to_owned());
        Ok(BuildArguments::parse(words.into_iter().map(OsString::from)))
    }
}

/// A secret or an agent as a flag names it: older versions print it so, newer ones its fields.
fn fields(value: &Value) -> String {
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter_map(|(name, value)| Some(format!("{name}={}", value.as_str()?)))
            .collect::<Vec<_>>()
            .join(","),
        Value::String(text) => text.clone(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(json: &str) -> Vec<Vec<OsString>> {
        plan(json.as_bytes()).unwrap().iter().map(BuildArguments::all).collect()
    }

    #[test]
    fn a_target_is_the_plain_build_that_it_stands_for() {
        let json = r#"{
            "group": { "default": { "targets": ["app", "worker"] } },
            "target": {
                "app": { "context": ".", "dockerfile": "Dockerfile", "tags": ["acme/app:1"],
                    "args": { "A": "1", "B": null }, "target": "final", "platforms": ["linux/amd64"],
                    "secret": [{ "id": "token", "env": "TOKEN" }], "output": ["type=docker"] },
                "worker": { "context": "worker", "dockerfile": "docker/Dockerfile",
                    "contexts": { "base": "docker-image://busybox" }, "secret": ["id=x"] }
            }
        }"#;
        let app = [
            "--tag=acme/app:1",
            "--file=./Dockerfile",
            "--build-arg=A=1",
            "--build-arg=B",
            "--target=final",
            "--secret=env=TOKEN,id=token",
            "--platform=linux/amd64",
            ".",
        ];
        let worker = [
            "--tag=worker",
            "--file=worker/docker/Dockerfile",
            "--build-context=base=docker-image://busybox",
            "--secret=id=x",
            "worker",
        ];
        assert_eq!(
            words(json),
            [app.map(OsString::from).to_vec(), worker.map(OsString::from).to_vec()]
        );
    }

    #[test]
    fn a_target_that_no_build_can_repeat_is_named() {
        for json in [
            r#"{ "target": { "app": { "contexts": { "base": "target:base" } } } }"#,
            r#"{ "target": { "app": { "dockerfile-inline": "FROM scratch" } } }"#,
        ] {
            let error = plan(json.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("bake target `app`"), "{error}");
        }
    }
}
