//! Every kind of store beyond this machine, on servers, in fair and in foul weather.

use std::fs;
use std::future::Future;
use std::net::TcpListener;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use dockercache::archive::trust::Trust;
use dockercache::oci::documents::{CONFIG, DOCKER_MANIFEST, Descriptor, INDEX, Index, MANIFEST};
use dockercache::oci::documents::{Manifest, UNCOMPRESSED};
use dockercache::store::error::StoreError;
use dockercache::store::{self, RemoteStore, Shelf};
use futures_util::{StreamExt as _, TryStreamExt as _, future};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::runtime::Runtime;

use super::archives::{Archive, anyone, reference, remote_at};
use super::faults::{Fault, Proxy};
use crate::harness::{Access, AzureServer, GoogleServer, Invocation, PASSWORD, RegistryServer};
use crate::harness::{
    RegistrySettings, S3Server, S3Settings, Server, USER, buckets, servers, with_each,
};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// A blob in a file.
struct Blob {
    descriptor: Descriptor,
    file: NamedTempFile,
}

impl Blob {
    fn new(media_type: &str, bytes: &[u8]) -> Self {
        let file = NamedTempFile::new().expect("a file");
        fs::write(file.path(), bytes).expect("a written file");
        Self { descriptor: Descriptor::of(media_type, bytes), file }
    }

    /// Bytes that differ from those of every other seed.
    fn layer(seed: u64, length: usize) -> Self {
        Self::new(LAYER, &noise(seed, length))
    }

    async fn put(&self, store: &dyn RemoteStore) -> Result<(), StoreError> {
        let told = AtomicU64::new(0);
        let advance = |bytes| {
            told.fetch_add(bytes, Ordering::Relaxed);
        };
        store.put(&self.descriptor, self.file.path(), &advance).await?;
        assert_eq!(told.into_inner(), self.descriptor.size, "all bytes are told of, once");
        Ok(())
    }
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(&mut next).take(length).collect()
}

fn run<T>(future: impl Future<Output = T>) -> T {
    Runtime::new().expect("threads").block_on(future)
}

async fn get(
    store: &dyn RemoteStore,
    blob: &Descriptor,
    offset: u64,
) -> Result<Vec<u8>, StoreError> {
    let pieces: Vec<_> = store.get(blob, offset).await?.try_collect().await?;
    Ok(pieces.concat())
}

/// Reads a blob as a restore does: what breaks off is continued.
async fn get_patiently(store: &dyn RemoteStore, blob: &Descriptor) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..50 {
        let mut pieces = store.get(blob, bytes.len() as u64).await.expect("a stream");
        while let Some(Ok(piece)) = pieces.next().await {
            bytes.extend_from_slice(&piece);
        }
        if bytes.len() as u64 == blob.size {
            return bytes;
        }
    }
    panic!("{} of {} bytes after 50 attempts", bytes.len(), blob.size);
}

/// An image of one layer, as blobs in the order of their putting: an index comes last.
fn image(seed: u64) -> Vec<Blob> {
    let layer = Blob::layer(seed, 10_000);
    let config = Blob::new(CONFIG, format!(r#"{{"seed": {seed}}}"#).as_bytes());
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MANIFEST.to_owned()),
        config: config.descriptor.clone(),
        layers: vec![layer.descriptor.clone()],
    };
    let manifest = Blob::new(MANIFEST, &serde_json::to_vec(&manifest).expect("JSON"));
    let mut index = Index::new(vec![manifest.descriptor.clone()]);
    index.annotations.insert(UNCOMPRESSED.to_owned(), seed.to_string());
    let index = Blob::new(INDEX, &serde_json::to_vec(&index).expect("JSON"));
    vec![layer, config, manifest, index]
}

async fn save(store: &dyn RemoteStore, name: &str, seed: u64) -> Result<Vec<u8>, StoreError> {
    let mut blobs = image(seed);
    let index = blobs.pop().expect("an index");
    for blob in &blobs {
        blob.put(store).await?;
    }
    let index = fs::read(index.file.path()).expect("the index");
    store.write_ref(name, &index).await?;
    Ok(index)
}

async fn sorted_refs(store: &dyn RemoteStore) -> Vec<String> {
    let mut refs = match store.refs().await {
        // A repository begins to be with its first manifest.
        Err(StoreError::Missing { .. }) => Vec::new(),
        refs => refs.expect("refs"),
    };
    refs.sort();
    refs
}

async fn check_blobs(store: &dyn RemoteStore) {
    // None at all, less than a piece, and more than one part of an upload.
    for (seed, length) in [(1, 0), (2, 10), (3, 300_000), (4, 20_000_000)] {
        let blob = Blob::layer(seed, length);
        assert!(!store.has(&blob.descriptor).await.unwrap());
        blob.put(store).await.unwrap();
        // It is no error to put it again.
        blob.put(store).await.unwrap();
        assert!(store.has(&blob.descriptor).await.unwrap());
        let other = Descriptor { size: blob.descriptor.size + 1, ..blob.descriptor.clone() };
        assert!(!store.has(&other).await.unwrap(), "of another size");
        let bytes = noise(seed, length);
        for offset in [0, 1, length / 2, length.saturating_sub(1), length] {
            let rest = get(store, &blob.descriptor, offset as u64).await.unwrap();
            assert!(rest == bytes[offset.min(length)..], "from {offset} of {length}");
        }
    }
    let lost = Blob::layer(5, 10);
    let error = get(store, &lost.descriptor, 0).await.unwrap_err();
    assert!(matches!(error, StoreError::Missing { .. }), "{error}");
    assert!(error.to_string().contains(lost.descriptor.digest.as_str()), "{error}");
    let gone = lost.put_from_nowhere(store).await;
    assert!(matches!(gone, StoreError::Io { .. }), "{gone}");
}

impl Blob {
    async fn put_from_nowhere(self, store: &dyn RemoteStore) -> StoreError {
        let path = self.file.path().to_owned();
        drop(self.file);
        store.put(&self.descriptor, &path, &|_| ()).await.unwrap_err()
    }
}

async fn check_documents(store: &dyn RemoteStore) {
    for blob in image(20) {
        blob.put(store).await.unwrap();
        assert!(store.has(&blob.descriptor).await.unwrap());
        let bytes = fs::read(blob.file.path()).unwrap();
        assert_eq!(get(store, &blob.descriptor, 0).await.unwrap(), bytes);
        assert_eq!(get(store, &blob.descriptor, 7).await.unwrap(), bytes[7..]);
    }
    let lost = Descriptor::of(DOCKER_MANIFEST, b"{}");
    assert!(!store.has(&lost).await.unwrap());
    let error = get(store, &lost, 0).await.unwrap_err();
    assert!(matches!(error, StoreError::Missing { .. }), "{error}");
}

async fn check_refs(store: &dyn RemoteStore) {
    let before = sorted_refs(store).await;
    assert_eq!(before, [""; 0]);
    assert_eq!(store.read_ref("main").await.unwrap(), None);
    store.remove_ref("main").await.unwrap();
    let first = save(store, "main", 30).await.unwrap();
    assert_eq!(store.read_ref("main").await.unwrap().unwrap(), first);
    let second = save(store, "main", 31).await.unwrap();
    assert_eq!(store.read_ref("main").await.unwrap().unwrap(), second);
    // Two refs may name the same index; each is removed alone.
    store.write_ref("branch", &second).await.unwrap();
    save(store, "other_1.x", 32).await.unwrap();
    assert_eq!(sorted_refs(store).await, ["branch", "main", "other_1.x"]);
    store.remove_ref("main").await.unwrap();
    assert_eq!(sorted_refs(store).await, ["branch", "other_1.x"]);
    assert_eq!(store.read_ref("main").await.unwrap(), None);
    assert_eq!(store.read_ref("branch").await.unwrap().unwrap(), second);
    // A ref that was removed may come again, with the same index.
    store.write_ref("main", &second).await.unwrap();
    assert_eq!(store.read_ref("main").await.unwrap().unwrap(), second);
}

/// Two savers write one ref again and again: a reader sees what one of them wrote, whole.
async fn check_two_writers(store: &dyn RemoteStore) {
    let written =
        [save(store, "branch", 33).await.unwrap(), save(store, "branch", 34).await.unwrap()];
    let write = |index| async move {
        for _ in 0..20 {
            store.write_ref("branch", index).await.unwrap();
        }
    };
    let read = async {
        for _ in 0..20 {
            let found = store.read_ref("branch").await.unwrap().unwrap();
            assert!(written.contains(&found));
        }
    };
    future::join3(write(&written[0]), write(&written[1]), read).await;
}

fn check_all(server: &dyn Server) {
    run(async {
        let store = server.open();
        check_refs(&*store).await;
        check_two_writers(&*store).await;
        check_blobs(&*store).await;
        check_documents(&*store).await;
    });
}

#[test]
fn a_registry_is_a_store() {
    check_all(&RegistryServer::start(RegistrySettings::default()));
}

#[test]
fn a_registry_with_its_own_authority_is_a_store() {
    check_all(&RegistryServer::start(RegistrySettings {
        tls: true,
        ..RegistrySettings::default()
    }));
}

const TOKENS: RegistrySettings = RegistrySettings {
    access: Access::Tokens { life: Duration::from_mins(5) },
    tls: false,
    keeps_all: false,
    megabytes: None,
};

#[test]
fn a_registry_that_wants_tokens_is_a_store() {
    let server = RegistryServer::start(TOKENS);
    check_all(&server);
    let stranger = server.open_at(server.address(), "hunter2").unwrap();
    let error = run(stranger.refs()).unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "{error}");
}

/// One server of each kind that may have an authority of its own.
fn servers_with_tls() -> Vec<Box<dyn Server>> {
    let registry = RegistrySettings { tls: true, ..RegistrySettings::default() };
    vec![Box::new(RegistryServer::start(registry)), Box::new(S3Server::start(TLS))]
}

#[test]
fn a_certificate_of_another_name_is_refused_at_once() {
    with_each(&servers_with_tls(), |server| {
        let start = Instant::now();
        let address = server.address().replace("127.0.0.1", "localhost");
        let store = server.open_at(&address, PASSWORD).unwrap();
        let blob = Blob::layer(1, 10);
        for error in [run(store.refs()).unwrap_err(), run(blob.put(&*store)).unwrap_err()] {
            let text = error.to_string();
            assert!(text.contains("not available") && text.contains("certificate"), "{text}");
        }
        assert!(start.elapsed() < Duration::from_secs(5));
    });
}

/// As other programs have it, for every kind of store.
#[test]
fn authorities_may_be_named_where_the_system_s_are() {
    with_each(&servers_with_tls(), |server| {
        save_a_cache(server);
        let mut variables = server.variables(server.address(), PASSWORD);
        let authority = server.authority().unwrap();
        for (name, value) in &mut variables {
            match *name {
                "AWS_CA_BUNDLE" => value.clear(),
                "DOCKER_CONFIG" => fs::remove_dir_all(format!("{value}/certs.d")).unwrap(),
                _ => {}
            }
        }
        let list = || {
            Invocation::new(Command::new(env!("CARGO_BIN_EXE_dockercache")))
                .args(["gc", "--dry-run", &server.url(server.address())])
                .envs(variables.iter().map(|(name, value)| (*name, value)))
        };
        let distrusted = list().run();
        assert!(distrusted.code(5).stderr.contains("certificate"), "{}", distrusted.stderr);
        list().env("SSL_CERT_FILE", authority).run().success();
    });
}

#[test]
fn a_bucket_of_s3_is_a_store() {
    check_all(&S3Server::start(S3Settings::default()));
}

const TLS: S3Settings = S3Settings { tls: true, role: false, megabytes: None, listed: None };

#[test]
fn a_bucket_with_its_own_authority_is_a_store() {
    check_all(&S3Server::start(TLS));
}

#[test]
fn a_bucket_of_google_s_is_a_store() {
    check_all(&GoogleServer::start());
}

#[test]
fn a_container_of_azure_s_is_a_store() {
    check_all(&AzureServer::start());
}

/// Opens a bucket that the server has not.
fn absent(server: &dyn Server) -> Box<dyn RemoteStore> {
    let url = server.url(server.address()).replace("cache-bucket", "other-bucket");
    let environment = server.variables(server.address(), PASSWORD).into_iter().collect();
    store::open(&url.parse().unwrap(), &environment).unwrap()
}

fn assert_says_absent(error: &StoreError) {
    let text = error.to_string();
    assert!(text.contains("://other-bucket/team/app` is not available: "), "{text}");
    assert!(text.contains("NoSuchBucket") || text.contains("ContainerNotFound"), "{text}");
}

#[test]
fn a_bucket_that_is_not_there_is_said() {
    with_each(&buckets(), |server| {
        assert_says_absent(&run(absent(server).refs()).unwrap_err());
    });
}

/// The other servers make a bucket of what is written, and find nothing where none is.
#[test]
fn a_container_that_is_not_there_is_said_whatever_is_asked() {
    let server = AzureServer::start();
    let store = absent(&server);
    run(async {
        assert_says_absent(&store.read_ref("main").await.unwrap_err());
        assert_says_absent(&store.write_ref("main", b"{}").await.unwrap_err());
        assert_says_absent(&Blob::layer(1, 10).put(&*store).await.unwrap_err());
        assert_says_absent(&Blob::layer(2, 20_000_000).put(&*store).await.unwrap_err());
    });
}

/// So that there is something to find.
fn save_a_cache(server: &dyn Server) {
    let remote = remote_at(server, server.address());
    Archive::new([1], 1000).push(&remote, &["words.exact.0000000000000001"]).expect("a save");
}

#[test]
fn azurite_is_reached_by_the_variables_of_its_users() {
    let server = AzureServer::start();
    save_a_cache(&server);
    let key = server.variables(server.address(), PASSWORD).pop().unwrap();
    let collected: Value = Invocation::new(Command::new(env!("CARGO_BIN_EXE_dockercache")))
        .args(["gc", "--dry-run", "--format", "json", &server.url(server.address())])
        .env("AZURE_STORAGE_USE_EMULATOR", "true")
        .env("AZURITE_BLOB_STORAGE_URL", format!("http://{}", server.address()))
        .env("AZURE_STORAGE_ACCOUNT_NAME", USER)
        .envs([key])
        .run()
        .json();
    assert_eq!(collected["deleted_refs"], json!([]), "{collected}");
}

#[test]
fn a_bucket_s_shelf_lists_removes_and_tells_the_time() {
    with_each(&buckets(), |server| {
        let store = server.open();
        run(check_shelf(&*store, store.shelf().unwrap()));
    });
}

async fn check_shelf(store: &dyn RemoteStore, shelf: &dyn Shelf) {
    let start = SystemTime::now() - Duration::from_secs(2);
    let blobs = [Blob::layer(1, 10), Blob::layer(2, 20)];
    for blob in &blobs {
        blob.put(store).await.unwrap();
    }
    let mut listed: Vec<_> = shelf.blobs().try_collect().await.unwrap();
    listed.sort_by_key(|blob| blob.size);
    let named: Vec<_> = listed.iter().map(|blob| (&blob.digest, blob.size)).collect();
    assert_eq!(named, [(&blobs[0].descriptor.digest, 10), (&blobs[1].descriptor.digest, 20)]);
    assert!(listed.iter().all(|blob| blob.written > start));
    let gone = Blob::layer(3, 30).descriptor.digest;
    shelf.remove_blobs(&[gone, listed[0].digest.clone()]).await.unwrap();
    shelf.remove_blobs(&[listed[0].digest.clone()]).await.unwrap();
    assert!(!store.has(&blobs[0].descriptor).await.unwrap());
    assert!(store.has(&blobs[1].descriptor).await.unwrap());

    assert_eq!(shelf.ref_time("main").await.unwrap(), None);
    store.write_ref("main", b"{}").await.unwrap();
    assert!(shelf.ref_time("main").await.unwrap().unwrap() > start);

    let written = shelf.write_note("saver-1", b"one").await.unwrap();
    assert!(written > start);
    shelf.write_note("saver-2", b"two").await.unwrap();
    shelf.write_note("collector", b"").await.unwrap();
    let mut notes = shelf.notes("saver-").await.unwrap();
    notes.sort_by(|a, b| a.name.cmp(&b.name));
    let texts: Vec<_> = notes.iter().map(|note| (&*note.name, &*note.text)).collect();
    assert_eq!(texts, [("saver-1", &b"one"[..]), ("saver-2", b"two")]);
    assert_eq!(notes[0].written, written);
    shelf.remove_note("saver-1").await.unwrap();
    shelf.remove_note("saver-1").await.unwrap();
    assert_eq!(shelf.notes("").await.unwrap().len(), 2);
}

#[test]
fn what_is_not_ours_in_a_bucket_is_not_listed() {
    let server = S3Server::start(S3Settings::default());
    let store = server.open();
    let blob = Blob::layer(1, 10);
    run(blob.put(&*store)).unwrap();
    for name in ["blobs/sha256/README", "blobs/sha256/ab/cd", "blobs/sha512/x", "other"] {
        let path = server.objects().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }
    let listed: Vec<_> = run(store.shelf().unwrap().blobs().try_collect()).unwrap();
    let named: Vec<_> = listed.iter().map(|blob| &blob.digest).collect();
    assert_eq!(named, [&blob.descriptor.digest]);
}

/// Saves and reads through a proxy whose plan is given.
fn weather(plan: fn(usize, &str) -> Option<Fault>) {
    with_each(&servers(), |server| {
        let proxy = Proxy::start(server.address(), plan);
        let store = server.open_at(proxy.address(), PASSWORD).unwrap();
        run(async {
            let index = save(&*store, "main", 40).await.unwrap();
            assert_eq!(store.read_ref("main").await.unwrap().unwrap(), index);
            assert_eq!(store.refs().await.unwrap(), ["main"]);
            let blob = Blob::layer(41, 500_000);
            blob.put(&*store).await.unwrap();
            assert!(get_patiently(&*store, &blob.descriptor).await == noise(41, 500_000));
        });
        assert!(!proxy.requests().is_empty());
    });
}

#[test]
fn a_server_that_is_busy_is_asked_again() {
    weather(|number, _| (number < 4).then_some(Fault::Status { code: 503, retry_after: Some(1) }));
}

#[test]
fn a_server_that_limits_requests_is_asked_again() {
    weather(|number, _| {
        number.is_multiple_of(3).then_some(Fault::Status { code: 429, retry_after: None })
    });
}

#[test]
fn connections_that_are_closed_are_made_again() {
    weather(|number, _| number.is_multiple_of(3).then_some(Fault::Closed));
}

#[test]
fn answers_that_are_reset_are_asked_for_again() {
    weather(|number, _| (number % 3 == 1).then_some(Fault::Reset { after: 40 }));
}

#[test]
fn answers_that_are_cut_off_are_asked_for_again() {
    // Past the head of an answer, into its body.
    weather(|number, line| {
        (number % 3 == 1 && line.starts_with("GET")).then_some(Fault::Truncated { after: 700 })
    });
}

#[test]
fn a_slow_server_is_waited_for() {
    weather(|_, line| {
        let small = line.contains("manifests") || line.contains("refs");
        small.then_some(Fault::Slow { pause: Duration::from_millis(20) })
    });
}

/// Asserts that a store is given up, in time.
fn assert_gives_up(store: &dyn RemoteStore, words: &str, seconds: std::ops::Range<u64>) {
    let start = Instant::now();
    let blob = Blob::layer(50, 100);
    let error = run(store.has(&blob.descriptor)).unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains(words), "{error}");
    assert!(seconds.contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
}

#[test]
fn a_store_that_stays_down_is_given_up() {
    let down = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    with_each(&servers(), |server| {
        let store = server.open_at(&down, PASSWORD).unwrap();
        assert_gives_up(&*store, "refused", 0..5);
    });
}

#[test]
fn a_store_that_only_fails_is_given_up() {
    with_each(&servers(), |server| {
        let fails = Fault::Status { code: 503, retry_after: None };
        let proxy = Proxy::start(server.address(), move |_, _| Some(fails));
        let store = server.open_at(proxy.address(), PASSWORD).unwrap();
        assert_gives_up(&*store, "503", 4..16);
    });
}

#[test]
fn a_wrong_password_is_said_and_not_shown() {
    with_each(&servers(), |server| {
        let start = Instant::now();
        let store = server.open_at(server.address(), "hunter2").unwrap();
        let blob = Blob::layer(60, 100);
        run(async {
            for error in [
                store.refs().await.unwrap_err(),
                store.has(&blob.descriptor).await.unwrap_err(),
                blob.put(&*store).await.unwrap_err(),
                store.write_ref("main", b"{}").await.unwrap_err(),
                store.read_ref("main").await.unwrap_err(),
            ] {
                assert!(matches!(error, StoreError::Denied { .. }), "{error}");
                let text = format!("{error} {error:?}");
                assert!(text.contains("with ") && !text.contains("hunter2"), "{text}");
                assert!(!text.contains("aHVudGVyMg"), "{text}");
            }
        });
        assert!(start.elapsed() < Duration::from_secs(10));
    });
}

#[test]
fn a_registry_that_keeps_all_says_so_and_keeps_the_tag() {
    let settings = RegistrySettings { keeps_all: true, ..RegistrySettings::default() };
    let server = RegistryServer::start(settings);
    let store = server.open();
    run(async {
        let index = save(&*store, "main", 70).await.unwrap();
        let error = store.remove_ref("main").await.unwrap_err().to_string();
        assert!(error.contains("REGISTRY_STORAGE_DELETE_ENABLED"), "{error}");
        assert_eq!(store.read_ref("main").await.unwrap().unwrap(), index);
    });
}

fn a_mount(settings: RegistrySettings) {
    let server = RegistryServer::start(settings);
    let proxy = Proxy::start(server.address(), |_, _| None);
    let blob = Blob::layer(80, 100_000);
    let source = server.repository(proxy.address(), "team/images");
    let target = server.repository(proxy.address(), "team/app");
    let image = |name: &str| format!("{}/{name}", proxy.address());
    target.mount_from(&[&image("team/absent:1"), "busybox:1", &image("team/images:1")]);
    run(async {
        blob.put(&source).await.unwrap();
        let uploads = || proxy.requests().iter().filter(|line| line.starts_with("PUT")).count();
        assert_eq!(uploads(), 1);
        blob.put(&target).await.unwrap();
        assert_eq!(uploads(), 1);
        assert!(get(&target, &blob.descriptor, 0).await.unwrap() == noise(80, 100_000));
    });
}

#[test]
fn a_blob_of_another_repository_is_mounted() {
    a_mount(RegistrySettings::default());
}

#[test]
fn a_mount_gets_a_token_for_both_repositories() {
    a_mount(TOKENS);
}

/// Such as one of a registry whose disk was full, or one that another account has written.
#[test]
fn a_ref_that_can_t_be_read_hides_no_other() {
    with_each(&servers(), |server| {
        let refused = Fault::Refused { code: 403, words: "not yours" };
        let plan = move |_, line: &str| line.contains("nearest").then_some(refused);
        let proxy = Proxy::start(server.address(), plan);
        let remote = remote_at(server, proxy.address());
        let refs = ["nearest", "other"].map(reference);
        let (trust, scope) = (Trust::default(), anyone());
        let find = || remote.find(&refs, &trust, &scope, |reason| panic!("{reason}"));
        let error = find().unwrap_err();
        assert!(matches!(error, StoreError::Denied { .. }), "{error}");
        Archive::new([1], 1000).push(&remote, &["other"]).unwrap();
        assert!(find().unwrap().is_some());
    });
}
