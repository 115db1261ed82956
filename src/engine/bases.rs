//! What external images are: which bytes are behind a name, and the settings that builds see.
//!
//! From the engine where it has the image, as the builder does itself, else from the registry by
//! `docker buildx imagetools`.

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
    // What `imagetools` makes of a config itself leaves out the shell and the triggers: it knows
    // OCI's fields alone. By digest it shows any document, the config's own bytes included.
    let document =
        |reference: &str| client.output(&["buildx", "imagetools", "inspect", "--raw", reference]);
    let manifest =
        |json: &str| serde_json::from_str::<Manifest>(json).map_err(|e| not_read(image, &e));
    let sibling = |digest: &str| format!("{}@{digest}", repository(&image.reference));
    let mut found = manifest(&document(&image.reference)?)?;
    if let Some(digest) = found.image_for(&image.platform) {
        found = manifest(&document(&sibling(digest))?)?;
    }
    let digest = found.config.ok_or_else(|| not_for_platform(image))?.digest;
    let config: Inspected =
        serde_json::from_str(&document(&sibling(&digest))?).map_err(|e| not_read(image, &e))?;
    if !config.is_for(&image.platform) {
        return Err(not_for_platform(image));
    }
    Ok(Inspected { id: Some(digest), ..config }.into_image())
}

/// A manifest, or an index of those for several platforms.
#[derive(Deserialize)]
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
    #[serde(default)]
    variant: Option<String>,
}

impl DescribedPlatform {
    fn normalised(&self) -> Option<Platform> {
        let variant = self.variant.as_deref().filter(|variant| !variant.is_empty());
        let parts = [Some(self.os.as_str()), Some(&self.architecture), variant];
        Platform::parse(&parts.into_iter().flatten().collect::<Vec<_>>().join("/")).ok()
    }
}

impl Manifest {
    /// The digest of the manifest for a platform: with the same variant, else with any.
    fn image_for(&self, platform: &Platform) -> Option<&str> {
        let described = self
            .manifests
            .iter()
            .filter_map(|one| Some((one, one.platform.as_ref()?.normalised()?)));
        let fits: Vec<_> = described
            .filter(|(_, p)| (&p.os, &p.architecture) == (&platform.os, &platform.architecture))
            .collect();
        let exact = fits.iter().find(|(_, p)| p == platform);
        exact.or(fits.first()).map(|(one, _)| one.digest.as_str())
    }
}

fn not_for_platform(image: &Image) -> EngineError {
    let reason = format!("it has no image for {}", image.platform);
    EngineError::failed(looking_up(image), reason)
}

fn not_read(image: &Image, error: &serde_json::Error) -> EngineError {
    EngineError::failed(looking_up(image), format!("its answer is not what it should be: {error}"))
}

fn looking_up(image: &Image) -> String {
    format!("look up `{}` in its registry", image.reference)
}

/// A reference without tag and digest.
fn repository(reference: &str) -> &str {
    let name = reference.split('@').next().unwrap_or(reference);
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    name[last..].find(':').map_or(name, |colon| &name[..last + colon])
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"{"os":"linux","architecture":"amd64","config":{"Env":["A=1=2"],"User":"u",
        "OnBuild":["RUN x"]},"rootfs":{"type":"layers","diff_ids":["sha256:a","sha256:b"]}}"#;

    #[test]
    fn an_image_of_a_registry_is_the_same_as_that_of_the_engine() {
        let read = |json: &str| serde_json::from_str::<Inspected>(json).unwrap().into_image();
        let remote = read(ONE);
        let local = ONE
            .replace("\"os\"", "\"Os\"")
            .replace("\"architecture\"", "\"Architecture\"")
            .replace("\"config\"", "\"Config\"")
            .replace("\"rootfs\"", "\"Id\":\"sha256:c\",\"RootFS\"")
            .replace("\"type\"", "\"Type\"")
            .replace("\"diff_ids\"", "\"Layers\"");
        let local = read(&local);
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
        let index: Manifest = serde_json::from_str(
            r#"{"manifests":[
                {"digest":"none"},
                {"digest":"six","platform":{"os":"linux","architecture":"arm","variant":"v6"}},
                {"digest":"seven","platform":{"os":"linux","architecture":"arm","variant":"v7"}},
                {"digest":"arm","platform":{"os":"linux","architecture":"arm64","variant":"v8"}},
                {"digest":"intel","platform":{"os":"linux","architecture":"amd64"}}]}"#,
        )
        .unwrap();
        for (platform, digest) in [
            ("linux/amd64", Some("intel")),
            ("linux/arm64", Some("arm")),
            ("linux/arm/v7", Some("seven")),
            ("linux/arm/v5", Some("six")),
            ("linux/riscv64", None),
        ] {
            assert_eq!(index.image_for(&Platform::parse(platform).unwrap()), digest, "{platform}");
        }
    }
}
