//! What a CI job does with a cache, from command to command.
//!
//! [`offer`] verifies the archive and decides what a builder is offered of it, [`prime`] brings that into the builder where many builds run
//! at once, [`capture`] makes sure
//! right after a build that everything for the cache exists, [`take`] makes an archive of that, and
//! [`commit`] puts it in the place of the old one. [`store`] moves it to and from where jobs share it,
//! and [`packs`] cuts it up for a CI's cache; [`reads`] says what builds will read.
//! [`journal`] holds what the commands of a job tell each other.

pub(crate) mod capture;
pub(crate) mod commit;
pub(crate) mod gate;
pub(crate) mod journal;
pub(crate) mod offer;
pub(crate) mod packs;
pub(crate) mod prime;
pub(crate) mod project_name;
pub(crate) mod reads;
pub(crate) mod store;
pub(crate) mod take;

use crate::oci::directory::{Layout, LayoutError};
use crate::oci::writer::{PATIENCE, Writer};
use crate::report::Reporter;

/// Takes the write lock; if another process holds it, says for whom we wait.
pub(crate) fn locked(layout: &Layout, reporter: Reporter) -> Result<Writer, LayoutError> {
    layout.lock_within(PATIENCE, |holder| {
        let dir = layout.root().display();
        reporter.info(format!("waiting for {holder}, which writes `{dir}`"));
    })
}

/// A variable of the environment, if it has a value.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
