//! Looks at images of the engine: their IDs, parents, tags and layers.

use serde::Deserialize;

use super::client::Client;
use super::error::EngineError;
use crate::layout::digest::Digest;

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

/// Looks an image up by name or ID; `None` if there is none.
pub fn look_at(client: &Client, name: &str) -> Result<Option<EngineImage>, EngineError> {
    let output =
        client.command(["image", "inspect", name]).output().map_err(|e| client.no_client(e))?;
    let wrong = |reason: String| EngineError::failed(format!("look at image `{name}`"), reason);
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        if said.to_lowercase().contains("no such") {
            return Ok(None);
        }
        return Err(wrong(said.trim().to_owned()));
    }
    let inspected: Vec<Inspected> =
        serde_json::from_slice(&output.stdout).map_err(|e| wrong(e.to_string()))?;
    let Some(image) = inspected.into_iter().next() else { return Ok(None) };
    Ok(Some(EngineImage {
        id: image
            .id
            .parse()
            .map_err(|e: crate::layout::digest::DigestError| wrong(e.to_string()))?,
        parent: image.parent.parse().ok(),
        tags: image.repo_tags.unwrap_or_default(),
        layers: image.root_fs.and_then(|r| r.layers).map_or(0, |l| l.len()),
    }))
}
