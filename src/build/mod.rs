//! The user's build as words: what is typed, and what the builder logs. Starts nothing.

pub mod arguments;
pub mod build_log;
