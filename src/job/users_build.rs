//! The user's build as the user wants to see it, in a form in which its log can be read.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use super::journal::Draft;
use super::variable;
use crate::build::arguments::BuildArguments;
use crate::engine::Engine;
use crate::engine::client::run::{self, Echo, Finished, Input};
use crate::engine::error::EngineError;
use crate::engine::strategy::Choice;
use crate::report::output;

/// The user's build.
pub(crate) struct UsersBuild<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) choice: &'a Choice,
    pub(crate) arguments: &'a BuildArguments,
    pub(crate) draft: Option<&'a Draft>,
}

/// What the user wants to see of a build.
#[derive(Clone, Copy, PartialEq, Eq)]
enum View {
    /// Its log, in a form that we can read.
    Log,
    /// Nothing; with `-q`, the image's ID in the end.
    Quiet { prints_id: bool },
    /// What the client draws on a terminal, which nobody else can read.
    Terminal,
}

impl UsersBuild<'_> {
    /// Runs it with what it is offered, and shows what the user wants to see.
    pub(crate) fn run(&self, cache_from: &[String], input: Input) -> Result<Finished, EngineError> {
        let view = self.view();
        let mut words: Vec<OsString> =
            cache_from.iter().map(|value| format!("--cache-from={value}").into()).collect();
        let mut id_file = None;
        match view {
            View::Quiet { prints_id } => {
                words.extend(self.arguments.without(&["quiet", "progress"]));
                let own = self.arguments.value("iidfile").map(PathBuf::from);
                let ours = self.draft.map(|draft| draft.scratch().join("iid"));
                if let (true, None, Some(ours)) = (prints_id, &own, &ours) {
                    words.insert(0, format!("--iidfile={}", ours.display()).into());
                }
                id_file = own.or(ours).filter(|_| prints_id);
            }
            View::Log | View::Terminal => words.extend(self.arguments.all()),
        }
        let asked =
            self.arguments.value("progress").is_some() || variable("BUILDKIT_PROGRESS").is_some();
        let is_buildkit = self.choice.strategy.is_buildkit();
        if is_buildkit && (matches!(view, View::Quiet { .. }) || view == View::Log && !asked) {
            // The form that we can read; in a CI log it is the default anyway.
            words.insert(0, "--progress=plain".into());
        }
        let echo = match view {
            View::Log => Echo::Shown,
            View::Quiet { .. } => Echo::Muted,
            View::Terminal => Echo::Terminal,
        };
        let client = &self.engine.client;
        let finished = if is_buildkit {
            run::buildkit(client, &words, self.choice.builder.as_deref(), echo, input)?
        } else {
            run::classic(client, &words, echo, input)?
        };
        if let View::Quiet { .. } = view {
            if finished.status.success() {
                if let Some(file) = id_file {
                    output::line(fs::read_to_string(file).unwrap_or_default().trim());
                }
            } else {
                finished.last_words().iter().for_each(|line| output::complaint(line));
            }
        }
        Ok(finished)
    }

    fn view(&self) -> View {
        let flag = self.arguments.value("progress").map(|p| p.to_string_lossy().into_owned());
        let progress = flag.clone().or_else(|| variable("BUILDKIT_PROGRESS"));
        if self.arguments.switch("quiet") || flag.as_deref() == Some("quiet") {
            // Without a place for the image's ID, the client prints it by itself. And the ID is no
            // result of what an exporter writes to files, which refuse to name it.
            let has_id = self.draft.is_some() && self.arguments.value("output").is_none();
            return if has_id { View::Quiet { prints_id: true } } else { View::Terminal };
        }
        match progress.as_deref() {
            Some("quiet") => View::Quiet { prints_id: false },
            Some("tty") => View::Terminal,
            _ => View::Log,
        }
    }
}
