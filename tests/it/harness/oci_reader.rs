//! Reads image layouts with other people's eyes: skopeo, and a walk that knows JSON only.
//!
//! Shares no code with the program, so that a mistake in its idea of a layout shows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::engine::script;
use super::invocation::Invocation;

const CACHE_CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";

/// Prepares a run of skopeo.
pub(crate) fn skopeo<'a>(words: impl IntoIterator<Item = &'a str>) -> Invocation {
    static PROGRAM: OnceLock<String> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| script(&["skopeo"]).trim().to_owned());
    Invocation::new(Command::new(program)).args(["--insecure-policy"]).args(words)
}

/// A directory that should be an OCI image layout.
#[derive(Debug)]
pub(crate) struct OciDirectory {
    path: PathBuf,
}

impl OciDirectory {
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The blobs that lie there, by digest, with their sizes. Each has the digest of its name.
    pub(crate) fn blobs(&self) -> BTreeMap<String, u64> {
        let mut blobs = BTreeMap::new();
        for entry in fs::read_dir(self.path.join("blobs/sha256")).expect("a directory of blobs") {
            let entry = entry.expect("an entry");
            let name = entry.file_name().into_string().expect("a UTF-8 name");
            let bytes = fs::read(entry.path()).expect("a readable blob");
            assert_eq!(digest_of(&bytes), format!("sha256:{name}"), "a blob of another name");
            blobs.insert(format!("sha256:{name}"), bytes.len() as u64);
        }
        blobs
    }

    /// The tags in `index.json`, with what they stand for.
    pub(crate) fn tags(&self) -> BTreeMap<String, Value> {
        let tag = |d: &Value| {
            let tag = d["annotations"]["org.opencontainers.image.ref.name"].as_str()?;
            Some((tag.to_owned(), d.clone()))
        };
        self.entries().iter().filter_map(tag).collect()
    }

    /// The names of the stages, as the archive notes them and as its images are tagged, sorted.
    /// Images between two steps have names that change: they don't count.
    pub(crate) fn stages(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let about: Value = self.index()["annotations"]["dev.dockercache.about"]
            .as_str()
            .map(|json| serde_json::from_str(json).expect("JSON"))
            .expect("a note on the archive");
        let stages = about["stages"].as_array().expect("a list").iter();
        let noted = stages.map(|s| s["name"].as_str().expect("a name").to_owned()).collect();
        let is_stage = |d: &Value| {
            let note = d["annotations"]["dev.dockercache.image"].as_str().unwrap_or_default();
            note.contains(r#""role":"stage""#)
        };
        let tagged = self.tags().into_iter().filter(|(_, d)| is_stage(d)).map(|(tag, _)| tag);
        (noted, tagged.collect())
    }

    fn entries(&self) -> Vec<Value> {
        self.index()["manifests"].as_array().expect("a list").clone()
    }

    fn index(&self) -> Value {
        let index = fs::read(self.path.join("index.json")).expect("an index.json");
        serde_json::from_slice(&index).expect("JSON")
    }

    /// What `index.json` reaches, with the sizes that the descriptors promise: manifests, what
    /// they list, and what that lists.
    pub(crate) fn reachable(&self) -> BTreeMap<String, u64> {
        let mut reached = BTreeMap::new();
        let mut queue = self.entries();
        while let Some(descriptor) = queue.pop() {
            let digest = descriptor["digest"].as_str().expect("a digest").to_owned();
            let media_type = descriptor["mediaType"].as_str().expect("a media type");
            if media_type.contains("manifest") || media_type.contains("index") {
                let manifest = self.document(&digest);
                queue.extend(
                    ["manifests", "layers"]
                        .iter()
                        .flat_map(|list| manifest[*list].as_array().cloned().unwrap_or_default()),
                );
                queue.extend(manifest.get("config").cloned());
            }
            reached.insert(digest, descriptor["size"].as_u64().expect("a size"));
        }
        reached
    }

    /// Asserts that exactly what is reached lies there, to the byte.
    #[track_caller]
    pub(crate) fn assert_exact(&self) {
        let (blobs, reachable) = (self.blobs(), self.reachable());
        let dead: Vec<_> = blobs.keys().filter(|d| !reachable.contains_key(*d)).collect();
        let missing: Vec<_> = reachable.keys().filter(|d| !blobs.contains_key(*d)).collect();
        assert!(dead.is_empty() && missing.is_empty(), "dead: {dead:?}, missing: {missing:?}");
        assert_eq!(blobs, reachable, "sizes differ");
    }

    /// Asserts the same by what skopeo reads: it copies every image with all of its layers, and
    /// prints the documents of the cache, which is no image.
    #[track_caller]
    pub(crate) fn assert_exact_for_skopeo(&self) {
        let mut read = BTreeSet::new();
        for (tag, descriptor) in self.tags() {
            let name = format!("oci:{}:{tag}", self.path.display());
            let raw = skopeo(["inspect", "--raw", &name]).run().success().stdout.clone();
            assert_eq!(digest_of(raw.as_bytes()), descriptor["digest"], "{tag}");
            read.insert(digest_of(raw.as_bytes()));
            let manifest: Value = serde_json::from_str(&raw).expect("JSON");
            if tag == "latest" {
                let list = ["manifests", "layers"];
                let parts = list.iter().filter_map(|list| manifest[*list].as_array()).flatten();
                let digests = parts.chain(manifest.get("config")).map(|d| d["digest"].as_str());
                read.extend(digests.map(|d| d.expect("a digest").to_owned()));
            } else {
                let copy = tempfile::tempdir().expect("a directory");
                let to = format!("dir:{}", copy.path().display());
                skopeo(["copy", "--quiet", &name, &to]).run().success();
                for entry in fs::read_dir(copy.path()).expect("a copy") {
                    let name = entry.expect("an entry").file_name();
                    let name = name.to_str().expect("a UTF-8 name");
                    if !["manifest.json", "version"].contains(&name) {
                        read.insert(format!("sha256:{name}"));
                    }
                }
            }
        }
        assert_eq!(self.blobs().into_keys().collect::<BTreeSet<_>>(), read);
    }

    /// The bytes of all blobs.
    pub(crate) fn bytes(&self) -> u64 {
        self.blobs().values().sum()
    }

    /// The number of BuildKit's cache records under the tag `latest`.
    pub(crate) fn cache_records(&self) -> usize {
        let tags = self.tags();
        let manifest = self.document(tags["latest"]["digest"].as_str().expect("a digest"));
        let parts = manifest["manifests"].as_array().into_iter().flatten();
        let config = parts
            .chain(manifest.get("config"))
            .find(|d| d["mediaType"] == CACHE_CONFIG)
            .expect("a cache config");
        let config = self.document(config["digest"].as_str().expect("a digest"));
        config["records"].as_array().expect("records").len()
    }

    fn document(&self, digest: &str) -> Value {
        let hex = digest.strip_prefix("sha256:").expect("a SHA-256 digest");
        let bytes = fs::read(self.path.join("blobs/sha256").join(hex));
        serde_json::from_slice(&bytes.unwrap_or_else(|e| panic!("{digest}: {e}"))).expect("JSON")
    }
}

fn digest_of(bytes: &[u8]) -> String {
    let hex: Vec<String> = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{}", hex.concat())
}
