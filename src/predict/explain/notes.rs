//! What an archive notes of a project, so that a later one can be compared with it.

use super::files;
use crate::archive::{FileList, StageAbout, StepAbout};
use crate::context::ContextEntry;
use crate::predict::StepDigest;
use crate::predict::project::Project;

/// How much of an instruction's text is kept.
const TEXT: usize = 100;

/// How much of a part's digest is kept: too little to find out a short secret by trying.
const DIGITS: usize = 8;

/// The most files that are listed for a whole build.
const MOST_FILES: usize = 2000;

/// Notes of all stages; no image is known yet.
pub fn notes(project: &Project) -> Vec<StageAbout> {
    let mut room = MOST_FILES;
    project
        .stages
        .iter()
        .zip(&project.bases)
        .map(|(stage, base)| StageAbout {
            name: stage.name.clone().unwrap_or_else(|| format!("stage-{}", stage.index)),
            build: String::new(),
            digest: stage.digest.clone(),
            image: None,
            steps: stage
                .steps
                .iter()
                .map(|step| {
                    let mut listed = files::list(&entries(project, step));
                    match room.checked_sub(listed.files.len()) {
                        Some(left) => room = left,
                        None => listed = FileList::default(),
                    }
                    StepAbout {
                        text: text(&step.instruction),
                        digest: step.digest.clone(),
                        parts: parts(step),
                        files: listed,
                    }
                })
                .collect(),
            base: Some(base.clone()),
            of_failed: false,
        })
        .collect()
}

/// An instruction, shortened.
pub(super) fn text(instruction: &str) -> String {
    instruction.chars().take(TEXT).collect()
}

/// A step's own inputs, without those of earlier steps.
pub(super) fn parts(step: &StepDigest) -> Vec<String> {
    step.parts
        .iter()
        .filter(|part| part.name != "parent")
        .map(|part| format!("{} {}", &part.digest[..DIGITS], part.name))
        .collect()
}

/// The files that are inputs of a step.
pub(super) fn entries<'a>(project: &'a Project, step: &StepDigest) -> Vec<&'a ContextEntry> {
    step.queries.iter().filter_map(|query| project.files.get(query)).flatten().collect()
}
