//! What a step asks of the files around a build. Whoever reads files answers with a digest.

use crate::dockerfile::{Base, CopyAction, CopySource, PlannedMount};

/// A question for the digest of files that one instruction sees.
///
/// The answer must not depend on where the files stand in the context, only on what the builder
/// digests: names below the source, mode bits, content, and link targets, after the ignore file.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContextQuery {
    /// The context that `--build-context` gives under this name, or else the build context.
    pub named_context: Option<String>,
    /// The sources after expansion, absolute in the context; with a pivot `/./` if it matters.
    pub sources: Vec<String>,
    /// The patterns of `--exclude`.
    pub excludes: Vec<String>,
    /// Whether `--parents` was given.
    pub parents: bool,
    /// Whether wildcards in the sources count.
    pub wildcards: bool,
}

impl ContextQuery {
    /// Asks for the files that a copy takes from a context; `None` where it takes none from one.
    pub(crate) fn of_copy(copy: &CopyAction) -> Option<Self> {
        let named_context = context_of(copy.origin.as_ref())?;
        let sources: Vec<String> = copy
            .sources
            .iter()
            .filter_map(|source| match source {
                CopySource::Files { path, below: None } => Some(path.clone()),
                CopySource::Files { path, below: Some(below) } if path == "/" => {
                    Some(below.clone())
                }
                CopySource::Files { path, below: Some(below) } => Some(format!("{path}/./{below}")),
                _ => None,
            })
            .collect();
        (!sources.is_empty()).then(|| Self {
            named_context,
            sources,
            excludes: copy.exclude.clone(),
            parents: copy.parents,
            wildcards: true,
        })
    }

    /// Asks for the files that a mount shows of a context; `None` where it shows none.
    pub(crate) fn of_mount(mount: &PlannedMount) -> Option<Self> {
        let named_context = context_of(mount.origin.as_ref())?;
        let sources = vec![mount.mount.source.clone()];
        Some(Self { named_context, sources, ..Self::default() })
    }

    /// Asks for a whole named context.
    pub(crate) fn of_context(name: &str) -> Self {
        Self {
            named_context: Some(name.to_owned()),
            sources: vec!["/".to_owned()],
            ..Self::default()
        }
    }
}

/// Returns which context an origin is: the build context is the inner `None`.
#[expect(clippy::option_option, reason = "no context and the unnamed context are two things")]
fn context_of(origin: Option<&Base>) -> Option<Option<String>> {
    match origin {
        None => Some(None),
        Some(Base::NamedContext(name)) => Some(Some(name.clone())),
        Some(Base::Stage(_) | Base::Image(_) | Base::Scratch) => None,
    }
}
