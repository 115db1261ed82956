//! What the engine itself answers, and what it streams.

pub mod bases;
pub mod connection;
pub mod facts;
pub mod images;
pub mod saved;
