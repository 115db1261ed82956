//! Where an archive is kept: a directory, which is a layout as it is, one file, or a store beyond
//! this machine.

pub mod remote;
