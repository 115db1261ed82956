//! The builders that the product works with: an engine, and one of the ways in which it builds.

use super::engine::Generation;
use super::invocation::Invocation;

/// A builder of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Builder {
    Buildkit(Generation),
    Classic(Generation),
}

impl Builder {
    pub(crate) fn generation(self) -> Generation {
        match self {
            Self::Buildkit(generation) | Self::Classic(generation) => generation,
        }
    }

    pub(crate) fn is_buildkit(self) -> bool {
        matches!(self, Self::Buildkit(_))
    }

    /// Makes the client choose this builder. Where it does so by itself, nothing is set.
    pub(crate) fn choose(self, invocation: Invocation) -> Invocation {
        match self {
            Self::Buildkit(Generation::V20_10) => invocation.env("DOCKER_BUILDKIT", "1"),
            Self::Buildkit(_) | Self::Classic(Generation::V20_10) => invocation,
            Self::Classic(_) => invocation.env("DOCKER_BUILDKIT", "0"),
        }
    }

    /// The strategy that the product must find for it.
    pub(crate) fn strategy(self) -> &'static str {
        match self {
            Self::Buildkit(Generation::V28_5Containerd) => "buildkit-local",
            Self::Buildkit(_) => "buildkit-replay",
            Self::Classic(_) => "classic",
        }
    }

    /// The flags of a build whose image can be compared: an attestation has the time in it.
    pub(crate) fn unattested(self) -> &'static [&'static str] {
        if self == Self::Buildkit(Generation::V28_5Containerd) {
            &["--provenance=false"]
        } else {
            &[]
        }
    }

    /// Those of a Dockerfile's instructions that are steps for this builder, sorted as a
    /// [`BuildReport`](super::BuildReport) has them: BuildKit has none for what only changes the
    /// image's configuration.
    pub(crate) fn steps(self, instructions: &[&'static str]) -> Vec<&'static str> {
        let is_configuration = |text: &str| text.starts_with("CMD ") || text.starts_with("ENV ");
        let mut steps = instructions.to_vec();
        steps.retain(|text| !self.is_buildkit() || !is_configuration(text));
        steps.sort_unstable();
        steps
    }
}

/// Makes one test of a scenario for each builder; its name has both. Tests next to each other in
/// the alphabet run side by side, so the names begin with what puts them on different engines.
macro_rules! on_every_builder {
    ($($scenario:ident),+ $(,)?) => {
        $crate::harness::on_buildkit! {
            $($scenario),+;
            #[test]
            fn classic_20_10() {
                scenario(Builder::Classic(Generation::V20_10));
            }

            #[test]
            fn classic_28_5() {
                scenario(Builder::Classic(Generation::V28_5));
            }
        }
    };
}

/// The same for scenarios that only BuildKit can have.
macro_rules! on_buildkit {
    ($($scenario:ident),+ $(,)?) => {
        $crate::harness::on_buildkit! { $($scenario),+; }
    };
    ($scenario:ident; $($more:tt)*) => {
        mod $scenario {
            use super::$scenario as scenario;
            use $crate::harness::{Builder, Generation};

            #[test]
            fn buildkit_20_10() {
                scenario(Builder::Buildkit(Generation::V20_10));
            }

            #[test]
            fn buildkit_26_1() {
                scenario(Builder::Buildkit(Generation::V26_1));
            }

            #[test]
            fn buildkit_28_5() {
                scenario(Builder::Buildkit(Generation::V28_5));
            }

            #[test]
            fn buildkit_28_5_containerd() {
                scenario(Builder::Buildkit(Generation::V28_5Containerd));
            }

            $($more)*
        }
    };
    ($scenario:ident, $($others:ident),+; $($more:tt)*) => {
        $crate::harness::on_buildkit! { $scenario; $($more)* }
        $crate::harness::on_buildkit! { $($others),+; $($more)* }
    };
}

pub(crate) use {on_buildkit, on_every_builder};
