//! What is kept of mounts: which of them, how much, and for how long.

use bytesize::ByteSize;

use crate::report::Reporter;

/// How many layers an image of a mount may have before it is packed again as a whole.
pub(crate) const MOST_LAYERS: usize = 16;
/// How many builds in a row may leave a file unused.
const BUILDS: u32 = 3;
/// The most of one mount, and of all, in bytes.
const EACH: u64 = 2_000_000_000;
const ALL: u64 = 5_000_000_000;

/// What bounds a mount when it is packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How many builds in a row leave a file unused before it is dropped; at least 1.
    pub(crate) builds: u32,
    /// The most bytes of all files.
    pub(crate) bytes: u64,
    /// How many layers there are, and their size before compression, in bytes.
    pub(crate) layers: usize,
    pub(crate) stored: u64,
}

impl Bounds {
    /// Whether a layer of `added` bytes would make too much of a mount that has `live` bytes.
    pub(crate) fn is_grown(&self, added: u64, live: u64) -> bool {
        // Small ones grow by whole headers.
        let slack = 64 << 10;
        self.layers + 1 > MOST_LAYERS || (self.stored + added) > live + live / 5 + slack
    }
}

/// What the user asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Which mounts are carried.
    pub(crate) choice: Choice,
    pub(crate) builds: u32,
    /// The most bytes of each mount before compression, and of all as they are stored.
    pub(crate) each: u64,
    pub(crate) all: u64,
}

/// Which mounts are carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// All.
    All,
    /// None.
    Nothing,
    /// Those with these identities.
    Only(Vec<String>),
    /// Those with other identities.
    Except(Vec<String>),
}

impl Default for Settings {
    fn default() -> Self {
        Self { choice: Choice::All, builds: BUILDS, each: EACH, all: ALL }
    }
}

impl Settings {
    /// Reads the environment; what is wrong there is ignored with a warning.
    pub(crate) fn of_environment(
        environment: &dyn Fn(&str) -> Option<String>,
        reporter: Reporter,
    ) -> Self {
        let mut settings = Self::default();
        let value = |name: &str| environment(name).filter(|value| !value.is_empty());
        let ignored = |name: &str, value: &str, expected: &str| {
            reporter.warn(format!("`{name}` is ignored: invalid value `{value}`: {expected}"));
        };
        if let Some(text) = value("DOCKERCACHE_MOUNTS") {
            settings.choice = Choice::parse(&text);
        }
        if let Some(text) = value("DOCKERCACHE_MOUNTS_UNUSED") {
            match text.parse() {
                Ok(builds @ 1..) => settings.builds = builds,
                _ => ignored("DOCKERCACHE_MOUNTS_UNUSED", &text, "expected a number from 1"),
            }
        }
        let limits = [
            ("DOCKERCACHE_MOUNTS_EACH", &mut settings.each),
            ("DOCKERCACHE_MOUNTS_ALL", &mut settings.all),
        ];
        for (name, limit) in limits {
            let Some(text) = value(name) else { continue };
            match text.parse::<ByteSize>() {
                Ok(size) if text.ends_with(char::is_alphabetic) => *limit = size.as_u64(),
                _ => ignored(name, &text, "expected a number with a unit, such as 2GB"),
            }
        }
        settings
    }
}

impl Choice {
    /// `on`, `off`, identities to carry, or, with `!` before each, identities not to carry.
    pub(crate) fn parse(text: &str) -> Self {
        let is = |words: &[&str]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
        if is(&["off", "false", "0", "no", "none"]) {
            return Self::Nothing;
        }
        if is(&["on", "true", "1", "yes", "all"]) {
            return Self::All;
        }
        let ids = text.split(',').map(str::trim).filter(|id| !id.is_empty());
        let (not, only): (Vec<_>, Vec<_>) = ids.partition(|id| id.starts_with('!'));
        let owned = |ids: Vec<&str>| {
            ids.into_iter().map(|id| id.trim_start_matches('!').to_owned()).collect()
        };
        if only.is_empty() { Self::Except(owned(not)) } else { Self::Only(owned(only)) }
    }

    pub(crate) fn has(&self, id: &str) -> bool {
        match self {
            Self::All => true,
            Self::Nothing => false,
            Self::Only(ids) => ids.iter().any(|known| known == id),
            Self::Except(ids) => ids.iter().all(|known| known != id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_chosen_by_their_ids() {
        assert!(!Choice::parse("off").has("/a"));
        assert!(Choice::parse("on").has("/a"));
        let only = Choice::parse("/a, cargo");
        assert!(only.has("cargo") && only.has("/a") && !only.has("/b"));
        let except = Choice::parse("!/a,!b");
        assert!(except.has("c") && !except.has("b"));
    }

    #[test]
    fn a_mount_is_packed_again_before_a_quarter_of_it_is_dead() {
        let bounds = Bounds { builds: 3, bytes: 0, layers: 2, stored: 10 << 20 };
        assert!(!bounds.is_grown(1 << 20, 10 << 20));
        assert!(bounds.is_grown(3 << 20, 10 << 20));
        assert!(Bounds { layers: MOST_LAYERS, ..bounds }.is_grown(0, 10 << 20));
    }
}
