//! The files of a step in short: enough to say which of them has changed.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::cause::{Cause, Change};
use crate::archive::FileList;
use crate::context::{ContextEntry, EntryKind};

/// The most files that are listed for one step. An archive must stay small.
const MOST_FILES: usize = 200;

/// How much of a digest is kept: chances are one in four billion that a change is not seen.
const DIGITS: usize = 8;

/// Lists files, or the directories that they are in where they are too many.
pub(super) fn list(entries: &[&ContextEntry]) -> FileList {
    if entries.len() <= MOST_FILES {
        return at_depth(entries, 0);
    }
    let deepest = entries.iter().map(|e| e.path.components().count()).max().unwrap_or(1);
    (1..deepest)
        .rev()
        .map(|depth| at_depth(entries, depth))
        .find(|list| list.files.len() <= MOST_FILES)
        .unwrap_or_default()
}

/// Lists files in `depth` levels of directories; 0 are all.
fn at_depth(entries: &[&ContextEntry], depth: usize) -> FileList {
    let mut groups: BTreeMap<String, Sha256> = BTreeMap::new();
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.path.to_string_lossy();
        if depth > 0
            && let Some((at, _)) = path.match_indices('/').nth(depth - 1)
        {
            let group = groups.entry(path[..=at].to_owned()).or_default();
            group.update(entry.path.as_os_str().as_encoded_bytes());
            group.update([0]);
            group.update(entry.digest.to_string());
            continue;
        }
        let kind = match entry.kind {
            EntryKind::File => 'f',
            EntryKind::Directory => 'd',
            EntryKind::Symlink => 'l',
            EntryKind::Other => 'o',
        };
        files.push(format!("{:o} {kind} {} {path}", entry.mode, &entry.digest.hex()[..DIGITS]));
    }
    for (path, digest) in groups {
        let hash = digest.finalize();
        let start = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]);
        files.push(format!("0 g {start:08x} {path}"));
    }
    FileList { depth, files }
}

/// Finds the first file that has changed.
pub(super) fn first_change(old: &FileList, entries: &[&ContextEntry]) -> Option<Cause> {
    if old.files.is_empty() {
        return None;
    }
    let new = at_depth(entries, old.depth);
    let (old, new) = (by_path(old), by_path(&new));
    let mut changes = Vec::new();
    for (path, now) in &new {
        match old.get(path) {
            None => changes.push((*path, Change::Added)),
            Some(then) if then == now => {}
            Some(then) if then.kind == now.kind && then.mode != now.mode => {
                changes.push((*path, Change::Mode));
            }
            Some(_) => changes.push((*path, Change::Content)),
        }
    }
    let removed = old.keys().filter(|path| !new.contains_key(*path));
    changes.extend(removed.map(|path| (*path, Change::Removed)));
    changes.sort_by_key(|(path, _)| *path);
    let (path, change) = *changes.first()?;
    Some(Cause::File { path: path.to_owned(), change, others: changes.len() - 1 })
}

#[derive(PartialEq, Eq)]
struct Listed<'a> {
    mode: &'a str,
    kind: &'a str,
    digest: &'a str,
}

fn by_path(list: &FileList) -> BTreeMap<&str, Listed<'_>> {
    list.files
        .iter()
        .filter_map(|text| {
            let mut fields = text.splitn(4, ' ');
            let (mode, kind, digest) = (fields.next()?, fields.next()?, fields.next()?);
            Some((fields.next()?, Listed { mode, kind, digest }))
        })
        .collect()
}
