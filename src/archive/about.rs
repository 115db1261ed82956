//! Who made an archive, and of what: the note that its index carries.

use serde::{Deserialize, Serialize};

use crate::oci::digest::Digest;
use crate::oci::documents::Index;
use crate::oci::json;

/// The version of the notes. A reader refuses a newer one as a miss.
pub const FORMAT: u32 = 1;
/// The annotation with the note.
pub(super) const ABOUT: &str = "dev.dockercache.about";
/// The most stages and steps of all builds that an archive may tell of.
const MOST_STAGES: usize = 2_000;
const MOST_STEPS: usize = 20_000;

/// Who made an archive, and of what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// [`FORMAT`] of the writer.
    pub format: u32,
    /// The engine's version.
    pub engine: String,
    /// The strategy by which the cache was taken.
    pub strategy: String,
    /// The platform that was built for.
    pub platform: String,
    /// RFC 3339.
    pub created: String,
    /// The live stages, dependencies first.
    pub stages: Vec<StageAbout>,
}

impl About {
    /// Reads what an index says of itself; `None` if it says nothing that we understand.
    pub fn of(index: &Index) -> Option<Self> {
        let about: Self = json::parse(index.annotations.get(ABOUT)?.as_bytes()).ok()?;
        let steps = about.stages.iter().map(|stage| stage.steps.len()).sum::<usize>();
        // Stages are compared with one another, and steps with those of a project.
        (about.stages.len() <= MOST_STAGES && steps <= MOST_STEPS).then_some(about)
    }
}

/// A stage as it was when the archive was written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageAbout {
    /// The stage's name, or `stage-N`.
    pub name: String,
    /// The name of the build that it is a stage of; empty where images were saved without one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub build: String,
    /// Predicted digest of all that the stage is made from.
    pub digest: String,
    /// The stage image's manifest; none where the builder exported the cache itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Digest>,
    /// One digest for each step, as predicted, with its text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepAbout>,
    /// What the stage starts from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseAbout>,
    /// Whether it was captured of a build that failed: it is kept beside what earlier builds left,
    /// until the next build.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub of_failed: bool,
}

/// What a stage started from when the archive was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseAbout {
    /// The image, the stage, or the context, by its name.
    pub name: String,
    /// What tells images of one name apart, where the engine had the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
}

/// A step of a stage, as it was when the archive was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepAbout {
    /// The instruction, shortened.
    pub text: String,
    /// Predicted digest of the step and all before it.
    pub digest: String,
    /// What counted for the step: the first digits of a digest, and a name. Never a value: they
    /// may be secret.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<String>,
    /// The files that are part of the key, or their directories if there are many.
    #[serde(default, skip_serializing_if = "FileList::is_empty")]
    pub files: FileList,
}

impl StepAbout {
    /// Whether the builder makes a layer for it.
    pub(crate) fn makes_layer(&self) -> bool {
        let word = self.text.split_whitespace().next().unwrap_or_default();
        ["RUN", "COPY", "ADD", "WORKDIR"].iter().any(|known| word.eq_ignore_ascii_case(known))
    }
}

/// The files of a step, each in one short text: mode, kind, first digits of a digest, path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileList {
    /// How many levels of directories are told apart; 0 if all files are listed.
    #[serde(default)]
    pub depth: usize,
    /// The files.
    #[serde(default)]
    pub files: Vec<String>,
}

impl FileList {
    fn is_empty(&self) -> bool {
        self.files.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Archive;
    use super::*;

    #[test]
    fn notes_of_more_stages_than_can_be_compared_are_not_understood() {
        let of = |count| {
            let stages = (0..count).map(|number| StageAbout {
                name: String::new(),
                build: format!("{number}"),
                digest: String::new(),
                image: None,
                steps: Vec::new(),
                base: None,
                of_failed: false,
            });
            let about = Some(About { stages: stages.collect(), ..About::default() });
            About::of(&Archive { about, ..Archive::default() }.to_index())
        };
        assert!(of(MOST_STAGES).is_some());
        assert!(of(MOST_STAGES + 1).is_none());
    }
}
