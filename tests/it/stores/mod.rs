//! Stores beyond this machine: servers on loopback, and a proxy that makes them fail.

mod archives;
mod backends;
mod builds;
mod collection;
mod expiry;
pub(crate) mod faults;
mod full;
mod hostile;
mod questions;
mod simulation;
mod volume;
