//! What external images are: which bytes are behind a name, and the settings that builds see.
//!
//! From the engine where it has the image, as the builder does itself, else from the registry by
//! `docker buildx imagetools`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::client::Client;
use super::error::EngineError;
use crate::dockerfile::{BaseConfig, Image, Platform};
use crate::layout::digest::Digest;

/// An external image that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseImage {
    /// Tells images apart: by their layers, as BuildKit does, so that an image under another tag,
    /// or with another label, is the same.
    pub layers: String,
    /// Tells images apart by their whole config, as the classic builder does. What a registry says
    /// of an image does not have it: see [`remote_id`].
    pub id: Option<String>,
    /// The settings.
    pub config: BaseConfig,
}

/// The config of an image in the form of both `docker image inspect` and OCI.
#[derive(Deserialize)]
struct Inspected {
    #[serde(default, alias = "Id")]
    id: Option<String>,
    #[serde(default, alias = "Os")]
    os: String,
    #[serde(default, alias = "Architecture")]
    architecture: String,
    #[serde(default, alias = "Config")]
    config: Option<Settings>,
    #[serde(default, alias = "RootFS")]
    rootfs: Option<RootFs>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Settings {
    #[serde(default)]
    env: Option<Vec<String>>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    working_dir: Option<String>,
    #[serde(default)]
    shell: Option<Vec<String>>,
    #[serde(default)]
    on_build: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default, alias = "Layers", alias = "diff_ids")]
    layers: Option<Vec<String>>,
}

impl Inspected {
    fn into_image(self) -> BaseImage {
        let layers = self.rootfs.and_then(|r| r.layers).unwrap_or_default();
        let settings = self.config.unwrap_or_default();
        let environment = settings
            .env
            .iter()
            .flatten()
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        BaseImage {
            layers: Digest::of(layers.join(" ").as_bytes()).to_string(),
            id: self.id,
            config: BaseConfig {
                environment,
                user: settings.user,
                workdir: settings.working_dir,
                shell: settings.shell,
                onbuild: settings.on_build.unwrap_or_default(),
            },
        }
    }

    fn is_for(&self, platform: &Platform) -> bool {
        self.os == platform.os && self.architecture == platform.architecture
    }
}

/// Looks an image up in the engine; `None` if it is not there for that platform.
pub fn local(client: &Client, image: &Image) -> Option<BaseImage> {
    let output = client.command(["image", "inspect", &image.reference]).output().ok()?;
    let found: Vec<Inspected> = serde_json::from_slice(&output.stdout).ok()?;
    let found = found.into_iter().next()?;
    found.is_for(&image.platform).then(|| found.into_image())
}

/// Looks an image up in its registry.
pub fn remote(client: &Client, image: &Image) -> Result<BaseImage, EngineError> {
    let json = client.output(&[
        "buildx",
        "imagetools",
        "inspect",
        &image.reference,
        "--format",
        "{{json .Image}}",
    ])?;
    from_registry(&json, &image.platform).ok_or_else(|| not_for_platform(image))
}

/// Looks up the ID that an image of a registry will have in an engine with a graph driver: the
/// digest of its config.
pub fn remote_id(client: &Client, image: &Image) -> Result<String, EngineError> {
    let manifest = |reference: &str| -> Result<Manifest, EngineError> {
        let json = client.output(&["buildx", "imagetools", "inspect", "--raw", reference])?;
        Ok(serde_json::from_str(&json).unwrap_or_default())
    };
    let mut found = manifest(&image.reference)?;
    if let Some(one) = found.manifests.iter().find(|one| one.is_for(&image.platform)) {
        found = manifest(&format!("{}@{}", repository(&image.reference), one.digest))?;
    }
    found.config.map(|config| config.digest).ok_or_else(|| not_for_platform(image))
}

/// A manifest, or a list of those for several platforms.
#[derive(Default, Deserialize)]
struct Manifest {
    config: Option<Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    platform: Option<DescribedPlatform>,
}

#[derive(Deserialize)]
struct DescribedPlatform {
    os: String,
    architecture: String,
}

impl Descriptor {
    fn is_for(&self, platform: &Platform) -> bool {
        self.platform
            .as_ref()
            .is_some_and(|p| p.os == platform.os && p.architecture == platform.architecture)
    }
}

/// A reference without tag and digest.
fn repository(reference: &str) -> &str {
    let name = reference.split('@').next().unwrap_or(reference);
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    name[last..].find(':').map_or(name, |colon| &name[..last + colon])
}

fn not_for_platform(image: &Image) -> EngineError {
    EngineError::failed(
        format!("look up `{}` in its registry", image.reference),
        format!("it has no image for {}", image.platform),
    )
}

/// Reads one image, or the one for a platform out of several.
fn from_registry(json: &str, platform: &Platform) -> Option<BaseImage> {
    let one = |value: &serde_json::Value| {
        let image = Inspected::deserialize(value).ok()?;
        image.is_for(platform).then(|| image.into_image())
    };
    let value: serde_json::Value = serde_json::from_str(json).ok()?;
    if let Some(image) = one(&value) {
        return Some(image);
    }
    let images: BTreeMap<String, serde_json::Value> = serde_json::from_value(value).ok()?;
    let exact = images.get(&platform.to_string()).and_then(one);
    exact.or_else(|| images.values().find_map(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"{"os":"linux","architecture":"amd64","config":{"Env":["A=1=2"],"User":"u",
        "OnBuild":["RUN x"]},"rootfs":{"type":"layers","diff_ids":["sha256:a","sha256:b"]}}"#;

    fn amd64() -> Platform {
        Platform::parse("linux/amd64").unwrap()
    }

    #[test]
    fn an_image_of_a_registry_is_the_same_as_that_of_the_engine() {
        let remote = from_registry(ONE, &amd64()).unwrap();
        let local = ONE
            .replace("\"os\"", "\"Os\"")
            .replace("\"architecture\"", "\"Architecture\"")
            .replace("\"config\"", "\"Config\"")
            .replace("\"rootfs\"", "\"Id\":\"sha256:c\",\"RootFS\"")
            .replace("\"type\"", "\"Type\"")
            .replace("\"diff_ids\"", "\"Layers\"");
        let local: Inspected = serde_json::from_str(&local).unwrap();
        let local = local.into_image();
        assert_eq!(local.layers, remote.layers);
        assert_eq!(local.config, remote.config);
        assert_eq!((local.id.as_deref(), remote.id), (Some("sha256:c"), None));
        assert_eq!(local.config.environment.get("A"), Some("1=2"));
        assert_eq!(local.config.onbuild, ["RUN x"]);
    }

    #[test]
    fn a_repository_is_a_reference_without_tag_and_digest() {
        for reference in
            ["host:1/a/b", "host:1/a/b:2", "host:1/a/b@sha256:c", "host:1/a/b:2@sha256:c"]
        {
            assert_eq!(repository(reference), "host:1/a/b");
        }
        assert_eq!(repository("busybox:1"), "busybox");
    }

    #[test]
    fn the_platform_chooses_among_several_images() {
        let other = ONE.replace("amd64", "arm64").replace("sha256:b", "sha256:d");
        let several = format!(r#"{{"linux/arm64/v8":{other},"linux/amd64":{ONE}}}"#);
        let chosen = from_registry(&several, &amd64()).unwrap();
        assert_eq!(chosen, from_registry(ONE, &amd64()).unwrap());
        let arm = from_registry(&several, &Platform::parse("linux/arm64").unwrap()).unwrap();
        assert_ne!(arm.layers, chosen.layers);
        assert_eq!(from_registry(ONE, &Platform::parse("linux/riscv64").unwrap()), None);
    }
}
