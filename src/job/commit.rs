//! Makes what was captured the archive, signed if there is a key for it, and says what is no longer in it.

use super::gate::Gate;
use super::journal::State;
use crate::archive::Archive;
use crate::archive::trust;
use crate::oci::directory::LayoutError;
use crate::oci::writer::Writer;

/// Swaps `index.json`, if anything is different from before, or if it must have a new time. Says
/// whether anything is different.
pub(crate) fn commit(
    layout: &Writer,
    captured: &Archive,
    before: &Archive,
    renew: bool,
    gate: &Gate,
    state: &mut State,
) -> Result<bool, LayoutError> {
    let mut new = captured.clone();
    if let (Some(new), Some(old)) = (&mut new.about, &before.about) {
        let created = std::mem::replace(&mut new.created, old.created.clone());
        if new != old {
            new.created = created;
        }
    }
    let old = layout.index().ok().flatten();
    let changed = old
        .is_none_or(|old| trust::unsigned(&old) != new.to_index() || !gate.is_sealed(&old, state));
    if !changed && !renew {
        return Ok(false);
    }
    if let (Some(new), Some(about)) = (&mut new.about, &captured.about) {
        new.created.clone_from(&about.created);
    }
    layout.commit(&gate.seal(&new.to_index(), state))?;
    gate.remember(&new.to_index(), state);
    Ok(changed)
}

/// The builds that are no longer there. Another name for the same stages counts as the same.
pub(crate) fn gone<'a>(now: &Archive, before: &'a Archive) -> Vec<&'a str> {
    let stages = before.about.iter().flat_map(|about| &about.stages);
    let kept = now.about.iter().flat_map(|about| &about.stages);
    let is_gone = |build: &str| {
        let mut own = stages.clone().filter(|stage| stage.build == build);
        kept.clone().all(|stage| stage.build != build)
            && own.any(|old| kept.clone().all(|stage| stage.digest != old.digest))
    };
    before.builds().into_iter().filter(|build| !build.is_empty() && is_gone(build)).collect()
}
