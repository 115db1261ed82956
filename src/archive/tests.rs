//! Tests of images and their cache together, in real directories.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::cache::chain;
use super::records::{CacheConfig, CacheRecord, CacheResult, IMPORT_LIMIT, RecordGraph};
use super::*;
use crate::oci::codec::Codec;
use crate::oci::documents::CREATED_AT;
use crate::oci::writer::Writer;

/// A stage image of one layer, made at `created`.
fn image(layout: &Writer, name: &str, layer: &LayerBlob, created: &str) -> StoredImage {
    let records = format!(r#"[{{"digest":"sha256:{name}","layers":[{{"layer":0}}]}}]"#);
    let config = serde_json::json!({
        "rootfs": { "type": "layers", "diff_ids": [layer.diff_id] },
        "history": [{ "created": created }],
        "moby.buildkit.cache.v0": BASE64_STANDARD.encode(records),
    });
    let note = ImageNote::of(Role::Stage);
    let layers = std::slice::from_ref(layer);
    write_image(layout, config.to_string().as_bytes(), layers, name, note).unwrap()
}

fn layer(layout: &Writer) -> LayerBlob {
    let digest = layout.put(b"a layer").unwrap();
    LayerBlob {
        diff_id: digest.clone(),
        blob: digest,
        size: 7,
        unpacked_size: 7,
        media_type: Codec::Gzip.media_type().to_owned(),
    }
}

#[test]
fn a_layer_of_two_stages_has_the_time_that_the_last_one_gives_it() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::at(dir.path()).lock().unwrap();
    let layer = layer(&layout);
    let first = image(&layout, "first", &layer, "2020-01-01T00:00:00Z");
    let last = image(&layout, "last", &layer, "2020-01-01T00:00:01Z");
    let cache = write_cache(&layout, &[&first, &last]).unwrap().descriptor.unwrap();
    let (_, descriptors) = read_cache(&layout, &cache).unwrap();
    let created = descriptors[&layer.blob].annotation(CREATED_AT);
    assert_eq!(created, Some("2020-01-01T00:00:01Z"));
}

#[test]
fn damaged_records_of_one_stage_cost_only_that_stage() {
    for records in
        ["not base64!", "bm90IEpTT04=", "W3siZGlnZXN0IjoiYSIsImxheWVycyI6W3sibGF5ZXIiOjl9XX1d"]
    {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::at(dir.path()).lock().unwrap();
        let layer = layer(&layout);
        let good = image(&layout, "good", &layer, "2020-01-01T00:00:00Z");
        let config = serde_json::json!({
            "rootfs": { "type": "layers", "diff_ids": [layer.diff_id] },
            "moby.buildkit.cache.v0": records,
        });
        let (config, note) = (config.to_string(), ImageNote::of(Role::Stage));
        let bad = write_image(&layout, config.as_bytes(), &[layer], "bad", note).unwrap();
        let cache = write_cache(&layout, &[&bad, &good]).unwrap();
        assert_eq!(cache.damaged.len(), 1, "{records}");
        assert_eq!(cache.damaged[0].0, bad.descriptor.digest);
        let (config, _) = read_cache(&layout, &cache.descriptor.unwrap()).unwrap();
        assert_eq!(config.records.len(), 1);
    }
}

#[test]
fn many_entries_for_one_large_manifest_are_refused_before_they_fill_the_memory() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::at(dir.path()).lock().unwrap();
    let layer = layer(&layout);
    let layers = vec![layer; 10_000];
    let note = ImageNote::of(Role::Stage);
    let large = write_image(&layout, b"{}", &layers, "large", note).unwrap();
    layout.commit(&Index::new(vec![large.descriptor; 1000])).unwrap();
    let error = Archive::read(&layout).unwrap_err().to_string();
    assert!(error.contains("its manifests have more than"), "{error}");
}

#[test]
fn stages_that_differ_in_their_settings_have_each_its_own_image() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::at(dir.path()).lock().unwrap();
    let layer = layer(&layout);
    let images = ["one", "two"].map(|name| image(&layout, name, &layer, name));
    let stage = |image: &StoredImage, name: &str| StageAbout {
        name: name.to_owned(),
        build: "app".to_owned(),
        digest: "equal".to_owned(),
        image: Some(image.descriptor.digest.clone()),
        steps: Vec::new(),
        base: None,
        of_failed: false,
    };
    let stages = vec![stage(&images[0], "one"), stage(&images[1], "two")];
    let about = About { stages: stages.clone(), ..About::default() };
    let archive = Archive { about: Some(about), images: images.into(), ..Archive::default() };
    for stage in &stages {
        let found = archive.stage_image(stage).unwrap();
        assert_eq!(Some(&found.descriptor.digest), stage.image.as_ref(), "{}", stage.name);
    }
    let renamed = StageAbout { name: "three".to_owned(), ..stages[1].clone() };
    assert!(archive.stage_image(&renamed).is_some());
}

#[test]
fn thousands_of_layers_are_cut_to_a_list_that_importers_accept() {
    let blob = |n: usize| Digest::of(n.to_string().as_bytes());
    let mut graph = RecordGraph::default();
    let mut descriptors = BTreeMap::new();
    for stage in 0..60 {
        let steps = 80 * stage..80 * (stage + 1);
        let records = steps.clone().map(|n| CacheRecord {
            digest: format!("step {n}"),
            results: vec![CacheResult { layer: n % 80, created_at: None }],
            ..CacheRecord::default()
        });
        let blobs: Vec<Digest> = steps.clone().map(blob).collect();
        let config = CacheConfig { layers: chain(blobs.iter()), records: records.collect() };
        graph.add(&config).unwrap();
        descriptors.extend(blobs.into_iter().map(|digest| {
            let layer = LayerBlob {
                diff_id: digest.clone(),
                blob: digest.clone(),
                size: 32,
                unpacked_size: 1024,
                media_type: "application/vnd.oci.image.layer.v1.tar+zstd".to_owned(),
            };
            (digest, layer.descriptor(Some("2024-01-01T00:00:00.000000001Z")))
        }));
    }
    let mut documents = Vec::new();
    let (descriptor, cut) = write_records(&mut documents, &graph, &descriptors).unwrap().unwrap();
    assert!(documents.iter().all(|d| d.len() <= IMPORT_LIMIT));
    let manifest: Index = serde_json::from_slice(&documents[1]).unwrap();
    assert_eq!(descriptor.digest, Digest::of(&documents[1]));
    let config: CacheConfig = serde_json::from_slice(&documents[0]).unwrap();
    let listed: BTreeSet<_> = manifest.manifests.iter().map(|d| &d.digest).collect();
    assert!(config.layers.iter().all(|l| listed.contains(&l.blob)));
    assert_eq!(config.steps() + cut, 60 * 80, "what is cut must be said");
    assert!(config.records.len() > 1500, "only {} are left", config.records.len());
}
