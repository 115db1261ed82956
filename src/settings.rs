//! `dockercache.yml`: what would otherwise be repeated in each step of a CI.
//!
//! Each key stands for the variable of the environment with its name: `store_timeout` for
//! `DOCKERCACHE_STORE_TIMEOUT`. A variable that is set wins. Keys and credentials have no place in a
//! file of the repository, so there are no such keys.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde_yaml::{Mapping, Value};

use crate::oci::regular::{self, OpenError};

/// The file, in the directory that the program is called in.
pub const FILE: &str = "dockercache.yml";
/// Names the variables whose values are the file's.
pub(crate) const FROM_FILE: &str = "DOCKERCACHE_FROM_FILE";
/// Where the archive is by default.
pub(crate) const DIRECTORY: &str = "/tmp/dockercache";
/// The most bytes of a file.
const MAXIMUM_SIZE: u64 = 64 << 10;

/// A setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name in the file.
    pub key: &'static str,
    /// Its name in the environment.
    pub variable: &'static str,
    /// What holds where it is not set.
    pub default: &'static str,
}

const fn setting(key: &'static str, variable: &'static str, default: &'static str) -> Setting {
    Setting { key, variable, default }
}

/// All settings that a file may have.
pub const SETTINGS: [Setting; 13] = [
    setting("cache_dir", "DOCKERCACHE_DIR", DIRECTORY),
    setting("compression", "DOCKERCACHE_COMPRESSION", "zstd if the engine reads it"),
    setting("max_age", "DOCKERCACHE_MAX_AGE", "none"),
    setting("mounts", "DOCKERCACHE_MOUNTS", "on"),
    setting("mounts_all", "DOCKERCACHE_MOUNTS_ALL", "5GB"),
    setting("mounts_each", "DOCKERCACHE_MOUNTS_EACH", "2GB"),
    setting("mounts_unused", "DOCKERCACHE_MOUNTS_UNUSED", "3"),
    setting("project", "DOCKERCACHE_PROJECT", "the CI's, the git remote's, the directory's name"),
    setting("read_only", "DOCKERCACHE_READ_ONLY", "false"),
    setting("salt", "DOCKERCACHE_SALT", "none"),
    setting("store", "DOCKERCACHE_STORE", "none"),
    setting("store_timeout", "DOCKERCACHE_STORE_TIMEOUT", "60s"),
    setting("strategy", "DOCKERCACHE_STRATEGY", "what the builder can do"),
];

/// Where the archive is, for commands that have no options of their own.
pub(crate) fn directory() -> PathBuf {
    let set = std::env::var_os("DOCKERCACHE_DIR").filter(|dir| !dir.is_empty());
    set.map_or_else(|| DIRECTORY.into(), PathBuf::from)
}

/// Why a file can't be used.
#[derive(Debug)]
pub struct SettingsError(String);

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{FILE}`: {}", self.0)
    }
}

impl std::error::Error for SettingsError {}

/// The variables that a file of this directory adds to the environment; none if there is no file, or
/// if all of them are set.
pub fn additions(
    directory: &Path,
    is_set: &dyn Fn(&str) -> bool,
) -> Result<Vec<(&'static str, OsString)>, SettingsError> {
    let file = match regular::open(&directory.join(FILE)) {
        Ok(file) => file,
        Err(OpenError::Missing) => return Ok(Vec::new()),
        Err(error) => return Err(SettingsError(io::Error::from(error).to_string())),
    };
    let mut text = String::new();
    let read = file.take(MAXIMUM_SIZE + 1).read_to_string(&mut text);
    read.map_err(|error| SettingsError(error.to_string()))?;
    if text.len() as u64 > MAXIMUM_SIZE {
        return Err(SettingsError(format!("it is larger than {MAXIMUM_SIZE} bytes")));
    }
    let values = parse(&text)?;
    let new = values.into_iter().filter(|(variable, _)| !is_set(variable));
    let mut added: Vec<_> = new.map(|(variable, value)| (variable, value.into())).collect();
    if !added.is_empty() {
        let names: Vec<_> = added.iter().map(|(variable, _)| *variable).collect();
        added.push((FROM_FILE, names.join(" ").into()));
    }
    Ok(added)
}

/// Reads a file: variables and their values.
fn parse(text: &str) -> Result<BTreeMap<&'static str, String>, SettingsError> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(BTreeMap::new());
    }
    let mapping: Mapping =
        serde_yaml::from_str(text).map_err(|error| SettingsError(error.to_string()))?;
    let mut values = BTreeMap::new();
    for (key, value) in mapping {
        let Value::String(key) = key else {
            return Err(SettingsError("every key must be a text".to_owned()));
        };
        let setting = SETTINGS.iter().find(|setting| setting.key == key);
        let setting = setting.ok_or_else(|| SettingsError(unknown(&key)))?;
        let value = match value {
            Value::Bool(value) => value.to_string(),
            Value::Number(number) => number.to_string(),
            Value::String(text) => text,
            _ => {
                let reason = format!("`{key}` must be a text, a number, true or false");
                return Err(SettingsError(reason));
            }
        };
        values.insert(setting.variable, value);
    }
    Ok(values)
}

fn unknown(key: &str) -> String {
    let nearest = SETTINGS
        .iter()
        .map(|setting| (strsim::damerau_levenshtein(setting.key, key), setting.key))
        .min();
    match nearest {
        Some((distance, meant)) if distance <= 2 => {
            format!("unknown key `{key}`; did you mean `{meant}`?")
        }
        _ => {
            let keys: Vec<_> = SETTINGS.iter().map(|setting| setting.key).collect();
            format!("unknown key `{key}` (expected one of {})", keys.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(text: &str, set: &[&str]) -> Result<Vec<(&'static str, OsString)>, String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), text).unwrap();
        additions(dir.path(), &|name| set.contains(&name)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_variable_that_is_set_wins_over_the_file() {
        let text = "project: app\nstore: s3://bucket/x # shared\nread_only: true\n";
        let found = added(text, &["DOCKERCACHE_STORE"]).unwrap();
        assert_eq!(
            found,
            [
                ("DOCKERCACHE_PROJECT", "app".into()),
                ("DOCKERCACHE_READ_ONLY", "true".into()),
                (FROM_FILE, "DOCKERCACHE_PROJECT DOCKERCACHE_READ_ONLY".into()),
            ]
        );
        assert!(added("project: app", &["DOCKERCACHE_PROJECT"]).unwrap().is_empty());
        assert!(added("# nothing yet\n", &[]).unwrap().is_empty());
    }

    #[test]
    fn a_mistake_names_the_file_and_what_was_meant() {
        for (text, expected) in [
            ("stroe: x", "`dockercache.yml`: unknown key `stroe`; did you mean `store`?"),
            ("signing_key: x", "unknown key `signing_key` (expected one of cache_dir,"),
            ("store: [a]", "`store` must be a text, a number, true or false"),
            ("store: 'a", "`dockercache.yml`: "),
            ("- a", "`dockercache.yml`: "),
            ("1: a", "every key must be a text"),
        ] {
            let error = added(text, &[]).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_no_small_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(additions(dir.path(), &|_| false).unwrap().is_empty());
        std::fs::create_dir(dir.path().join(FILE)).unwrap();
        assert!(additions(dir.path(), &|_| false).is_err());
        let error = added(&format!("project: {}", "x".repeat(70_000)), &[]).unwrap_err();
        assert!(error.contains("larger than"), "{error}");
    }
}
