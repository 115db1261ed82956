//! An image as `docker save` gives it, which is the same on both image stores.

use std::io::Read as _;

use super::engine::Engine;

/// An image of an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    /// The engine's ID of it.
    pub(crate) id: String,
    /// The configuration, byte for byte. Its digest is the ID where there is a graph driver.
    pub(crate) config: String,
}

impl Image {
    pub(crate) fn of(engine: &Engine, name: &str) -> Self {
        let id = engine.image_id(name);
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("image.tar");
        let output = path.to_str().expect("a UTF-8 path");
        engine.docker(["save", "--output", output, name]).run().success();
        let entry = |wanted: &str| {
            let file = std::fs::File::open(&path).expect("a saved image");
            let mut tar = tar::Archive::new(file);
            let mut entries = tar.entries().expect("a tar").map(|entry| entry.expect("an entry"));
            let mut entry = entries
                .find(|entry| entry.path_bytes() == wanted.as_bytes())
                .unwrap_or_else(|| panic!("no {wanted} in the saved image"));
            let mut text = String::new();
            entry.read_to_string(&mut text).expect("a text");
            text
        };
        let manifest: serde_json::Value =
            serde_json::from_str(&entry("manifest.json")).expect("a manifest");
        let config = entry(manifest[0]["Config"].as_str().expect("a config"));
        Self { id, config }
    }

    /// The digests of the image's layers, uncompressed.
    pub(crate) fn layers(&self) -> Vec<String> {
        let config: serde_json::Value = serde_json::from_str(&self.config).expect("a config");
        let layers = config["rootfs"]["diff_ids"].as_array().expect("layers").iter();
        layers.map(|layer| layer.as_str().expect("a digest").to_owned()).collect()
    }
}
