//! What an engine is: its version, its platform, and how it keeps images.

use bollard::models::SystemVersion;

use super::connection::Connection;
use crate::builder::Version;
use crate::engine::error::EngineError;

/// How an engine keeps images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageStore {
    /// Docker's own, with a graph driver such as overlay2.
    GraphDriver,
    /// containerd's.
    Containerd,
}

/// What we know of an engine.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Tells engines apart: a fresh engine has a new one.
    pub id: String,
    /// The engine's version.
    pub version: Version,
    /// How images are kept.
    pub store: ImageStore,
    /// `linux/amd64`
    pub platform: String,
}

impl Facts {
    /// Asks an engine.
    pub fn of(connection: &Connection) -> Result<Self, EngineError> {
        let SystemVersion { components, version, os, arch, .. } = connection.version()?;
        // Docker's client may speak to podman's socket.
        if components.into_iter().flatten().any(|c| c.name.contains("Podman")) {
            return Err(EngineError::podman());
        }
        let info = connection.info()?;
        let containerd = info
            .driver_status
            .iter()
            .flatten()
            .any(|pair| pair.iter().any(|v| v.starts_with("io.containerd.snapshotter")));
        Ok(Self {
            id: info.id.unwrap_or_default(),
            version: version.and_then(|said| Version::find(&said)).unwrap_or_default(),
            store: if containerd { ImageStore::Containerd } else { ImageStore::GraphDriver },
            platform: format!("{}/{}", os.unwrap_or_default(), arch.unwrap_or_default()),
        })
    }
}
