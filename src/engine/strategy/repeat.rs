//! Repeats a classic build that nobody saw, to learn its images. It must come from the cache as a
//! whole: the first step that doesn't ends it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Read as _;
use std::process::Stdio;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use crate::build::arguments::BuildArguments;
use crate::build::build_log::{ClassicLog, ClassicStep};
use crate::engine::Engine;
use crate::engine::client::process::Running;
use crate::engine::client::run::{Patience, lines_of};
use crate::engine::error::EngineError;

/// How long the builder may say nothing: it looks up images, and sends its context.
const PATIENCE: Duration = Duration::from_mins(3);
/// A network that no container can start in, and that the builder's cache doesn't look at: until the
/// client is gone, a step might run.
const NOWHERE: &str = "container:dockercache-starts-nothing";

/// The images of the build with these arguments, which was offered these values of `--cache-from`.
pub(crate) fn repeat(
    engine: &Engine,
    arguments: &BuildArguments,
    offer: &[String],
) -> Result<Vec<ClassicStep>, EngineError> {
    let (old, new) = sources(engine, offer)?;
    // The builder takes the first image that has a step, and then looks at no other: what was built
    // here comes first, unless that leads it away from a stage that is as it was.
    let found = repeat_with(engine, arguments, new.iter().chain(&old));
    match found {
        Err(EngineError::NotBuilt(_)) if !old.is_empty() => {
            repeat_with(engine, arguments, old.iter().chain(&new)).or(found)
        }
        found => found,
    }
}

fn repeat_with<'a>(
    engine: &Engine,
    arguments: &BuildArguments,
    sources: impl Iterator<Item = &'a String>,
) -> Result<Vec<ClassicStep>, EngineError> {
    let mut words: Vec<OsString> = sources.map(|id| format!("--cache-from={id}").into()).collect();
    words.push("--force-rm".into());
    words.push(format!("--network={NOWHERE}").into());
    // What the base is now is none of our business: the build has happened.
    words.extend(arguments.for_repetition(&["pull", "network"]));
    let mut command = engine.client.command(["build"]);
    command.args(words).env("DOCKER_BUILDKIT", "0");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Running::start(&mut command).map_err(|e| engine.client.no_client(e))?;
    let complaint = child.stderr();
    let complaint = std::thread::spawn(move || {
        let mut said = String::new();
        let _ = complaint.map(|c| c.take(64 << 10).read_to_string(&mut said));
        said
    });
    let mut watch = Watch::default();
    let is_alive = || engine.connection.answers();
    let patience = Patience { silence: PATIENCE, is_alive: &is_alive };
    let lines = child.stdout().map(lines_of);
    while let Some(lines) = &lines {
        let line = match Patience::next(Some(&patience), lines) {
            Ok(line) => line.map_err(EngineError::io("read the build's log"))?,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                child.kill();
                return Err(EngineError::NotBuilt(
                    "the build can't be repeated from the engine's cache: the engine answers no more"
                        .to_owned(),
                ));
            }
        };
        let line = String::from_utf8_lossy(&line);
        if let Some(instruction) = watch.line(line.trim_end_matches(['\n', '\r'])) {
            // A `RUN` can't start, and its container goes as the build ends. All else must be ended:
            // the engine does so when the client goes.
            let is_run = instruction.get(..4).is_some_and(|w| w.eq_ignore_ascii_case("RUN "));
            if !is_run {
                child.kill();
            }
            while Patience::next(Some(&patience), lines).is_ok() {}
            child.kill();
            let _ = child.wait();
            return Err(EngineError::NotBuilt(format!(
                "`{instruction}` is not in the engine's cache: either this build has not been \
                 made here with these arguments, or its files have changed since. Save right after \
                 the build, with the same arguments, or build with `dockercache build`"
            )));
        }
    }
    let status = child.wait().map_err(EngineError::io("wait for the build"))?;
    if !status.success() {
        let said = complaint.join().unwrap_or_default();
        let reason =
            said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it gave no reason");
        return Err(EngineError::NotBuilt(format!(
            "the build can't be repeated from the engine's cache: {}",
            reason.trim()
        )));
    }
    Ok(watch.log.steps().to_vec())
}

/// What `--cache-from` must name, so that whatever the build has used or made is found again: what
/// was offered, and what is new.
///
/// With any name at all, the builder takes no image that is not below one of those named: so the
/// ends of what was built here belong to it. Without, it takes all that was built here.
fn sources(engine: &Engine, offer: &[String]) -> Result<(Vec<String>, Vec<String>), EngineError> {
    let images = engine.connection.images()?;
    let old: Vec<String> =
        offer.iter().filter(|id| images.iter().any(|image| image.id == **id)).cloned().collect();
    if old.is_empty() {
        return Ok((old, Vec::new()));
    }
    let parents: BTreeSet<&str> = images.iter().map(|image| image.parent_id.as_str()).collect();
    let ends = images.iter().filter(|i| !i.parent_id.is_empty() && !parents.contains(&*i.id));
    let new: Vec<String> =
        ends.map(|image| image.id.clone()).filter(|id| !old.contains(id)).collect();
    Ok((old, new))
}

/// A log, and what it says of the step that is under way.
#[derive(Debug, Default)]
struct Watch {
    log: ClassicLog,
    /// How many results of the step have come from the cache.
    hits: usize,
}

impl Watch {
    /// Takes one line. Gives the step's instruction if the builder executes it.
    fn line(&mut self, line: &str) -> Option<String> {
        self.log.line(line);
        if line.starts_with("Step ") {
            self.hits = 0;
        }
        let step = self.log.steps().last()?;
        let executed = match line.strip_prefix(" ---> ") {
            Some("Using cache") => {
                self.hits += 1;
                false
            }
            Some(rest) if rest.starts_with("Running in ") => true,
            // The image that a step ends with. A base has none that is to be made.
            Some(_) if step.image.is_empty() => false,
            Some(_) => self.hits < if step.is_from() { step.triggers } else { 1 },
            // `1: Pulling from library/node`
            None => step.is_from() && step.image.is_empty() && line.contains(": Pulling from "),
        };
        executed.then(|| step.text.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn executed(log: &str) -> Option<String> {
        let mut watch = Watch::default();
        log.lines().find_map(|line| watch.line(line))
    }

    #[test]
    fn a_build_from_cache_executes_nothing() {
        let log = "Sending build context to Docker daemon  2.048kB\n\
                   Step 1/5 : ARG V=1\n\
                   Step 2/5 : FROM busybox:${V} AS a\n ---> 0123456789ab\n\
                   Step 3/5 : RUN make\n ---> Using cache\n ---> aaaaaaaaaaaa\n\
                   Step 4/5 : FROM trigger\n# Executing 1 build trigger\n ---> Using cache\n \
                   ---> bbbbbbbbbbbb\n\
                   Step 5/5 : COPY --from=a /x /x\n ---> Using cache\n ---> cccccccccccc\n\
                   Successfully built cccccccccccc\n";
        assert_eq!(executed(log), None);
    }

    #[test]
    fn the_first_step_that_is_executed_is_named() {
        let from = "Step 1/3 : FROM busybox:1\n ---> 0123456789ab\n";
        for (log, instruction) in [
            ("Step 2/3 : RUN make\n ---> Running in aaaaaaaaaaaa\n", "RUN make"),
            ("Step 2/3 : COPY x y\n ---> aaaaaaaaaaaa\n", "COPY x y"),
            (
                "Step 2/3 : RUN a\n ---> Using cache\n ---> aaaaaaaaaaaa\n\
                 Step 3/3 : CMD b\n ---> Running in bbbbbbbbbbbb\n",
                "CMD b",
            ),
            (
                "Step 2/3 : FROM t\n# Executing 2 build triggers\n ---> Using cache\n \
                 ---> Running in bbbbbbbbbbbb\n",
                "FROM t",
            ),
            ("Step 2/3 : FROM node:1\n1: Pulling from library/node\n", "FROM node:1"),
        ] {
            assert_eq!(executed(&format!("{from}{log}")).as_deref(), Some(instruction), "{log}");
        }
    }
}
