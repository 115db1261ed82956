//! What a build reads from standard input, kept so that it can be read again.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use super::journal::Draft;
use crate::engine::client::run::Input;
use crate::report::Reporter;

/// Standard input; read and kept if the build reads it.
#[derive(Default)]
pub(crate) struct StandardInput {
    /// Where it is kept.
    path: Option<PathBuf>,
    /// The same, open.
    file: Option<File>,
    /// What could not be kept.
    rest: Option<Box<dyn Read + Send>>,
    /// Whether the build reads what nobody has kept.
    is_lost: bool,
}

impl StandardInput {
    /// Keeps it with the note of the build, if the build `reads` it.
    pub(crate) fn keep(reads: bool, draft: Option<&Draft>, reporter: Reporter) -> Self {
        if !reads {
            return Self::default();
        }
        let lost = || Self { is_lost: true, ..Self::default() };
        let Some(draft) = draft else { return lost() };
        let path = draft.scratch().join("stdin");
        let Ok(mut file) = File::create_new(&path) else { return lost() };
        let copied = io::copy(&mut io::stdin(), &mut file);
        let Ok(file) = File::open(&path) else { return lost() };
        match copied {
            Ok(_) => Self { path: Some(path), file: Some(file), ..Self::default() },
            Err(error) => {
                reporter.warn(format!(
                    "the build can't be repeated: failed to keep its input: {error}"
                ));
                let rest = file.chain(io::stdin());
                Self { rest: Some(Box::new(rest)), is_lost: true, ..Self::default() }
            }
        }
    }

    /// Where it is kept, if it is.
    pub(crate) fn path(&self) -> Option<&PathBuf> {
        self.path.as_ref()
    }

    /// What is kept, if it is.
    pub(crate) fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    /// Whether a build that has read it can be repeated.
    pub(crate) fn is_repeatable(&self) -> bool {
        !self.is_lost
    }

    /// For the next program that reads it.
    pub(crate) fn next(&mut self) -> Input {
        if let Some(rest) = self.rest.take() {
            return Input::Passed(rest);
        }
        // Opened again: from its start.
        match self.path.as_ref().map(File::open) {
            Some(Ok(file)) => Input::File(file),
            Some(Err(_)) | None => Input::Inherited,
        }
    }
}
