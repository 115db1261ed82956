//! What `docker buildx bake` would build, as the plain builds that it stands for.
//!
//! The builder itself reads its files, compose files among them: `bake --print` gives every
//! target with all that is inherited, set and interpolated.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::arguments::BuildArguments;

#[derive(Deserialize)]
struct Plan {
    #[serde(default)]
    target: BTreeMap<String, Target>,
}

/// What a target's cache depends on.
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
    entitlements: Vec<String>,
}

/// A target, as the plain build that it stands for.
#[derive(Debug)]
pub struct PlannedTarget {
    /// Its name.
    pub name: String,
    /// The arguments of the build, or why no plain build can stand for it.
    pub build: Result<BuildArguments, String>,
    /// Its Dockerfile, if that is in the bake file.
    pub dockerfile: Option<String>,
}

/// Which command builds the targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planner {
    /// `docker buildx bake`
    Bake,
    /// `docker compose build`
    Compose,
}

/// Where a compose file lies that bake is given: compose has its paths relative to that.
pub(crate) fn directory_of_yaml(words: &[OsString]) -> Option<PathBuf> {
    let arguments = BuildArguments::parse(words.iter().cloned());
    let file = PathBuf::from(arguments.values("file").next()?);
    let is_yaml = file.extension().is_some_and(|kind| kind == "yml" || kind == "yaml");
    is_yaml.then(|| file.parent().map(Path::to_owned)).flatten()
}

/// Reads what `--print` gives; paths may be relative to `base`.
pub(crate) fn plan(
    json: &[u8],
    base: Option<&Path>,
) -> Result<Vec<PlannedTarget>, serde_json::Error> {
    let plan: Plan = serde_json::from_slice(json)?;
    let planned = |(name, mut target): (String, Target)| {
        target.resolve(base);
        PlannedTarget { build: target.arguments(&name), dockerfile: target.dockerfile_inline, name }
    };
    Ok(plan.target.into_iter().map(planned).collect())
}

impl Target {
    /// A context that is not here may be meant relative to the compose file.
    fn resolve(&mut self, base: Option<&Path>) {
        let here = self.context.clone().unwrap_or_else(|| ".".to_owned());
        let there = base.map(|base| base.join(&here));
        if let Some(there) = there.filter(|there| !Path::new(&here).is_dir() && there.is_dir()) {
            self.context = Some(there.to_string_lossy().into_owned());
        }
    }

    fn arguments(&self, name: &str) -> Result<BuildArguments, String> {
        if self.contexts.values().any(|context| context.starts_with("target:")) {
            return Err(format!(
                "target `{name}` has another target as its context, which no plain build can repeat"
            ));
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
        self.entitlements.iter().for_each(|value| flag("allow", value));
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
        let targets = plan(json.as_bytes(), None).unwrap();
        targets.iter().map(|target| target.build.as_ref().unwrap().all()).collect()
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
    fn a_target_that_no_build_can_repeat_costs_only_itself() {
        let json =
            r#"{ "target": { "app": { "contexts": { "base": "target:base" } }, "base": {} } }"#;
        let targets = plan(json.as_bytes(), None).unwrap();
        assert!(targets[0].build.as_ref().unwrap_err().contains("target `app`"));
        assert!(targets[1].build.is_ok());
    }

    #[test]
    fn a_dockerfile_in_the_file_and_entitlements_are_kept() {
        let json = r#"{ "target": { "app": { "dockerfile-inline": "FROM scratch",
            "entitlements": ["network.host"] } } }"#;
        let target = plan(json.as_bytes(), None).unwrap().remove(0);
        assert_eq!(target.dockerfile.as_deref(), Some("FROM scratch"));
        assert!(target.build.unwrap().all().contains(&"--allow=network.host".into()));
    }

    #[test]
    fn the_paths_of_a_compose_file_are_relative_to_it() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("deploy/api")).unwrap();
        let base = temp.path().join("deploy");
        let json = r#"{ "target": { "api": { "context": "api" } } }"#;
        let target = plan(json.as_bytes(), Some(&base)).unwrap().remove(0);
        let context = target.build.unwrap().context();
        assert_eq!(context, crate::build::arguments::ContextSource::Directory(base.join("api")));
        let words = |words: &[&str]| {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            directory_of_yaml(&words)
        };
        assert_eq!(words(&["-f", "deploy/compose.yml", "api"]), Some("deploy".into()));
        assert_eq!(words(&["-f", "docker-bake.hcl"]), None);
    }
}
