//! Which builders can do what.

use crate::harness::{Builder, Generation};

pub(super) const BUILDKIT_20_10: Builder = Builder::Buildkit(Generation::V20_10);
pub(super) const BUILDKIT_26_1: Builder = Builder::Buildkit(Generation::V26_1);
pub(super) const BUILDKIT_28_5: Builder = Builder::Buildkit(Generation::V28_5);
pub(super) const CONTAINERD_28_5: Builder = Builder::Buildkit(Generation::V28_5Containerd);
pub(super) const CLASSIC_20_10: Builder = Builder::Classic(Generation::V20_10);
pub(super) const CLASSIC_28_5: Builder = Builder::Classic(Generation::V28_5);

pub(super) const ALL: &[Builder] =
    &[BUILDKIT_20_10, BUILDKIT_26_1, BUILDKIT_28_5, CONTAINERD_28_5, CLASSIC_20_10, CLASSIC_28_5];
/// All that were ever called BuildKit.
pub(super) const BUILDKIT: &[Builder] =
    &[BUILDKIT_20_10, BUILDKIT_26_1, BUILDKIT_28_5, CONTAINERD_28_5];
/// Those whose own frontend reads the syntax of Dockerfile 1.4 and later.
pub(super) const SYNTAX_1_4: &[Builder] = &[BUILDKIT_26_1, BUILDKIT_28_5, CONTAINERD_28_5];
pub(super) const CLASSIC: &[Builder] = &[CLASSIC_20_10, CLASSIC_28_5];
