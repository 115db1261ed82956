//! Where the layers of a stage are from.

use crate::archive::{StageAbout, StepAbout};
use crate::oci::documents::{History, ImageConfig};

/// Where a layer is from.
#[derive(PartialEq)]
pub(super) enum Origin {
    Base,
    Instruction(String),
    Unknown,
}

/// Where the layers of a stage are from, the base's first. The stage's own are the last ones, one
/// for each instruction that makes a layer; images that were saved without a build have a history.
pub(super) fn origins(stage: &StageAbout, config: &ImageConfig, layers: usize) -> Vec<Origin> {
    let own: Vec<&StepAbout> = stage.steps.iter().filter(|step| step.makes_layer()).collect();
    let history: Vec<&History> = config.layer_history().collect();
    let is_told = stage.base.is_some() || !stage.steps.is_empty();
    if let Some(base) = layers.checked_sub(own.len()).filter(|_| is_told) {
        let own = own.into_iter().map(|step| Origin::Instruction(step.text.clone()));
        return (0..base).map(|_| Origin::Base).chain(own).collect();
    }
    (0..layers)
        .map(|at| {
            let entry = history.get(at).filter(|_| history.len() == layers);
            let text = entry.and_then(|entry| entry.created_by.clone());
            text.map_or(Origin::Unknown, Origin::Instruction)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(steps: &[&str]) -> StageAbout {
        let step = |text: &&str| StepAbout {
            text: (*text).to_owned(),
            digest: String::new(),
            parts: Vec::new(),
            files: crate::archive::FileList::default(),
        };
        StageAbout {
            name: "build".to_owned(),
            build: String::new(),
            digest: String::new(),
            image: None,
            steps: steps.iter().map(step).collect(),
            base: None,
            of_failed: false,
        }
    }

    fn texts(origins: Vec<Origin>) -> Vec<String> {
        let text = |origin| match origin {
            Origin::Base => "base".to_owned(),
            Origin::Instruction(text) => text,
            Origin::Unknown => "unknown".to_owned(),
        };
        origins.into_iter().map(text).collect()
    }

    #[test]
    fn the_last_layers_are_those_of_the_stages_own_instructions() {
        let stage = stage(&["ENV A=1", "RUN make", "LABEL a=b", "copy . ."]);
        let config = ImageConfig::default();
        let found = texts(origins(&stage, &config, 4));
        assert_eq!(found, ["base", "base", "RUN make", "copy . ."]);
        assert_eq!(texts(origins(&stage, &config, 1)), ["unknown"]);
    }

    #[test]
    fn an_image_without_a_build_is_read_by_its_history() {
        let config = r#"{"history":[{"created_by":"ADD a"},{"empty_layer":true},{}]}"#;
        let config = serde_json::from_str(config).unwrap();
        assert_eq!(texts(origins(&stage(&[]), &config, 2)), ["ADD a", "unknown"]);
    }
}
