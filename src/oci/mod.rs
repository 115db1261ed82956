//! An OCI image layout: it knows no format of ours, no engine and no CI.
//!
//! From the bottom: [`digest`] names bytes, [`codec`] packs them, [`directory`] reads them as blobs,
//! and [`writer`], who holds the lock, is all that changes them; [`documents`] are what they say,
//! [`live`] and [`verify`] say which are needed and which are good.

pub mod codec;
pub mod digest;
pub mod directory;
pub mod documents;
mod gzip;
pub(crate) mod json;
pub mod live;
pub(crate) mod regular;
pub mod verify;
pub mod writer;
