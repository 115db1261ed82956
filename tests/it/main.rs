//! Integration tests: the real binary on real, empty Docker engines.
//!
//! They need root and, the first time, Debian packages: `tests/engines/engine.sh` installs and
//! runs the engines. A test whose engine can't run fails and says why; none is skipped.

#[cfg(test)]
mod archives;
#[cfg(test)]
mod attempts;
#[cfg(test)]
mod capture;
#[cfg(test)]
mod classic;
#[cfg(test)]
mod compression;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod deadlines;
#[cfg(test)]
mod dockerfiles;
#[cfg(test)]
mod engine_move;
#[cfg(test)]
mod engines;
#[cfg(test)]
mod exit_codes;
#[cfg(test)]
mod explain;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod generations;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod interop;
#[cfg(test)]
mod json;
#[cfg(test)]
mod key;
#[cfg(test)]
mod kills;
#[cfg(test)]
mod lazy;
#[cfg(test)]
mod mounts;
#[cfg(test)]
mod output;
#[cfg(test)]
mod packs;
#[cfg(test)]
mod prediction;
#[cfg(test)]
mod prune;
#[cfg(test)]
mod pushes;
#[cfg(test)]
mod random;
#[cfg(test)]
mod recipes;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod round_trip;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod several;
#[cfg(test)]
mod stores;
#[cfg(test)]
mod transports;
#[cfg(test)]
mod trust;
#[cfg(test)]
mod users;
#[cfg(test)]
mod words;
#[cfg(test)]
mod wrapperless;
