//! A certificate for this machine, of an authority that no one else has.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// Files in PEM.
pub(super) struct Certified {
    /// The certificate of a server at 127.0.0.1.
    pub(super) certificate: PathBuf,
    /// Its key.
    pub(super) key: PathBuf,
    /// The certificate of the authority that signed it.
    pub(super) authority: PathBuf,
}

/// Makes it, in a directory.
pub(super) fn certify(directory: &Path) -> Certified {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let own = KeyPair::generate().expect("a key");
    let authority = CertifiedIssuer::self_signed(authority, own).expect("an authority");
    let pair = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("parameters");
    let signed = params.signed_by(&pair, &authority).expect("a certificate");
    let written = |name: &str, pem: String| {
        let file = directory.join(name);
        fs::write(&file, pem).expect("a written file");
        file
    };
    Certified {
        certificate: written("server.crt", signed.pem()),
        key: written("server.key", pair.serialize_pem()),
        authority: written("authority.crt", authority.pem()),
    }
}
