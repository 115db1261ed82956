//! The orb, run as CircleCI would run it, against real engines.
//!
//! Nothing here can call CircleCI. So the orb is packed by the rules of its command-line tool
//! ([`pack`]), expanded by those of its compiler ([`expand`]), and run by those of its agent and
//! its cache ([`runner`], [`cache`], [`keys`]). What runs are the orb's own examples.

#[cfg(test)]
mod cache;
#[cfg(test)]
mod expand;
#[cfg(test)]
mod expand_tests;
#[cfg(test)]
#[path = "../it/harness/mod.rs"]
#[expect(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "shared with the tests of the command line"
)]
mod harness;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod other_ci;
#[cfg(test)]
mod pack;
#[cfg(test)]
mod remote;
#[cfg(test)]
mod review;
#[cfg(test)]
mod runner;
#[cfg(test)]
mod sandbox;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod server;
#[cfg(test)]
mod upload;
#[cfg(test)]
mod world;
