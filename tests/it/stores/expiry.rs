//! Credentials that come to their end in the middle of a save: got anew where their source gives
//! new ones, or else said; no ref is broken by it.

use std::time::{Duration, Instant};

use dockercache::store::error::PushError;
use dockercache::store::error::StoreError;

use super::archives::{Archive, assert_whole, find, remote_at};
use super::faults::{Fault, Proxy};
use crate::harness::{Access, PASSWORD, RegistryServer, RegistrySettings, S3Server, S3Settings};
use crate::harness::{Server, buckets, servers, with_each};

const EXPIRED: Fault = Fault::Refused {
    code: 403,
    words: "<Error><Code>ExpiredToken</Code><Message>It has expired.</Message></Error>",
};
/// Slower than the life of a token, in all that a save asks for.
const SLOW: Fault = Fault::Slow { pause: Duration::from_millis(100) };

/// After any number of requests, from none on to as many as a save needs.
#[test]
fn wherever_credentials_expire_no_ref_is_broken() {
    with_each(&servers(), |server| {
        let direct = remote_at(server, server.address());
        Archive::new([1, 2], 1000).push(&direct, &["main"]).expect("a save");
        let (mut good, mut said) = (0, 0);
        loop {
            let plan = move |number, _: &str| (number >= good).then_some(EXPIRED);
            let proxy = Proxy::start(server.address(), plan);
            let remote = remote_at(server, proxy.address());
            let next = u64::try_from(good).expect("a number") + 3;
            let start = Instant::now();
            match Archive::new([2, next], 1000).push(&remote, &["main", "branch"]) {
                Ok(_) => break,
                Err(PushError::Store(error @ StoreError::Denied { .. })) => {
                    let text = error.to_string();
                    assert!(!text.contains(PASSWORD), "{text}");
                    let accepted = text.contains("may have expired");
                    assert!(good > 0 || !accepted, "{text}");
                    said += usize::from(accepted);
                }
                Err(error) => panic!("after {good} requests: {error}"),
            }
            // It is of no use to try again.
            assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
            assert_whole(&direct, "main");
            good += 1;
        }
        assert!(good > 8, "a save of {good} requests");
        // All but the first: several at once, or those in which a registry is greeted.
        assert!(said + 8 > good, "{said} of {good} times");
        assert_whole(&direct, "main");
        assert_whole(&direct, "branch");
    });
}

#[test]
fn an_upload_in_parts_that_is_refused_leaves_nothing() {
    with_each(&buckets(), |server| {
        let is_late_part = |line: &str| {
            // Azure names its blocks in base64.
            line.starts_with("PUT") && (line.contains("partNumber=2") || line.contains("=block&"))
        };
        let plan = move |_, line: &str| is_late_part(line).then_some(EXPIRED);
        let proxy = Proxy::start(server.address(), plan);
        let archive = Archive::new([1], 10_000_000);
        let error = archive.push(&remote_at(server, proxy.address()), &["main"]).unwrap_err();
        assert!(error.to_string().contains("ExpiredToken It has expired"), "{error}");
        let direct = remote_at(server, server.address());
        assert_eq!(find(&direct, "main"), Ok(None));
        archive.push(&direct, &["main"]).expect("a save");
        assert_whole(&direct, "main");
    });
}

#[test]
fn tokens_of_a_registry_are_got_anew() {
    let access = Access::Tokens { life: Duration::from_secs(1) };
    let server = RegistryServer::start(RegistrySettings { access, ..RegistrySettings::default() });
    let proxy = Proxy::start(server.address(), |_, _| Some(SLOW));
    let remote = remote_at(&server, proxy.address());
    let start = Instant::now();
    Archive::new(1..6, 1000).push(&remote, &["main"]).expect("a save");
    let spent = start.elapsed();
    assert!(spent > Duration::from_secs(3), "no token has expired in {spent:?}");
    assert_whole(&remote, "main");
    println!("{} tokens in {spent:?}", server.tokens_issued());
    assert!(server.tokens_issued() > 3);
}

#[test]
fn keys_of_a_role_are_got_anew() {
    let server = S3Server::start(S3Settings { role: true, ..S3Settings::default() });
    let proxy = Proxy::start(server.address(), |_, _| Some(SLOW));
    let remote = remote_at(&server, proxy.address());
    let start = Instant::now();
    Archive::new(1..6, 1000).push(&remote, &["main"]).expect("a save");
    let spent = start.elapsed();
    assert!(spent > Duration::from_millis(1500), "no key has expired in {spent:?}");
    assert_whole(&remote, "main");
    println!("{} keys in {spent:?}", server.keys_issued());
    assert!(server.keys_issued() > 3);
}
