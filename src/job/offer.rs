//! From a directory to a cache that this engine can safely be offered.
//!
//! `restore` and `build` both need it: every blob is verified, what is bad is taken out, and a
//! cache that this engine can't use is not offered at all.

use std::path::Path;

use super::gate::Gate;
use super::journal::{RemoteCopy, State, stranger_of};
use crate::archive::{self, Archive};
use crate::builder::Strategy;
use crate::dockerfile::Image;
use crate::engine::Engine;
use crate::engine::error::EngineError;
use crate::engine::strategy::current::Bases;
use crate::engine::strategy::ready::Ready;
use crate::engine::strategy::{capture, ready};
use crate::mounts::collect::layers_of_mounts;
use crate::oci::codec::Codec;
use crate::oci::directory::{Layout, LayoutError};
use crate::oci::documents::Index;
use crate::oci::live::{self, Reach};
use crate::oci::verify;
use crate::report::{Reporter, bytes, count};

/// A cache that may be offered, or why there is none.
#[derive(Debug)]
pub(crate) struct Offer {
    /// What the archive holds, after anything bad was taken out.
    pub(crate) archive: Archive,
    /// Values for `--cache-from`.
    pub(crate) cache_from: Vec<String>,
    /// Why the cache is of no use here; `None` if it is.
    pub(crate) miss: Option<String>,
    /// How many blobs were bad.
    pub(crate) bad: usize,
    /// Number and bytes of live blobs.
    pub(crate) live: (usize, u64),
}

impl Offer {
    /// Loads what the build needs in the engine. `from` are the images that its stages start from,
    /// where the Dockerfile can be read; `pull` says that the build pulls them in any case.
    pub(crate) fn make_ready(
        &mut self,
        engine: &Engine,
        strategy: Strategy,
        layout: &Layout,
        from: Option<&[Image]>,
        pull: bool,
        reporter: Reporter,
    ) -> Result<(), EngineError> {
        if self.miss.is_some() {
            return Ok(());
        }
        let bases = from.map_or(Bases::Archive, |images| Bases::Dockerfile { images, pull });
        let Ready { cache_from, miss, reasons } = ready::prepare(
            engine,
            strategy,
            layout,
            &self.archive,
            &self.cache_from,
            bases,
            reporter,
        )?;
        for reason in reasons {
            reporter.warn(format!("a part of the archive is not used: {reason}"));
        }
        (self.cache_from, self.miss) = (cache_from, miss);
        Ok(())
    }
}

/// As if there were no archive.
pub(crate) fn nothing() -> Offer {
    Offer {
        archive: Archive::default(),
        cache_from: Vec::new(),
        miss: Some("there is no archive".to_owned()),
        bad: 0,
        live: (0, 0),
    }
}

/// Verifies the archive that `index` is of and takes out what is bad.
fn verified(
    layout: &Layout,
    index: Index,
    gate: &Gate,
    state: &mut State,
    reporter: Reporter,
) -> Result<(Archive, usize, Reach), LayoutError> {
    let mut reach = live::reach(layout, &index);
    let mut archive = Archive::of(layout, index)?;
    if archive.is_from_the_future() {
        return Ok((archive, 0, Reach::default()));
    }
    let elsewhere = |digest: &_| state.is_elsewhere(digest);
    let known = |digest: &_| {
        let look = verify::look(layout, digest);
        (look.is_none() && elsewhere(digest))
            || look.is_some() && look.as_ref() == state.verified.get(digest)
    };
    let total = reach.blobs.values().filter(|d| !known(&d.digest)).map(|d| d.size).sum();
    let progress = reporter.progress("verifying blobs", total);
    let bad = verify::verify(layout, &reach, known, &|n| progress.advance(n));
    drop(progress);
    let (again, bad): (Vec<_>, Vec<_>) = bad.into_iter().partition(|b| elsewhere(&b.digest));
    if !again.is_empty() {
        let writer = super::locked(layout, reporter)?;
        for blob in again {
            // There is a good one elsewhere; this build does without.
            writer.remove_blob(&blob.digest)?;
        }
    }
    if !bad.is_empty() {
        for blob in &bad {
            reporter.warn(format!(
                "blob {} of `{}` is left out: {}",
                blob.digest.short(),
                layout.root().display(),
                blob.reason
            ));
        }
        archive = archive::heal(&super::locked(layout, reporter)?, &bad)?;
        reach = live::reach(layout, &archive.to_index());
        gate.remember(&archive.to_index(), state);
    }
    remember(layout, &reach, state);
    Ok((archive, bad.len(), reach))
}

/// Notes that all blobs are good as they are now.
pub(crate) fn remember(layout: &Layout, reach: &Reach, state: &mut State) {
    state.verified = reach
        .blobs
        .keys()
        .filter_map(|digest| Some((digest.clone(), verify::look(layout, digest)?)))
        .collect();
}

/// Verifies, and decides what this engine can be offered.
pub(crate) fn make(
    layout: &Layout,
    engine: &Engine,
    strategy: Strategy,
    state: &mut State,
    reporter: Reporter,
) -> Result<Offer, LayoutError> {
    let missing = |miss: String| Ok(Offer { miss: Some(miss), ..nothing() });
    let gate = match Gate::of_environment(engine) {
        Ok(gate) => gate,
        Err(reason) => return missing(reason),
    };
    if let Some(user) = stranger_of(layout.root()) {
        return missing(format!(
            "`{}` is not used: it belongs to user {user}, and anyone can make it; remove it, or \
             choose another directory with DOCKERCACHE_DIR",
            layout.root().display()
        ));
    }
    // Read once: what is offered is what was checked.
    let Some(index) = layout.index()? else {
        return missing(format!("there is no archive in `{}`", layout.root().display()));
    };
    if let Err(reason) = gate.check(&index, state) {
        return missing(format!(
            "the archive in `{}` is not used: {reason}",
            layout.root().display()
        ));
    }
    let (archive, bad, reach) = verified(layout, index, &gate, state, reporter)?;
    let miss = reason_for_miss(&archive, engine, strategy, &reach);
    let is_whole = state.remote.is_none() && state.packs.is_none();
    let cache_from = match (&miss, &state.remote) {
        (Some(_), _) => Vec::new(),
        (None, Some(RemoteCopy { direct: Some(value), .. })) => vec![value.clone()],
        (None, _) if !is_whole && strategy.is_buildkit() => {
            // A builder that finds a promised layer missing fails the build.
            let present = |digest: &_| layout.blob_size(digest).is_some();
            let cache = archive.cache.as_ref();
            let partial = cache.map(|c| archive::write_partial_cache(layout, c, present));
            let dir = absolute(layout.root());
            let values = partial.transpose()?.flatten().map(|cache| {
                format!("{},digest={}", capture::local_cache("src", &dir), cache.digest)
            });
            values.into_iter().collect()
        }
        _ => {
            let values = ready::cache_from(engine, strategy, &archive, &absolute(layout.root()));
            pinned(values, &archive, &gate)
        }
    };
    state.unverified |= miss.is_none() && !gate.is_closed();
    let live = (reach.blobs.len(), reach.blobs.values().map(|d| d.size).sum());
    Ok(Offer { archive, cache_from, miss, bad, live })
}

/// Where only signed caches are used, the builder is told which one to read in the directory.
fn pinned(mut values: Vec<String>, archive: &Archive, gate: &Gate) -> Vec<String> {
    if let Some(cache) = archive.cache.as_ref().filter(|_| gate.is_closed()) {
        for value in values.iter_mut().filter(|value| value.starts_with("type=local,")) {
            value.push_str(",digest=");
            value.push_str(cache.digest.as_str());
        }
    }
    values
}

fn reason_for_miss(
    archive: &Archive,
    engine: &Engine,
    strategy: Strategy,
    reach: &Reach,
) -> Option<String> {
    if archive.is_from_the_future() {
        return Some("the archive was written by a newer dockercache".to_owned());
    }
    if let Some(about) = &archive.about {
        let platform = &engine.facts.platform;
        let other = !about.platform.is_empty() && about.platform != *platform;
        if other {
            return Some(format!(
                "the archive is for {}, the engine is {platform}",
                about.platform
            ));
        }
    }
    if strategy == Strategy::Classic {
        let of_buildkit = archive
            .about
            .as_ref()
            .is_some_and(|a| a.strategy.parse::<Strategy>().is_ok_and(Strategy::is_buildkit));
        // Images that BuildKit made have no history that the classic builder could follow.
        return (of_buildkit || archive.images.is_empty()).then(|| {
            "the archive holds BuildKit's cache, which the classic builder can't use".to_owned()
        });
    }
    if archive.cache.is_none() {
        let of_classic =
            archive.about.as_ref().is_some_and(|a| a.strategy == Strategy::Classic.name());
        return Some(if of_classic {
            "the archive holds images of the classic builder, which BuildKit can't use".to_owned()
        } else {
            "nothing that the builder could use is left in the archive".to_owned()
        });
    }
    let of_mounts = layers_of_mounts(archive);
    let has_zstd = reach.blobs.values().any(|d| {
        Codec::from_media_type(&d.media_type) == Some(Codec::Zstd) && !of_mounts.contains(&d.digest)
    });
    (has_zstd && !engine.facts.version.reads_zstd()).then(|| {
        format!(
            "the archive's layers are compressed with zstd, on which Docker {} fails; the next \
             save here writes gzip",
            engine.facts.version
        )
    })
}

/// The directory as the user's client must be told: the build may run elsewhere.
pub(crate) fn absolute(dir: &Path) -> std::path::PathBuf {
    std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned())
}

/// One line on what there is.
pub(crate) fn summary(offer: &Offer) -> String {
    let about = offer.archive.about.as_ref();
    if let Some(reason) = &offer.miss {
        return format!("miss: {reason}");
    }
    let stages = about.map_or(0, |about| about.stages.len());
    let by = about.map_or_else(String::new, |about| format!(", saved by Docker {}", about.engine));
    format!(
        "hit: {} in {}, {}{by}",
        count(stages, "stage"),
        count(offer.live.0, "blob"),
        bytes(offer.live.1)
    )
}
