//! One-file archives that are broken or were made to do harm: each is refused with exit code 3,
//! and the archive that was there before is untouched.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;

use dockercache::oci::codec::{Codec, decoder};
use dockercache::oci::digest::Digest;
use tar::{EntryType, Header};
use tempfile::TempDir;

use crate::harness::{BUILD, Builder, Carried, Generation, Invocation, Machine};

const DOCKERFILE: &str = "\
FROM busybox:1 AS build
RUN head -c 300000 /dev/urandom > /big

FROM busybox:1
COPY --from=build /big /big
RUN wc -c < /big > /size
";

const GIB: u64 = 1 << 30;

#[test]
fn are_refused_and_the_archive_before_stays() {
    let files = [("Dockerfile", DOCKERFILE)];
    let machine = Machine::new(Builder::Buildkit(Generation::V28_5), &files);
    machine.run(BUILD).success();
    let carried = &machine.carried;
    let good = carried.file("good.tar");
    machine.run(["save", "--archive", good.to_str().expect("UTF-8")]).success();
    let good = fs::read(good).expect("an archive");
    let (before, outside) = (carried.files(), outside(carried));
    let temporary = tempfile::tempdir().expect("a directory");
    let attempt = Attempt { carried, temporary, good, before, outside };

    attempt.damaged_bytes();
    attempt.strange_entries();
    attempt.blobs_that_lie();
    attempt.bombs();

    // The good archive is still good, in each of its forms, and so is what it holds.
    let good = attempt.good;
    for (name, codec) in
        [("a.tar", Codec::Uncompressed), ("a.tar.gz", Codec::Gzip), ("a.tar.zst", Codec::Zstd)]
    {
        let path = carried.file(name);
        fs::write(&path, pack(codec, good.as_slice())).expect("an archive");
        machine.replace_without_cache();
        machine.run(["restore", "--archive", path.to_str().expect("UTF-8")]).success();
        carried.assert_clean();
    }
    machine.run(BUILD).success().build_report().assert_all_cached();
}

struct Attempt<'a> {
    carried: &'a Carried,
    temporary: TempDir,
    good: Vec<u8>,
    before: std::collections::BTreeMap<std::path::PathBuf, String>,
    outside: Vec<String>,
}

impl Attempt<'_> {
    /// Restores a hostile archive. It needs no engine, and little memory.
    fn refused(&self, what: &str, archive: &[u8], words: &str) {
        let path = self.carried.file("hostile");
        fs::write(&path, archive).expect("an archive");
        let mut command = Command::new("prlimit");
        command
            .arg("--as=400000000")
            .arg(env!("CARGO_BIN_EXE_dockercache"))
            .env_clear()
            .env("DOCKERCACHE_DIR", self.carried.archive())
            .env("TMPDIR", self.temporary.path());
        let args = ["restore", "--archive", path.to_str().expect("UTF-8")];
        let run = Invocation::new(command).args(args).run();
        assert!(run.code(3).stderr.contains(words), "{what}: {}", run.stderr);
        fs::remove_file(path).expect("no hostile archive");
        assert_eq!(self.carried.files(), self.before, "{what} changed the archive");
        assert_eq!(outside(self.carried), self.outside, "{what} touched something outside");
    }

    fn damaged_bytes(&self) {
        let good = self.good.as_slice();
        for codec in [Codec::Uncompressed, Codec::Gzip, Codec::Zstd] {
            let whole = pack(codec, good);
            for part in [1, 2, 3] {
                let cut = &whole[..whole.len() * part / 4];
                self.refused("a truncated archive", cut, "archive `");
                let mut flipped = whole.clone();
                flipped[whole.len() * part / 4] ^= 4;
                self.refused("a flipped bit", &flipped, "archive `");
            }
        }
        self.refused("an empty file", b"", "it has no index.json");
        self.refused("a text", b"no archive at all\n".repeat(100).as_slice(), "no complete tar");
        self.refused("a picture", b"\x89PNG\r\n\x1a\n0000", "no complete tar");
        self.refused("a gzip that is no tar", &pack(Codec::Gzip, &b"x"[..]), "no complete tar");
        let other = tar_of(&[entry("README", b"not ours")]);
        self.refused("another tar", &other, "`README` does not belong there");
    }

    fn strange_entries(&self) {
        let escape = self.carried.file("escape");
        for name in [
            "../escape",
            "blobs/sha256/../../../escape",
            "./../escape",
            escape.to_str().expect("UTF-8"),
        ] {
            self.refused(name, &self.with(&[entry(name, b"text")]), "does not belong there");
        }
        for kind in [
            EntryType::Symlink,
            EntryType::Link,
            EntryType::Char,
            EntryType::Block,
            EntryType::Fifo,
            EntryType::GNUSparse,
        ] {
            for name in ["blobs", "index.json", "escape"] {
                let mut link = header(name, kind, 0);
                link.set_link_name("../../etc/passwd").expect("a link");
                link.set_cksum();
                let archive = self.with(&[(link, Vec::new())]);
                self.refused(&format!("{kind:?} {name}"), &archive, "is no regular file");
            }
        }
        let twice = self.with(&[entry("index.json", b"{\"schemaVersion\":2}")]);
        self.refused("a second index", &twice, "is in it twice");
        let nested = b"[".repeat(1 << 20);
        let archive = tar_of(&[entry("index.json", &nested)]);
        self.refused("a deeply nested index", &archive, "not an OCI index");
    }

    fn blobs_that_lie(&self) {
        let name = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
        let other = name(&Digest::of(b"other"));
        self.refused("a blob of other content", &self.with(&[entry(&other, b"x")]), "the digest");
        // Taken for its content, a blob that is alive would be removed.
        for (_, blob) in self.carried.blobs() {
            let content = fs::read(blob).expect("a blob");
            let archive = self.with(&[entry(&other, &content)]);
            self.refused("a live blob under another name", &archive, "the digest");
        }
        let index = |size: usize, digest: &Digest| {
            format!(
                r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":{size},"digest":"{digest}"}}]}}"#
            )
        };
        let digest = Digest::of(b"no manifest");
        let blob = entry(&name(&digest), b"no manifest");
        let missing = tar_of(&[entry("index.json", index(11, &digest).as_bytes())]);
        self.refused("a missing blob", &missing, "is missing");
        let wrong = tar_of(&[entry("index.json", index(11, &digest).as_bytes()), blob.clone()]);
        self.refused("a manifest that is none", &wrong, "is not readable");
        let wrong = tar_of(&[entry("index.json", index(9, &digest).as_bytes()), blob]);
        self.refused("a blob of another size", &wrong, "expected 9");
    }

    /// A few KiB that unpack to 1 GiB. With the memory that is allowed, none can be read whole.
    fn bombs(&self) {
        let bomb = |name: &str, kind| {
            let head = header(name, kind, GIB);
            let zeros = head.as_bytes().chain(std::io::repeat(b' ').take(GIB));
            pack(Codec::Zstd, zeros)
        };
        let index = bomb("index.json", EntryType::Regular);
        assert!(index.len() < 200_000, "{} bytes", index.len());
        self.refused("an index of 1 GiB", &index, "more than 8388608");
        let name = format!("blobs/sha256/{}", Digest::of(b"other").hex());
        let blob = bomb(&name, EntryType::Regular);
        self.refused("a blob of 1 GiB", &blob, "nothing in it names a blob");
        for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
            let long = bomb("././@LongLink", kind);
            self.refused("a name of 1 GiB", &long, "is no regular file");
        }
        // Passing it over would take as long as it is large.
        let manifest = bomb("manifest.json", EntryType::Regular);
        self.refused("a manifest.json of 1 GiB", &manifest, "more than 8388608");
    }

    /// The good archive with more entries before the others.
    fn with(&self, entries: &[(Header, Vec<u8>)]) -> Vec<u8> {
        let more = tar_of(entries);
        // Without the two blocks of zeros that end a tar.
        [&more[..more.len() - 1024], &self.good].concat()
    }
}

fn outside(carried: &Carried) -> Vec<String> {
    let beside = fs::read_dir(carried.file("")).expect("a directory");
    let mut names: Vec<_> = beside
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .chain([fs::read_to_string("/etc/passwd").expect("a file that links point at")])
        .chain(Path::new("/etc/escape").exists().then(|| "/etc/escape".to_owned()))
        .collect();
    names.sort();
    names
}

fn header(name: &str, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    // `set_path` would refuse the names that are of interest here.
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(size);
    header.set_cksum();
    header
}

fn entry(name: &str, content: &[u8]) -> (Header, Vec<u8>) {
    (header(name, EntryType::Regular, content.len() as u64), content.to_vec())
}

fn tar_of(entries: &[(Header, Vec<u8>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (header, content) in entries {
        tar.append(header, content.as_slice()).expect("an entry");
    }
    tar.into_inner().expect("a tar")
}

fn pack(codec: Codec, mut content: impl Read) -> Vec<u8> {
    let mut encoder = codec.encoder(Vec::new()).expect("an encoder");
    std::io::copy(&mut content, &mut encoder).expect("packed bytes");
    encoder.flush().expect("packed bytes");
    let packed = encoder.finish().expect("packed bytes");
    assert!(decoder(packed.as_slice()).is_ok());
    packed
}
