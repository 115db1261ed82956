//! The stable encoding under every digest: versioned, with a name and a length before each value.
//!
//! A digest covers the version, a domain that says what is digested, and the fields in the order
//! in which they are written. Each name and value is preceded by its length as eight bytes, so two
//! lists of fields never have the same encoding. Change the version with the encoding: stored
//! archives and CI caches are found by these digests.

use sha2::{Digest, Sha256};
use std::fmt::Write as _;

/// The version of the encoding, and of what is counted.
const VERSION: &str = "dockercache/v1";

/// Writes the fields of one digest.
pub(crate) struct Encoder {
    hasher: Sha256,
    parts: Vec<(String, String)>,
}

impl Encoder {
    /// Starts a digest of the given domain.
    pub(crate) fn new(domain: &str) -> Self {
        let mut encoder = Self { hasher: Sha256::new(), parts: Vec::new() };
        encoder.bytes(VERSION);
        encoder.bytes(domain);
        encoder
    }

    /// Writes one field.
    pub(crate) fn field(&mut self, name: &str, value: &str) {
        self.bytes(name);
        self.bytes(value);
        self.parts.push((name.to_owned(), value.to_owned()));
    }

    /// Writes one field that is not in the list of parts.
    pub(crate) fn unnamed(&mut self, name: &str, value: &str) {
        self.bytes(name);
        self.bytes(value);
    }

    /// Writes a field that may have no value; no value is not the empty value.
    pub(crate) fn optional(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.field(name, value);
        }
    }

    /// Writes one field for each value; their number is part of the encoding.
    pub(crate) fn list<'a>(&mut self, name: &str, values: impl IntoIterator<Item = &'a str>) {
        let mut count = 0_usize;
        for value in values {
            self.field(name, value);
            count += 1;
        }
        self.bytes(&count.to_string());
    }

    /// Ends the digest.
    pub(crate) fn finish(self) -> (ChainDigest, Vec<(String, String)>) {
        (ChainDigest(self.hasher.finalize().into()), self.parts)
    }

    /// Ends the digest where its fields are of no interest.
    pub(crate) fn digest(self) -> ChainDigest {
        self.finish().0
    }

    fn bytes(&mut self, value: &str) {
        self.hasher.update((value.len() as u64).to_le_bytes());
        self.hasher.update(value.as_bytes());
    }
}

/// The digest of a step, and so of everything before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ChainDigest([u8; 32]);

impl ChainDigest {
    /// Returns the 64 digits of the digest.
    pub(crate) fn hex(self) -> String {
        self.0.iter().fold(String::with_capacity(64), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(write: impl Fn(&mut Encoder)) -> String {
        let mut encoder = Encoder::new("test");
        write(&mut encoder);
        encoder.digest().hex()
    }

    #[test]
    fn fields_do_not_run_into_each_other() {
        let digests = [
            digest(|_| {}),
            digest(|encoder| encoder.field("a", "")),
            digest(|encoder| encoder.field("a", "b")),
            digest(|encoder| encoder.field("ab", "")),
            digest(|encoder| encoder.optional("a", None)),
            digest(|encoder| encoder.list("a", [])),
            digest(|encoder| encoder.list("a", ["b"])),
            digest(|encoder| encoder.list("a", ["b", "c"])),
            digest(|encoder| encoder.list("a", ["bc"])),
        ];
        let mut unique = digests.to_vec();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), digests.len() - 1, "only no field and no value are the same");
    }

    #[test]
    fn the_encoding_is_stable() {
        assert_eq!(
            digest(|encoder| encoder.field("name", "value")),
            "c69d8eb25922faaff743462f82dd66171a8fafc4e387ba0f4daa32fcc42ed445"
        );
    }
}
