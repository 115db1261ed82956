//! A server whose disk is full: a save says so, and what was saved before stays whole.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::archives::{Archive, assert_whole, fetch, find, remote_at};
use crate::harness::{RegistryServer, RegistrySettings, S3Server, S3Settings, Server};
use crate::harness::{fill, with_each};

/// Room for one archive of the test, and not for two.
const MEGABYTES: Option<u32> = Some(8);
const PAGE: u64 = 4096;

fn registry() -> Box<dyn Server> {
    let settings = RegistrySettings { megabytes: MEGABYTES, ..RegistrySettings::default() };
    Box::new(RegistryServer::start(settings))
}

fn s3() -> Box<dyn Server> {
    Box::new(S3Server::start(S3Settings { megabytes: MEGABYTES, ..S3Settings::default() }))
}

#[test]
fn an_archive_that_does_not_fit_is_said_and_the_last_one_stays() {
    // What the servers say; the one of S3 has no words for it.
    let said = [(registry(), "No space left on device"), (s3(), "HTTP status 500: InternalError")];
    let (servers, said): (Vec<_>, Vec<_>) = said.into_iter().unzip();
    with_each(&servers, |server| {
        let remote = remote_at(server, server.address());
        Archive::new([1], 3_000_000).push(&remote, &["main"]).expect("a save");
        let last = find(&remote, "main");
        let error = Archive::new([1, 2, 3], 3_000_000).push(&remote, &["main", "branch"]);
        let text = error.expect_err("no room").to_string();
        assert!(said.iter().any(|said| text.contains(said)), "{text}");
        assert_eq!(find(&remote, "main"), last);
        assert_eq!(find(&remote, "branch"), Ok(None));
        assert_whole(&remote, "main");
    });
}

/// The disk has room for nothing, or the layer, or the documents, or the first of the refs. With
/// room again, what the server has left half done is mended.
#[test]
fn wherever_the_disk_ends_no_ref_is_broken() {
    thread::scope(|scope| {
        for start in [registry, s3] {
            scope.spawn(move || no_ref_is_broken(start));
        }
    });
}

fn no_ref_is_broken(start: fn() -> Box<dyn Server>) {
    let spares: Vec<u64> = (0..30).step_by(2).map(|pages| pages * PAGE).collect();
    let servers: Vec<_> = spares.iter().map(|_| start()).collect();
    let spares: BTreeMap<_, _> =
        servers.iter().map(|server| server.address().to_owned()).zip(spares).collect();
    let saved = AtomicUsize::new(0);
    with_each(&servers, |server| {
        let remote = remote_at(server, server.address());
        Archive::new([1], 1000).push(&remote, &["main"]).expect("a save");
        let filler = fill(server.directory(), spares[server.address()]);
        let new = Archive::new([1, 2], 1000);
        let pushed = new.push(&remote, &["main", "branch"]);
        saved.fetch_add(usize::from(pushed.is_ok()), Ordering::Relaxed);
        for name in ["main", "branch"] {
            // A name that the server can't read is not one that names what is missing.
            if let Ok(Some(index)) = find(&remote, name) {
                fetch(&remote, &index).expect("a whole cache");
            }
        }
        fs::remove_file(filler).expect("room");
        new.push(&remote, &["main", "branch"]).expect("a save");
        assert_whole(&remote, "main");
        assert_whole(&remote, "branch");
    });
    let saved = saved.into_inner();
    assert!((1..15).contains(&saved), "{saved} of 15 had room");
}
