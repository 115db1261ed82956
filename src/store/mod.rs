//! Where an archive is kept: a directory, which is a layout as it is, or one file.

pub mod file;
pub mod journal;
