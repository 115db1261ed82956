//! What this job may use, and what it may sign.
//!
//! With a verify key or a signing key, an archive that no good signature covers is as good as
//! absent, whatever way it came: in a CI's cache, in a file, or from a store. So what is built upon
//! it, and signed later, is this job's own work or was signed before. What this program made itself
//! of an archive that was good, such as one without corrupt blobs, is known by the state.

use std::path::Path;

use super::journal::State;
use super::project_name::project_name;
use crate::archive::trust::{Scope, Trust};
use crate::engine::Engine;
use crate::oci::documents::Index;

/// The keys of this job, and whose caches they are for.
pub(crate) struct Gate {
    trust: Trust,
    scope: Scope,
}

impl Gate {
    /// Reads the keys in the environment; the error says what is wrong with them.
    pub(crate) fn of_environment(engine: &Engine) -> Result<Self, String> {
        let scope = Scope {
            project: project_name(Path::new("."), &|name| std::env::var(name).ok()),
            platform: engine.facts.platform.clone(),
        };
        Ok(Self { trust: Trust::of_environment()?, scope })
    }

    /// Whether only signed caches are used.
    pub(crate) fn is_closed(&self) -> bool {
        self.trust.is_required()
    }

    /// Lets an index pass, or says why it must not be used.
    pub(crate) fn check(&self, index: &Index, state: &State) -> Result<(), String> {
        let admission = self.trust.admission(index, &self.scope);
        if self.is_closed() && state.admitted == Some(admission) {
            return Ok(());
        }
        self.trust.check(index, &self.scope).map(drop)
    }

    /// Notes an index that passed, or was made from one that did.
    pub(crate) fn remember(&self, index: &Index, state: &mut State) {
        state.admitted = self.is_closed().then(|| self.trust.admission(index, &self.scope));
    }

    /// The key by which others check what this job signs; `None` if it signs nothing. A job whose
    /// builds were given a cache without a check must not vouch for them.
    pub(crate) fn signs_as(&self, state: &State) -> Option<String> {
        self.trust.public_key().filter(|_| !state.unverified)
    }

    /// The index with a signature, if this job signs.
    pub(crate) fn seal(&self, index: &Index, state: &State) -> Index {
        match self.signs_as(state) {
            Some(_) => self.trust.sign(index, &self.scope),
            None => index.clone(),
        }
    }

    /// Whether an index is signed as this job would sign it.
    pub(crate) fn is_sealed(&self, index: &Index, state: &State) -> bool {
        self.signs_as(state).is_none() || self.trust.has_signed(index, &self.scope)
    }

    /// Why nothing is signed, although there is a key to sign with.
    pub(crate) fn why_unsigned(&self, state: &State) -> Option<&'static str> {
        (self.trust.public_key().is_some() && state.unverified).then_some(
            "the cache is not signed: a build of this job was given one that was not checked; set \
             `DOCKERCACHE_VERIFY_KEY` for `restore` and `build` too",
        )
    }

    pub(crate) fn trust(&self) -> &Trust {
        &self.trust
    }

    pub(crate) fn scope(&self) -> &Scope {
        &self.scope
    }
}
