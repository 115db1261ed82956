//! A certificate for this machine, of an authority that no one else has.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// All in PEM.
pub(super) struct Certified {
    /// The certificate of a server at 127.0.0.1.
    pub(super) certificate: String,
    /// Its key.
    pub(super) key: String,
    /// The certificate of the authority that signed it.
    pub(super) authority: String,
}

pub(super) fn certify() -> Certified {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let own = KeyPair::generate().expect("a key");
    let authority = CertifiedIssuer::self_signed(authority, own).expect("an authority");
    let pair = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("parameters");
    let signed = params.signed_by(&pair, &authority).expect("a certificate");
    Certified { certificate: signed.pem(), key: pair.serialize_pem(), authority: authority.pem() }
}
