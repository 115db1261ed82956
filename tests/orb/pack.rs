//! Packs an orb's directory into one document, as `circleci orb pack` does.
//!
//! `@orb.yml` is the root; a file in a folder becomes an entry of the key that the folder is named
//! after, and deeper folders only sort files. A value `<<include(FILE)>>` inside commands, jobs, and
//! executors is replaced by the file's text, where every `<<` is escaped. Packers that are in use
//! refuse a second include in a value, and text around one.

use std::fs;
use std::path::{Path, PathBuf};

use serde_yaml::{Mapping, Value};
use walkdir::WalkDir;

const SECTIONS_WITH_INCLUDES: &[&str] = &["commands", "jobs", "executors"];

/// Packs the orb in `root`.
pub(crate) fn pack(root: &Path) -> Result<Value, String> {
    let mut orb = read(&root.join("@orb.yml"))?;
    let top = orb.as_mapping_mut().ok_or("@orb.yml is no mapping")?;
    for (section, name, path) in components(root) {
        let mut entry = read(&path)?;
        if SECTIONS_WITH_INCLUDES.contains(&section.as_str()) {
            include(&mut entry, root)?;
        }
        let entries = top
            .entry(section.as_str().into())
            .or_insert_with(|| Value::Mapping(Mapping::new()))
            .as_mapping_mut()
            .ok_or_else(|| format!("{section} is no mapping"))?;
        if entries.insert(name.as_str().into(), entry).is_some() {
            return Err(format!("{section} has two entries called {name}"));
        }
    }
    Ok(orb)
}

/// The orb's YAML files below its root: section, name, and path.
pub(crate) fn components(root: &Path) -> Vec<(String, String, PathBuf)> {
    let files = WalkDir::new(root).min_depth(2).sort_by_file_name().into_iter();
    files
        .map(|entry| entry.expect("a readable directory").into_path())
        .filter(|path| path.extension().is_some_and(|e| e == "yml" || e == "yaml"))
        .map(|path| {
            let text = |part: &std::ffi::OsStr| part.to_string_lossy().into_owned();
            let below = path.strip_prefix(root).expect("a path below the root");
            let section = text(below.iter().next().expect("a folder"));
            (section, text(path.file_stem().expect("a file name")), path)
        })
        .collect()
}

pub(crate) fn read(path: &Path) -> Result<Value, String> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut value = serde_yaml::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    booleans(&mut value, &text);
    Ok(value)
}

/// The compiler reads YAML 1.1, where a plain `yes` is a boolean. We have none, and want none.
fn booleans(value: &mut Value, text: &str) {
    let old = ["yes", "no", "on", "off"];
    match value {
        Value::String(word) if old.contains(&word.to_lowercase().as_str()) => {
            let quoted = [format!("\"{word}\""), format!("'{word}'")];
            assert!(quoted.iter().any(|q| text.contains(q)), "a plain `{word}` is a boolean");
        }
        Value::Sequence(items) => items.iter_mut().for_each(|item| booleans(item, text)),
        Value::Mapping(map) => map.values_mut().for_each(|item| booleans(item, text)),
        _ => {}
    }
}

fn include(value: &mut Value, root: &Path) -> Result<(), String> {
    match value {
        Value::String(text) => *text = with_includes(text, root)?,
        Value::Sequence(items) => items.iter_mut().try_for_each(|item| include(item, root))?,
        Value::Mapping(map) => map.values_mut().try_for_each(|item| include(item, root))?,
        _ => {}
    }
    Ok(())
}

fn with_includes(text: &str, root: &Path) -> Result<String, String> {
    if !text.contains("include(") || !text.contains("<<") {
        return Ok(text.to_owned());
    }
    let refused = || format!("`{}`: an include is all of its value", text.trim());
    let inside = text.trim().strip_prefix("<<").and_then(|rest| rest.strip_suffix(">>"));
    let path = inside.and_then(|i| i.trim().strip_prefix("include(")?.strip_suffix(')'));
    let path = path.filter(|path| !path.contains(['(', '<'])).ok_or_else(refused)?;
    let file = fs::read_to_string(root.join(path)).map_err(|e| format!("{path}: {e}"))?;
    Ok(file.replace("<<", "\\<<"))
}

#[test]
fn an_included_script_keeps_its_arrows() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("s.sh"), "cat <<X >a\n").unwrap();
    assert_eq!(with_includes("<< include(s.sh) >>\n", dir.path()).unwrap(), "cat \\<<X >a\n");
    assert_eq!(with_includes("<< parameters.a >>", dir.path()).unwrap(), "<< parameters.a >>");
    assert!(with_includes("<<include(missing.sh)>>", dir.path()).is_err());
}

#[test]
fn a_second_include_and_text_around_one_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("s.sh"), "true\n").unwrap();
    for value in [
        "<<include(s.sh)>>\n<<include(s.sh)>>",
        "echo\n<<include(s.sh)>>",
        "<<include(s.sh)>> true",
        "<< parameters.a >> <<include(s.sh)>>",
    ] {
        assert!(
            with_includes(value, dir.path()).unwrap_err().contains("all of its value"),
            "{value}"
        );
    }
}
