//! Stores that are hostile or broken: they cost little memory and little time, and get no credentials
//! that are not theirs.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use dockercache::archive::trust::Trust;
use dockercache::oci::documents::Descriptor;
use dockercache::store::RemoteStore;
use dockercache::store::error::PushError;
use dockercache::store::error::StoreError;
use dockercache::store::variables::Variables;
use tokio::runtime::Runtime;

use super::archives::{Archive, anyone, assert_whole, fetch, find, reference, remote_at};
use super::faults::{Fault, Proxy};
use crate::harness::{PASSWORD, buckets, servers, with_each};

/// What a client may have taken of an endless document: 8 MiB, and what is on the way.
const TAKEN: u64 = 48 << 20;

fn run<T>(future: impl Future<Output = T>) -> T {
    Runtime::new().expect("threads").block_on(future)
}

fn is_document(line: &str) -> bool {
    line.contains("/manifests/") || line.replace("%2F", "/").contains("/refs/")
}

#[test]
fn a_ref_of_any_size_is_read_within_bounds() {
    with_each(&servers(), |server| {
        let plan = |_, line: &str| is_document(line).then_some(Fault::Flood);
        let proxy = Proxy::start(server.address(), plan);
        let store = server.open_at(proxy.address(), PASSWORD).unwrap();
        let error = run(store.read_ref("main")).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("larger than 8 MiB"), "{error}");
        assert!(proxy.flooded() < TAKEN, "{} bytes were taken", proxy.flooded());
    });
}

/// Lists, and the words of an error.
#[test]
fn a_list_of_any_size_is_read_within_bounds() {
    with_each(&servers(), |server| {
        let proxy = Proxy::start(server.address(), |_, line| {
            line.contains("/tags/").then_some(Fault::Flood).or_else(|| {
                (line.contains("list-type=") || line.contains("comp=list")).then_some(Fault::Flood)
            })
        });
        let store = server.open_at(proxy.address(), PASSWORD).unwrap();
        let error = run(store.refs()).unwrap_err().to_string();
        assert!(error.contains("larger than "), "{error}");
        assert!(proxy.flooded() < TAKEN, "{} bytes were taken", proxy.flooded());
    });
}

#[test]
fn a_ref_that_drips_is_given_up() {
    with_each(&servers(), |server| {
        let plan = |_, line: &str| is_document(line).then_some(Fault::Drip);
        let proxy = Proxy::start(server.address(), plan);
        let store = server.open_at(proxy.address(), PASSWORD).unwrap();
        let start = Instant::now();
        let error = run(store.read_ref("main")).unwrap_err();
        assert!(matches!(error, StoreError::Slow { .. }), "{error}");
        assert!(start.elapsed() < Duration::from_secs(25), "{:?}", start.elapsed());
    });
}

#[test]
fn looking_for_a_cache_ends_with_its_deadline() {
    with_each(&servers(), |server| {
        let proxy =
            Proxy::start(server.address(), |_, line| is_document(line).then_some(Fault::Drip));
        let remote = remote_at(server, proxy.address());
        let start = Instant::now();
        let refs = ["a", "b", "c", "d"].map(reference);
        let limited = remote.within(Duration::from_secs(3));
        let found = remote.find(&refs, &Trust::default(), &anyone(), |reason| panic!("{reason}"));
        drop(limited);
        let error = found.unwrap_err().to_string();
        assert!(error.contains("too slow: it took longer than 3s"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    });
}

/// Whatever many blobs there are: they are not given up one after the other.
#[test]
fn blobs_that_drip_are_given_up_at_once() {
    with_each(&servers(), |server| {
        let remote = remote_at(server, server.address());
        Archive::new(1..30, 50_000).push(&remote, &["main"]).expect("a save");
        let index = find(&remote, "main").expect("an answer").expect("a cache");
        let plan = |_, line: &str| {
            let line = line.replace("%2F", "/");
            (line.starts_with("GET") && line.contains("/blobs/")).then_some(Fault::Drip)
        };
        let proxy = Proxy::start(server.address(), plan);
        let start = Instant::now();
        fetch(&remote_at(server, proxy.address()), &index).expect_err("a slow store");
        assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
    });
}

#[test]
fn nobody_waits_an_hour_for_a_store() {
    with_each(&servers(), |server| {
        let later = Fault::Status { code: 503, retry_after: Some(3600) };
        let proxy = Proxy::start(server.address(), move |_, _| Some(later));
        let store = server.open_at(proxy.address(), PASSWORD).unwrap();
        let start = Instant::now();
        let error = run(store.has(&Descriptor::of("layer", b"x"))).unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        assert!(error.to_string().contains("left alone for 3600 s"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    });
}

/// A listener that keeps what it is sent, and answers that there is nothing.
fn stranger() -> (&'static str, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.expect("a connection");
            let mut buffer = [0; 16_384];
            let count = socket.read(&mut buffer).unwrap_or_default();
            let _ = sender.send(String::from_utf8_lossy(&buffer[..count]).into_owned());
            let _ = socket.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        }
    });
    (address.leak(), receiver)
}

/// Whatever a request has that may be a credential stays with the host that it is for.
#[test]
fn another_host_gets_no_credentials() {
    with_each(&servers(), |server| {
        for code in [301, 302, 307, 308] {
            let (to, requests) = stranger();
            let plan = move |_, line: &str| {
                let known = is_document(line) || line.replace("%2F", "/").contains("/blobs/");
                known.then_some(Fault::Redirect { code, to })
            };
            let proxy = Proxy::start(server.address(), plan);
            let url = server.url(proxy.address()).parse().expect("a URL");
            let mut variables = server.variables(proxy.address(), PASSWORD);
            variables.push(("AWS_SESSION_TOKEN", "the token of a session".to_owned()));
            let environment: Variables = variables.into_iter().collect();
            let store = dockercache::store::open(&url, &environment).expect("a store");
            exchange(&*store);
            for request in requests.try_iter() {
                let request = request.to_ascii_lowercase();
                for secret in ["authorization", "token", "x-amz-", "x-ms-", "x-goog-", "signature"]
                {
                    assert!(!request.contains(secret), "{code}: {secret} in {request}");
                }
            }
        }
    });
}

/// Asks for all that a store can be asked for. What comes of it does not matter.
fn exchange(store: &dyn RemoteStore) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), "a layer").expect("a written file");
    let blob = Descriptor::of("application/vnd.oci.image.layer.v1.tar", b"a layer");
    run(async {
        let _ = store.read_ref("main").await;
        let _ = store.has(&blob).await;
        let _ = store.get(&blob, 0).await;
        let _ = store.put(&blob, file.path(), &|_| {}).await;
        let _ = store.write_ref("main", b"{}").await;
    });
}

#[test]
fn a_corrupt_blob_of_the_right_size_is_pushed_again() {
    with_each(&buckets(), |server| {
        let remote = remote_at(server, server.address());
        let archive = Archive::new([1, 2, 3], 1000);
        archive.push(&remote, &["main"]).expect("a save");
        let index = find(&remote, "main").expect("an answer").expect("a cache");
        let blob = archive.layer();
        let wrong = tempfile::NamedTempFile::new().expect("a file");
        let size = usize::try_from(blob.size).expect("a size");
        fs::write(wrong.path(), vec![b'x'; size]).expect("a written file");
        run(server.open().put(&blob, wrong.path(), &|_| {})).expect("a corrupt blob");

        // Another machine, which finds out and then saves.
        let remote = remote_at(server, server.address());
        let error = fetch(&remote, &index).expect_err("a corrupt blob");
        assert!(error.contains("its content has the digest"), "{error}");
        assert_eq!(remote.damaged_blobs().into_iter().collect::<Vec<_>>(), [blob.digest]);
        assert_eq!(archive.repair(&remote, &["main"]).expect("a save").uploaded.0, 1);
        assert_whole(&remote, "main");
    });
}

#[test]
fn a_store_that_is_not_there_costs_a_moment() {
    let down = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    with_each(&servers(), |server| {
        let start = Instant::now();
        let pushed = Archive::new([1], 1000).push(&remote_at(server, &down), &["main"]);
        let is_down =
            |error: &PushError| matches!(error, PushError::Store(StoreError::Unavailable { .. }));
        assert!(pushed.as_ref().is_err_and(is_down), "{pushed:?}");
        assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    });
}
