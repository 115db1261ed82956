//! `gc`: deletes what a store no longer needs.

use serde::Serialize;

use super::exit::{Exit, Failure};
use crate::cli::{Format, GcArgs};
use crate::report::{Reporter, bytes, output};
use crate::store::collect::Policy;
use crate::store::remote::Remote;
use crate::store::url::StoreUrl;
use crate::store::variables::Variables;

/// The JSON form of the result.
#[derive(Serialize)]
struct Report<'a> {
    schema: &'static str,
    dry_run: bool,
    deleted_refs: &'a [String],
    live_refs: usize,
    deleted_blobs: usize,
    deleted_bytes: u64,
    live_blobs: usize,
    live_bytes: u64,
}

pub(super) fn run(args: &GcArgs) -> Result<Exit, Failure> {
    let reporter = Reporter::new(args.speech.quiet);
    let url: StoreUrl = args.store.parse().map_err(Failure::usage)?;
    let policy = Policy {
        grace: args.grace.into(),
        max_age: Some(args.max_age.into()),
        max_size: args.max_size.map(|size| size.as_u64()),
        dry_run: args.dry_run,
    };
    let remote = Remote::open(&url, &Variables::of_process())?;
    if policy.grace < remote.terms().shortest_grace() {
        return Err(Failure::usage("--grace must be at least 1m: savers rely on it"));
    }
    let task = reporter.task(&format!("collecting in {url}"));
    let collected = remote.collect(&policy)?;
    drop(task);
    if !collected.was_here {
        return Err(Failure {
            exit: Exit::Usage,
            message: format!("there is nothing of dockercache's in `{url}`"),
            hint: Some("check the URL; a store has a cache from the first `dockercache save` on"),
        });
    }
    reporter.info(format!(
        "gc: {} {} caches' names and {} blobs, {}, in {url}; {} and {}, {} are left",
        if args.dry_run { "would delete" } else { "deleted" },
        collected.refs.len(),
        collected.blobs.0,
        bytes(collected.blobs.1),
        collected.refs_left,
        collected.blobs_left.0,
        bytes(collected.blobs_left.1)
    ));
    let report = Report {
        schema: "dockercache.gc.v1",
        dry_run: args.dry_run,
        deleted_refs: &collected.refs,
        live_refs: collected.refs_left,
        deleted_blobs: collected.blobs.0,
        deleted_bytes: collected.blobs.1,
        live_blobs: collected.blobs_left.0,
        live_bytes: collected.blobs_left.1,
    };
    match args.speech.format {
        Format::Text => collected.refs.iter().for_each(|name| output::text(name)),
        Format::Json => output::json(&report),
        Format::Env | Format::Github => {
            let env = args.speech.format == Format::Env;
            output::pair(env, "deleted-refs", &collected.refs.len().to_string());
            output::pair(env, "deleted-bytes", &collected.blobs.1.to_string());
        }
    }
    Ok(Exit::Ok)
}
