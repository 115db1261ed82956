//! Which cache mounts the steps of a build have, as the builder tells them apart.
//!
//! To BuildKit, a mount is its identity in the namespace of the build, and what it starts from: an
//! empty directory, or one with an owner and a mode.

use serde::{Deserialize, Serialize};

use super::StageDigest;
use crate::dockerfile::{Action, BuildGraph, Mount, MountKind};
use crate::oci::digest::Digest;

/// The owner and the mode that a mount starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Start {
    pub(crate) user: u32,
    pub(crate) group: u32,
    pub(crate) mode: u32,
}

/// A cache mount.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CacheMount {
    /// Its identity: what is written, or else its target.
    pub(crate) id: String,
    /// `BUILDKIT_CACHE_MOUNT_NS`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) namespace: String,
    /// The platform that the steps run on: the builder has one mount for all.
    pub(crate) platform: String,
    /// The owner and the mode, if any of them is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) start: Option<Start>,
}

impl CacheMount {
    /// A short name that no other mount has.
    pub(crate) fn key(&self) -> String {
        Digest::of(&serde_json::to_vec(self).unwrap_or_default()).short().to_owned()
    }
}

/// A step that has a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The stage's name, or `stage-N`.
    pub(crate) stage: String,
    /// Which of the stage's steps that make a layer it is, counted from zero.
    pub(crate) number: usize,
    /// The predicted digest of the step.
    pub(crate) digest: String,
}

/// A mount, how it is shared, and the steps that have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    pub(crate) mount: CacheMount,
    pub(crate) sharing: Option<String>,
    pub(crate) places: Vec<Place>,
}

/// The cache mounts of a build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheMounts {
    pub(crate) used: Vec<Used>,
    /// Those that can't be carried, and why.
    pub(crate) others: Vec<(String, &'static str)>,
}

impl CacheMounts {
    /// Finds the mounts of a planned build, whose stages have these digests.
    pub(crate) fn of(graph: &BuildGraph, digests: &[StageDigest], namespace: &str) -> Self {
        let mut found = Self::default();
        for (stage, digests) in graph.stages.iter().zip(digests) {
            let name = stage.name.clone().unwrap_or_else(|| format!("stage-{}", stage.index));
            let mut number = 0;
            for (step, digest) in stage.steps.iter().zip(&digests.steps) {
                if let Action::Run(run) = &step.action {
                    let caches = run.mounts.iter().filter(|m| m.mount.kind == MountKind::Cache);
                    for planned in caches {
                        let place =
                            Place { stage: name.clone(), number, digest: digest.digest.clone() };
                        let platform = stage.platform.to_string();
                        found.add(&planned.mount, namespace, platform, place);
                    }
                }
                number += usize::from(digest.is_layer);
            }
        }
        found
    }

    fn add(&mut self, written: &Mount, namespace: &str, platform: String, place: Place) {
        let whole = written.id.as_deref().unwrap_or_default();
        let id = whole.strip_prefix(namespace).and_then(|id| id.strip_prefix('/'));
        let id = id.unwrap_or(whole).to_owned();
        let reason = if written.from.is_some() || written.source != "/" {
            Some("it starts from files of a stage or an image")
        } else if id.contains(['$', '\\', '"', '\'', '`', ',', '\n', '\r']) || id.trim() != id {
            Some("its id has characters that mean something in a Dockerfile")
        } else {
            None
        };
        if let Some(reason) = reason {
            if self.others.iter().all(|(known, _)| *known != id) {
                self.others.push((id, reason));
            }
            return;
        }
        let is_plain = written.user.is_none() && written.group.is_none() && written.mode.is_none();
        let start = (!is_plain).then(|| Start {
            user: written.user.unwrap_or(0),
            group: written.group.unwrap_or(0),
            mode: written.mode.unwrap_or(0o755),
        });
        let namespace = namespace.to_owned();
        let mount = CacheMount { id, namespace, platform, start };
        if let Some(used) = self.used.iter_mut().find(|used| used.mount == mount) {
            used.places.push(place);
        } else {
            let sharing = written.sharing.clone();
            self.used.push(Used { mount, sharing, places: vec![place] });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::{BuildOptions, Dockerfile};
    use crate::predict::{Rules, digest_build};

    fn mounts(source: &str, namespace: &str) -> CacheMounts {
        let options =
            BuildOptions { cache_namespace: namespace.to_owned(), ..BuildOptions::default() };
        let dockerfile = Dockerfile::parse(source.as_bytes(), "Dockerfile").unwrap();
        let graph = dockerfile.plan(&options).unwrap();
        let rules =
            Rules { independent_links: false, every_instruction: false, cache_identities: false };
        let digests = digest_build::<()>(
            &graph,
            rules,
            &mut |_| Ok(String::new()),
            &std::collections::BTreeMap::new(),
        );
        CacheMounts::of(&graph, &digests.unwrap(), namespace)
    }

    #[test]
    fn mounts_are_told_apart_as_the_builder_tells_them_apart() {
        let source = "FROM a AS b\nARG ID=x\nWORKDIR /w\n\
            RUN --mount=type=cache,target=/c/../d make\n\
            RUN --mount=type=cache,target=rel,sharing=locked make\n\
            RUN --mount=type=cache,target=/e,id=$ID --mount=type=cache,id=/d,target=/f make\n\
            RUN --mount=type=cache,target=/e,id=x,uid=5 make\n\
            RUN --mount=type=cache,target=/e,id=x,uid=5,gid=0,mode=0755 make\n\
            FROM a\nRUN --mount=type=cache,target=/g,from=b make\nCOPY --from=b / /\n";
        for namespace in ["", "team/a"] {
            let found = mounts(source, namespace);
            let ids: Vec<_> = found.used.iter().map(|used| used.mount.id.as_str()).collect();
            assert_eq!(ids, ["/d", "rel", "x", "x"]);
            assert!(found.used.iter().all(|used| used.mount.namespace == namespace));
            let numbers = |used: &Used| used.places.iter().map(|p| p.number).collect::<Vec<_>>();
            assert_eq!(numbers(&found.used[0]), [1, 3]);
            assert_eq!(found.used[1].sharing.as_deref(), Some("locked"));
            let start = Start { user: 5, group: 0, mode: 0o755 };
            assert_eq!(found.used[3].mount.start, Some(start));
            assert_eq!(numbers(&found.used[3]), [4, 5]);
            assert_eq!(found.others.len(), 1);
            assert_eq!(found.others[0].0, "/g");
        }
    }

    #[test]
    fn stages_that_are_not_built_have_no_mounts() {
        let source = "FROM a AS b\nRUN --mount=type=cache,target=/c make\nFROM a\nRUN make\n";
        assert!(mounts(source, "").used.is_empty());
    }
}
