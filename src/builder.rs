//! The builder that makes an image: how its cache is carried, its version, and the external images
//! that it knows.

mod base;
mod strategy;
mod version;

use std::sync::Arc;

pub use base::{BaseImage, BaseImages};
pub use strategy::Strategy;
pub use version::Version;

use crate::dockerfile::Image;

/// The builder that a project is read for.
#[derive(Clone, Debug)]
pub struct Builder {
    /// The way to carry its cache, which tells builders apart.
    pub strategy: Strategy,
    /// What it runs on, such as `linux/amd64`.
    pub platform: String,
    /// The engine's version, if one answers.
    pub(crate) version: Option<Version>,
    /// The external images that it knows, if any.
    bases: Option<Arc<dyn BaseImages>>,
}

impl Builder {
    /// Describes a builder that knows no image.
    pub fn new(
        strategy: Strategy,
        platform: impl Into<String>,
        version: impl Into<Option<Version>>,
    ) -> Self {
        let (platform, version) = (platform.into(), version.into());
        Self { strategy, platform, version, bases: None }
    }

    /// Lets it know external images. Without, base images count by their names alone, and their
    /// `ONBUILD` triggers and variables count for nothing.
    #[must_use]
    pub fn knowing(self, bases: impl BaseImages + 'static) -> Self {
        Self { bases: Some(Arc::new(bases)), ..self }
    }

    /// Whether it is of the generation that came with Docker 23; taken to be so if not known.
    pub(crate) fn is_modern(&self) -> bool {
        self.version.is_none_or(|version| version.major >= 23)
    }

    /// Whether it predefines `TARGETSTAGE` and the like, and gives directories of `WORKDIR` the time
    /// that `SOURCE_DATE_EPOCH` says.
    pub(crate) fn knows_newer_arguments(&self) -> bool {
        self.version.is_none_or(|version| version.major > 26)
    }

    /// Whether base images are part of the key by content.
    pub fn resolves_bases(&self) -> bool {
        self.bases.as_ref().is_some_and(|bases| bases.asks_registries())
    }

    /// Looks an external image up; says why it is not found, where it should be.
    pub fn base(&self, image: &Image) -> Result<Option<BaseImage>, String> {
        self.bases.as_ref().map_or(Ok(None), |bases| bases.find(image))
    }
}
