//! Names of refs: the project, the level of the cache key, and a digest of the key.
//!
//! They are good as tags of a registry and as names of objects.

use crate::oci::digest::Digest;

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

impl RefName {
    /// The ref for a key of this level. The project is a field of the key: letters, digits, `_` and
    /// `-` only.
    pub fn new(project: &str, level: &str, key: &str) -> Self {
        let digest = Digest::of(key.as_bytes());
        let name = format!("{project}.{level}.{}", &digest.hex()[..DIGITS]);
        Self { level: level.to_owned(), name }
    }

    /// The project that a ref belongs to; `None` for a name that is none of ours.
    pub fn project_of(name: &str) -> Option<&str> {
        let mut fields = name.rsplitn(3, '.');
        let digits = fields.next()?;
        fields.next()?;
        let ours = digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_hexdigit());
        fields.next().filter(|project| ours && !project.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_good_as_tags_and_say_whose_they_are() {
        let RefName { level, name } = RefName::new("team-My-App-0a1b2c3d", "stages-2", "any key/");
        assert_eq!(level, "stages-2");
        assert!(name.len() <= 128);
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)), "{name}");
        assert_eq!(RefName::project_of(&name), Some("team-My-App-0a1b2c3d"));
        assert_eq!(RefName::project_of("latest"), None);
        assert_eq!(RefName::project_of("v1.2.3"), None);
    }
}
