//! Signed indexes: who may write to a store need not be who may fill the cache of a main branch.
//!
//! The signature (Ed25519, RFC 8032) is an annotation of the index and covers all the rest of it.
//! The index names manifests by their digests, and these name the blobs: nothing can be altered
//! without it. A job that only reads needs the public key alone.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use crate::layout::oci::Index;

/// The annotation with the signature, in base64.
const SIGNATURE: &str = "dev.dockercache.signature";
/// So that a signature can't be taken for one of anything else.
const CONTEXT: &[u8] = b"dockercache index v1\n";
/// Bytes of a private or a public key.
const KEY_LENGTH: usize = 32;

/// The keys of this job.
#[derive(Default)]
pub struct Trust {
    signer: Option<Ed25519KeyPair>,
    /// Public keys; an index must be signed by one of them, unless there is none.
    trusted: Vec<Vec<u8>>,
}

impl Trust {
    /// Reads keys: `signing` is a private key of 32 bytes in base64, `verifying` public ones
    /// with spaces or commas between. The errors never repeat a key.
    pub fn new(signing: Option<&str>, verifying: Option<&str>) -> Result<Self, String> {
        let mut trust = Self::default();
        if let Some(text) = signing.map(str::trim).filter(|t| !t.is_empty()) {
            let seed = decode(text).ok_or(
                "the signing key must be 32 bytes in base64: make one with `head -c 32 \
                 /dev/urandom | base64`",
            )?;
            let pair = Ed25519KeyPair::from_seed_unchecked(&seed)
                .map_err(|e| format!("the signing key can't be used: {e}"))?;
            trust.trusted.push(pair.public_key().as_ref().to_vec());
            trust.signer = Some(pair);
        }
        for text in verifying.unwrap_or_default().split([',', ' ', '\n']).filter(|t| !t.is_empty())
        {
            let key = decode(text).ok_or(
                "a verifying key must be 32 bytes in base64: `dockercache save` prints the one \
                 that belongs to its signing key",
            )?;
            trust.trusted.push(key);
        }
        Ok(trust)
    }

    /// The public key of the signing key, in base64.
    pub fn public_key(&self) -> Option<String> {
        self.signer.as_ref().map(|pair| BASE64_STANDARD.encode(pair.public_key()))
    }

    /// The index with a signature, if there is a key to sign with.
    pub fn sign(&self, index: &Index) -> Index {
        let mut signed = unsigned(index);
        if let Some(pair) = &self.signer {
            let signature = BASE64_STANDARD.encode(pair.sign(&message(&signed)));
            signed.annotations.insert(SIGNATURE.to_owned(), signature);
        }
        signed
    }

    /// Checks an index and gives it without its signature; the error says why it must not be used.
    pub fn check(&self, index: &Index) -> Result<Index, &'static str> {
        let bare = unsigned(index);
        if self.trusted.is_empty() {
            return Ok(bare);
        }
        let text = index.annotations.get(SIGNATURE).ok_or("it is not signed")?;
        let signature = BASE64_STANDARD.decode(text).map_err(|_| "its signature is no base64")?;
        let message = message(&bare);
        let good = self
            .trusted
            .iter()
            .any(|key| UnparsedPublicKey::new(&ED25519, key).verify(&message, &signature).is_ok());
        good.then_some(bare).ok_or("it was altered, or signed by someone who is not trusted")
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    BASE64_STANDARD.decode(text).ok().filter(|key| key.len() == KEY_LENGTH)
}

fn unsigned(index: &Index) -> Index {
    let mut bare = index.clone();
    bare.annotations.remove(SIGNATURE);
    bare
}

/// What is signed: the index as we write it, which has its fields in one order only.
fn message(index: &Index) -> Vec<u8> {
    let mut message = CONTEXT.to_vec();
    message.extend(serde_json::to_vec(index).unwrap_or_default());
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::oci::{Descriptor, MANIFEST};

    fn key(byte: u8) -> String {
        BASE64_STANDARD.encode([byte; KEY_LENGTH])
    }

    fn index() -> Index {
        Index::new(vec![Descriptor::of(MANIFEST, b"a manifest")])
    }

    #[test]
    fn a_signed_index_is_good_for_who_has_the_public_key() {
        let signer = Trust::new(Some(&key(1)), None).unwrap();
        let index_signed = signer.sign(&index());
        let reader = Trust::new(None, signer.public_key().as_deref()).unwrap();
        assert_eq!(reader.check(&index_signed), Ok(index()));
        assert_eq!(signer.check(&index_signed), Ok(index()));
        assert_eq!(Trust::default().check(&index_signed), Ok(index()), "without keys all is good");
    }

    #[test]
    fn unsigned_altered_and_foreign_indexes_are_refused() {
        let signer = Trust::new(Some(&key(1)), None).unwrap();
        assert_eq!(signer.check(&index()), Err("it is not signed"));
        let mut altered = signer.sign(&index());
        altered.manifests[0].size += 1;
        assert!(signer.check(&altered).unwrap_err().contains("altered"));
        let mut noted = signer.sign(&index());
        noted.annotations.insert("dev.dockercache.about".to_owned(), "{}".to_owned());
        assert!(signer.check(&noted).unwrap_err().contains("altered"));
        let foreign = Trust::new(Some(&key(2)), None).unwrap().sign(&index());
        assert!(signer.check(&foreign).unwrap_err().contains("not trusted"));
    }

    #[test]
    fn keys_that_are_none_are_refused_and_not_repeated() {
        for (signing, verifying) in [(Some("hunter2"), None), (None, Some("hunter2"))] {
            let error = Trust::new(signing, verifying).err().unwrap();
            assert!(error.contains("32 bytes") && !error.contains("hunter2"), "{error}");
        }
        assert!(Trust::new(Some(""), Some(" ")).unwrap().public_key().is_none());
    }
}
