//! Stores beyond this machine: real servers on loopback, and a proxy that makes them fail.

mod backends;
mod builds;
mod faults;
mod simulation;
