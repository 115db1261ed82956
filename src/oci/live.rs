//! Which blobs are alive: those that `index.json` reaches. Everything else can go.
//!
//! Works for any OCI image layout, also for the directory of a buildx local cache, which never
//! deletes a blob by itself.

use std::collections::{BTreeMap, BTreeSet};

use super::digest::Digest;
use super::directory::{Layout, LayoutError};
use super::documents::{self, Descriptor, Index, Parts};
use super::json::Budget;
use super::writer::Writer;

/// The blobs that an index reaches.
#[derive(Debug, Default)]
pub struct Reach {
    /// What is reached, by digest.
    pub blobs: BTreeMap<Digest, Descriptor>,
    /// Documents that could not be read, and why: what they would reach is unknown.
    pub unreadable: Vec<(Digest, String)>,
    /// A blob that may point at others in a way that we don't understand, and its media type.
    pub foreign: Option<(Digest, String)>,
}

/// What a prune removed and left.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Number and bytes of blobs that stay.
    pub live: (usize, u64),
    /// Number and bytes of blobs that went.
    pub dead: (usize, u64),
    /// Why nothing went, where something is there that we don't understand.
    pub held: Option<String>,
}

/// Follows all descriptors from `index`.
pub fn reach(layout: &Layout, index: &Index) -> Reach {
    let mut reach = Reach::default();
    let mut budget = Budget::default();
    let mut seen = BTreeSet::new();
    let mut queue: Vec<Descriptor> = Vec::new();
    reach.list(&mut queue, index.manifests.clone());
    while let Some(descriptor) = queue.pop() {
        if !seen.insert(descriptor.digest.clone()) {
            continue;
        }
        if descriptor.is_document() {
            match parts(layout, &descriptor, &mut budget) {
                Ok(Parts { descriptors, subject, is_understood }) => {
                    if !is_understood {
                        reach.note_foreign(&descriptor);
                    }
                    if descriptor.media_type.contains("manifest.v") {
                        queue.extend(descriptors);
                    } else {
                        reach.list(&mut queue, descriptors);
                    }
                    queue.extend(subject.filter(|s| layout.blob_size(&s.digest).is_some()));
                }
                Err(reason) => reach.unreadable.push((descriptor.digest.clone(), reason)),
            }
        }
        reach.blobs.insert(descriptor.digest.clone(), descriptor);
    }
    reach
}

fn parts(layout: &Layout, descriptor: &Descriptor, budget: &mut Budget) -> Result<Parts, String> {
    let bytes = layout.document(descriptor).map_err(|e| e.to_string())?;
    budget.take(&bytes)?;
    documents::parts(descriptor, &bytes).map_err(|e| layout.no_document(descriptor, &e).to_string())
}

impl Reach {
    /// Goes on with what an index lists.
    fn list(&mut self, queue: &mut Vec<Descriptor>, listed: Vec<Descriptor>) {
        for descriptor in &listed {
            if !descriptor.is_document() && !descriptor.is_leaf() {
                self.note_foreign(descriptor);
            }
        }
        queue.extend(listed);
    }

    fn note_foreign(&mut self, descriptor: &Descriptor) {
        let of = |d: &Descriptor| (d.digest.clone(), d.media_type.clone());
        self.foreign.get_or_insert_with(|| of(descriptor));
    }
}

/// Removes what `index.json` does not reach. Nothing is removed while a document is unreadable,
/// since what it reaches would be lost, or while one is there that we don't understand.
pub fn sweep(layout: &Writer) -> Result<Pruned, LayoutError> {
    let index = layout.index()?.unwrap_or_else(|| Index::new(Vec::new()));
    let reach = reach(layout, &index);
    if let Some((_, reason)) = reach.unreadable.first() {
        return Err(LayoutError::Damaged {
            path: layout.root().to_owned(),
            reason: format!("nothing was pruned, because {reason}"),
        });
    }
    let held = reach.foreign.map(|(digest, media_type)| {
        format!("what blob {digest} of type `{media_type}` needs is not known")
    });
    let mut pruned = Pruned { held, ..Pruned::default() };
    for (digest, size) in layout.blob_files()? {
        let count = if pruned.held.is_some() || reach.blobs.contains_key(&digest) {
            &mut pruned.live
        } else {
            layout.remove_blob(&digest)?;
            &mut pruned.dead
        };
        count.0 += 1;
        count.1 += size;
    }
    Ok(pruned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::documents::{CONFIG, MANIFEST};

    /// Writes a document that names a layer, and gives its descriptor.
    fn document(writer: &Writer, media_type: &str, parts: &serde_json::Value) -> Descriptor {
        let bytes = serde_json::to_vec(parts).unwrap();
        writer.put(&bytes).unwrap();
        Descriptor::of(media_type, &bytes)
    }

    #[test]
    fn nothing_is_pruned_below_what_is_not_understood() {
        let layer = Descriptor::of("application/x-model", b"a layer");
        let config = Descriptor::of(CONFIG, b"{}");
        let artifact = "application/vnd.oci.artifact.manifest.v1+json";
        let unknown = "application/vnd.example.thing";
        let both = serde_json::json!({ "config": config, "layers": [], "manifests": [layer] });
        for (media_type, parts) in [
            (artifact, serde_json::json!({ "blobs": [layer] })),
            (unknown, serde_json::json!({ "layers": [layer] })),
            (MANIFEST, both),
            (documents::INDEX, serde_json::json!({ "manifests": [], "layers": [layer] })),
            (documents::INDEX, serde_json::json!({ "manifests": [layer] })),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let writer = Layout::at(dir.path()).lock().unwrap();
            for bytes in [b"a layer".as_slice(), b"{}", b"dead"] {
                writer.put(bytes).unwrap();
            }
            let document = document(&writer, media_type, &parts);
            writer.commit(&Index::new(vec![document])).unwrap();
            let pruned = sweep(&writer).unwrap();
            assert!(pruned.held.is_some(), "{media_type} {parts}");
            assert_eq!((pruned.dead.0, writer.blob_files().unwrap().len()), (0, 4));
        }
    }

    #[test]
    fn what_a_manifest_refers_to_stays_if_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let writer = Layout::at(dir.path()).lock().unwrap();
        let config = Descriptor::of(CONFIG, b"{}");
        let none = serde_json::json!({ "config": config, "layers": [] });
        for bytes in [b"{}".as_slice(), b"dead"] {
            writer.put(bytes).unwrap();
        }
        let subject = document(&writer, MANIFEST, &none);
        let absent = Descriptor::of(MANIFEST, b"absent");
        let refers = |to: &Descriptor| {
            document(&writer, MANIFEST, &serde_json::json!({ "config": config, "subject": to }))
        };
        let manifests = vec![refers(&subject), refers(&absent)];
        writer.commit(&Index::new(manifests)).unwrap();
        let pruned = sweep(&writer).unwrap();
        assert_eq!((pruned.live.0, pruned.dead.0, pruned.held), (4, 1, None));
        assert!(writer.blob_size(&subject.digest).is_some());
    }
}
