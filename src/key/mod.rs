//! Predicts what the builder would rebuild: chain digests per instruction, and cache keys from them.
