//! `docs/architecture.md` says which room may use which, and the sources keep to it.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use regex::Regex;
use walkdir::WalkDir;

type Uses = BTreeMap<String, BTreeSet<String>>;

/// The lines "- `room` may use: `one`, `other`" of the document.
fn allowed(document: &str) -> Uses {
    let rooms = |text: &str| {
        let names = Regex::new("`([a-z_]+)`").unwrap();
        names.captures_iter(text).map(|found| found[1].to_owned()).collect::<Vec<_>>()
    };
    // A long line goes on in the next one.
    let items = document.split("\n\n").flat_map(|part| part.split("\n- "));
    let lines = items.filter_map(|item| {
        let (room, used) = item.split_once(" may use: ")?;
        Some((room.trim_start_matches("- "), used))
    });
    lines.map(|(room, used)| (rooms(room)[0].clone(), rooms(used).into_iter().collect())).collect()
}

/// The rooms that each room names, by `crate::room` or in a list behind `crate::`.
fn used() -> Uses {
    let mut uses = Uses::new();
    let named = Regex::new(r"crate::(?:([a-z_]+)|\{([^}]*)\})").unwrap();
    let first = Regex::new(r"(?:^|,)\s*([a-z_]+)").unwrap();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in WalkDir::new(&sources) {
        let entry = entry.unwrap();
        let path = entry.path().strip_prefix(&sources).unwrap();
        let room = path.iter().next().map(|first| first.to_str().unwrap().trim_end_matches(".rs"));
        let Some(room) = room.filter(|room| !["lib", "main"].contains(room)) else { continue };
        if !entry.file_type().is_file() {
            continue;
        }
        let uses = uses.entry(room.to_owned()).or_default();
        for found in named.captures_iter(&fs::read_to_string(entry.path()).unwrap()) {
            match (found.get(1), found.get(2)) {
                (Some(one), _) => {
                    uses.insert(one.as_str().to_owned());
                }
                (None, Some(list)) => {
                    uses.extend(
                        first.captures_iter(list.as_str()).map(|inner| inner[1].to_owned()),
                    );
                }
                (None, None) => {}
            }
        }
        uses.remove(room);
    }
    uses
}

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md");
    fs::read_to_string(path).unwrap()
}

#[test]
fn every_room_uses_what_the_document_says_and_nothing_else() {
    let (allowed, used) = (allowed(&document()), used());
    assert!(used.len() > 10, "the sources are not where they are expected");
    assert_eq!(allowed, used);
}

#[test]
fn rooms_use_each_other_in_no_circle() {
    let mut left = used();
    while !left.is_empty() {
        let last: Vec<String> = left
            .iter()
            .filter(|(_, uses)| uses.iter().all(|used| !left.contains_key(used)))
            .map(|(room, _)| room.clone())
            .collect();
        assert!(!last.is_empty(), "a circle: {left:?}");
        left.retain(|room, _| !last.contains(room));
    }
}

#[test]
fn every_room_is_in_the_table_and_in_the_picture() {
    let document = document();
    let picture = document.split("```").nth(1).unwrap();
    for room in used().keys() {
        assert!(document.contains(&format!("| `{room}` |")), "`{room}` is not in the table");
        let words = picture.split(|c: char| !c.is_ascii_lowercase());
        assert!(words.into_iter().any(|word| word == room), "`{room}` is not in the picture");
    }
}

#[test]
fn in_the_engine_neither_the_client_nor_the_api_knows_a_strategy() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/engine");
    for part in ["client.rs", "client", "api"] {
        for entry in WalkDir::new(sources.join(part)) {
            let entry = entry.unwrap();
            if entry.file_type().is_file() {
                let text = fs::read_to_string(entry.path()).unwrap();
                assert!(!text.contains("engine::strategy"), "{}", entry.path().display());
            }
        }
    }
}
