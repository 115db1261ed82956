//! The refs of a build in a store: one for each level of its cache keys that is worth a request.
//!
//! A job looks for its refs from the most exact on, and saves under all of them. So a branch finds
//! the cache of the nearest build: the same one, one with the same first stages, or the last one
//! of the project.

use crate::predict::{Keys, key_field};
use crate::store::refs::RefName;

/// Levels between the exact one and the project's: more cost requests and find little nearer.
const BETWEEN: usize = 2;

/// The refs of a build, the most exact first.
pub(super) fn of_keys(keys: &Keys, project: &str) -> Vec<RefName> {
    let project = key_field(project);
    let last = keys.levels.len().saturating_sub(1);
    // The level after the exact one has all stages as well, and says nothing new.
    let chosen = keys.levels.iter().enumerate();
    chosen
        .filter(|(at, _)| *at == 0 || *at == last || (2..2 + BETWEEN).contains(at))
        .map(|(_, level)| RefName::new(&project, &level.name, &level.key))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::predict::KeyScope;

    #[test]
    fn a_project_with_any_name_has_an_exact_ref_and_one_of_its_own() {
        let project = "team/My App";
        let scope = KeyScope { project: project.to_owned(), ..KeyScope::default() };
        let refs = of_keys(&Keys::new(&scope, &[]), project);
        let levels: Vec<_> = refs.iter().map(|r| r.level.as_str()).collect();
        assert_eq!(levels, ["exact", "project"]);
        for RefName { name, .. } in &refs {
            assert_eq!(RefName::project_of(name), Some(key_field(project).as_str()));
        }
    }
}
