//! What a collector removes, and what it leaves, in every kind of bucket.

use std::time::Duration;

use dockercache::store::remote::collect::Policy;
use dockercache::store::remote::commit::Terms;
use dockercache::store::remote::transfer::Remote;

use super::archives::{Archive, fetch, find, remote_at};
use super::faults::{Fault, Proxy};
use crate::harness::{S3Server, S3Settings, Server as _, buckets, with_each};

/// Short enough for a test, and longer than what the stores' clocks leave out.
const GRACE: Duration = Duration::from_secs(4);

/// An old cache goes by its name, and then by its blobs; what a newer one shares with it stays.
#[test]
fn what_no_name_reaches_goes_after_the_grace() {
    with_each(&buckets(), |server| {
        let saver = Duration::from_secs(1);
        let terms = Terms { saver, collector: saver, removal: saver * 3 };
        let remote = Remote::new(server.open()).expect("a store").with_terms(terms);
        let collect = |policy: Policy| remote.collect(&policy).expect("a collection");
        let policy = Policy { grace: GRACE, max_age: Some(GRACE), max_size: None, dry_run: false };
        let (old, new) = ("words.exact.0000000000000001", "words.exact.0000000000000002");
        Archive::new([1, 2], 1000).push(&remote, &[old]).expect("a save");
        assert_eq!(collect(policy).refs_left, 1, "it is young");
        std::thread::sleep(GRACE + Duration::from_secs(2));
        Archive::new([2, 3], 1000).push(&remote, &[new]).expect("a save");

        let planned = collect(Policy { dry_run: true, ..policy });
        assert_eq!(planned.refs, [old]);
        // The layer, the config and the manifest that only the old one needs.
        assert_eq!((planned.blobs.0, planned.blobs_left.0), (3, 4));
        assert!(find(&remote, old).expect("an answer").is_some(), "it was only planned");
        assert_eq!(collect(policy), planned);
        assert_eq!(find(&remote, old).expect("an answer"), None);

        let again = collect(policy);
        assert_eq!((again.blobs.0, again.blobs_left.0), (0, 4));
        let index = find(&remote, new).expect("an answer").expect("a cache");
        fetch(&remote, &index).expect("a whole cache");

        // A save that has not yet written its name: what is younger than the grace stays.
        Archive::new([4], 1000).push(&remote, &[]).expect("blobs without a name");
        assert_eq!(collect(policy).blobs.0, 0);
        std::thread::sleep(GRACE + Duration::from_secs(2));
        assert_eq!(collect(Policy { max_age: None, ..policy }).blobs.0, 3);
        fetch(&remote, &index).expect("a whole cache");
    });
}

/// Savers no longer wait for a collector that has not renewed its note for long.
#[test]
fn a_removal_that_takes_too_long_is_given_up() {
    let server = S3Server::start(S3Settings::default());
    let slow = Fault::Slow { pause: Duration::from_secs(1) };
    let plan = move |_, line: &str| line.starts_with("POST").then_some(slow);
    let proxy = Proxy::start(server.address(), plan);
    let terms = Terms { removal: Duration::from_secs(3), ..Terms::default() };
    let remote = remote_at(&server, proxy.address()).with_terms(terms);
    Archive::new([1], 1000).push(&remote, &[]).expect("blobs without a name");
    let policy = Policy { grace: Duration::ZERO, max_age: None, max_size: None, dry_run: false };
    let error = remote.collect(&policy).unwrap_err().to_string();
    assert!(error.contains("too slowly to go on removing"), "{error}");
}
