//! Integration tests: the real binary on real, empty Docker engines.
//!
//! They need root and, the first time, Debian packages: `tests/engines/engine.sh` installs and
//! runs the engines. A test whose engine can't run fails and says why; none is skipped.

#[cfg(test)]
mod engine_move;
#[cfg(test)]
mod engines;
#[cfg(test)]
mod generations;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod interop;
#[cfg(test)]
mod json;
#[cfg(test)]
mod prune;
#[cfg(test)]
mod recipes;
