//! What is captured of a build right after it, and what is taken of that when it is saved.

use std::fs::File;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::archive::{About, Archive, StageAbout};
use crate::build::arguments::BuildArguments;
use crate::engine::Engine;
use crate::oci::codec::Compression;
use crate::oci::documents::Descriptor;

/// A stage whose cache is wanted.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Its place in the Dockerfile.
    pub index: usize,
    /// The name by which `--target` reaches it in the copy of the Dockerfile; none for the last
    /// stage of a Dockerfile that we can't read.
    pub target: Option<String>,
    /// What the archive will say of it.
    pub about: StageAbout,
    /// Whether one of its own steps makes a layer.
    pub has_layers: bool,
    /// What the builder has said of it.
    pub word: Word,
}

/// What a builder has said of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// It took every step from the archive.
    FromArchive,
    /// An earlier build of the job captured the same.
    Captured(Source),
    /// It ran a step, or we don't know where it took all of them from.
    Open,
    /// Only a part of it was built, which this Dockerfile ends with.
    Cut(Vec<u8>),
    /// No step of it was built.
    Unbuilt,
}

/// A build whose cache is wanted.
pub struct Request<'a> {
    /// The engine that built.
    pub engine: &'a Engine,
    /// What `BUILDX_BUILDER` was set to for the build, if to anything.
    pub builder: Option<&'a str>,
    /// The user's arguments.
    pub arguments: &'a BuildArguments,
    /// What the build read from standard input.
    pub input: Option<&'a File>,
    /// The Dockerfile, in which every stage has a name; empty if we can't read it.
    pub dockerfile: &'a [u8],
    /// What the builder predefined as `TARGETSTAGE`, if the Dockerfile mentions it. It would
    /// change with `--target`, and steps that see it would run again.
    pub target_stage: Option<&'a str>,
    /// The `<Dockerfile>.dockerignore` that belongs to it, if there is one.
    pub ignore_file: Option<&'a Path>,
    /// The stages that are alive, dependencies first.
    pub stages: Vec<Stage>,
    /// The `--cache-from` values that the build was offered.
    pub offer: &'a [String],
    /// What the archive held before.
    pub archive: &'a Archive,
    /// A directory for temporary files.
    pub scratch: &'a Path,
    /// What the tags of images in the engine begin with that are made here.
    pub mark: &'a str,
    /// A name for what is made here, which no other build has.
    pub name: &'a str,
    /// Whether the build failed.
    pub failed: bool,
    /// How layers are compressed that are not in the archive yet, if the user says so.
    pub compression: Option<Compression>,
    /// Whether no other build of the same journal is being captured now.
    pub is_alone: &'a dyn Fn() -> bool,
}

/// What was captured of a build: all that `save` needs of it, and no secret.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Captured {
    /// What the archive will say of the build, without its stages.
    pub about: About,
    /// Whether the build failed: only what ran before is captured.
    pub failed: bool,
    /// The stages, dependencies first.
    pub stages: Vec<CapturedStage>,
}

impl Captured {
    /// Whether there is a cache of any stage.
    pub(crate) fn has_cache(&self) -> bool {
        use Source::{Archive, Carrier, Export, Images};
        let is_cache =
            |source: &Source| matches!(source, Carrier(_) | Export(..) | Images | Archive);
        self.stages.iter().any(|stage| is_cache(&stage.source))
    }
}

/// A stage, and where its cache is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CapturedStage {
    /// Its place in the Dockerfile.
    pub index: usize,
    /// What the archive will say of it.
    pub about: StageAbout,
    /// Whether one of its own steps makes a layer.
    pub has_layers: bool,
    /// Where its cache is.
    pub source: Source,
}

/// Where the cache of a stage is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// In an image of the engine with inline cache, by its tag.
    Carrier(String),
    /// In a directory to which the builder has exported it: the layout, and the manifest in it.
    Export(PathBuf, Descriptor),
    /// In the images of the classic builder, which its log names.
    Images,
    /// In images that must not be saved, because their history shows the value of this build argument.
    Discloses(String),
    /// In the archive: the builder has taken every step from there.
    Archive,
    /// Nowhere: it has no layer of its own.
    Nothing,
    /// Nowhere: the build failed before it.
    Unbuilt,
    /// Nowhere, for this reason; what the archive has of it may be of no use.
    Missing(String),
}

/// What was taken.
#[derive(Debug, Default)]
pub struct Taken {
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
