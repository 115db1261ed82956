//! When nothing has changed, a machine with an empty engine builds nothing: for all that a
//! Dockerfile can say, on every builder that understands it.

mod bases;
mod builder;
mod case;

mod arguments;
mod contexts;
mod instructions;
mod stages;

mod carry;

use builder::Builder;

#[test]
fn docker_20_10() {
    carry::all(Builder::Buildkit20_10);
}

#[test]
fn docker_20_10_classic() {
    carry::all(Builder::Classic20_10);
}

#[test]
fn docker_26_1() {
    carry::all(Builder::Buildkit26_1);
}

#[test]
fn docker_28_5() {
    carry::all(Builder::Buildkit28_5);
}

#[test]
fn docker_28_5_classic() {
    carry::all(Builder::Classic28_5);
}

#[test]
fn docker_28_5_containerd() {
    carry::all(Builder::Containerd28_5);
}
