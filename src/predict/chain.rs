//! The digest of each step, chained: the inputs that the builder uses for a step and all before it.
//!
//! Counted for `RUN`: the command with its shell, user, working directory, the whole environment
//! with every `ARG` in scope that has a value, platform, network, security, devices, and mounts. A
//! bind mount counts by content, a cache mount never does, and a secret counts by its name. Counted
//! for `COPY` and `ADD`: the content of what is copied, the last part of its path, the destination,
//! owner, mode, and filters. Never counted: names of stages, comments, line ends, instructions that
//! make no layer, and predefined proxy arguments.
//!
//! Files that come from another stage count by that stage's digest. The builder looks at their
//! content as well, so it may hit where a miss is predicted, when a stage that was built again
//! gave the same files.

use super::encoding::{ChainDigest, Encoder};
use super::query::ContextQuery;
use crate::builder::{Builder, Strategy};
use crate::dockerfile::{
    Action, Base, CopyAction, CopySource, Image, Mount, MountKind, PlannedMount, PlannedStage,
    Platform, RunAction, Step,
};
use std::collections::{BTreeMap, HashMap};

/// Of how many variables a step says which they are. All of them are digested.
const MOST_VARIABLES: usize = 100;

/// What differs between builders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Whether `COPY --link` makes a layer that does not depend on those below it. Engines with the
    /// graph driver can't, and take it for a plain copy. Plain progress output shows such a step as
    /// cached only if what it is merged with is cached too; raw output tells the two apart.
    pub independent_links: bool,
    /// Whether every instruction makes a step of its own, as with the classic builder.
    pub every_instruction: bool,
    /// Whether a cache mount's identity and the way it is shared are digested, as they were before
    /// Docker 23.
    pub cache_identities: bool,
}

impl Rules {
    /// The rules of a builder.
    pub(crate) fn of(builder: &Builder) -> Self {
        Self {
            // `COPY --link` makes an independent layer where the builder can merge, which the stock
            // engine with the graph driver can't.
            independent_links: builder.strategy == Strategy::BuildkitLocal,
            every_instruction: builder.strategy == Strategy::Classic,
            cache_identities: !builder.is_modern(),
        }
    }
}

/// The digests of one step.
pub(crate) struct ChainStep {
    /// The digest of the step itself.
    pub(crate) own: ChainDigest,
    /// The digest of the file system behind the step.
    pub(crate) state: ChainDigest,
    /// What was counted, by name; empty for a step that makes no layer.
    pub(crate) parts: Vec<(String, String)>,
    /// The files that were asked for.
    pub(crate) queries: Vec<ContextQuery>,
}

/// Digests the steps of one build.
pub(crate) struct Chain<'a, E> {
    pub(crate) rules: Rules,
    pub(crate) context: &'a mut dyn FnMut(&ContextQuery) -> Result<String, E>,
    /// The digests of external images, by reference.
    pub(crate) bases: &'a BTreeMap<String, String>,
    /// The last digest of each stage that is done.
    pub(crate) stages: HashMap<usize, ChainDigest>,
    /// What the current step has asked of the context.
    pub(crate) asked: Vec<ContextQuery>,
}

impl<E> Chain<'_, E> {
    /// Digests what a stage starts from.
    pub(crate) fn base(&mut self, stage: &PlannedStage) -> Result<ChainDigest, E> {
        self.origin(&stage.base)
    }

    /// Digests one step on top of the state before it.
    pub(crate) fn step(
        &mut self,
        parent: ChainDigest,
        step: &Step,
        platform: &Platform,
    ) -> Result<ChainStep, E> {
        self.asked.clear();
        let encoder = match &step.action {
            Action::Metadata { words } if self.rules.every_instruction => {
                let mut encoder = on(parent, "metadata");
                encoder.list("word", words.iter().map(String::as_str));
                encoder
            }
            Action::Metadata { .. } => {
                return Ok(ChainStep {
                    own: parent,
                    state: parent,
                    parts: Vec::new(),
                    queries: Vec::new(),
                });
            }
            Action::Workdir { path, owner, time } => {
                let mut encoder = on(parent, "workdir");
                encoder.field("path", path);
                encoder.optional("owner", owner.as_deref());
                encoder.optional("time", time.map(|time| time.to_string()).as_deref());
                encoder
            }
            Action::Run(run) => self.run(parent, run, platform)?,
            Action::Copy(copy) => {
                // With a mode the builder makes a plain copy of it.
                if self.rules.independent_links && copy.link && copy.mode.is_none() {
                    let (own, parts) = self.copy(Encoder::new("link"), copy)?.finish();
                    let mut merge = on(parent, "merge");
                    merge.field("layer", &own.hex());
                    let queries = std::mem::take(&mut self.asked);
                    return Ok(ChainStep { own, state: merge.digest(), parts, queries });
                }
                self.copy(on(parent, "copy"), copy)?
            }
        };
        let (own, parts) = encoder.finish();
        Ok(ChainStep { own, state: own, parts, queries: std::mem::take(&mut self.asked) })
    }

    fn ask(&mut self, query: ContextQuery) -> Result<String, E> {
        let digest = (self.context)(&query)?;
        self.asked.push(query);
        Ok(digest)
    }

    fn run(
        &mut self,
        parent: ChainDigest,
        run: &RunAction,
        platform: &Platform,
    ) -> Result<Encoder, E> {
        let mut encoder = on(parent, "run");
        encoder.list("argument", run.arguments.iter().map(String::as_str));
        if let Some((name, content)) = &run.script {
            encoder.field("script name", name);
            encoder.field("script", content);
        }
        let variables = run.environment.iter();
        // Whatever changed since the command before is at the end.
        let unnamed = variables.len().saturating_sub(MOST_VARIABLES);
        for (at, (name, value)) in variables.enumerate() {
            let name = format!("variable {name}");
            if at < unnamed {
                encoder.unnamed(&name, value);
            } else {
                encoder.field(&name, value);
            }
        }
        encoder.optional("user", run.user.as_deref());
        encoder.field("workdir", &run.workdir);
        encoder.field("platform", &platform.to_string());
        encoder.optional("network", run.network.as_deref());
        encoder.optional("security", run.security.as_deref().filter(|mode| *mode != "sandbox"));
        encoder.list("device", run.devices.iter().map(String::as_str));
        for (name, value) in &run.settings {
            encoder.field(&format!("setting {name}"), value);
        }
        for mount in &run.mounts {
            self.mount(&mut encoder, mount)?;
        }
        Ok(encoder)
    }

    fn mount(&mut self, encoder: &mut Encoder, planned: &PlannedMount) -> Result<(), E> {
        let mount = &planned.mount;
        encoder.field("mount", mount.kind.as_str());
        encoder.field("mount target", &mount.target);
        encoder.field("mount access", if mount.read_only { "read" } else { "write" });
        match mount.kind {
            MountKind::Bind => match ContextQuery::of_mount(planned) {
                Some(query) => encoder.field("mount content", &self.ask(query)?),
                None => self.mount_origin(encoder, planned)?,
            },
            MountKind::Cache => {
                let id = mount.id.as_deref().unwrap_or_default();
                let sharing = mount.sharing.as_deref().unwrap_or("shared");
                if self.rules.cache_identities {
                    encoder.field("cache", id);
                    encoder.field("cache sharing", sharing);
                } else {
                    // The default one is told apart, in its namespace; all others are equal.
                    let (namespace, own) = id.split_once('/').unwrap_or(("", id));
                    let target = mount.target.strip_prefix('/').unwrap_or(&mount.target);
                    let default = own.strip_prefix('/').unwrap_or(own) == target;
                    encoder.field(
                        "cache",
                        match (sharing, default, namespace) {
                            ("shared", true, _) if !own.starts_with('/') => "relative",
                            ("shared", true, "") => "default",
                            ("shared", true, _) => id,
                            _ => "own",
                        },
                    );
                }
                owner_and_mode(encoder, mount);
                if mount.from.is_some() {
                    self.mount_origin(encoder, planned)?;
                }
            }
            MountKind::Tmpfs => encoder.optional("mount size", mount.size.as_deref()),
            MountKind::Secret | MountKind::Ssh => {
                encoder.optional("mount identity", mount.id.as_deref());
                encoder.optional("mount variable", mount.variable.as_deref());
                encoder.field("mount required", if mount.required { "yes" } else { "no" });
                owner_and_mode(encoder, mount);
            }
        }
        Ok(())
    }

    fn mount_origin(&mut self, encoder: &mut Encoder, planned: &PlannedMount) -> Result<(), E> {
        if let Some(origin) = &planned.origin {
            let digest = self.origin(origin)?;
            encoder.field("mount origin", &digest.hex());
            encoder.field("mount source", &planned.mount.source);
        }
        Ok(())
    }

    fn copy(&mut self, mut encoder: Encoder, copy: &CopyAction) -> Result<Encoder, E> {
        encoder.field("destination", &copy.destination);
        encoder.optional("owner", copy.owner.as_deref().map(owner).as_deref());
        encoder.optional("mode", copy.mode.as_deref().map(octal).as_deref());
        encoder.list("exclude", copy.exclude.iter().map(String::as_str));
        encoder.optional("checksum", copy.checksum.as_deref());
        if let Some(query) = ContextQuery::of_copy(copy) {
            encoder.field("content", &self.ask(query)?);
        } else if let Some(origin @ (Base::Stage(_) | Base::Image(_))) = &copy.origin {
            let digest = self.origin(origin)?;
            encoder.field("origin", &digest.hex());
        }
        let from_context = matches!(copy.origin, None | Some(Base::NamedContext(_)));
        for source in &copy.sources {
            let unpack = match source {
                CopySource::Files { .. } => copy.unpack.unwrap_or(copy.is_add),
                CopySource::Url(_) => copy.unpack.unwrap_or(false),
                CopySource::Git(_) | CopySource::Inline { .. } => false,
            };
            match source {
                CopySource::Files { path, below } => {
                    // Of a path in a context only the last part counts, besides the content.
                    let name = path.rsplit('/').next().unwrap_or_default();
                    encoder.field("source", if from_context { name } else { path });
                    encoder.optional("below", below.as_deref());
                }
                CopySource::Url(url) => encoder.field("url", url),
                CopySource::Git(reference) => {
                    encoder.field("git", reference);
                    let keep = copy.keep_git_directory.unwrap_or(false);
                    encoder.field("keep git directory", if keep { "yes" } else { "no" });
                }
                CopySource::Inline { name, content } => {
                    encoder.field("inline name", name);
                    encoder.field("inline", content);
                }
            }
            encoder.field("unpack", if unpack { "yes" } else { "no" });
        }
        Ok(encoder)
    }

    fn origin(&mut self, origin: &Base) -> Result<ChainDigest, E> {
        Ok(match origin {
            // A stage is always behind those that it depends on.
            Base::Stage(index) => match self.stages.get(index) {
                Some(digest) => *digest,
                None => Encoder::new("unknown stage").digest(),
            },
            Base::Image(image) => self.image(image),
            Base::Scratch => Encoder::new("scratch").digest(),
            Base::NamedContext(name) => {
                let mut encoder = Encoder::new("named context");
                encoder.field("content", &self.ask(ContextQuery::of_context(name))?);
                encoder.digest()
            }
        })
    }

    /// Digests an external image: by its digest where that is known, else by its reference.
    fn image(&self, image: &Image) -> ChainDigest {
        let mut encoder = Encoder::new("image");
        let pinned = image.reference.split_once('@').map(|(_, digest)| digest);
        match self.bases.get(&image.reference).map(String::as_str).or(pinned) {
            Some(digest) => encoder.field("digest", digest),
            None => encoder.field("reference", &image.reference),
        }
        encoder.field("platform", &image.platform.to_string());
        encoder.digest()
    }
}

/// Starts the digest of a step on top of a state.
fn on(parent: ChainDigest, domain: &str) -> Encoder {
    let mut encoder = Encoder::new(domain);
    encoder.field("parent", &parent.hex());
    encoder
}

fn owner_and_mode(encoder: &mut Encoder, mount: &Mount) {
    for (name, value) in
        [("mount mode", mount.mode), ("mount user", mount.user), ("mount group", mount.group)]
    {
        encoder.optional(name, value.map(|value| value.to_string()).as_deref());
    }
}

/// Brings numbers in an owner such as `01:02` to one form, and leaves names as they are.
fn owner(owner: &str) -> String {
    let number = |part: &str| {
        part.parse::<u32>().map_or_else(|_| part.to_owned(), |number| number.to_string())
    };
    owner.split(':').map(number).collect::<Vec<_>>().join(":")
}

/// Brings an octal mode to one form, and leaves a symbolic one as it is.
fn octal(mode: &str) -> String {
    u32::from_str_radix(mode, 8).map_or_else(|_| mode.to_owned(), |bits| format!("{bits:o}"))
}
