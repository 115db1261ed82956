//! Documents within every limit of their size, made to take as much memory and time as can be: what
//! each command takes is measured.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use dockercache::oci::digest::Digest;
use serde_json::{Value, json};

use super::documents::{path_of, replace};
use super::good::{Good, write};
use super::sandbox::{LIMIT, Sandbox, judge};
use crate::harness::{BUILD, Builder, Generation, Machine, Until, watched};

type Files = BTreeMap<PathBuf, Vec<u8>>;

const DOCKERFILE: &str = "FROM busybox:1 AS build\nRUN echo a > /a\n\
                          FROM busybox:1\nCOPY --from=build /a /a\nRUN echo b > /b\n";
/// What a document may have, with some room for what else is in it.
const LARGE: usize = (8 << 20) - 20_000;
const ABOUT: &str = "dev.dockercache.about";
const INDEX: &str = "index.json";

type Craft = fn(&mut Files);

/// Each takes a good archive and makes it a hostile one.
const CRAFTED: &[(&str, Craft)] = &[
    ("nested values in the index", |files| {
        set_index(files, |index| index["x"] = nested(LARGE));
    }),
    ("nested values in each document", |files| {
        for digest in documents(files) {
            change(files, &digest, |document| document["x"] = nested(1 << 20));
        }
    }),
    ("a list of numbers in the index", |files| {
        set_index(files, |index| index["x"] = json!(vec![1; 140_000]));
    }),
    ("one entry many times", |files| {
        set_index(files, |index| {
            let manifests = index["manifests"].as_array_mut().expect("a list");
            let entry = manifests[0].clone();
            let size = entry.to_string().len() + 1;
            manifests.extend(vec![entry; LARGE / 2 / size]);
        });
    }),
    ("many large manifests", |files| {
        let (manifest, entry) = a_manifest(files);
        let mut entries = Vec::new();
        for number in 0..300 {
            let mut large = manifest.clone();
            large["annotations"]["x"] = json!(format!("{number}{}", "x".repeat(1 << 20)));
            let mut entry = entry.clone();
            add(files, &large, &mut entry);
            entries.push(entry);
        }
        set_index(files, |index| {
            index["manifests"].as_array_mut().expect("a list").extend(entries);
        });
    }),
    ("many manifests of many layers", |files| {
        let (manifest, entry) = a_manifest(files);
        let layer = manifest["layers"][0].clone();
        let mut entries = Vec::new();
        for number in 0..40 {
            let mut large = manifest.clone();
            large["layers"] = json!(vec![layer.clone(); 2_000]);
            large["annotations"] = json!({ "x": number.to_string() });
            let mut entry = entry.clone();
            add(files, &large, &mut entry);
            entries.push(entry);
        }
        set_index(files, |index| {
            index["manifests"].as_array_mut().expect("a list").extend(entries);
        });
    }),
    ("notes of many stages and steps", |files| {
        set_about(files, |about| {
            let stage = about["stages"][0].clone();
            let step = json!({ "text": "RUN x", "digest": "d", "parts": ["a b", "c d"] });
            let stages = (0..1900).map(|number| {
                let mut stage = stage.clone();
                stage["name"] = json!(format!("stage{number}"));
                stage["steps"] = json!(vec![step.clone(); 10]);
                stage
            });
            about["stages"] = stages.collect();
        });
    }),
    ("notes of one step with all files", |files| {
        set_about(files, |about| {
            let lists: Vec<String> =
                (0..100_000).map(|n| format!("100644 f {n:08x} f{n}")).collect();
            for stage in about["stages"].as_array_mut().expect("stages") {
                for step in stage["steps"].as_array_mut().expect("steps") {
                    step["files"] = json!({ "depth": 0, "files": [] });
                }
            }
            about["stages"][0]["steps"][0]["files"] = json!({ "depth": 0, "files": lists });
        });
    }),
    ("notes of one step with all parts", |files| {
        set_about(files, |about| {
            let parts: Vec<String> = (0..120_000).map(|n| format!("{n:08x} ARG A{n}")).collect();
            about["stages"][0]["steps"][0]["parts"] = json!(parts);
        });
    }),
    ("300,000 small records", |files| set_records(files, &records(300_000, 0))),
    ("30,000 records after one of more than 1 MiB", |files| {
        set_records(files, &records(30_000, 1 << 21));
    }),
    ("records that all lead to each other", |files| {
        let mut text = String::new();
        for number in 0..30_000_usize {
            let links = [number.saturating_sub(1), number / 2].map(|link| json!({ "link": link }));
            let links: Vec<&Value> = if number == 0 { vec![] } else { links.iter().collect() };
            let _ = write!(text, ",{}", json!({ "digest": number.to_string(), "inputs": [links] }));
        }
        set_records(files, &text[1..]);
    }),
    ("the same in a stage's image", |files| {
        let inline = format!("[{}]", records(100_000, 1 << 20));
        for digest in documents(files) {
            // A manifest above a config that was changed has another name by now.
            let document = files.get(&path_of(&digest));
            let is_config =
                document.is_some_and(|text| text.windows(8).any(|part| part == b"\"rootfs\""));
            if is_config {
                let inline = BASE64_STANDARD.encode(&inline);
                change(files, &digest, |config| config["moby.buildkit.cache.v0"] = json!(inline));
            }
        }
    }),
];

#[test]
fn crafted_archives_take_little_memory_and_time() {
    let files = [("Dockerfile", DOCKERFILE)];
    let machine = Machine::new(Builder::Buildkit(Generation::V28_5), &files);
    machine.run(BUILD).success();
    machine.run(["save"]).success();
    let good = machine.carried.contents();
    let archive = machine.carried.archive();
    let mut failures = Vec::new();
    for (name, craft) in CRAFTED {
        let mut crafted = good.clone();
        craft(&mut crafted);
        for lost in [false, true] {
            write(&archive, &crafted);
            if lost {
                // What is left is put together again.
                let blobs = machine.carried.blobs();
                fs::remove_file(&blobs.iter().find(|(_, path)| is_layer(path)).expect("a layer").1)
                    .expect("no layer");
            }
            machine.replace();
            let commands: [(&[&str], &[i32]); 6] = [
                (&["inspect"], &[0, 3]),
                (&["inspect", "--format=json"], &[0, 3]),
                (&["explain", "."], &[0, 1, 2, 3]),
                (&["restore"], &[0, 3]),
                (&BUILD, &[0]),
                (&["save"], &[0]),
            ];
            let mut peaks = Vec::new();
            for (words, allowed) in commands {
                let command = machine.dockercache(words.iter().copied()).into_command();
                let until = Until::Limit(LIMIT);
                let run = watched(command, until);
                peaks.push(format!(
                    "{} {} MiB {:.1} s",
                    words[0],
                    run.peak >> 10,
                    run.took.as_secs_f64()
                ));
                if let Err(reason) = judge(&run, until, allowed) {
                    let start: String = reason.chars().take(600).collect();
                    failures.push(format!("{name}, lost {lost}, {words:?}: {start}"));
                }
            }
            println!("{name}{}: {}", if lost { ", a layer lost" } else { "" }, peaks.join(", "));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn dockerfiles_that_grow_take_little_memory_and_time() {
    let sandbox = Sandbox::new();
    let project = sandbox.file("project");
    fs::create_dir(&project).expect("a directory");
    let doubling = format!("FROM busybox:1\nENV A=aaaaaaaaaa\n{}", "ENV A=$A$A\n".repeat(40));
    let mut long = "FROM busybox:1\n".to_owned();
    for number in 0..3000 {
        let _ = writeln!(long, "ENV V{number}=some-value-of-{number}\nRUN echo $V{number}");
    }
    for (name, text, code) in [("doubling", doubling, 2), ("long", long, 0)] {
        fs::write(project.join("Dockerfile"), text).expect("a file");
        let words = ["key", project.to_str().expect("UTF-8")];
        let run = sandbox.run(&words, &[code]).unwrap_or_else(|reason| panic!("{name}: {reason}"));
        println!("{name}: {} MiB, {:.1} s", run.peak >> 10, run.took.as_secs_f64());
        if code != 0 {
            assert!(run.stderr.contains("it expands to more than 1024 KiB"), "{}", run.stderr);
        }
    }
}

fn is_layer(path: &Path) -> bool {
    fs::read(path).is_ok_and(|bytes| !bytes.starts_with(b"{"))
}

fn documents(files: &Files) -> Vec<Digest> {
    Good { files: files.clone(), packed: Vec::new() }.documents()
}

/// As many nested lists as there is room for, none deeper than a reader goes.
fn nested(room: usize) -> Value {
    let deep = (0..100).fold(json!([]), |inner, _| json!([inner]));
    let size = deep.to_string().len() + 1;
    json!(vec![deep; room / size])
}

fn records(count: usize, first: usize) -> String {
    let mut text = json!({ "digest": "x".repeat(first) }).to_string();
    for number in 1..count {
        let _ = write!(text, ",{{\"digest\":\"{number}\"}}");
    }
    text
}

fn set_index(files: &mut Files, change: impl FnOnce(&mut Value)) {
    let mut index = serde_json::from_slice(&files[Path::new(INDEX)]).expect("JSON");
    change(&mut index);
    let text = index.to_string().into_bytes();
    assert!(text.len() <= 8 << 20, "{} bytes", text.len());
    files.insert(INDEX.into(), text);
}

fn set_about(files: &mut Files, change: impl FnOnce(&mut Value)) {
    set_index(files, |index| {
        let about = &mut index["annotations"][ABOUT];
        let mut note = serde_json::from_str(about.as_str().expect("a note")).expect("JSON");
        change(&mut note);
        *about = Value::String(note.to_string());
    });
}

fn change(files: &mut Files, digest: &Digest, change: impl FnOnce(&mut Value)) {
    // What another change has moved is found no more.
    let Some(bytes) = files.get(&path_of(digest)) else { return };
    let mut document = serde_json::from_slice(bytes).expect("JSON");
    change(&mut document);
    replace(files, digest, document.to_string().into_bytes());
}

/// Puts records in the place of those that builders read.
fn set_records(files: &mut Files, records: &str) {
    let is_config = |digest: &&Digest| files[&path_of(digest)].starts_with(b"{\"layers\"");
    let digest = documents(files).iter().find(is_config).expect("records").clone();
    let config: Value = serde_json::from_slice(&files[&path_of(&digest)]).expect("JSON");
    let text = format!("{{\"layers\":{},\"records\":[{records}]}}", config["layers"]);
    replace(files, &digest, text.into_bytes());
}

/// A manifest of an image, and its entry in the index.
fn a_manifest(files: &Files) -> (Value, Value) {
    let index: Value = serde_json::from_slice(&files[Path::new(INDEX)]).expect("JSON");
    let entries = index["manifests"].as_array().expect("a list");
    let is_image =
        |entry: &&Value| entry["mediaType"].as_str().is_some_and(|t| t.contains("manifest"));
    let entry = entries.iter().find(is_image).expect("an image").clone();
    let digest: Digest = entry["digest"].as_str().expect("a digest").parse().expect("a digest");
    (serde_json::from_slice(&files[&path_of(&digest)]).expect("JSON"), entry)
}

fn add(files: &mut Files, document: &Value, entry: &mut Value) {
    let bytes = document.to_string().into_bytes();
    let digest = Digest::of(&bytes);
    entry["digest"] = json!(digest);
    entry["size"] = json!(bytes.len());
    files.insert(path_of(&digest), bytes);
}
