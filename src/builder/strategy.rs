//! The ways in which a builder's cache is carried.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How a build's cache is taken out of an engine and put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// The builder exports and imports the cache directory itself.
    BuildkitLocal,
    /// The builder can't export: each stage is built again from cache, as an image with inline
    /// cache, and these are merged into a directory which it can import.
    BuildkitReplay,
    /// The classic builder: images are saved and loaded.
    Classic,
}

impl Strategy {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::BuildkitLocal, Self::BuildkitReplay, Self::Classic];

    /// The name in messages, in archives, and in `DOCKERCACHE_STRATEGY`.
    pub fn name(self) -> &'static str {
        match self {
            Self::BuildkitLocal => "buildkit-local",
            Self::BuildkitReplay => "buildkit-replay",
            Self::Classic => "classic",
        }
    }

    /// Whether BuildKit does the build.
    pub fn is_buildkit(self) -> bool {
        self != Self::Classic
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Strategy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|s| s.name() == text).ok_or_else(|| {
            format!(
                "unknown strategy `{text}` (expected buildkit-local, buildkit-replay or classic)"
            )
        })
    }
}
