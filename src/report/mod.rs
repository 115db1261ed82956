//! What people and scripts see: messages, progress, and results.
