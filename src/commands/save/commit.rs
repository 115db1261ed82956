//! Makes what was captured the archive.

use crate::layout::archive::Archive;
use crate::layout::directory::{Layout, LayoutError};

/// Swaps `index.json`, if anything is different from before, or if it shall have a new time. Says
/// whether anything is different.
pub(super) fn commit(
    layout: &Layout,
    captured: &Archive,
    before: &Archive,
    renew: bool,
) -> Result<bool, LayoutError> {
    let mut new = captured.clone();
    if let (Some(new), Some(old)) = (&mut new.about, &before.about) {
        let created = std::mem::replace(&mut new.created, old.created.clone());
        if new != old {
            new.created = created;
        }
    }
    let changed = layout.index().ok().flatten().as_ref() != Some(&new.to_index());
    if !changed && !renew {
        return Ok(false);
    }
    if let (Some(new), Some(about)) = (&mut new.about, &captured.about) {
        new.created.clone_from(&about.created);
    }
    layout.commit(&new.to_index())?;
    Ok(changed)
}
