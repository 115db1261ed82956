//! What external images are: which bytes are behind a name, and the settings that builds see.
//!
//! From the engine where it has the image, as the builder does itself, else from the registry by
//! `docker buildx imagetools`.

use bollard::models::{ImageConfig, ImageInspect};
use serde::Deserialize;

use super::connection::Connection;
use crate::builder::{BaseImage, BaseImages};
use crate::dockerfile::{BaseConfig, Image, Platform};
use crate::engine::client::Client;
use crate::engine::error::EngineError;
use crate::oci::digest::Digest;

/// The external images of an engine, of registries, of both, or none.
#[derive(Clone, Debug, Default)]
pub struct Bases {
    /// Reaches the engine that has images of its own, if there is one.
    engine: Option<Connection>,
    /// Reaches registries, if base images are part of the key by content.
    registries: Option<Client>,
}

impl Bases {
    /// The images of an engine, if there is one.
    pub(in crate::engine) fn of(engine: Option<&Connection>) -> Self {
        Self { engine: engine.cloned(), registries: None }
    }

    /// Lets registries be asked as well: an engine that has the images and an empty one know the
    /// same then.
    #[must_use]
    pub fn and_registries(self, client: Client) -> Self {
        Self { registries: Some(client), ..self }
    }
}

impl BaseImages for Bases {
    fn find(&self, image: &Image) -> Result<Option<BaseImage>, String> {
        if let Some(found) = self.engine.as_ref().and_then(|engine| local(engine, image)) {
            return Ok(Some(found));
        }
        let asked = self.registries.as_ref().map(|client| remote(client, image));
        asked.transpose().map_err(|error| error.to_string())
    }

    fn asks_registries(&self) -> bool {
        self.registries.is_some()
    }
}

/// An image's config, as far as it counts: the OCI image specification.
#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default, rename = "config")]
    settings: Option<Settings>,
    #[serde(default)]
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
    #[serde(default)]
    diff_ids: Option<Vec<String>>,
}

impl Config {
    /// What an engine says of an image, in the same form.
    fn of(image: ImageInspect) -> Self {
        let settings = |config: ImageConfig| Settings {
            env: config.env,
            user: config.user,
            working_dir: config.working_dir,
            shell: config.shell,
            on_build: config.on_build,
        };
        Self {
            os: image.os.unwrap_or_default(),
            architecture: image.architecture.unwrap_or_default(),
            settings: image.config.map(settings),
            rootfs: image.root_fs.map(|root| RootFs { diff_ids: root.layers }),
        }
    }

    fn into_image(self, id: Option<String>) -> BaseImage {
        let layers = self.rootfs.and_then(|r| r.diff_ids).unwrap_or_default();
        let settings = self.settings.unwrap_or_default();
        let environment = settings
            .env
            .iter()
            .flatten()
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        BaseImage {
            layers: Digest::of(layers.join(" ").as_bytes()).to_string(),
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
fn local(engine: &Connection, image: &Image) -> Option<BaseImage> {
    let mut found = engine.image(&image.reference).ok()??;
    let id = found.id.take();
    let config = Config::of(found);
    config.is_for(&image.platform).then(|| config.into_image(id))
}

/// Looks an image up in its registry.
fn remote(client: &Client, image: &Image) -> Result<BaseImage, EngineError> {
    // What `imagetools` makes of a config itself omits the shell and the triggers: it knows
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
    let config: Config =
        serde_json::from_str(&document(&sibling(&digest))?).map_err(|e| not_read(image, &e))?;
    if !config.is_for(&image.platform) {
        return Err(not_for_platform(image));
    }
    Ok(config.into_image(Some(digest)))
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
        let config: Config = serde_json::from_str(ONE).unwrap();
        let engine = ONE
            .replace("\"os\"", "\"Os\"")
            .replace("\"architecture\"", "\"Architecture\"")
            .replace("\"config\"", "\"Config\"")
            .replace("\"rootfs\"", "\"RootFS\"")
            .replace("\"type\"", "\"Type\"")
            .replace("\"diff_ids\"", "\"Layers\"");
        let local = Config::of(serde_json::from_str(&engine).unwrap()).into_image(None);
        assert_eq!(local, config.into_image(None));
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
