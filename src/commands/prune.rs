//! `prune`: deletes what an OCI image layout no longer uses.

use serde::Serialize;

use super::exit::{Exit, Failure};
use crate::cli::{Format, PruneArgs};
use crate::job::locked;
use crate::oci::directory::Layout;
use crate::oci::live;
use crate::report::{Reporter, bytes, count, output};

/// The JSON form of the result.
#[derive(Serialize)]
struct Pruned {
    schema: &'static str,
    live_blobs: usize,
    live_bytes: u64,
    dropped_blobs: usize,
    dropped_bytes: u64,
}

pub(super) fn run(args: &PruneArgs) -> Result<Exit, Failure> {
    let reporter = Reporter::new(args.speech.quiet);
    let dir = args.path.as_ref().unwrap_or(&args.directory.dir);
    let layout = Layout::at(dir);
    if layout.index()?.is_none() {
        reporter.info(format!("prune: there is no archive in `{}`", dir.display()));
        return Ok(if args.speech.strict { Exit::Strict } else { Exit::Ok });
    }
    let pruned = live::sweep(&locked(&layout, reporter)?)?;
    reporter.info(format!(
        "prune: dropped {}, {}; {}, {} are live",
        count(pruned.dead.0, "blob"),
        bytes(pruned.dead.1),
        count(pruned.live.0, "blob"),
        bytes(pruned.live.1)
    ));
    if let Some(reason) = &pruned.held {
        reporter.warn(format!("nothing was removed from `{}`: {reason}", dir.display()));
    }
    match args.speech.format {
        Format::Text => {}
        Format::Json => output::json(&Pruned {
            schema: "dockercache.prune.v1",
            live_blobs: pruned.live.0,
            live_bytes: pruned.live.1,
            dropped_blobs: pruned.dead.0,
            dropped_bytes: pruned.dead.1,
        }),
        Format::Env | Format::Github => {
            let env = args.speech.format == Format::Env;
            output::pair(env, "bytes", &pruned.live.1.to_string());
            output::pair(env, "dropped-bytes", &pruned.dead.1.to_string());
        }
    }
    Ok(if args.speech.strict && pruned.held.is_some() { Exit::Strict } else { Exit::Ok })
}
