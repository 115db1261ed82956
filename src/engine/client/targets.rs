//! Asks the user's client what a command that builds several images would build.

use std::ffi::OsString;
use std::fs::File;
use std::process::Stdio;

use super::Client;
use crate::build::bake::{self, PlannedTarget, Planner};
use crate::engine::error::EngineError;

/// Asks the client what a command with these words builds. `words` are those after `bake`, or after
/// `compose`, with `build` among them; `input` is what the client reads from standard input.
pub(crate) fn targets(
    client: &Client,
    planner: Planner,
    words: &[OsString],
    input: Option<File>,
) -> Result<Vec<PlannedTarget>, EngineError> {
    let (command, base) = match planner {
        Planner::Bake => (&["buildx", "bake"][..], bake::directory_of_yaml(words)),
        Planner::Compose => (&["compose"][..], None),
    };
    let mut question = client.command(command);
    question.args(words).arg("--print");
    question.stdin(input.map_or_else(Stdio::null, Stdio::from));
    let output = client.ask(question, &format!("{} … --print", command.join(" ")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let reason = said.lines().rev().find(|line| !line.trim().is_empty());
        let reason = reason.unwrap_or("it gave no reason").to_owned();
        let command = command.join(" ");
        return Err(EngineError::Usage(format!(
            "`docker {command}` has nothing to build: {reason}"
        )));
    }
    bake::plan(&output.stdout, base.as_deref())
        .map_err(|e| EngineError::failed("read what would be built", e))
}
