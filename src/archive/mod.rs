//! What our archives hold: one cache manifest, the images that it is made from, and who made it.
//!
//! `index.json` lists the cache manifest under the tag `latest`, where BuildKit's local importer
//! looks, and one image manifest for each live stage, which any OCI tool can read. The cache
//! manifest is derived: it merges the inline records of the stage images. So what is live is
//! decided by the images alone, and a stage that goes takes its records and layers along.

mod about;
pub mod builds;
mod cache;
pub mod carrier;
pub mod file;
mod heal;
mod image;
mod named;
pub mod records;
pub mod tarball;
#[cfg(test)]
mod tests;
pub mod trust;

pub use about::{About, BaseAbout, FORMAT, FileList, StageAbout, StepAbout};
pub use cache::{
    Knowledge, WrittenCache, cache_as_image, cache_entry, read_cache, write_cache,
    write_partial_cache, write_records, write_stage_cache,
};
pub use heal::heal;
pub use image::{DocumentSink, ImageNote, LayerBlob, Role, StoredImage, write_image};

use std::collections::BTreeMap;

use serde::Serialize;

use crate::oci::digest::Digest;
use crate::oci::directory::{Layout, LayoutError};
use crate::oci::documents::{Descriptor, Index, REF_NAME};
use crate::oci::json::{self, Budget};
use crate::oci::live::{self, Reach};
use about::ABOUT;
use cache::CACHE_TAG;
use image::IMAGE;

/// The most images that an archive may have.
const MOST_IMAGES: usize = 5_000;

/// An archive's content.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    /// Who made it; absent in a directory that buildx wrote.
    pub about: Option<About>,
    /// The cache manifest.
    pub cache: Option<Descriptor>,
    /// The images whose documents are readable; where the builder exports its cache by itself, what it
    /// exported for each stage stands in their place.
    pub images: Vec<StoredImage>,
}

impl Archive {
    /// Reads what `layout` holds; `None` if there is no archive.
    pub fn read(layout: &Layout) -> Result<Option<Self>, LayoutError> {
        layout.index()?.map(|index| Self::of(layout, index)).transpose()
    }

    /// What an index of `layout` names.
    pub fn of(layout: &Layout, index: Index) -> Result<Self, LayoutError> {
        let mut archive = Self { about: About::of(&index), ..Self::default() };
        let mut budget = Budget::default();
        for descriptor in index.manifests {
            let note = descriptor.annotation(IMAGE).and_then(|n| json::parse(n.as_bytes()).ok());
            if let Some(note) = note {
                // An image that can't be read is as good as absent: its stage is saved again.
                let Ok(bytes) = layout.document(&descriptor) else { continue };
                budget.take(&bytes).map_err(|reason| layout.damaged(reason))?;
                let Ok(manifest) = json::parse(&bytes) else { continue };
                if archive.images.len() == MOST_IMAGES {
                    return Err(layout.damaged(format!("it has more than {MOST_IMAGES} images")));
                }
                archive.images.push(StoredImage { descriptor, manifest, note });
            } else if descriptor.annotation(REF_NAME) == Some(CACHE_TAG) {
                archive.cache = Some(descriptor);
            }
        }
        Ok(archive)
    }

    /// Whether a newer version of this program wrote the archive.
    pub fn is_from_the_future(&self) -> bool {
        self.about.as_ref().is_some_and(|a| a.format > FORMAT)
    }

    /// The image of a stage with the same predicted digest, by preference of the same build and
    /// of the same name: stages that differ only in their settings have equal digests.
    pub fn stage_image(&self, stage: &StageAbout) -> Option<&StoredImage> {
        let equal = self.about.as_ref()?.stages.iter().filter(|s| s.digest == stage.digest);
        let found = equal.min_by_key(|s| (s.name != stage.name, s.build != stage.build))?;
        self.image_of(found)
    }

    /// The image that a stage of the archive itself names, if it is there.
    pub(crate) fn image_of(&self, stage: &StageAbout) -> Option<&StoredImage> {
        let image = stage.image.as_ref()?;
        self.images.iter().find(|i| i.descriptor.digest == *image)
    }

    /// The names of the builds, in order.
    pub fn builds(&self) -> Vec<&str> {
        let mut builds: Vec<&str> = Vec::new();
        for stage in self.about.iter().flat_map(|about| &about.stages) {
            if !builds.contains(&stage.build.as_str()) {
                builds.push(&stage.build);
            }
        }
        builds
    }

    /// The layers that the images hold, by diffID.
    pub fn layers(&self) -> BTreeMap<Digest, LayerBlob> {
        self.images
            .iter()
            .flat_map(|i| &i.manifest.layers)
            .filter_map(LayerBlob::from_descriptor)
            .map(|layer| (layer.diff_id.clone(), layer))
            .collect()
    }

    /// The `index.json` with this content.
    pub fn to_index(&self) -> Index {
        let mut index = Index::new(Vec::new());
        if let Some(about) = &self.about {
            let json = serde_json::to_string(about).unwrap_or_default();
            index.annotations.insert(ABOUT.to_owned(), json);
        }
        index.manifests.extend(self.cache.clone());
        index.manifests.extend(self.images.iter().map(|i| i.descriptor.clone()));
        index
    }
}

/// What `index.json` reaches; nothing if there is no archive.
pub fn reach(layout: &Layout) -> Result<Reach, LayoutError> {
    Ok(layout.index()?.map(|index| live::reach(layout, &index)).unwrap_or_default())
}

fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    // Our own types have string keys only, so this can't fail.
    serde_json::to_vec(value).unwrap_or_default()
}
