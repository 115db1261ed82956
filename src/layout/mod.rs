//! The cache on disk: an OCI image layout that holds BuildKit cache records and stage images.
//!
//! Knows no engine and no CI. From the bottom: [`digest`] names bytes, [`codec`] packs them,
//! [`directory`] reads them as blobs and [`writer`] writes them, [`oci`] and [`records`] are the documents among them,
//! [`live`] and [`verify`] say which are needed and which are good, [`archive`] is what we make
//! of it all, and [`builds`] has several builds in one.

pub mod archive;
pub mod builds;
pub mod carrier;
pub mod codec;
pub mod digest;
pub mod directory;
mod gzip;
pub(crate) mod json;
pub mod live;
mod named;
pub mod oci;
pub mod records;
pub(crate) mod regular;
pub mod tarball;
pub mod verify;
pub mod writer;
