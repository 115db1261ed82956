//! Names of refs: one for each level of a build's cache keys.
//!
//! A job looks for its refs from the most exact on, and saves under all of them. So a branch finds
//! the cache of the nearest build: the same one, one with the same first stages, or the last one
//! of the project. The names are good as tags of a registry and as names of objects.

use crate::oci::digest::Digest;
use crate::predict::{Keys, key_field};

/// Levels between the exact one and the project's: more cost requests and find little nearer.
const BETWEEN: usize = 2;
/// Digits of the key's digest in a name.
const DIGITS: usize = 16;

/// A ref that a build reads and writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefName {
    /// What the level is exact about, as in the keys: `exact`, `stages-2`, `project`.
    pub level: String,
    /// The ref: `PROJECT.LEVEL.DIGITS`.
    pub name: String,
}

/// The refs of a build, the most exact first.
pub fn ref_names(keys: &Keys, project: &str) -> Vec<RefName> {
    let last = keys.levels.len().saturating_sub(1);
    // The level after the exact one has all stages as well, and says nothing new.
    let chosen = keys.levels.iter().enumerate();
    chosen
        .filter(|(at, _)| *at == 0 || *at == last || (2..2 + BETWEEN).contains(at))
        .map(|(_, level)| RefName {
            level: level.name.clone(),
            name: format!(
                "{}.{}.{}",
                key_field(project),
                level.name,
                &Digest::of(level.key.as_bytes()).hex()[..DIGITS]
            ),
        })
        .collect()
}

/// The project that a ref belongs to; `None` for a name that is none of ours.
pub fn project_of(name: &str) -> Option<&str> {
    let mut fields = name.rsplitn(3, '.');
    let digits = fields.next()?;
    fields.next()?;
    let ours = digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_hexdigit());
    fields.next().filter(|project| ours && !project.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::predict::KeyScope;

    #[test]
    fn names_are_good_as_tags_and_say_whose_they_are() {
        let project = "team/My App";
        let scope = KeyScope { project: project.to_owned(), ..KeyScope::default() };
        let refs = ref_names(&Keys::new(&scope, &[]), project);
        let levels: Vec<_> = refs.iter().map(|r| r.level.as_str()).collect();
        assert_eq!(levels, ["exact", "project"]);
        for RefName { name, .. } in &refs {
            assert!(name.len() <= 128);
            assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)), "{name}");
            assert!(name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_'));
            assert_eq!(project_of(name), Some(key_field(project).as_str()));
        }
        assert_eq!(project_of("latest"), None);
        assert_eq!(project_of("v1.2.3"), None);
    }
}
