//! Digests the files of a build context that an instruction can see. Knows no Dockerfile and no engine.

mod go_path;
mod pattern;
mod program;
