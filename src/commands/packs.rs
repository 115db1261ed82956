//! `packs`: what a CI's cache moves of the archive, in packs.

use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

use super::exit::{Exit, Failure};
use super::{builds, forced};
use crate::cli::{Format, PacksArgs};
use crate::engine::client::Client;
use crate::engine::strategy::{self, Choice};
use crate::job::environment;
use crate::job::journal::Journal;
use crate::job::locked;
use crate::job::packs::{self, Calendar, Chosen, Planned};
use crate::oci::directory::Layout;
use crate::packs::SLOTS;
use crate::report::{Reporter, bytes, count, output};

/// What a key file says of a step that has nothing to move. They differ, so that what such a step saves is
/// never restored.
const NOTHING: [&str; 2] = ["nothing to restore", "nothing to save"];

/// The JSON form of the result.
#[derive(Serialize)]
struct Listed<'a> {
    schema: &'static str,
    packs: Vec<PackRow<'a>>,
    /// Whether the index must be saved.
    #[serde(skip_serializing_if = "Option::is_none")]
    changed: Option<bool>,
}

#[derive(Serialize)]
struct PackRow<'a> {
    slot: usize,
    key: &'a str,
    path: String,
}

pub(super) fn run(args: &PacksArgs) -> Result<Exit, Failure> {
    let reporter = Reporter::new(args.speech.quiet);
    let layout = Layout::at(&args.directory.dir);
    let calendar = Calendar::new(args.lifetime);
    let write = |packs: &[(usize, Chosen)]| {
        let Some(dir) = &args.write else { return Ok(()) };
        write_keys(dir, packs, args.save).map_err(|e| Failure {
            exit: Exit::Io,
            message: format!("failed to write key files into `{}`: {e}", dir.display()),
            hint: None,
        })
    };
    // Whatever goes wrong from here on, no step of the CI moves a pack that is not whole.
    write(&[])?;
    let journal = Journal::open(&args.directory.dir)?;
    let mut state = journal.state();
    let writer = locked(&layout, reporter)?;
    let (packs, changed) = if args.save {
        let Planned { new, changed, size } = packs::save(&writer, calendar, &state)?;
        reporter.info(format!(
            "packs: {}, {} to save of {}",
            count(new.len(), "pack"),
            bytes(size.0),
            bytes(size.1)
        ));
        (new.into_iter().collect(), Some(changed))
    } else {
        let forced = forced(&args.engine)?;
        let engine = strategy::connect_to_choose(&Client::from_path(), &environment)?;
        let named = builds::named(&args.builds, &engine.client, None, reporter)?;
        let first = named.builds.first().cloned().unwrap_or_default();
        let Choice { strategy, .. } = strategy::choose(&engine, &first, &environment, forced)?;
        let projects = named.projects(&engine.builder(strategy), reporter);
        let chosen = packs::choose(&writer, strategy, &projects, calendar, &mut state, reporter)?;
        let written = state.write();
        written.map_err(|e| Failure {
            exit: Exit::Io,
            message: format!("the packs are not used: failed to note them: {e}"),
            hint: None,
        })?;
        ((1..).zip(chosen).collect::<Vec<_>>(), None)
    };
    write(&packs)?;
    print(args.speech.format, &packs, changed);
    Ok(Exit::Ok)
}

/// Writes key files with which no step moves a pack.
pub(super) fn write_neutral_keys(dir: &Path, save: bool) -> io::Result<()> {
    write_keys(dir, &[], save)
}

/// Writes `pack-1` and so on, each with its key, always all of them.
fn write_keys(dir: &Path, packs: &[(usize, Chosen)], save: bool) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    (1..=SLOTS).try_for_each(|slot| {
        let chosen = packs.iter().find(|(at, _)| *at == slot);
        let key = chosen.map_or(NOTHING[usize::from(save)], |(_, chosen)| &chosen.key);
        fs::write(dir.join(format!("pack-{slot}")), format!("{key}\n"))
    })
}

fn print(format: Format, packs: &[(usize, Chosen)], changed: Option<bool>) {
    let path = |chosen: &Chosen| chosen.place.display().to_string();
    match format {
        Format::Text => {
            for (_, chosen) in packs {
                output::line(&format!("{} {}", chosen.key, path(chosen)));
            }
        }
        Format::Json => output::json(&Listed {
            schema: "dockercache.packs.v1",
            packs: packs
                .iter()
                .map(|(slot, chosen)| PackRow { slot: *slot, key: &chosen.key, path: path(chosen) })
                .collect(),
            changed,
        }),
        Format::Env | Format::Github => {
            let env = format == Format::Env;
            for (slot, chosen) in packs {
                output::pair(env, &format!("pack-{slot}"), &chosen.key);
                output::pair(env, &format!("pack-{slot}-path"), &path(chosen));
            }
            if let Some(changed) = changed {
                output::pair(env, "changed", if changed { "true" } else { "false" });
            }
        }
    }
}
