//! Looks at images of the engine: their IDs, parents, tags and layers.

use std::collections::BTreeMap;

use super::connection::Connection;
use crate::engine::error::EngineError;
use crate::oci::digest::{Digest, DigestError};

/// An image of the engine.
#[derive(Clone, Debug)]
pub struct EngineImage {
    /// The digest of its config.
    pub id: Digest,
    /// The image that it was built on, if it was built here by the classic builder.
    pub parent: Option<Digest>,
    /// Its tags.
    pub tags: Vec<String>,
    /// Its names by digest, where a registry has it.
    pub(crate) digests: Vec<String>,
    /// The number of its layers.
    pub layers: usize,
}

/// Images of an engine. Each is asked for once.
pub struct Images<'a> {
    connection: &'a Connection,
    /// Which image each was built on: engines say it of all at once.
    parents: BTreeMap<String, Digest>,
    seen: BTreeMap<String, Option<EngineImage>>,
}

impl<'a> Images<'a> {
    /// The images of an engine.
    pub fn of(connection: &'a Connection) -> Result<Self, EngineError> {
        let images = connection.images()?.into_iter();
        let parents = images.filter_map(|i| Some((i.id, i.parent_id.parse().ok()?))).collect();
        Ok(Self { connection, parents, seen: BTreeMap::new() })
    }

    /// The image with a name, an ID or the start of one; `None` if there is none.
    pub fn get(&mut self, name: &str) -> Result<Option<EngineImage>, EngineError> {
        if let Some(image) = self.seen.get(name) {
            return Ok(image.clone());
        }
        let wrong = |e: DigestError| EngineError::failed(format!("look at image `{name}`"), e);
        let image = match self.connection.image(name)? {
            None => None,
            Some(image) => {
                let id = image.id.unwrap_or_default();
                Some(EngineImage {
                    parent: self.parents.get(&id).cloned(),
                    id: id.parse().map_err(wrong)?,
                    tags: image.repo_tags.unwrap_or_default(),
                    digests: image.repo_digests.unwrap_or_default(),
                    layers: image.root_fs.and_then(|r| r.layers).map_or(0, |l| l.len()),
                })
            }
        };
        self.seen.insert(name.to_owned(), image.clone());
        Ok(image)
    }
}
