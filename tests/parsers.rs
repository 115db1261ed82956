//! No input makes a parser of foreign input panic, or think for long.
//!
//! Each input is a good one with a few changes. 10,000 for each parser, always the same;
//! `DOCKERCACHE_FUZZ=1000000` tries as many, from a fresh seed, which is printed.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![expect(clippy::print_stdout, reason = "a test that fails shows its seed")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dockercache::archive::trust::{Scope, Trust};
use dockercache::archive::{
    self, About, Archive, ImageNote, LayerBlob, Role, StageAbout, file, tarball, write_cache,
    write_image,
};
use dockercache::context::BuildContext;
use dockercache::dockerfile::{BuildOptions, Dockerfile};
use dockercache::oci::codec::Codec;
use dockercache::oci::digest::Digest;
use dockercache::oci::directory::Layout;
use dockercache::oci::documents::{Descriptor, Index};
use walkdir::WalkDir;

/// How many inputs each parser gets by default.
const INPUTS: u64 = 10_000;
/// The longest that one may take; machines may be busy.
const LONGEST: Duration = Duration::from_secs(10);

/// What parsers look for.
const TOKENS: &[&str] = &[
    "\n",
    "\\\n",
    "`",
    "\"",
    "'",
    "$",
    "${",
    "${A:-",
    "}",
    "<<EOF\n",
    "EOF\n",
    "# escape=`\n",
    "!",
    "**/",
    "[",
    "]",
    "[^a-",
    "{2,",
    "?",
    "|",
    "\u{feff}",
    "\0",
    "\u{1b}[0m",
    "../",
    "/",
    " AS ",
    "FROM ",
    "RUN --mount=type=cache,",
    "COPY --from=",
    "ARG A=",
    "ENV A=$A$A\n",
    "null",
    "-1",
    "{}",
    "1e400",
    "[[[[[[[[",
    "\"digest\":",
    "sha256:",
    "\"size\":18446744073709551615",
    "ed25519:",
];

/// Numbers that look random: xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(number).unwrap() % end.max(1)
    }

    /// An input with a few changes; `other` is another good one.
    fn changed(&mut self, input: &[u8], other: &[u8]) -> Vec<u8> {
        let mut bytes = input.to_vec();
        for _ in 0..=self.below(6) {
            let at = self.below(bytes.len() + 1);
            let end = (at + self.below(64)).min(bytes.len());
            match self.below(6) {
                0 if at < bytes.len() => bytes[at] = u8::try_from(self.below(256)).unwrap(),
                1 => drop(bytes.drain(at..end)),
                2 => {
                    let part = bytes[at..end].repeat(1 + self.below(20));
                    bytes.splice(at..at, part);
                }
                3 => bytes.truncate(at),
                4 => {
                    let from = self.below(other.len() + 1);
                    let part = other[from..(from + self.below(200)).min(other.len())].to_vec();
                    bytes.splice(at..at, part);
                }
                _ => {
                    let token = TOKENS[self.below(TOKENS.len())].as_bytes();
                    bytes.splice(at..at, token.iter().copied());
                }
            }
        }
        bytes
    }
}

/// The number of inputs, and the seed.
fn campaign() -> (u64, u64) {
    static CAMPAIGN: OnceLock<(u64, u64)> = OnceLock::new();
    *CAMPAIGN.get_or_init(|| {
        let number = |name| std::env::var(name).ok().map(|text| text.parse().unwrap());
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let seed = number("DOCKERCACHE_SEED");
        match number("DOCKERCACHE_FUZZ") {
            Some(inputs) => (inputs, seed.unwrap_or_else(now)),
            None => (INPUTS, seed.unwrap_or(1)),
        }
    })
}

/// Gives a parser many changed inputs.
fn feed(good: &[Vec<u8>], parse: &mut dyn FnMut(&[u8])) {
    let (inputs, seed) = campaign();
    println!("seed {seed}, {inputs} inputs");
    for number in 0..inputs {
        // Each input has a seed of its own, so that it can be tried alone.
        let mut random = Random((seed + number).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let one = &good[random.below(good.len())];
        let other = &good[random.below(good.len())];
        let input = random.changed(one, other);
        let began = Instant::now();
        parse(&input);
        assert!(began.elapsed() < LONGEST, "seed {}: {:?}", seed + number, began.elapsed());
    }
}

fn corpus() -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/dockerfiles");
    let files = WalkDir::new(directory).sort_by_file_name().into_iter().map(Result::unwrap);
    let found: Vec<_> = files
        .filter(|entry| entry.file_type().is_file())
        .map(|entry| fs::read(entry.path()).unwrap())
        .collect();
    assert!(found.len() > 10);
    found
}

#[test]
fn a_dockerfile() {
    feed(&corpus(), &mut |input| {
        if let Ok(dockerfile) = Dockerfile::parse(input, "Dockerfile") {
            let _ = dockerfile.plan(&BuildOptions::default());
        }
    });
}

#[test]
fn an_ignore_file() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["src/a/b.rs", "node_modules/x/index.js", "docs/[a].md", "Dockerfile"] {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file).unwrap();
    }
    let good =
        ["**/*.rs\n!src/**\n*.md\n", "node_modules\n**/x/?ndex.[a-j]s\n\\*\n", "*\n!docs/[a-z]*\n"];
    let good: Vec<_> = good.iter().map(|text| text.as_bytes().to_vec()).collect();
    feed(&good, &mut |input| {
        fs::write(dir.path().join(".dockerignore"), input).unwrap();
        if let Ok(context) = BuildContext::open(dir.path(), None) {
            let _ = context.files();
        }
    });
}

/// A small archive of two stages, with its cache.
fn archive(layout: &Layout) -> Index {
    let writer = layout.lock().unwrap();
    let layers = ["one", "two"].map(|content| {
        let digest = writer.put(content.as_bytes()).unwrap();
        LayerBlob {
            diff_id: digest.clone(),
            blob: digest,
            size: 3,
            unpacked_size: 3,
            media_type: Codec::Gzip.media_type().to_owned(),
        }
    });
    // [{"digest":"sha256:a","layers":[{"layer":0}]}]
    let records = "W3siZGlnZXN0Ijoic2hhMjU2OmEiLCJsYXllcnMiOlt7ImxheWVyIjowfV19XQ==";
    let images = layers.map(|layer| {
        let config = serde_json::json!({
            "rootfs": { "type": "layers", "diff_ids": [layer.diff_id] },
            "history": [{ "created": "2020-01-01T00:00:00Z", "created_by": "RUN make" }],
            "moby.buildkit.cache.v0": records,
        });
        let (config, name) = (config.to_string(), layer.diff_id.short().to_owned());
        let note = ImageNote::of(Role::Stage);
        write_image(&writer, config.as_bytes(), &[layer], &name, note).unwrap()
    });
    let cache = write_cache(&writer, &[&images[0], &images[1]]).unwrap().descriptor;
    let stage = |image: &archive::StoredImage| StageAbout {
        name: "build".to_owned(),
        build: "app".to_owned(),
        digest: "digest".to_owned(),
        image: Some(image.descriptor.digest.clone()),
        steps: Vec::new(),
        base: None,
        of_failed: false,
    };
    let about = About { stages: images.iter().map(stage).collect(), ..About::default() };
    let images = images.into();
    let index = Archive { about: Some(about), images, cache }.to_index();
    writer.commit(&index).unwrap();
    index
}

/// Reads all that commands read of an archive.
fn read(layout: &Layout) {
    let Ok(Some(archive)) = Archive::read(layout) else { return };
    if let Some(cache) = &archive.cache {
        let _ = archive::read_cache(layout, cache);
    }
    let _ = archive::reach(layout);
}

#[test]
fn an_index() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::at(dir.path());
    archive(&layout);
    let path = dir.path().join("index.json");
    feed(&[fs::read(&path).unwrap()], &mut |input| {
        fs::write(&path, input).unwrap();
        read(&layout);
    });
}

/// Puts a document beside the others and lets the index name it in the place of `old`.
fn replaced(layout: &Layout, index: &Index, old: &Digest, new: &[u8]) -> PathBuf {
    let digest = Digest::of(new);
    let path = layout.blob_path(&digest);
    fs::write(&path, new).unwrap();
    let text = serde_json::to_string(index).unwrap();
    let mut index: Index =
        serde_json::from_str(&text.replace(&old.to_string(), &digest.to_string())).unwrap();
    for entry in &mut index.manifests {
        if entry.digest == digest {
            entry.size = new.len() as u64;
        }
    }
    fs::write(layout.root().join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
    path
}

/// Gives `of` many changed documents, each under its own digest.
fn feed_document(of: &dyn Fn(&Index) -> Descriptor) {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::at(dir.path());
    let index = archive(&layout);
    let document = of(&index);
    let good = fs::read(layout.blob_path(&document.digest)).unwrap();
    feed(&[good], &mut |input| {
        let written = replaced(&layout, &index, &document.digest, input);
        read(&layout);
        if written != layout.blob_path(&document.digest) {
            fs::remove_file(written).unwrap();
        }
    });
}

#[test]
fn a_manifest() {
    feed_document(&|index| index.manifests[0].clone());
}

#[test]
fn the_records_of_a_cache() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::at(dir.path());
    let index = archive(&layout);
    let cache = Archive::of(&layout, index.clone()).unwrap().cache.unwrap();
    let manifest = fs::read(layout.blob_path(&cache.digest)).unwrap();
    let children = layout.children(&cache).unwrap();
    let config = children.iter().find(|child| !child.is_layer()).unwrap().clone();
    let good = fs::read(layout.blob_path(&config.digest)).unwrap();
    feed(&[good], &mut |input| {
        // The records, and the manifest that names them.
        let digest = Digest::of(input);
        fs::write(layout.blob_path(&digest), input).unwrap();
        let text = String::from_utf8(manifest.clone()).unwrap();
        let text = text.replace(&config.digest.to_string(), &digest.to_string());
        let mut new: serde_json::Value = serde_json::from_str(&text).unwrap();
        let entries = new["manifests"].as_array_mut().unwrap();
        for entry in entries.iter_mut().filter(|e| e["digest"] == digest.to_string()) {
            entry["size"] = input.len().into();
        }
        let written = replaced(&layout, &index, &cache.digest, new.to_string().as_bytes());
        read(&layout);
        for path in [written, layout.blob_path(&digest)] {
            if path != layout.blob_path(&cache.digest) && path != layout.blob_path(&config.digest) {
                let _ = fs::remove_file(path);
            }
        }
    });
}

#[test]
fn a_file_of_an_archive() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::at(&dir.path().join("good"));
    archive(&layout);
    let read = Archive::read(&layout).unwrap().unwrap();
    let path = dir.path().join("archive.tar");
    file::save(&layout, &read, &path, Codec::Uncompressed, &Index::clone, &|_| ()).unwrap();
    let good = fs::read(path).unwrap();
    let writer = Layout::at(&dir.path().join("new")).lock().unwrap();
    feed(&[good], &mut |input| {
        let _ = tarball::read(&writer, Path::new("archive.tar"), input, &|_| ());
    });
}

#[test]
fn keys_and_signatures() {
    // 32 bytes in base64.
    let key = "A".repeat(43) + "=";
    let trust = Trust::new(Some(&key), None).unwrap();
    let public = trust.public_key().unwrap();
    let scope = Scope { project: "app".to_owned(), platform: "linux/amd64".to_owned() };
    let signed = serde_json::to_vec(&trust.sign(&Index::new(Vec::new()), &scope)).unwrap();
    feed(&[key.into_bytes(), public.into_bytes(), signed], &mut |input| {
        let text = String::from_utf8_lossy(input);
        let _ = Trust::new(Some(&text), None);
        let _ = Trust::new(None, Some(&text));
        if let Ok(index) = serde_json::from_slice::<Index>(input) {
            let _ = trust.check(&index, &scope);
            let _ = trust.look(&index);
        }
    });
}
