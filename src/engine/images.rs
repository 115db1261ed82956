//! Looks at images of the engine: their IDs, parents, tags and layers.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::client::Client;
use super::error::EngineError;
use crate::layout::digest::{Digest, DigestError};

/// An image of the engine.
#[derive(Clone, Debug)]
pub struct EngineImage {
    /// The digest of its config.
    pub id: Digest,
    /// The image that it was built on, if it was built here by the classic builder.
    pub parent: Option<Digest>,
    /// Its tags.
    pub tags: Vec<String>,
    /// The number of its layers.
    pub layers: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: String,
    #[serde(default)]
    parent: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default, rename = "RootFS")]
    root_fs: Option<RootFs>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RootFs {
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl EngineImage {
    fn is_named(&self, name: &str) -> bool {
        self.id.as_str() == name || self.id.short() == name || self.tags.iter().any(|t| t == name)
    }
}

/// Images of an engine. Each is asked for once, since every start of the client takes a while.
pub struct Images<'a> {
    client: &'a Client,
    seen: Vec<EngineImage>,
}

impl<'a> Images<'a> {
    /// Looks at `names` together, each a name, an ID or the start of one.
    pub fn look_at<'n>(
        client: &'a Client,
        names: impl IntoIterator<Item = &'n str>,
    ) -> Result<Self, EngineError> {
        let names: BTreeSet<&str> = names.into_iter().collect();
        let seen = if names.is_empty() { Vec::new() } else { inspect(client, names)? };
        Ok(Self { client, seen })
    }

    /// The image with a name or ID; `None` if there is none.
    pub fn get(&mut self, name: &str) -> Result<Option<EngineImage>, EngineError> {
        if let Some(image) = self.seen.iter().find(|image| image.is_named(name)) {
            return Ok(Some(image.clone()));
        }
        let image = inspect(self.client, [name].into())?.pop();
        self.seen.extend(image.clone());
        Ok(image)
    }
}

/// The images among `names` that there are.
fn inspect(client: &Client, names: BTreeSet<&str>) -> Result<Vec<EngineImage>, EngineError> {
    let one = names.first().copied().unwrap_or_default().to_owned();
    let wrong = |reason: &dyn ToString| {
        EngineError::failed(format!("look at image `{one}`"), reason.to_string())
    };
    let mut command = client.command(["image", "inspect"]);
    let output = command.args(names).output().map_err(|e| client.no_client(e))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let trouble = said.lines().find(|line| !line.to_lowercase().contains("no such"));
    if let Some(trouble) = trouble.filter(|_| !output.status.success()) {
        return Err(wrong(&trouble.trim()));
    }
    let inspected: Vec<Inspected> =
        serde_json::from_slice(&output.stdout).map_err(|e| wrong(&e))?;
    let image = |image: Inspected| {
        Ok(EngineImage {
            id: image.id.parse().map_err(|e: DigestError| wrong(&e))?,
            parent: image.parent.parse().ok(),
            tags: image.repo_tags.unwrap_or_default(),
            layers: image.root_fs.and_then(|r| r.layers).map_or(0, |l| l.len()),
        })
    };
    inspected.into_iter().map(image).collect()
}
