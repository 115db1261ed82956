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
    /// Tells images apart by their whole config, as the classic builder does.
    pub id: String,
    /// The settings.
    pub config: BaseConfig,
}

/// The config of an image in the form of both `docker image inspect` and OCI.
#[derive(Deserialize)]
struct Inspected {
    #[serde(default, alias = "Id")]
    id: String,
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
    fn into_image(self, bytes: &[u8]) -> BaseImage {
        let layers = self.rootfs.and_then(|r| r.layers).unwrap_or_default();
        let id = if self.id.is_empty() { Digest::of(bytes).to_string() } else { self.id };
        let settings = self.config.unwrap_or_default();
        let environment = settings
            .env
            .iter()
            .flatten()
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        BaseImage {
            layers: if layers.is_empty() {
                id.clone()
            } else {
                Digest::of(layers.join(" ").as_bytes()).to_string()
            },
            id,
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
    let found: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).ok()?;
    let bytes = serde_json::to_vec(found.first()?).ok()?;
    let found: Inspected = serde_json::from_slice(&bytes).ok()?;
    found.is_for(&image.platform).then(|| found.into_image(&bytes))
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
    from_registry(&json, &image.platform).ok_or_else(|| {
        EngineError::failed(
            format!("look up `{}` in its registry", image.reference),
            format!("it has no image for {}", image.platform),
        )
    })
}

/// Reads one image, or the one for a platform out of several.
fn from_registry(json: &str, platform: &Platform) -> Option<BaseImage> {
    let one = |value: &serde_json::Value| {
        let bytes = serde_json::to_vec(value).ok()?;
        let image: Inspected = serde_json::from_slice(&bytes).ok()?;
        image.is_for(platform).then(|| image.into_image(&bytes))
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
        let local = local.into_image(b"");
        assert_eq!(local.layers, remote.layers);
        assert_eq!(local.config, remote.config);
        assert_eq!(local.id, "sha256:c");
        assert_eq!(local.config.environment.get("A"), Some("1=2"));
        assert_eq!(local.config.onbuild, ["RUN x"]);
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
