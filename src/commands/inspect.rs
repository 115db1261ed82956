//! `inspect`: shows what is in an archive, and what of it is dead.

mod origin;
mod rows;
mod text;

use super::exit::{Exit, Failure};
use crate::archive::trust::Trust;
use crate::cli::{Format, InspectArgs};
use crate::oci::directory::Layout;
use crate::oci::documents::Index;
use crate::report::{Reporter, output};

pub(super) fn run(args: &InspectArgs) -> Result<Exit, Failure> {
    let reporter = Reporter::new(args.speech.quiet);
    let dir = args.path.as_ref().unwrap_or(&args.directory.dir);
    let layout = Layout::at(dir);
    let index = layout.index()?;
    let is_there = index.is_some();
    let index = index.unwrap_or_else(|| Index::new(Vec::new()));
    let signature = Trust::of_environment().map_err(Failure::usage)?.look(&index);
    let inspected = rows::look(&layout, index, signature)?;
    if !is_there {
        reporter.info(format!("inspect: there is no archive in `{}`", dir.display()));
    }
    match args.speech.format {
        Format::Text if !is_there => {}
        Format::Text => text::print(&inspected),
        Format::Json => output::json(&inspected),
        Format::Env | Format::Github => {
            let env = args.speech.format == Format::Env;
            output::pair(env, "live-bytes", &inspected.live.bytes.to_string());
            output::pair(env, "dead-bytes", &inspected.dead.bytes.to_string());
            output::pair(env, "stages", &inspected.stages.len().to_string());
            output::pair(env, "signature", inspected.signature.state);
        }
    }
    Ok(if args.speech.strict && !is_there { Exit::Strict } else { Exit::Ok })
}
