//! The user's build as words: what is typed, what that stands for, and what the builder logs. Starts nothing.

pub mod arguments;
pub mod bake;
pub mod build_log;
