//! Digests the files of a build context that an instruction can see. Knows no Dockerfile and no engine.

mod build_context;
mod digest;
mod error;
mod go_path;
mod ignore;
mod pattern;
mod program;
mod select;
#[cfg(test)]
mod tests;
mod walk;

pub use build_context::{
    BuildContext, ContextDigest, ContextEntry, ContextQuery, EntryKind, ReadCost,
};
pub use digest::ContentDigest;
pub use error::ContextError;
pub use select::ListForm;
