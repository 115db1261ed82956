//! What is kept of a stage image that BuildKit made: what carries the cache, and no more.
//!
//! The image's settings and the text of its history hold the values of build arguments, which may
//! be secrets. The cache needs the records, the layers, and when each was made.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Archive, DocumentSink, ImageNote, LayerBlob, Role, StoredImage, write_image};
use crate::oci::digest::Digest;
use crate::oci::directory::LayoutError;
use crate::oci::documents::REF_NAME;
use crate::oci::json;
use crate::oci::writer::Writer;

/// An image config without settings. A builder compares times as text.
#[derive(Deserialize, Serialize)]
struct CarrierConfig {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    os: String,
    #[serde(default)]
    rootfs: CarrierRootFs,
    #[serde(default)]
    history: Option<Vec<CarrierHistory>>,
    #[serde(default, rename = "moby.buildkit.cache.v0", skip_serializing_if = "Option::is_none")]
    inline_cache: Option<Box<RawValue>>,
}

#[derive(Default, Deserialize, Serialize)]
struct CarrierRootFs {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

#[derive(Deserialize, Serialize)]
struct CarrierHistory {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    empty_layer: bool,
}

fn reduced(config: &[u8]) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&json::parse::<CarrierConfig>(config)?)
}

/// Writes a stage image that carries its cache, by the config of the image on the engine. `layers`
/// are the image's layers, the base's first; `ref_name` names it for other tools.
pub fn write_carrier(
    sink: impl DocumentSink,
    config: &[u8],
    layers: &[LayerBlob],
    ref_name: &str,
) -> Result<StoredImage, LayoutError> {
    let reduced = reduced(config).map_err(|e| LayoutError::Damaged {
        path: ref_name.into(),
        reason: format!("the image's config is not readable: {e}"),
    })?;
    let carrier = Some(Digest::of(config));
    let note = ImageNote { carrier, ..ImageNote::of(Role::Stage) };
    write_image(sink, &reduced, layers, ref_name, note)
}

/// Takes the settings out of the stage images that an earlier version kept whole. For archives of
/// BuildKit: the classic builder's images are its cache, byte for byte.
pub fn strip(writer: &Writer, archive: &mut Archive) -> Result<(), LayoutError> {
    for image in archive.images.iter_mut().filter(|image| image.note.role == Role::Stage) {
        // What can't be read is not kept for long: it is taken out before a build is offered it.
        let Ok(config) = writer.document(&image.manifest.config) else { continue };
        let layers: Option<Vec<LayerBlob>> =
            image.manifest.layers.iter().map(LayerBlob::from_descriptor).collect();
        let (Ok(reduced), Some(layers)) = (reduced(&config), layers) else { continue };
        if reduced == config {
            continue;
        }
        let name = image.descriptor.annotation(REF_NAME).unwrap_or_default();
        let carrier = image.note.carrier.clone().or_else(|| Some(Digest::of(&config)));
        let note = ImageNote { carrier, ..image.note.clone() };
        let stripped = write_image(writer, &reduced, &layers, name, note)?;
        let stages = archive.about.iter_mut().flat_map(|about| &mut about.stages);
        for stage in stages.filter(|s| s.image.as_ref() == Some(&image.descriptor.digest)) {
            stage.image = Some(stripped.descriptor.digest.clone());
        }
        *image = stripped;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{About, StageAbout};
    use crate::oci::codec::Codec;
    use crate::oci::directory::Layout;
    use crate::oci::documents::CREATED_AT;

    const CANARY: &str = "canary-7f3a";

    /// As BuildKit writes it, with a secret in each place that may have one.
    fn config(layer: &Digest) -> String {
        format!(
            r#"{{"architecture":"arm64","variant":"v8","os":"linux","author":"{CANARY}",
            "config":{{"Env":["TOKEN={CANARY}"],"Labels":{{"l":"{CANARY}"}},"Cmd":["{CANARY}"]}},
            "created":"2024-01-01T00:00:02.000000003Z",
            "history":[
              {{"created":"2024-01-01T00:00:01.000000002Z","author":"{CANARY}",
                "created_by":"RUN |1 TOKEN={CANARY} /bin/sh -c make # buildkit","comment":"x"}},
              {{"created":"2024-01-01T00:00:02Z","created_by":"ENV A={CANARY}","empty_layer":true}}
            ],
            "moby.buildkit.cache.v0":"W3siZGlnZXN0IjogInNoYTI1NjphIn1d",
            "rootfs":{{"type":"layers","diff_ids":["{layer}"]}}}}"#
        )
    }

    fn layer(writer: &Writer) -> LayerBlob {
        let digest = writer.put(b"a layer").unwrap();
        LayerBlob {
            diff_id: digest.clone(),
            blob: digest,
            size: 7,
            unpacked_size: 7,
            media_type: Codec::Gzip.media_type().to_owned(),
        }
    }

    fn assert_no_canary(layout: &Layout) {
        for (digest, _) in layout.blob_files().unwrap() {
            let bytes = std::fs::read(layout.blob_path(&digest)).unwrap();
            assert!(!String::from_utf8_lossy(&bytes).contains(CANARY), "in {digest}");
        }
    }

    #[test]
    fn keeps_the_cache_and_no_value_of_a_build_argument() {
        let dir = tempfile::tempdir().unwrap();
        let writer = Layout::at(dir.path()).lock().unwrap();
        let layer = layer(&writer);
        let config = config(&layer.diff_id);
        let image = write_carrier(&writer, config.as_bytes(), &[layer], "build").unwrap();
        assert_no_canary(&writer);
        assert_eq!(image.note.carrier, Some(Digest::of(config.as_bytes())));
        let kept = writer.document(&image.manifest.config).unwrap();
        assert_eq!(
            String::from_utf8(kept).unwrap(),
            r#"{"created":"2024-01-01T00:00:02.000000003Z","architecture":"arm64","#.to_owned()
                + r#""variant":"v8","os":"linux","rootfs":{"type":"layers","diff_ids":["#
                + &format!(r#""{}"]}},"history":["#, image.manifest.layers[0].digest)
                + r#"{"created":"2024-01-01T00:00:01.000000002Z"},"#
                + r#"{"created":"2024-01-01T00:00:02Z","empty_layer":true}],"#
                + r#""moby.buildkit.cache.v0":"W3siZGlnZXN0IjogInNoYTI1NjphIn1d"}"#
        );
        let created = image.manifest.layers[0].annotation(CREATED_AT);
        assert_eq!(created, Some("2024-01-01T00:00:01.000000002Z"));
    }

    #[test]
    fn cleans_an_archive_of_an_earlier_version_once() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::at(dir.path());
        let writer = layout.lock().unwrap();
        let layer = layer(&writer);
        let config = config(&layer.diff_id);
        let note = ImageNote::of(Role::Stage);
        let old = write_image(&writer, config.as_bytes(), &[layer], "build", note).unwrap();
        let stage = StageAbout {
            name: "build".to_owned(),
            build: String::new(),
            digest: "predicted".to_owned(),
            image: Some(old.descriptor.digest.clone()),
            steps: Vec::new(),
            base: None,
            of_failed: false,
        };
        let about = About { stages: vec![stage], ..About::default() };
        let mut archive = Archive { about: Some(about), images: vec![old], ..Archive::default() };
        strip(&writer, &mut archive).unwrap();
        writer.commit(&archive.to_index()).unwrap();
        crate::oci::live::sweep(&writer).unwrap();
        assert_no_canary(&layout);
        let stages = &archive.about.as_ref().unwrap().stages;
        let image = archive.stage_image(&stages[0]).unwrap();
        assert_eq!(image.note.carrier, Some(Digest::of(config.as_bytes())));
        assert_eq!(image.descriptor.annotation(REF_NAME), Some("build"));
        let index = archive.to_index();
        strip(&writer, &mut archive).unwrap();
        assert_eq!(archive.to_index(), index);
    }
}
