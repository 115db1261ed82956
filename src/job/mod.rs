//! What a CI job does with a cache, from command to command.
//!
//! [`prepared`] is a build before it runs, with all that is had for it, and [`group`] several builds
//! of one command, which are [`named`]: [`offer`] verifies the archive and decides what a builder is
//! offered of it, and [`prime`] brings that into the builder where many builds run at once.
//! [`attempts`] runs the [`users_build`] with it, whose [`input`] is kept for that. [`capture`] makes
//! sure right after a build that everything for the cache exists, [`take`] makes an archive of that,
//! and [`commit`] puts it in the place of the old one. [`store`] moves it to and from where jobs
//! share it, and [`packs`] cuts it up for a CI's cache; [`reads`] says what builds will read of it.
//! [`deadline`] keeps all of that from holding a build up. [`journal`] holds what the commands of a
//! job tell each other, and [`caller`] whose it is.

pub(crate) mod attempts;
pub(crate) mod caller;
pub(crate) mod capture;
pub(crate) mod commit;
pub(crate) mod deadline;
pub(crate) mod gate;
pub(crate) mod group;
pub(crate) mod input;
pub(crate) mod journal;
pub(crate) mod named;
pub(crate) mod offer;
pub(crate) mod packs;
pub(crate) mod prepared;
pub(crate) mod prime;
pub(crate) mod project_name;
pub(crate) mod reads;
mod refs;
pub(crate) mod store;
pub(crate) mod take;
pub(crate) mod users_build;

use std::time::Duration;

use crate::oci::directory::{Layout, LayoutError};
use crate::oci::writer::{PATIENCE, Writer};
use crate::report::Reporter;

/// Takes the write lock; if another process holds it, says for whom we wait.
pub(crate) fn locked(layout: &Layout, reporter: Reporter) -> Result<Writer, LayoutError> {
    let root = layout.root();
    caller::make_directory(root).map_err(LayoutError::io("create", root))?;
    layout.lock_within(PATIENCE, |holder| {
        let dir = layout.root().display();
        reporter.info(format!("waiting for {holder}, which writes `{dir}`"));
    })
}

/// A variable of the environment, if it has a value.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A time as users write it: with a unit, or in seconds; none if it is neither, or zero.
fn parse_duration(text: &str) -> Option<Duration> {
    let parsed = match text.trim().parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => humantime::parse_duration(text.trim()).ok(),
    };
    parsed.filter(|time| !time.is_zero())
}

/// A variable of the environment, as it is.
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
