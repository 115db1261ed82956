//! Gives the documents of an archive other shapes, with digests that are right: what is in them is
//! read, not only found to be damaged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dockercache::oci::digest::Digest;
use serde_json::{Value, json};

use crate::random::Random;

const INDEX: &str = "index.json";

/// Changes one document, the index or one below it, and says how.
pub(super) fn reshape(
    files: &mut BTreeMap<PathBuf, Vec<u8>>,
    documents: &[Digest],
    random: &mut Random,
) -> String {
    let is_index = random.once_in(3);
    let target = if is_index { None } else { random.maybe_pick(documents) };
    let path = target.as_ref().map_or_else(|| PathBuf::from(INDEX), path_of);
    let Ok(mut value) = serde_json::from_slice::<Value>(&files[&path]) else {
        return "no document".to_owned();
    };
    // A note is JSON in a string.
    let (text, said) = if target.is_none() && random.once_in(3) {
        let said = inside_of_note(&mut value, random);
        (value.to_string(), said)
    } else {
        change(&mut value, random)
    };
    let said = format!("{}: {said}", path.display());
    match target {
        Some(old) => replace(files, &old, text.into_bytes()),
        None => drop(files.insert(path, text.into_bytes())),
    }
    said
}

/// Changes the note of an index, or of one of its entries.
fn inside_of_note(index: &mut Value, random: &mut Random) -> String {
    let manifests = index["manifests"].as_array().map_or(0, Vec::len);
    let holder = match random.below(manifests + 1).checked_sub(1) {
        None => &mut *index,
        Some(at) => &mut index["manifests"][at],
    };
    let Some(notes) = holder["annotations"].as_object_mut() else { return "no note".to_owned() };
    let names: Vec<String> = notes.keys().cloned().collect();
    let name = random.pick(&names).clone();
    let text = notes[&name].as_str().unwrap_or_default().to_owned();
    let (text, said) = match serde_json::from_str::<Value>(&text) {
        Ok(mut note) => change(&mut note, random),
        Err(_) => (strange_text(random), "another text".to_owned()),
    };
    notes.insert(name.clone(), Value::String(text));
    format!("{name}: {said}")
}

/// Changes one value, and gives the document as text: JSON libraries write only what is good.
fn change(value: &mut Value, random: &mut Random) -> (String, String) {
    const MARK: &str = "@here@";
    let mut places = vec![String::new()];
    list(value, "", &mut places);
    let place = random.pick(&places).clone();
    let spot = value.pointer_mut(&place).expect("a value");
    let old = std::mem::replace(spot, Value::String(MARK.to_owned()));
    let (new, what) = another(&old, random);
    let text = value.to_string().replacen(&format!("\"{MARK}\""), &new, 1);
    (text, format!("`{place}` is {what}"))
}

/// The places of all values, as JSON pointers.
fn list(value: &Value, at: &str, places: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(map) => {
            let escaped = |key: &str| key.replace('~', "~0").replace('/', "~1");
            map.iter().map(|(key, value)| (escaped(key), value)).collect()
        }
        Value::Array(list) => list.iter().enumerate().map(|(n, v)| (n.to_string(), v)).collect(),
        _ => Vec::new(),
    };
    for (name, child) in children {
        let place = format!("{at}/{name}");
        list(child, &place, places);
        places.push(place);
    }
}

/// What is put in the place of a value, as text.
fn another(old: &Value, random: &mut Random) -> (String, &'static str) {
    let times = |random: &mut Random| [3, 100, 5_000, 200_000][random.below(4)];
    match random.below(20) {
        0 => ("null".to_owned(), "null"),
        1 => ("true".to_owned(), "a truth"),
        2 => ("7".to_owned(), "a number"),
        3 => ("-1".to_owned(), "negative"),
        4 => ("18446744073709551615".to_owned(), "the largest number"),
        5 => ("1e400".to_owned(), "no number that fits"),
        6 => ("0.5".to_owned(), "a fraction"),
        7 => ("{}".to_owned(), "an empty object"),
        8 => ("[]".to_owned(), "an empty list"),
        9 => ("\"\"".to_owned(), "an empty text"),
        10 | 11 => {
            let text = strange_text(random);
            (Value::String(text).to_string(), "a strange text")
        }
        12 => {
            let depth = times(random);
            ("[".repeat(depth) + &"]".repeat(depth), "nested lists")
        }
        13 => {
            let depth = times(random);
            ("{\"a\":".repeat(depth) + "1" + &"}".repeat(depth), "nested objects")
        }
        14 => {
            let many = times(random);
            (
                format!("[{}]", vec![old.to_string(); many].join(","))
                    .chars()
                    .take(9 << 20)
                    .collect(),
                "many of it",
            )
        }
        15 => (json!("x".repeat(times(random) * 40)).to_string(), "a long text"),
        16 => {
            let many = (0..times(random)).map(|n| format!("\"{n}\":{n}"));
            (format!("{{{}}}", many.collect::<Vec<_>>().join(",")), "many keys")
        }
        17 => (format!("{old},\"again\":{old}"), "twice, or a mistake"),
        18 => (json!(Digest::of(&random.next().to_le_bytes())).to_string(), "another digest"),
        _ => (json!([old, old]).to_string(), "two of it"),
    }
}

fn strange_text(random: &mut Random) -> String {
    let texts = [
        "\u{1b}[31m\u{1b}]0;title\u{7}",
        "line\n::add-mask::x\r\n##[command]x",
        "../../../../etc/passwd",
        "/etc/passwd",
        "\u{0}\u{8}\u{202e}\u{feff}",
        "$(touch /tmp/dockercache-pwned)`id`",
        "--privileged",
        "a,b=c,\"d\"",
        "sha256:0",
        "sha256:../../outside/victim",
        "\u{9b}31m\u{85}",
        "dockercache-carrier:x",
    ];
    (*random.pick(&texts)).repeat(1 + random.below(3))
}

pub(super) fn path_of(digest: &Digest) -> PathBuf {
    Path::new("blobs/sha256").join(digest.hex())
}

/// Puts a document in the place of another one, with its digest and size wherever that is named.
pub(super) fn replace(files: &mut BTreeMap<PathBuf, Vec<u8>>, old: &Digest, new: Vec<u8>) {
    let mut queue = vec![(old.clone(), new)];
    while let Some((old, new)) = queue.pop() {
        let digest = Digest::of(&new);
        let size = new.len();
        files.remove(&path_of(&old));
        files.insert(path_of(&digest), new);
        let names = |bytes: &[u8]| {
            let name = old.as_str().as_bytes();
            bytes.starts_with(b"{") && bytes.windows(name.len()).any(|window| window == name)
        };
        let holders: Vec<PathBuf> =
            files.iter().filter(|(_, bytes)| names(bytes)).map(|(path, _)| path.clone()).collect();
        for path in holders {
            let text =
                String::from_utf8_lossy(&files[&path]).replace(old.as_str(), digest.as_str());
            let text = match serde_json::from_str::<Value>(&text) {
                Ok(mut value) => {
                    resize(&mut value, digest.as_str(), size);
                    value.to_string()
                }
                Err(_) => text,
            };
            match path.to_str().and_then(|path| path.strip_prefix("blobs/sha256/")) {
                Some(hex) if Digest::from_hex(hex).is_ok_and(|holder| holder != digest) => {
                    let holder = Digest::from_hex(hex).expect("a digest");
                    queue.push((holder, text.into_bytes()));
                }
                _ => drop(files.insert(path, text.into_bytes())),
            }
        }
    }
}

/// Corrects the size in each descriptor of this digest.
fn resize(value: &mut Value, digest: &str, size: usize) {
    if value["digest"] == digest {
        value["size"] = size.into();
    }
    match value {
        Value::Object(map) => map.values_mut().for_each(|child| resize(child, digest, size)),
        Value::Array(list) => list.iter_mut().for_each(|child| resize(child, digest, size)),
        _ => {}
    }
}
