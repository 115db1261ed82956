//! Versions of docker, and what engines of each can do.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A version of docker or buildx; what follows the third number is ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number.
    pub patch: u32,
}

impl Version {
    /// Makes a version.
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }

    /// Reads the first `N.N.N` in a text such as `v0.13.1+ds1` or `20.10.24+dfsg1`.
    pub fn find(text: &str) -> Option<Self> {
        text.split_whitespace().find_map(|word| {
            let word = word.strip_prefix('v').unwrap_or(word);
            let mut numbers = word.splitn(3, '.').map(|part| {
                let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
                part[..digits].parse::<u32>().ok()
            });
            let (major, minor) = (numbers.next()??, numbers.next()??);
            Some(Self { major, minor, patch: numbers.next().flatten().unwrap_or(0) })
        })
    }

    /// Whether the classic builder of this engine finds loaded images by their parents: a
    /// plain build then hits. CVE-2024-24557's fix ended that.
    pub fn trusts_loaded_parents(self) -> bool {
        match self.major {
            0..=22 => true,
            23 => self.cmp(&Self::new(23, 0, 10)) == Ordering::Less,
            24 => self.cmp(&Self::new(24, 0, 9)) == Ordering::Less,
            25 => self.cmp(&Self::new(25, 0, 2)) == Ordering::Less,
            _ => false,
        }
    }

    /// Whether the engine reads layers that are compressed with zstd. Before 23 they fail the
    /// user's build.
    pub fn reads_zstd(self) -> bool {
        self.major >= 23
    }

    /// Engines whose caches are of use to each other. Records of 20.10 are other ones; from 23 on they
    /// are the same.
    pub fn generation(self) -> &'static str {
        if self.reads_zstd() { "23plus" } else { "pre23" }
    }

    /// Whether the builder knows the files of a wildcard by their names alone, not their paths.
    pub fn lists_sources_by_name(self) -> bool {
        self.major < 29
    }

    /// Whether the builder looks behind every link that a wildcard comes to, even inside of a
    /// directory, where the link itself is what is copied.
    pub fn follows_nested_links(self) -> bool {
        self < Self::new(28, 5, 0)
    }

    /// Whether the engine exports inline cache without records, by a bug of its own.
    pub fn loses_inline_records(self) -> bool {
        (Self::new(27, 0, 0)..=Self::new(27, 1, 2)).contains(&self)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_distributions_print() {
        for (text, version) in [
            ("20.10.24+dfsg1", Version::new(20, 10, 24)),
            ("github.com/docker/buildx v0.29.1-desktop.1 abc", Version::new(0, 29, 1)),
            ("github.com/docker/buildx 0.13.1+ds1 0.13.1+ds1-3", Version::new(0, 13, 1)),
            ("27.0-rc1", Version::new(27, 0, 0)),
        ] {
            assert_eq!(Version::find(text), Some(version), "{text}");
        }
        assert_eq!(Version::find("unknown"), None);
    }

    #[test]
    fn loaded_parents_are_trusted_until_the_fix_of_cve_2024_24557() {
        let trusts = |v| Version::find(v).unwrap().trusts_loaded_parents();
        for old in ["20.10.24", "23.0.9", "24.0.8", "25.0.1"] {
            assert!(trusts(old), "{old}");
        }
        for new in ["23.0.10", "24.0.9", "25.0.2", "26.1.5", "28.5.2"] {
            assert!(!trusts(new), "{new}");
        }
    }
}
