//! Large blobs and long lists, in little memory and in time. The client is a process of its own,
//! whose memory is measured.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use dockercache::oci::digest::Hashing;
use dockercache::oci::documents::Descriptor;
use dockercache::store::collect::Policy;
use dockercache::store::remote::Remote;
use dockercache::store::variables::Variables;
use dockercache::store::{self, RemoteStore};
use futures_util::StreamExt as _;
use tempfile::NamedTempFile;
use tokio::runtime::Runtime;

use crate::harness::{PASSWORD, S3Server, S3Settings, Server, noise, servers};

/// Lets this test binary run one test again, as the client of the store with this URL.
const CLIENT_OF: &str = "DOCKERCACHE_TEST_CLIENT_OF";
/// What is moved.
const MIB: usize = 300;
/// What is listed.
const BLOBS: u32 = 100_000;

#[test]
fn large_blobs_are_moved_in_little_memory() {
    if let Some(store) = client() {
        return move_much(&*store);
    }
    // One after the other: each is timed.
    for server in servers() {
        measure(&*server, "stores::volume::large_blobs_are_moved_in_little_memory");
    }
}

#[test]
fn a_hundred_thousand_blobs_are_collected_in_little_memory() {
    if let Some(store) = client() {
        return collect_much(store);
    }
    let server = S3Server::start(S3Settings { listed: Some(BLOBS), ..S3Settings::default() });
    measure(&server, "stores::volume::a_hundred_thousand_blobs_are_collected_in_little_memory");
}

/// The store, if this process is a client.
fn client() -> Option<Box<dyn RemoteStore>> {
    let url = std::env::var(CLIENT_OF).ok()?.parse().expect("a URL");
    Some(store::open(&url, &Variables::of_process()).expect("an opened store"))
}

/// Runs a test as the client of a server.
fn measure(server: &dyn Server, test: &str) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CLIENT_OF, server.url(server.address()))
        .envs(server.variables(server.address(), PASSWORD))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    // Shown with --nocapture.
    print!("{said}");
}

/// The most memory that this process ever had, in MiB.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

fn move_much(store: &dyn RemoteStore) {
    let file = NamedTempFile::new().unwrap();
    let piece = noise(1, 1024).into_bytes();
    let piece = &piece[..1 << 20];
    let mut hashing = Hashing::new(fs::File::create(file.path()).unwrap());
    for _ in 0..MIB {
        std::io::Write::write_all(&mut hashing, piece).unwrap();
    }
    let (_, digest, size) = hashing.finish();
    let small = Descriptor::of("application/vnd.oci.image.layer.v1.tar", piece);
    let large = Descriptor { digest, size, ..small.clone() };
    let first = NamedTempFile::new().unwrap();
    fs::write(first.path(), piece).unwrap();
    Runtime::new().unwrap().block_on(async {
        // What a first transfer needs at all.
        store.put(&small, first.path(), &|_| ()).await.unwrap();
        let before = peak_memory();
        let start = Instant::now();
        store.put(&large, file.path(), &|_| ()).await.unwrap();
        let put = start.elapsed();
        let start = Instant::now();
        let mut pieces = store.get(&large, 0).await.unwrap();
        let mut received = 0;
        while let Some(piece) = pieces.next().await {
            received += piece.unwrap().len() as u64;
        }
        assert_eq!(received, size);
        let (got, grown) = (start.elapsed(), peak_memory() - before);
        println!("{}: {grown} MiB more for {MIB} MiB, put in {put:?}, got in {got:?}", store.url());
        assert!(grown < 64, "{grown} MiB");
    });
}

fn collect_much(store: Box<dyn RemoteStore>) {
    let remote = Remote::new(store).unwrap();
    let before = peak_memory();
    let start = Instant::now();
    let grace = Duration::from_hours(1);
    let policy = Policy { grace, max_age: None, max_size: None, dry_run: false };
    let collected = remote.collect(&policy).unwrap();
    assert_eq!((collected.blobs.0, collected.blobs_left.0), (BLOBS as usize, 0));
    let (took, grown) = (start.elapsed(), peak_memory() - before);
    println!("{grown} MiB more for {BLOBS} blobs in {took:?}");
    // Less than the list has by itself.
    assert!(grown < 12, "{grown} MiB");
    // A request for each takes far longer.
    assert!(took < Duration::from_mins(5), "{took:?}");
}
