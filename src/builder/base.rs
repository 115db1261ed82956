//! External images, as builders tell them apart.

use std::fmt;

use super::Strategy;
use crate::dockerfile::{BaseConfig, Image};

/// An external image that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseImage {
    /// Tells images apart by their layers, as BuildKit does, so that an image under another tag, or
    /// with another label, is the same.
    pub layers: String,
    /// Tells images apart by their whole config, as the classic builder does.
    pub id: Option<String>,
    /// The settings.
    pub config: BaseConfig,
}

impl BaseImage {
    /// What tells it from others, as the builder does whose cache is carried in this way.
    pub fn identity(&self, strategy: Strategy) -> &str {
        match (strategy, &self.id) {
            (Strategy::Classic, Some(id)) => id,
            _ => &self.layers,
        }
    }
}

/// Where external images are looked up.
pub trait BaseImages: fmt::Debug + Send + Sync {
    /// Looks an image up: none if it is not there, or why it can't be told.
    fn find(&self, image: &Image) -> Result<Option<BaseImage>, String>;

    /// Whether registries are asked as well, so that an empty engine knows the same images.
    fn asks_registries(&self) -> bool;
}
