//! Where an archive is kept: a directory, or one file.
