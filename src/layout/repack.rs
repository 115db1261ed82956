//! Compresses the layers of a cache that a builder exported as plain tars.
//!
//! A builder exports a layer as it keeps it, and keeps a base that was loaded or imported as a
//! plain tar. In a CI's cache that is three times the size for nothing.

use std::collections::BTreeMap;
use std::io;

use super::archive::{read_cache, write_records};
use super::codec::Codec;
use super::digest::Digest;
use super::directory::{Layout, LayoutError};
use super::oci::Descriptor;
use super::records::RecordGraph;

/// Writes `cache` anew with every plain layer compressed; gives it back if there is none. The
/// write lock is held, and the plain blobs are left to the sweep.
pub fn compress(
    layout: &Layout,
    cache: Descriptor,
    codec: Codec,
    advance: &dyn Fn(u64),
) -> Result<Descriptor, LayoutError> {
    let (mut config, descriptors) = read_cache(layout, &cache)?;
    let mut packed: BTreeMap<Digest, Descriptor> = BTreeMap::new();
    for (digest, descriptor) in &descriptors {
        if Codec::from_media_type(&descriptor.media_type) == Some(Codec::Uncompressed) {
            packed.insert(digest.clone(), compress_layer(layout, descriptor, codec)?);
            advance(descriptor.size);
        }
    }
    if packed.is_empty() {
        return Ok(cache);
    }
    for layer in &mut config.layers {
        if let Some(descriptor) = packed.get(&layer.blob) {
            layer.blob = descriptor.digest.clone();
        }
    }
    let listed = descriptors
        .into_iter()
        .map(|(digest, descriptor)| packed.get(&digest).cloned().unwrap_or(descriptor))
        .map(|descriptor| (descriptor.digest.clone(), descriptor))
        .collect();
    let mut graph = RecordGraph::default();
    graph.add(&config).map_err(|e| LayoutError::Damaged {
        path: layout.root().to_owned(),
        reason: e.to_string(),
    })?;
    Ok(write_records(layout, &graph, &listed)?.map_or(cache, |(descriptor, _)| descriptor))
}

fn compress_layer(
    layout: &Layout,
    descriptor: &Descriptor,
    codec: Codec,
) -> Result<Descriptor, LayoutError> {
    let failed = || LayoutError::io("compress", &layout.blob_path(&descriptor.digest));
    let mut plain = layout.open_blob(&descriptor.digest)?;
    let mut encoder = codec.encoder(layout.blob_writer()?).map_err(failed())?;
    io::copy(&mut plain, &mut encoder).map_err(failed())?;
    let (digest, size) = encoder.finish().map_err(failed())?.finish()?;
    Ok(Descriptor { media_type: codec.media_type().to_owned(), digest, size, ..descriptor.clone() })
}
