//! What a collector removes, and what it leaves, in every kind of bucket.

use std::process::Command;
use std::time::{Duration, Instant};

use dockercache::oci::digest::Digest;
use dockercache::store::collect::Policy;
use dockercache::store::remote::Remote;
use dockercache::store::remote::Terms;

use tokio::runtime::Runtime;

use super::archives::{Archive, assert_whole, fetch, find, remote_at};
use super::faults::{Fault, Proxy};
use crate::harness::{
    Invocation, PASSWORD, S3Server, S3Settings, Server, buckets, servers, with_each,
};

/// Short enough for a test, and longer than what the stores' clocks leave out.
const GRACE: Duration = Duration::from_secs(12);

/// An old cache goes by its name, and then by its blobs; what a newer one shares with it stays.
#[test]
fn what_no_name_reaches_goes_after_the_grace() {
    with_each(&buckets(), |server| {
        let saver = Duration::from_secs(1);
        let terms = Terms { saver, collector: saver * 20, removal: saver * 20 };
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

/// Blobs in a note, as a collector writes it.
fn note(blobs: &[&Digest]) -> Vec<u8> {
    serde_json::json!({ "refs": [], "blobs": blobs }).to_string().into_bytes()
}

/// One that was killed has left its notes; what they condemn is not what is saved.
#[test]
fn a_killed_collector_holds_no_saver_up() {
    with_each(&buckets(), |server| {
        let remote = remote_at(server, server.address());
        let other = Archive::new([9], 1000).layer().digest;
        plant(server, &[("collector-dead", b""), ("condemned-dead-1", &note(&[&other]))]);
        let start = Instant::now();
        Archive::new([1, 2], 1000).push(&remote, &["main"]).expect("a save");
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        // It may be alive after all, and not know of the new name.
        assert_eq!(savers(server), 1, "the note protects what is named since");
    });
}

/// A collector is begun and killed again and again, every eighth second and in between, always at
/// the worst moment: it has just condemned what is saved.
#[test]
fn collectors_that_are_killed_again_and_again_starve_no_saver() {
    with_each(&buckets(), |server| {
        let terms = Terms { removal: Duration::from_secs(4), ..Terms::default() };
        let start = Instant::now();
        let mut waited = Vec::new();
        let mut died = 0;
        while start.elapsed() < Duration::from_secs(40) {
            let number = waited.len() as u64;
            let archive = Archive::new([number, number + 1], 1000);
            if start.elapsed().as_secs() >= died * 8 {
                let (at_work, condemned) =
                    (format!("collector-{died}"), format!("condemned-{died}-1"));
                let blobs = note(&[&archive.layer().digest]);
                plant(server, &[(&at_work, b""), (&condemned, &blobs)]);
                died += 1;
            }
            let remote = remote_at(server, server.address()).with_terms(terms);
            let began = Instant::now();
            archive.push(&remote, &["main"]).expect("a save, whatever collectors do");
            waited.push(began.elapsed());
            assert_whole(&remote, "main");
        }
        let longest = waited.iter().max().expect("a save");
        assert!(died >= 5 && *longest < Duration::from_secs(12), "{died} {longest:?}");
        let quick = waited.iter().filter(|time| **time < Duration::from_secs(2)).count();
        assert!(quick >= waited.len() - usize::try_from(died).expect("a number"), "{waited:?}");
    });
}

/// It can't be told whether it is removed in the next moment.
#[test]
fn a_saver_waits_for_what_it_needs_itself_and_not_for_long() {
    with_each(&buckets(), |server| {
        let terms = Terms { removal: Duration::from_secs(3), ..Terms::default() };
        let remote = remote_at(server, server.address()).with_terms(terms);
        let archive = Archive::new([1, 2], 1000);
        plant(server, &[("condemned-dead-1", &note(&[&archive.layer().digest]))]);
        let start = Instant::now();
        archive.push(&remote, &["main"]).expect("a save");
        let waited = start.elapsed();
        assert!((2..9).contains(&waited.as_secs()), "{waited:?}");
        assert_whole(&remote, "main");
        assert_eq!(savers(server), 0, "no collector is at work");
        // The note has lost its force.
        let start = Instant::now();
        archive.push(&remote, &["main"]).expect("a save");
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    });
}

/// Whoever has announced what it needs keeps it, also from a collector that has read all names.
#[test]
fn what_a_saver_has_announced_is_not_removed() {
    with_each(&buckets(), |server| {
        let remote = remote_at(server, server.address());
        let archive = Archive::new([1], 1000);
        archive.push(&remote, &[]).expect("blobs without a name");
        plant(server, &[("saver-at-work", &note(&[&archive.layer().digest]))]);
        std::thread::sleep(GRACE + Duration::from_secs(2));
        let policy = Policy { grace: GRACE, max_age: None, max_size: None, dry_run: false };
        let collected = remote.collect(&policy).expect("a collection");
        // The config and the manifest go.
        assert_eq!((collected.blobs.0, collected.blobs_left.0), (2, 1));
    });
}

fn plant(server: &dyn Server, notes: &[(&str, &[u8])]) {
    let store = server.open();
    let shelf = store.shelf().expect("a bucket");
    Runtime::new().expect("threads").block_on(async {
        for (name, text) in notes {
            shelf.write_note(name, text).await.expect("a note");
        }
    });
}

/// How many notes of savers there are.
fn savers(server: &dyn Server) -> usize {
    let store = server.open();
    let shelf = store.shelf().expect("a bucket");
    let notes = Runtime::new().expect("threads").block_on(shelf.notes("saver-"));
    notes.expect("notes").len()
}

/// A URL with a typing error must not look like a store in good order.
#[test]
fn a_store_with_nothing_in_it_is_said() {
    with_each(&servers(), |server| {
        let gc = |url: &str| {
            Invocation::new(Command::new(env!("CARGO_BIN_EXE_dockercache")))
                .args(["gc", url])
                .envs(server.variables(server.address(), PASSWORD))
                .run()
        };
        let url = server.url(server.address());
        let wrong = gc(&format!("{url}-typo"));
        assert!(
            wrong.code(2).stderr.contains("there is nothing of dockercache's in"),
            "{}",
            wrong.stderr
        );
        assert!(wrong.stderr.contains("hint: check the URL"), "{}", wrong.stderr);
        let remote = remote_at(server, server.address());
        Archive::new([1], 1000).push(&remote, &["words.exact.0000000000000001"]).expect("a save");
        gc(&url).success();
    });
}
