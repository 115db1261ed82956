//! How often a save asks a bucket whether a blob is there.

use std::time::Duration;

use dockercache::store::remote::Terms;

use super::archives::{Archive, find, remote_at};
use super::faults::{Fault, Proxy};
use crate::harness::{S3Server, S3Settings, Server as _, buckets, with_each};

/// The blobs of an archive of three layers: those, a config and a manifest.
const BLOBS: usize = 5;

fn is_of_a_blob(line: &str) -> bool {
    line.replace("%2F", "/").contains("/blobs/")
}

/// How many times it was asked for blobs until now.
fn asked(proxy: &Proxy) -> usize {
    let requests = proxy.requests().into_iter();
    requests.filter(|line| line.starts_with("HEAD") && is_of_a_blob(line)).count()
}

/// Whether there is anything to upload or not.
#[test]
fn a_save_asks_for_each_blob_once() {
    with_each(&buckets(), |server| {
        let proxy = Proxy::start(server.address(), |_, _| None);
        let remote = remote_at(server, proxy.address());
        let archive = Archive::new([1, 2, 3], 1000);
        assert_eq!(archive.push(&remote, &["main"]).unwrap().uploaded.0, BLOBS);
        assert_eq!(asked(&proxy), BLOBS);
        assert_eq!(archive.push(&remote, &["main"]).unwrap().uploaded.0, 0);
        assert_eq!(asked(&proxy), 2 * BLOBS);
    });
}

/// The note that it is at work is kept fresh meanwhile.
#[test]
fn a_save_may_take_longer_than_its_note_is_good() {
    let server = S3Server::start(S3Settings::default());
    let slow = Fault::Slow { pause: Duration::from_millis(300) };
    let plan = move |_, line: &str| (line.starts_with("PUT") && is_of_a_blob(line)).then_some(slow);
    let proxy = Proxy::start(server.address(), plan);
    let terms = Terms { saver: Duration::from_secs(1), ..Terms::default() };
    let remote = remote_at(&server, proxy.address()).with_terms(terms);
    let archive = Archive::new([1, 2, 3], 1000);
    assert_eq!(archive.push(&remote, &["main"]).unwrap().uploaded.0, BLOBS);
    assert_eq!(asked(&proxy), BLOBS);
    let notes = proxy.requests().into_iter();
    let notes = notes.filter(|line| line.starts_with("PUT") && line.contains("/notes/saver-"));
    assert!(notes.count() > 2, "{:?}", proxy.requests());
}

#[test]
fn a_bucket_in_which_no_note_stays_fresh_is_given_up() {
    let server = S3Server::start(S3Settings::default());
    let slow = Fault::Slow { pause: Duration::from_millis(200) };
    let plan = move |_, line: &str| line.contains("/notes/").then_some(slow);
    let proxy = Proxy::start(server.address(), plan);
    let terms = Terms { saver: Duration::from_millis(100), ..Terms::default() };
    let remote = remote_at(&server, proxy.address()).with_terms(terms);
    let error = Archive::new([1, 2, 3], 1000).push(&remote, &["main"]).unwrap_err();
    assert!(error.to_string().contains("answers too slowly"), "{error}");
    assert_eq!(find(&remote, "main"), Ok(None));
}
