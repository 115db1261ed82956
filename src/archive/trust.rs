//! Signed indexes: who may write a cache need not be who may fill the cache of a main branch.
//!
//! An index is what `index.json` is in a directory, in a one-file archive, and behind each name in a
//! store. The signature (Ed25519, RFC 8032) is an annotation of it, so both are replaced in one
//! step, and covers all the rest: manifests by their digests, and these name the blobs, so nothing
//! can be altered without it. It also covers whose cache it is: of which project, for which
//! platform. A job that only reads needs the public key alone.

use std::ffi::OsString;
use std::slice;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

use crate::oci::digest::Digest;
use crate::oci::documents::Index;

/// The variable with the private key.
pub const SIGNING_KEY: &str = "DOCKERCACHE_SIGNING_KEY";
/// The variable with the public keys.
pub const VERIFY_KEY: &str = "DOCKERCACHE_VERIFY_KEY";

/// The annotation with the signature, in base64.
const SIGNATURE: &str = "dev.dockercache.signature";
/// The annotations that say whose the cache is.
const PROJECT: &str = "dev.dockercache.signed-project";
const PLATFORM: &str = "dev.dockercache.signed-platform";
/// So that a signature can't be taken for one of anything else.
const CONTEXT: &[u8] = b"dockercache index v2\n";
/// Bytes of a private or a public key.
const KEY_LENGTH: usize = 32;

/// Whose a cache is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The project's name.
    pub project: String,
    /// The platform that is built for.
    pub platform: String,
}

/// What the signature of an index is worth to this job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signature {
    /// There is none.
    Missing,
    /// There is one, and this job has no key to check it with.
    Unchecked,
    /// The index was altered, or signed with a key that this job does not trust.
    Foreign,
    /// One of the keys is the signer's.
    Good {
        /// The public key, in base64.
        key: String,
        /// Whose cache it is.
        scope: Scope,
    },
}

/// The keys of this job.
#[derive(Default)]
pub struct Trust {
    signer: Option<Ed25519KeyPair>,
    /// Public keys; an index must be signed by one of them, unless there is none.
    trusted: Vec<Vec<u8>>,
}

impl Trust {
    /// Reads the keys in the environment. A variable that is set and says nothing is a mistake, such
    /// as a secret that is not there: it must not turn the check off.
    pub fn of_environment() -> Result<Self, String> {
        let value = |name: &str| match std::env::var_os(name).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(text)) if !text.trim_matches(is_separator).is_empty() => Ok(Some(text)),
            Some(_) => Err(format!("`{name}` is set, but empty: set a key, or unset it")),
        };
        Self::new(value(SIGNING_KEY)?.as_deref(), value(VERIFY_KEY)?.as_deref())
    }

    /// Reads keys: `signing` is a private key of 32 bytes in base64, `verifying` public ones
    /// with spaces or commas between. The errors never repeat a key.
    pub fn new(signing: Option<&str>, verifying: Option<&str>) -> Result<Self, String> {
        let mut trust = Self::default();
        if let Some(text) = signing {
            let seed = decode(text.trim()).ok_or_else(|| {
                format!(
                    "`{SIGNING_KEY}` must be 32 bytes in base64: make one with `head -c 32 \
                     /dev/urandom | base64`"
                )
            })?;
            let pair = Ed25519KeyPair::from_seed_unchecked(&seed)
                .map_err(|e| format!("the signing key can't be used: {e}"))?;
            trust.trusted.push(pair.public_key().as_ref().to_vec());
            trust.signer = Some(pair);
        }
        let keys = verifying.unwrap_or_default().split(is_separator);
        for text in keys.filter(|text| !text.is_empty()) {
            let key = decode(text).ok_or_else(|| {
                format!(
                    "`{VERIFY_KEY}` must be 32 bytes in base64: `dockercache save` prints the one \
                     that belongs to its signing key"
                )
            })?;
            trust.trusted.push(key);
        }
        Ok(trust)
    }

    /// Whether only signed caches are used. Who signs must not sign what came without a signature.
    pub fn is_required(&self) -> bool {
        !self.trusted.is_empty()
    }

    /// The public key of the signing key, in base64.
    pub fn public_key(&self) -> Option<String> {
        self.signer.as_ref().map(|pair| BASE64_STANDARD.encode(pair.public_key()))
    }

    /// The index with a signature, if there is a key to sign with.
    pub fn sign(&self, index: &Index, scope: &Scope) -> Index {
        let mut signed = unsigned(index);
        if let Some(pair) = &self.signer {
            signed.annotations.insert(PROJECT.to_owned(), scope.project.clone());
            signed.annotations.insert(PLATFORM.to_owned(), scope.platform.clone());
            let signature = BASE64_STANDARD.encode(pair.sign(&message(&signed)));
            signed.annotations.insert(SIGNATURE.to_owned(), signature);
        }
        signed
    }

    /// Checks an index and gives it without its signature; the error says why it must not be used.
    pub fn check(&self, index: &Index, scope: &Scope) -> Result<Index, String> {
        if self.is_required() {
            verify(index, scope, &self.trusted)?;
        }
        Ok(unsigned(index))
    }

    /// Whether the index has the signature that [`Trust::sign`] would give it.
    pub fn has_signed(&self, index: &Index, scope: &Scope) -> bool {
        let own = self.signer.as_ref().map(|pair| pair.public_key().as_ref().to_vec());
        own.is_some_and(|own| verify(index, scope, &[own]).is_ok())
    }

    /// Looks at the signature of an index, for whomever it is.
    pub fn look(&self, index: &Index) -> Signature {
        if !index.annotations.contains_key(SIGNATURE) {
            return Signature::Missing;
        }
        if !self.is_required() {
            return Signature::Unchecked;
        }
        let signed = |name| index.annotations.get(name).cloned().unwrap_or_default();
        let scope = Scope { project: signed(PROJECT), platform: signed(PLATFORM) };
        let is_signer = |key: &&Vec<u8>| verify(index, &scope, slice::from_ref(*key)).is_ok();
        match self.trusted.iter().find(is_signer) {
            Some(key) => Signature::Good { key: BASE64_STANDARD.encode(key), scope },
            None => Signature::Foreign,
        }
    }

    /// What is noted of an index that was found good with these keys.
    pub fn admission(&self, index: &Index, scope: &Scope) -> Digest {
        let scope = format!("{}\n{}\n", scope.project, scope.platform);
        let keys = self.trusted.iter().flatten().copied();
        Digest::of(
            &scope.into_bytes().into_iter().chain(keys).chain(message(index)).collect::<Vec<_>>(),
        )
    }
}

fn verify(index: &Index, scope: &Scope, keys: &[Vec<u8>]) -> Result<(), String> {
    let text = index.annotations.get(SIGNATURE).ok_or("it is not signed")?;
    let signature = BASE64_STANDARD.decode(text).map_err(|_| "its signature is not base64")?;
    let mut covered = index.clone();
    covered.annotations.remove(SIGNATURE);
    let message = message(&covered);
    let is_good =
        |key: &Vec<u8>| UnparsedPublicKey::new(&ED25519, key).verify(&message, &signature).is_ok();
    if !keys.iter().any(is_good) {
        return Err("it was altered, or signed by someone who is not trusted".to_owned());
    }
    for (what, annotation, expected) in
        [("project", PROJECT, &scope.project), ("platform", PLATFORM, &scope.platform)]
    {
        let signed = index.annotations.get(annotation);
        if signed != Some(expected) {
            let signed = signed.map_or("", String::as_str);
            return Err(format!(
                "it is signed for the {what} `{signed}`, and this is `{expected}`"
            ));
        }
    }
    Ok(())
}

fn is_separator(c: char) -> bool {
    c == ',' || c.is_whitespace()
}

fn decode(text: &str) -> Option<Vec<u8>> {
    BASE64_STANDARD.decode(text).ok().filter(|key| key.len() == KEY_LENGTH)
}

/// The index without what a signature added.
pub fn unsigned(index: &Index) -> Index {
    let mut bare = index.clone();
    for annotation in [SIGNATURE, PROJECT, PLATFORM] {
        bare.annotations.remove(annotation);
    }
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
    use crate::oci::documents::{Descriptor, MANIFEST};

    fn key(byte: u8) -> String {
        BASE64_STANDARD.encode([byte; KEY_LENGTH])
    }

    fn index() -> Index {
        Index::new(vec![Descriptor::of(MANIFEST, b"a manifest")])
    }

    fn scope(project: &str, platform: &str) -> Scope {
        Scope { project: project.to_owned(), platform: platform.to_owned() }
    }

    fn own() -> Scope {
        scope("app", "linux/amd64")
    }

    #[test]
    fn a_signed_index_is_good_for_who_has_the_public_key() {
        let signer = Trust::new(Some(&key(1)), None).unwrap();
        let index_signed = signer.sign(&index(), &own());
        let reader = Trust::new(None, signer.public_key().as_deref()).unwrap();
        assert_eq!(reader.check(&index_signed, &own()), Ok(index()));
        assert_eq!(signer.check(&index_signed, &own()), Ok(index()));
        assert!(
            signer.has_signed(&index_signed, &own()) && !reader.has_signed(&index_signed, &own())
        );
        assert_eq!(
            Trust::default().check(&index_signed, &own()),
            Ok(index()),
            "without keys all is good"
        );
    }

    #[test]
    fn unsigned_altered_and_foreign_indexes_are_refused() {
        let signer = Trust::new(Some(&key(1)), None).unwrap();
        let index_signed = signer.sign(&index(), &own());
        let refused = |index: &Index| signer.check(index, &own()).unwrap_err();
        assert_eq!(refused(&index()), "it is not signed");
        let mut stripped = index_signed.clone();
        stripped.annotations.remove(SIGNATURE);
        assert_eq!(refused(&stripped), "it is not signed");
        let mut altered = index_signed.clone();
        altered.manifests[0].size += 1;
        assert!(refused(&altered).contains("altered"));
        let mut noted = index_signed.clone();
        noted.annotations.insert("dev.dockercache.about".to_owned(), "{}".to_owned());
        assert!(refused(&noted).contains("altered"));
        let mut moved = index_signed;
        moved.annotations.insert(PROJECT.to_owned(), "other".to_owned());
        assert!(refused(&moved).contains("altered"));
        let foreign = Trust::new(Some(&key(2)), None).unwrap().sign(&index(), &own());
        assert!(refused(&foreign).contains("not trusted"));
    }

    #[test]
    fn a_signature_is_worth_what_the_keys_say() {
        let trust = Trust::new(Some(&key(1)), None).unwrap();
        let signed = trust.sign(&index(), &own());
        let key_of = |from: &Trust| from.public_key().unwrap();
        let good = Signature::Good { key: key_of(&trust), scope: own() };
        assert_eq!(trust.look(&signed), good);
        let other = Trust::new(Some(&key(2)), None).unwrap();
        assert_eq!(other.look(&signed), Signature::Foreign);
        let both = Trust::new(Some(&key(2)), Some(&key_of(&trust))).unwrap();
        assert_eq!(both.look(&signed), good);
        assert_eq!(Trust::default().look(&signed), Signature::Unchecked);
        assert_eq!(trust.look(&index()), Signature::Missing);
        let mut altered = signed;
        altered.annotations.insert(PROJECT.to_owned(), "other".to_owned());
        assert_eq!(trust.look(&altered), Signature::Foreign);
    }

    #[test]
    fn a_cache_of_another_project_or_platform_is_refused() {
        let signer = Trust::new(Some(&key(1)), None).unwrap();
        for (other, words) in [
            (scope("other", "linux/amd64"), "for the project `other`, and this is `app`"),
            (scope("app", "linux/arm64"), "for the platform `linux/arm64`"),
        ] {
            let reason = signer.check(&signer.sign(&index(), &other), &own()).unwrap_err();
            assert!(reason.contains(words), "{reason}");
        }
    }

    #[test]
    fn keys_that_are_none_are_refused_and_not_repeated() {
        for (signing, verifying) in
            [(Some("hunter2"), None), (None, Some("hunter2")), (Some(""), None)]
        {
            let error = Trust::new(signing, verifying).err().unwrap();
            assert!(error.contains("32 bytes") && !error.contains("hunter2"), "{error}");
        }
    }
}
