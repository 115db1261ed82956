//! When nothing has changed, a machine with an empty engine builds nothing: for all that a
//! Dockerfile can say, on every builder that understands it.

mod builders;
mod case;

mod arguments;
mod contexts;
mod instructions;
mod stages;

mod carry;

use builders::{
    BUILDKIT_20_10, BUILDKIT_26_1, BUILDKIT_28_5, CLASSIC_20_10, CLASSIC_28_5, CONTAINERD_28_5,
};

#[test]
fn docker_20_10() {
    carry::all(BUILDKIT_20_10);
}

#[test]
fn docker_20_10_classic() {
    carry::all(CLASSIC_20_10);
}

#[test]
fn docker_26_1() {
    carry::all(BUILDKIT_26_1);
}

#[test]
fn docker_28_5() {
    carry::all(BUILDKIT_28_5);
}

#[test]
fn docker_28_5_classic() {
    carry::all(CLASSIC_28_5);
}

#[test]
fn docker_28_5_containerd() {
    carry::all(CONTAINERD_28_5);
}
