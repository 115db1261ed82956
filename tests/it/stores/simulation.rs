//! Hundreds of savers and readers and a collector at once, some of them killed at any moment: no
//! ref ever names a blob that is missing.
//!
//! Savers make archives of layers that they share with each other, so that a layer which no ref
//! reaches any more, and which a collector is about to remove, is often just what the next saver
//! needs. Each saver, reader and collector is a process of its own; a few terms are shortened for
//! all of them, so that much happens in little time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dockercache::layout::archive::{LayerBlob, Role};
use dockercache::layout::digest::Digest;
use dockercache::layout::directory::Layout;
use dockercache::layout::live;
use dockercache::layout::oci::Index;
use dockercache::store::remote::collect::Policy;
use dockercache::store::remote::commit::Terms;
use dockercache::store::remote::reference::RefName;
use dockercache::store::remote::signature::Trust;
use dockercache::store::remote::transfer::{Remote, is_layer};

use crate::harness::{RegistryServer, RegistrySettings, S3Server, Server};

/// How long it goes on.
const DURATION: Duration = Duration::from_mins(1);
/// Processes at a time.
const SAVERS: usize = 8;
const READERS: usize = 3;
/// Different layers that there are.
const LAYERS: u64 = 30;
const PROJECTS: u64 = 3;

/// A fraction of what is used in earnest.
fn terms() -> Terms {
    Terms {
        collector: Duration::from_secs(10),
        saver: Duration::from_secs(2),
        patience: Duration::from_secs(30),
    }
}

fn policy() -> Policy {
    Policy {
        grace: terms().shortest_grace(),
        max_age: Some(Duration::from_secs(15)),
        max_size: None,
        dry_run: false,
    }
}

#[test]
fn in_a_bucket_no_ref_ever_names_a_missing_blob() {
    let server = S3Server::start();
    let report = simulate("bucket", &server);
    assert!(report["collected"] > 20, "nothing was at risk: {report:?}");
}

/// A registry collects blobs by itself: names go there, and come back, while others read and save.
#[test]
fn in_a_registry_no_ref_ever_names_a_missing_blob() {
    let server = RegistryServer::start(RegistrySettings::default());
    simulate("registry", &server);
}

/// Lets it all happen, and counts what did.
fn simulate(kind: &str, server: &dyn Server) -> BTreeMap<String, u64> {
    let place = format!("{kind} {}", server.address());
    let mut processes: Vec<Process> = (0..SAVERS)
        .map(|_| "saver")
        .chain((0..READERS).map(|_| "reader"))
        .chain(["collector"])
        .map(|role| Process::start(&place, role, 1))
        .collect();
    let mut random = Random(20_181_125);
    let begun = Instant::now();
    let mut generation = 1;
    let mut report = BTreeMap::<String, u64>::new();
    while begun.elapsed() < DURATION {
        std::thread::sleep(Duration::from_millis(700));
        let at = usize::try_from(random.below(processes.len() as u64)).expect("an index");
        generation += 1;
        let role = processes[at].role;
        if role == "collector" && random.below(3) > 0 {
            // Each leaves a note that keeps savers waiting for a while.
            continue;
        }
        let killed =
            std::mem::replace(&mut processes[at], Process::start(&place, role, generation));
        killed.kill(&mut report);
        *report.entry("killed".to_owned()).or_default() += 1;
    }
    for process in processes {
        process.kill(&mut report);
    }
    println!("{report:?}");

    // Nobody is at work: all that is named is there, and a collector leaves it there.
    let remote = open(&place);
    let named = every_ref_is_whole(&remote);
    std::thread::sleep(terms().collector);
    let kept = Policy { max_age: None, ..policy() };
    remote.collect(&kept).expect("a collection");
    assert_eq!(every_ref_is_whole(&remote), named);
    assert!(report["saved"] > 200, "too little happened: {report:?}");
    assert!(report["read"] > 100, "too little happened: {report:?}");
    assert_eq!(report.get("VIOLATION"), None);
    report
}

/// How many refs there are; all that they name is there.
fn every_ref_is_whole(remote: &Remote) -> usize {
    let mut count = 0;
    for project in 0..PROJECTS {
        for layer in 0..LAYERS {
            let name = exact(project, layer);
            count += usize::from(read(remote, &name).expect("a store that answers"));
        }
    }
    count
}

/// A process of the simulation, which prints a line for each thing that it did.
struct Process {
    role: &'static str,
    child: Child,
}

impl Process {
    fn start(place: &str, role: &'static str, seed: u64) -> Self {
        let child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "stores::simulation::process", "--ignored", "--nocapture"])
            .env("SIMULATION", format!("{role} {seed} {place}"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        Self { role, child }
    }

    fn kill(mut self, report: &mut BTreeMap<String, u64>) {
        self.child.kill().expect("a process to kill");
        let output = self.child.wait_with_output().expect("its output");
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let Some((word, rest)) =
                line.strip_prefix("simulation: ").and_then(|l| l.split_once(' '))
            else {
                continue;
            };
            if word == "VIOLATION" {
                println!("{line}");
            }
            *report.entry(word.to_owned()).or_default() += rest.parse().unwrap_or(1);
        }
    }
}

#[test]
#[ignore = "a process that the simulation starts"]
fn process() {
    let told = std::env::var("SIMULATION").expect("what to do");
    let mut words = told.splitn(3, ' ');
    let mut word = || words.next().expect("a role, a seed and a place");
    let (role, seed, place) = (word(), word(), word());
    let remote = open(place);
    let mut random = Random(seed.parse::<u64>().expect("a number") ^ u64::from(std::process::id()));
    loop {
        match role {
            "saver" => save(&remote, &mut random),
            "reader" => {
                let name = exact(random.below(PROJECTS), random.below(LAYERS));
                if read(&remote, &name) == Some(true) {
                    println!("simulation: read 1");
                }
            }
            _ => {
                match remote.collect(&policy()) {
                    Ok(collected) => println!(
                        "simulation: collected {}\nsimulation: unnamed {}",
                        collected.blobs.0,
                        collected.refs.len()
                    ),
                    Err(error) => println!("simulation: trouble {error}"),
                }
                std::thread::sleep(terms().saver);
            }
        }
    }
}

fn open(place: &str) -> Remote {
    let (kind, address) = place.split_once(' ').expect("a kind and an address");
    let store = if kind == "bucket" {
        S3Server::open_client(address)
    } else {
        let config = tempfile::tempdir().expect("a directory");
        RegistryServer::open_client(address, config.path())
    };
    Remote::new(store).expect("a store").with_terms(terms())
}

/// Saves an archive of a few layers.
fn save(remote: &Remote, random: &mut Random) {
    let dir = tempfile::tempdir().expect("a directory");
    let layout = Layout::at(dir.path());
    let lock = layout.lock().expect("a lock");
    let first = random.below(LAYERS);
    let layers: Vec<LayerBlob> = (0..4)
        .map(|_| layer(&layout, random.below(LAYERS)))
        .chain([layer(&layout, first)])
        .collect();
    let diff_ids: Vec<&Digest> = layers.iter().map(|l| &l.diff_id).collect();
    let config = serde_json::json!({ "rootfs": { "type": "layers", "diff_ids": diff_ids } });
    let note = dockercache::layout::archive::ImageNote {
        role: Role::Stage,
        tags: Vec::new(),
        parent: None,
    };
    let image = dockercache::layout::archive::write_image(
        &layout,
        config.to_string().as_bytes(),
        &layers,
        "stage",
        note,
    )
    .expect("an image");
    drop(lock);
    let index = Index::new(vec![image.descriptor]);
    let project = random.below(PROJECTS);
    let refs = [reference(exact(project, first)), reference(exact(project, 0))];
    match remote.push(&layout, &index, &refs, &BTreeSet::new(), &Trust::default(), &|_| {}) {
        Ok(_) => println!("simulation: saved 1"),
        Err(error) => println!("simulation: trouble {error}"),
    }
}

/// Reads an archive whole: `Some(true)` if it is there, `None` if the store gave no answer.
fn read(remote: &Remote, name: &str) -> Option<bool> {
    let refs = [reference(name.to_owned())];
    let dir = tempfile::tempdir().expect("a directory");
    let layout = Layout::at(dir.path());
    let _lock = layout.lock().expect("a lock");
    let find = || remote.find(&refs, &Trust::default(), |reason| panic!("{reason}")).ok();
    let found = find()?;
    let Some(found) = found else { return Some(false) };
    let fetched = remote.fetch_documents(&found.index, &layout).map_err(|e| e.to_string());
    let fetched = fetched.and_then(|()| {
        let blobs = live::reach(&layout, &found.index).blobs.into_values();
        let layers: Vec<_> = blobs.filter(is_layer).collect();
        let failed = remote.fetch(&layers, &layout, &|_| {}).map_err(|e| e.to_string())?;
        failed.first().map_or(Ok(()), |(_, error)| Err(error.to_string()))
    });
    match fetched {
        Ok(()) => Some(true),
        // It may have been replaced, and then collected, while it was read.
        Err(error) if find()?.is_some_and(|now| now.index == found.index) => {
            println!("simulation: VIOLATION {name}: {error}");
            panic!("{name}: {error}");
        }
        Err(_) => Some(false),
    }
}

/// A layer of the few that there are, in the layout.
fn layer(layout: &Layout, number: u64) -> LayerBlob {
    let mut random = Random(number + 1);
    let mut text = String::new();
    while text.len() < 20_000 {
        let _ = writeln!(text, "{number} {:x}", random.next());
    }
    let digest = layout.put(text.as_bytes()).expect("a blob");
    LayerBlob {
        diff_id: digest.clone(),
        blob: digest,
        size: text.len() as u64,
        unpacked_size: text.len() as u64,
        media_type: "application/vnd.oci.image.layer.v1.tar".to_owned(),
    }
}

fn exact(project: u64, number: u64) -> String {
    format!("project-{project}.exact.{number:016x}")
}

fn reference(name: String) -> RefName {
    RefName { level: "exact".to_owned(), name }
}

/// Xorshift: the same numbers for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        self.0 ^= self.0 >> 29;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 8) % bound
    }
}
