//! The builders of the engines at hand.

use crate::harness::Generation;

/// A builder, as a user comes by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Builder {
    Buildkit20_10,
    Classic20_10,
    Buildkit26_1,
    Buildkit28_5,
    Classic28_5,
    Containerd28_5,
}

use Builder::{
    Buildkit20_10, Buildkit26_1, Buildkit28_5, Classic20_10, Classic28_5, Containerd28_5,
};

pub(super) const ALL: &[Builder] =
    &[Buildkit20_10, Classic20_10, Buildkit26_1, Buildkit28_5, Classic28_5, Containerd28_5];
/// All that were ever called BuildKit.
pub(super) const BUILDKIT: &[Builder] =
    &[Buildkit20_10, Buildkit26_1, Buildkit28_5, Containerd28_5];
/// Those whose own frontend reads the syntax of Dockerfile 1.4 and later.
pub(super) const SYNTAX_1_4: &[Builder] = &[Buildkit26_1, Buildkit28_5, Containerd28_5];
pub(super) const CLASSIC: &[Builder] = &[Classic20_10, Classic28_5];

impl Builder {
    pub(super) fn generation(self) -> Generation {
        match self {
            Buildkit20_10 | Classic20_10 => Generation::V20_10,
            Buildkit26_1 => Generation::V26_1,
            Buildkit28_5 | Classic28_5 => Generation::V28_5,
            Containerd28_5 => Generation::V28_5Containerd,
        }
    }

    /// The value of `DOCKER_BUILDKIT` that chooses it.
    pub(super) fn docker_buildkit(self) -> &'static str {
        if CLASSIC.contains(&self) { "0" } else { "1" }
    }

    /// Arguments without which two builds of the same thing are two images.
    pub(super) fn arguments(self) -> &'static [&'static str] {
        // An attestation holds the time of the build.
        if self == Containerd28_5 { &["--provenance=false"] } else { &[] }
    }
}
