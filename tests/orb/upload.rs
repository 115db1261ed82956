//! The upload of a release, to a server that answers as GitHub's API and downloads do.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use sha2::{Digest as _, Sha256};

use crate::harness::need_programs;

const FILES: [&str; 3] =
    ["dockercache-linux-amd64", "dockercache-linux-arm64", "dockercache.cdx.json"];
const TAG: &str = concat!("v", env!("CARGO_PKG_VERSION"));

/// What was asked of the server, and the files that it has.
#[derive(Default)]
struct GitHub {
    asked: Mutex<Vec<String>>,
    files: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl GitHub {
    fn start() -> (Arc<Self>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let server = Arc::new(Self::default());
        let (own, base) = (Arc::clone(&server), url.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                own.answer(stream, &base).expect("an answer");
            }
        });
        (server, url)
    }

    fn answer(&self, mut stream: TcpStream, base: &str) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let (method, path) = line.rsplit_once(' ').and_then(|(r, _)| r.split_once(' ')).unwrap();
        let (mut length, mut authorized) = (0, false);
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let header = header.trim().to_ascii_lowercase();
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            authorized |= header == "authorization: bearer s3cret";
            if header.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        self.asked.lock().unwrap().push(format!("{method} {path}"));
        let mut files = self.files.lock().unwrap();
        let name = path.rsplit(['/', '=']).next().unwrap();
        let (status, body) = match method {
            "GET" => files.get(name).map_or((404, Vec::new()), |file| (200, file.clone())),
            _ if !authorized => (401, Vec::new()),
            "POST" if path.starts_with("/upload") => {
                files.insert(name.to_owned(), body);
                (201, b"{}".to_vec())
            }
            "POST" if path.ends_with("/releases") => {
                let json = format!(
                    "{{\"upload_url\": \"{base}/upload{{?name,label}}\", \"url\": \"{base}/release\"}}"
                );
                (201, json.into_bytes())
            }
            _ => (200, b"{}".to_vec()),
        };
        write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n", body.len())?;
        stream.write_all(b"Connection: close\r\n\r\n")?;
        stream.write_all(&body)
    }
}

/// A release's directory.
fn release(dir: &Path) {
    let mut sums = String::new();
    for name in FILES {
        fs::write(dir.join(name), name).unwrap();
        let sum = Sha256::digest(name).iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        let _ = writeln!(sums, "{sum}  {name}");
    }
    fs::write(dir.join("SHA256SUMS"), &sums).unwrap();
    fs::write(dir.join("orb.yml"), format!("CHECKSUMS: |\n{sums}")).unwrap();
}

fn upload(dir: &Path, url: &str, tag: &str) -> Output {
    need_programs(&["curl=curl", "jq=jq"]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".circleci/upload.sh");
    let mut command = Command::new(script);
    command.arg(dir).arg(tag).env("GITHUB_TOKEN", "s3cret").env("CIRCLE_SHA1", "0123abcd");
    command.env("GITHUB_API", url).env("GITHUB_DOWNLOAD", url);
    command.output().unwrap()
}

#[test]
fn a_release_is_whole_before_it_is_published() {
    let (server, url) = GitHub::start();
    let dir = tempfile::tempdir().unwrap();
    release(dir.path());
    let output = upload(dir.path(), &url, TAG);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let asked = server.asked.lock().unwrap().clone();
    let published = asked.iter().position(|request| request == "PATCH /release").unwrap();
    let uploads = asked[..published].iter().filter(|request| request.starts_with("POST /upload"));
    assert_eq!(uploads.count(), 5, "{asked:?}");
    let downloads = asked[published..].iter().filter(|request| request.starts_with("GET"));
    assert_eq!(downloads.count(), 5, "{asked:?}");
    let major = concat!("refs/tags/v", env!("CARGO_PKG_VERSION_MAJOR"));
    assert!(asked.last().unwrap().ends_with(major), "{asked:?}");
}

#[test]
fn a_release_that_does_not_fit_together_uploads_nothing() {
    let (server, url) = GitHub::start();
    for (change, message) in [
        (("orb.yml", "CHECKSUMS: |\n"), "the orb has another sum of"),
        (("dockercache-linux-arm64", ""), "is missing"),
        (("dockercache-linux-amd64", "other"), "did NOT match"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        release(dir.path());
        fs::write(dir.path().join(change.0), change.1).unwrap();
        let output = upload(dir.path(), &url, TAG);
        assert!(!output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains(message), "{output:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    release(dir.path());
    let output = upload(dir.path(), &url, "v99.0.0");
    assert!(String::from_utf8_lossy(&output.stderr).contains("must be of one version"));
    assert!(server.asked.lock().unwrap().is_empty());
}
