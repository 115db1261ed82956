//! The one provider of cryptography for all connections.

/// Makes *ring* the provider, unless the process has chosen one.
pub(crate) fn use_ring() {
    // An error says that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
