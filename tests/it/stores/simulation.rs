//! Hundreds of savers and readers and a collector at once, some of them killed at any moment: no
//! ref ever names a blob that is missing.
//!
//! Savers make archives of layers that they share with each other, so that a layer which no ref
//! reaches any more, and which a collector is about to remove, is often just what the next saver
//! needs. Each saver, reader and collector is a process of its own; a few terms are shortened for
//! all of them, so that much happens in little time.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dockercache::store::collect::Policy;
use dockercache::store::remote::Remote;
use dockercache::store::remote::Terms;
use dockercache::store::variables::Variables;
use dockercache::store::{self, RemoteStore};

use super::archives::{Archive, Random, fetch, find};
use crate::harness::{PASSWORD, RegistryServer, RegistrySettings, S3Server, S3Settings, Server};

/// How long it goes on.
const DURATION: Duration = Duration::from_mins(3);
/// Processes at a time.
const SAVERS: usize = 8;
const READERS: usize = 3;
/// Different layers that there are, and the size of each.
const LAYERS: u64 = 30;
const LAYER: usize = 20_000;
const PROJECTS: u64 = 3;

/// A fraction of what is used in earnest.
fn terms() -> Terms {
    Terms {
        collector: Duration::from_secs(10),
        saver: Duration::from_secs(2),
        removal: Duration::from_secs(6),
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
    let server = S3Server::start(S3Settings::default());
    let report = simulate(&server);
    assert!(report["collected"] > 20, "nothing was at risk: {report:?}");
}

/// A registry collects blobs by itself: names go there, and come back, while others read and save.
#[test]
fn in_a_registry_no_ref_ever_names_a_missing_blob() {
    let server = RegistryServer::start(RegistrySettings::default());
    simulate(&server);
}

/// Lets it all happen, and counts what did.
fn simulate(server: &dyn Server) -> BTreeMap<String, u64> {
    let mut processes: Vec<Process> = (0..SAVERS)
        .map(|_| "saver")
        .chain((0..READERS).map(|_| "reader"))
        .chain(["collector"])
        .map(|role| Process::start(server, role, 1))
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
        if role == "collector" && random.below(2) > 0 {
            // One that never ends removes nothing.
            continue;
        }
        let killed =
            std::mem::replace(&mut processes[at], Process::start(server, role, generation));
        killed.kill(&mut report);
        *report.entry("killed".to_owned()).or_default() += 1;
    }
    for process in processes {
        process.kill(&mut report);
    }
    println!("{report:?}");

    // Nobody is at work: all that is named is there, and a collector leaves it there.
    let remote = opened(server.open());
    let named = every_ref_is_whole(&remote);
    std::thread::sleep(terms().collector);
    let kept = Policy { max_age: None, ..policy() };
    remote.collect(&kept).expect("a collection");
    assert_eq!(every_ref_is_whole(&remote), named);
    assert!(report["saved"] > 100, "too little happened: {report:?}");
    assert!(report["read"] > 50, "too little happened: {report:?}");
    assert_eq!(report.get("VIOLATION"), None);
    assert_eq!(report.get("UNSAVED"), None, "a saver never fails because of a collector");
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
    fn start(server: &dyn Server, role: &'static str, seed: u64) -> Self {
        let child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "stores::simulation::process", "--ignored", "--nocapture"])
            .env("SIMULATION", format!("{role} {seed} {}", server.url(server.address())))
            .envs(server.variables(server.address(), PASSWORD))
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
            if word.chars().all(char::is_uppercase) {
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
    let mut word = || words.next().expect("a role, a seed and a URL");
    let (role, seed, url) = (word(), word(), word().parse().expect("a URL"));
    let environment = Variables::of_process();
    let remote = opened(store::open(&url, &environment).expect("an opened store"));
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

fn opened(store: Box<dyn RemoteStore>) -> Remote {
    Remote::new(store).expect("a store").with_terms(terms())
}

/// Saves an archive of a few layers.
fn save(remote: &Remote, random: &mut Random) {
    let first = random.below(LAYERS);
    let layers: Vec<u64> = (0..4).map(|_| random.below(LAYERS)).chain([first]).collect();
    let project = random.below(PROJECTS);
    match Archive::new(layers, LAYER).push(remote, &[&exact(project, first), &exact(project, 0)]) {
        Ok(_) => println!("simulation: saved 1"),
        Err(error) => println!("simulation: UNSAVED {error}"),
    }
}

/// Reads an archive whole: `Some(true)` if it is there, `None` if the store gave no answer.
fn read(remote: &Remote, name: &str) -> Option<bool> {
    let Some(index) = find(remote, name).ok()? else { return Some(false) };
    match fetch(remote, &index) {
        Ok(()) => Some(true),
        // It may have been replaced, and then collected, while it was read.
        Err(error) if find(remote, name).ok()?.is_some_and(|now| now == index) => {
            println!("simulation: VIOLATION {name}: {error}");
            panic!("{name}: {error}");
        }
        Err(_) => Some(false),
    }
}

fn exact(project: u64, number: u64) -> String {
    format!("project-{project}.exact.{number:016x}")
}
