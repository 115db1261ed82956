//! Images to start from, in the place of a registry.

use std::sync::OnceLock;

use sha2::{Digest as _, Sha256};

use super::engine::busybox_tree;

/// An image to start from. Two of one tag with the same file differ in their configuration alone:
/// they have the same layers and the same history.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    pub(crate) tag: String,
    /// What is in `/base`.
    pub(crate) file: String,
    /// The variable `BASE`.
    pub(crate) variable: String,
    /// Its `ONBUILD` instructions.
    pub(crate) on_build: &'static [&'static str],
}

/// Writes the images as one archive for `docker load`: the same bytes every time.
///
/// Each is a busybox with a file more.
pub(crate) fn archive(bases: &[Base]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    add(&mut archive, "busybox.tar", busybox());
    let mut manifest = Vec::new();
    for Base { tag, file, variable, on_build } in bases {
        let own = layer(file);
        let config = serde_json::json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "created": "2017-07-14T02:40:00Z",
            "config": {
                "Env": [
                    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                    format!("BASE={variable}"),
                ],
                "Cmd": ["/bin/sh"],
                "OnBuild": on_build,
            },
            "rootfs": { "type": "layers", "diff_ids": [digest(busybox()), digest(&own)] },
            "history": [
                { "created": "2017-07-14T02:40:00Z", "created_by": "busybox" },
                { "created": "2017-07-14T02:40:00Z", "created_by": tag },
            ],
        });
        add(&mut archive, &format!("{tag}.json"), config.to_string().as_bytes());
        add(&mut archive, &format!("{tag}.tar"), &own);
        manifest.push(serde_json::json!({
            "Config": format!("{tag}.json"),
            "RepoTags": [if tag.contains(':') { tag.clone() } else { format!("{tag}:latest") }],
            "Layers": ["busybox.tar", format!("{tag}.tar")],
        }));
    }
    let manifest = serde_json::Value::from(manifest).to_string();
    add(&mut archive, "manifest.json", manifest.as_bytes());
    archive.into_inner().expect("an archive")
}

/// Writes files as an archive.
pub(crate) fn files(files: &[(&str, String)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, text) in files {
        add(&mut archive, name, text.as_bytes());
    }
    archive.into_inner().expect("an archive")
}

fn busybox() -> &'static [u8] {
    static LAYER: OnceLock<Vec<u8>> = OnceLock::new();
    LAYER.get_or_init(|| {
        let mut layer = tar::Builder::new(Vec::new());
        layer.mode(tar::HeaderMode::Deterministic);
        layer.follow_symlinks(false);
        layer.append_dir_all(".", busybox_tree()).expect("a layer");
        layer.into_inner().expect("a layer")
    })
}

/// A layer with `/base`.
fn layer(file: &str) -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    add(&mut layer, "base", file.as_bytes());
    layer.into_inner().expect("a layer")
}

fn add(archive: &mut tar::Builder<Vec<u8>>, name: &str, bytes: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(1_500_000_000);
    archive.append_data(&mut header, name, bytes).expect("an entry");
}

pub(super) fn digest(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}
