//! Checks every blob against its size and digest before a builder may see it.
//!
//! A builder that is offered a missing or altered blob fails the user's build, so what is bad
//! must be known, and taken out, beforehand.

use std::collections::BTreeSet;
use std::io;
use std::time::UNIX_EPOCH;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::digest::{Digest, Hashing};
use super::directory::Layout;
use super::documents::Descriptor;
use super::live::Reach;

/// A blob that must not be offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadBlob {
    /// Which.
    pub digest: Digest,
    /// What is wrong with it, as a person reads it.
    pub reason: String,
}

/// That a blob's file was found good, recognised by its size and times: a build that follows a
/// restore need not read everything again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    size: u64,
    modified: u128,
    inode: u64,
}

/// Looks at a blob's file without reading it.
pub fn look(layout: &Layout, digest: &Digest) -> Option<Seen> {
    use std::os::unix::fs::MetadataExt as _;
    let meta = std::fs::symlink_metadata(layout.blob_path(digest)).ok()?;
    let modified = meta.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_nanos();
    Some(Seen { size: meta.len(), modified, inode: meta.ino() })
}

/// Verifies what `reach` holds, on all cores, and gives what is bad, sorted by digest. Blobs
/// for which `known` is true are passed over. `advance` is told of bytes as they are read.
pub fn verify(
    layout: &Layout,
    reach: &Reach,
    known: impl Fn(&Digest) -> bool + Sync,
    advance: &(dyn Fn(u64) + Sync),
) -> Vec<BadBlob> {
    let mut bad: Vec<BadBlob> = reach
        .blobs
        .par_iter()
        .filter(|(digest, _)| !known(digest))
        .filter_map(|(digest, descriptor)| {
            let reason = check(layout, descriptor, advance).err()?;
            Some(BadBlob { digest: digest.clone(), reason })
        })
        .collect();
    let known: BTreeSet<Digest> = bad.iter().map(|b| b.digest.clone()).collect();
    for (digest, reason) in &reach.unreadable {
        if !known.contains(digest) {
            bad.push(BadBlob { digest: digest.clone(), reason: reason.clone() });
        }
    }
    bad.sort_by(|a, b| a.digest.cmp(&b.digest));
    bad
}

fn check(
    layout: &Layout,
    descriptor: &Descriptor,
    advance: &(dyn Fn(u64) + Sync),
) -> Result<(), String> {
    let digest = &descriptor.digest;
    let size = layout.blob_size(digest).ok_or("it is missing")?;
    if size != descriptor.size {
        return Err(format!("got {size} bytes, expected {}", descriptor.size));
    }
    let file = layout.open_blob(digest).map_err(|e| e.to_string())?;
    let mut reader = Hashing::new(file);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match io::Read::read(&mut reader, &mut buffer) {
            Ok(0) => break,
            Ok(n) => advance(n as u64),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(format!("it can't be read: {e}")),
        }
    }
    let (_, got, _) = reader.finish();
    if got == *digest { Ok(()) } else { Err(format!("its content has the digest {got}")) }
}
