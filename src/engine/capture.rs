//! What every strategy is asked to take out of an engine, and what it gives back.

use std::path::{Path, PathBuf};

use super::Engine;
use super::arguments::BuildArguments;
use super::build_log::ClassicStep;
use crate::layout::archive::{About, Archive, StageAbout};
use crate::layout::codec::Compression;

/// A stage whose cache is wanted.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Its place in the Dockerfile.
    pub index: usize,
    /// The name by which `--target` reaches it in [`Request::dockerfile`]; none for the last
    /// stage of a Dockerfile that we can't read.
    pub target: Option<String>,
    /// What the archive says of it.
    pub about: StageAbout,
    /// Whether the builder is known to have executed one of its steps.
    pub executed: bool,
    /// Whether one of its own steps makes a layer.
    pub has_layers: bool,
}

/// A build whose cache is wanted.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The user's arguments.
    pub arguments: &'a BuildArguments,
    /// The Dockerfile, in which every stage has a name; empty if we can't read it.
    pub dockerfile: &'a [u8],
    /// What the builder predefined as `TARGETSTAGE`, if the Dockerfile mentions it. It would
    /// change with `--target`, and steps that see it would run again.
    pub target_stage: Option<&'a str>,
    /// The `<Dockerfile>.dockerignore` that belongs to it, if there is one.
    pub ignore_file: Option<PathBuf>,
    /// The stages that are alive, dependencies first.
    pub stages: &'a [Stage],
    /// The classic builder's steps, if the build ran under our eyes.
    pub images: Option<&'a [ClassicStep]>,
    /// What to note in the archive.
    pub about: About,
    /// How layers are compressed that are not in the archive yet, if the user says so.
    pub compression: Option<Compression>,
    /// The directory of the cache that the build was offered, in the form of `--cache-from`.
    pub offer: &'a [String],
    /// The place in a registry to which a builder that exports by itself shall export, in the
    /// form of `--cache-to`; none: the directory.
    pub registry: Option<&'a str>,
}

impl Request<'_> {
    /// How layers are compressed that are not in the archive yet.
    pub(super) fn compression(&self, engine: &Engine) -> Compression {
        self.compression.unwrap_or_else(|| engine.compression())
    }
}

/// What was taken.
#[derive(Debug, Default)]
pub struct Captured {
    /// The new archive: every blob is written, `index.json` is not.
    pub archive: Archive,
    /// Names of the stages that were taken from the engine.
    pub taken: Vec<String>,
    /// Names of the stages that were kept from the old archive.
    pub kept: Vec<String>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// `--cache-from` for a cache directory.
pub fn local_cache(kind: &str, dir: &Path) -> String {
    let field = format!("{kind}={}", dir.display());
    // The client reads the value as CSV.
    if field.contains([',', '"', '\n']) {
        format!("type=local,\"{}\"", field.replace('"', "\"\""))
    } else {
        format!("type=local,{field}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_a_comma_is_quoted_as_csv() {
        assert_eq!(local_cache("src", Path::new("/tmp/c")), "type=local,src=/tmp/c");
        assert_eq!(local_cache("src", Path::new("/tmp/a,b")), r#"type=local,"src=/tmp/a,b""#);
    }
}
