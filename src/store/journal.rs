//! What was done with a directory on this machine: the job's builds, and which blobs were verified.
//!
//! Lies in the temporary directory, readable to its user only, and never in the archive: build
//! arguments may be secrets, and a CI cache is no place for them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::engine::arguments::BuildArguments;
use crate::engine::build_log::{ClassicStep, LoggedStep};
use crate::layout::digest::Digest;
use crate::layout::verify::Seen;

/// How long a store that did not answer is left alone.
const AWAY: Duration = Duration::from_mins(5);

/// The journal of one directory.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Journal {
    /// The builds since the directory was restored, in order, each once.
    pub builds: Vec<NotedBuild>,
    /// Blobs that were found good.
    pub verified: BTreeMap<Digest, Seen>,
    /// The store that the archive came from or went to.
    #[serde(default)]
    pub remote: Option<RemoteCopy>,
    /// A store that did not answer, and when: each attempt takes half a minute.
    #[serde(default)]
    pub away: Option<(String, SystemTime)>,
    /// A store, and the blobs of which it gave something else than their digests promise.
    #[serde(default)]
    pub damaged: Option<(String, BTreeSet<Digest>)>,
    /// The index in the directory that was found good with the keys of this job, or made from it.
    #[serde(default)]
    pub admitted: Option<Digest>,
    /// Whether a build of this job was given a cache that no signature covers.
    #[serde(default)]
    pub unverified: bool,
    #[serde(skip)]
    path: PathBuf,
}

/// What a store holds of the archive.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct RemoteCopy {
    /// The store's URL.
    pub url: String,
    /// The level of the ref that named the archive.
    pub level: String,
    /// The archive's blobs: those that are not in the directory are there.
    pub blobs: BTreeSet<Digest>,
    /// What `--cache-from` names, where the builder reads the store by itself.
    pub direct: Option<String>,
}

/// A build that succeeded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NotedBuild {
    /// Its arguments.
    pub arguments: BuildArguments,
    /// Where it was run.
    pub directory: PathBuf,
    /// The engine's ID: on another engine, the build is not there.
    pub engine: String,
    /// The strategy's name.
    pub strategy: String,
    /// What became of each step.
    pub steps: Vec<LoggedStep>,
    /// The classic builder's images.
    pub images: Vec<ClassicStep>,
    /// Whether it has been saved since.
    pub saved: bool,
}

impl Journal {
    /// Reads the journal of `dir`; an empty one if there is none that can be read.
    pub fn read(dir: &Path) -> Self {
        let path = path_for(dir);
        let mut journal: Self = fs::read(&path)
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok())
            .unwrap_or_default();
        journal.path = path;
        journal
    }

    /// Notes a build. Another build of the same takes its place; so does one of the same project
    /// with other arguments, once it is saved. What is on another engine is out of reach.
    pub fn note(&mut self, mut build: NotedBuild) {
        self.builds.retain(|old| {
            if old.is_same(&build) && !old.saved {
                // What ran then is as new as what ran now.
                build.steps.extend(old.steps.iter().cloned());
                if build.images.is_empty() {
                    build.images.clone_from(&old.images);
                }
            }
            old.engine == build.engine && !old.is_same(&build) && !old.gives_way_to(&build)
        });
        self.builds.push(build);
    }

    /// Whether a store did not answer, a short while ago.
    pub fn is_away(&self, url: &str) -> bool {
        self.away.as_ref().is_some_and(|(store, since)| {
            store == url && since.elapsed().is_ok_and(|elapsed| elapsed < AWAY)
        })
    }

    /// Writes it in one step.
    pub fn write(&self) -> io::Result<()> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        if !dir.exists() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let file = tempfile::NamedTempFile::new_in(dir)?;
        serde_json::to_writer(&file, self)?;
        file.persist(&self.path).map_err(|e| e.error)?;
        Ok(())
    }
}

impl NotedBuild {
    fn is_same(&self, other: &Self) -> bool {
        self.engine == other.engine
            && self.directory == other.directory
            && self.arguments.for_repetition(&[]) == other.arguments.for_repetition(&[])
    }

    fn gives_way_to(&self, next: &Self) -> bool {
        self.saved
            && self.directory == next.directory
            && self.arguments.same_project(&next.arguments)
    }
}

fn path_for(dir: &Path) -> PathBuf {
    let absolute = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let absolute = absolute.canonicalize().unwrap_or(absolute);
    let name = Digest::of(absolute.as_os_str().as_encoded_bytes());
    let user = fs::metadata("/proc/self").map_or(0, |m| m.uid());
    std::env::temp_dir()
        .join(format!("dockercache-journal-{user}"))
        .join(format!("{}.json", name.short()))
}
#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::build_log::Outcome;

    fn build(words: &[&str]) -> NotedBuild {
        NotedBuild {
            arguments: BuildArguments::parse(words.iter().map(Into::into)),
            directory: "/project".into(),
            engine: "here".to_owned(),
            strategy: "buildkit-replay".to_owned(),
            steps: Vec::new(),
            images: Vec::new(),
            saved: false,
        }
    }

    fn names(journal: &Journal) -> Vec<String> {
        journal
            .builds
            .iter()
            .filter_map(|b| b.arguments.value("tag")?.to_str().map(String::from))
            .collect()
    }

    #[test]
    fn a_job_has_each_of_its_builds_once() {
        let mut journal = Journal::default();
        for words in [
            &["-t", "app:1", "--build-arg", "V=1", "app"][..],
            &["-t", "app:2", "--build-arg", "V=2", "app"],
            &["-t", "worker", "worker"],
            &["-t", "again", "--build-arg", "V=1", "app"],
        ] {
            journal.note(build(words));
        }
        assert_eq!(names(&journal), ["app:2", "worker", "again"]);
    }

    #[test]
    fn a_saved_build_gives_way_to_the_next_of_its_project() {
        let mut journal = Journal::default();
        journal.note(build(&["-t", "app", "--build-arg", "REVISION=1", "app"]));
        journal.note(build(&["-t", "worker", "worker"]));
        journal.builds.iter_mut().for_each(|build| build.saved = true);
        journal.note(build(&["-t", "new", "--build-arg", "REVISION=2", "app"]));
        assert_eq!(names(&journal), ["worker", "new"]);
    }

    #[test]
    fn what_ran_stays_noted_until_it_is_saved() {
        let mut journal = Journal::default();
        let step = LoggedStep {
            stage: String::new(),
            text: "RUN make".to_owned(),
            outcome: Outcome::Executed,
        };
        journal.note(NotedBuild { steps: vec![step.clone()], ..build(&["app"]) });
        journal.note(build(&["app"]));
        assert_eq!(journal.builds[0].steps, [step]);
        journal.builds[0].saved = true;
        journal.note(build(&["app"]));
        assert!(journal.builds[0].steps.is_empty());
    }

    #[test]
    fn a_store_that_did_not_answer_is_left_alone_for_a_while() {
        let url = "s3://bucket";
        let since = |ago| Journal {
            away: Some((url.to_owned(), SystemTime::now() - ago)),
            ..Journal::default()
        };
        assert!(since(Duration::ZERO).is_away(url));
        assert!(!since(Duration::ZERO).is_away("s3://other"));
        assert!(!since(AWAY).is_away(url));
        assert!(!Journal::default().is_away(url));
    }

    #[test]
    fn what_another_engine_built_is_out_of_reach() {
        let mut journal = Journal::default();
        journal.note(NotedBuild { engine: "gone".to_owned(), ..build(&["-t", "app", "app"]) });
        journal.note(build(&["-t", "worker", "worker"]));
        assert_eq!(names(&journal), ["worker"]);
    }
}
