//! What a Docker engine can do, and how its build cache is taken out and put back.
//!
//! Knows no CI. [`client`] is the user's own `docker` command, [`api`] what the engine itself answers,
//! and [`strategy`] the ways to carry a build cache with both.

pub mod api;
pub mod client;
pub mod error;
pub mod strategy;

use std::collections::BTreeSet;

use api::bases::Bases;
use api::connection::Connection;
use api::facts::{Facts, ImageStore};
use client::Client;
use error::EngineError;
use strategy::inbox::INBOX;
use strategy::replay::CARRIER;

use crate::builder::{Builder, Strategy};
use crate::oci::codec::{Codec, Compression};

/// A Docker engine that answers.
pub struct Engine {
    /// The client that reaches it.
    pub client: Client,
    /// The API.
    pub connection: Connection,
    /// What it is.
    pub facts: Facts,
}

impl Engine {
    /// Reaches the engine that the user's client is configured for.
    pub fn connect(client: Client) -> Result<Self, EngineError> {
        let connection = Connection::open(&client).map_err(|error| client.trouble(error))?;
        let facts = Facts::of(&connection)?;
        Ok(Self { client, connection, facts })
    }

    /// The builder whose cache is carried in this way, with the external images that it knows.
    pub fn builder(&self, strategy: Strategy) -> Builder {
        let builder = Builder::new(strategy, self.facts.platform.clone(), self.facts.version);
        builder.knowing(self.bases(strategy))
    }

    /// The external images that a builder of this engine knows.
    pub fn bases(&self, strategy: Strategy) -> Bases {
        // With the graph driver, a builder that exports is one beside the engine, which does not
        // see the engine's images.
        let beside =
            strategy == Strategy::BuildkitLocal && self.facts.store == ImageStore::GraphDriver;
        Bases::of(Some(&self.connection).filter(|_| !beside))
    }

    /// What the engine's own builder has in its cache; none if it does not say.
    pub fn builder_cache(&self) -> Option<BTreeSet<String>> {
        self.connection.builder_cache().ok()
    }

    /// The names of images that were made to carry a cache, or to push one to us.
    pub fn own_names(&self) -> Result<Vec<String>, EngineError> {
        self.connection.names(&[&format!("{CARRIER}:*"), &format!("127.0.0.1:*/{INBOX}*")])
    }

    /// Whether layers with this compression can be offered to the engine.
    pub fn reads(&self, codec: Codec) -> bool {
        codec != Codec::Zstd || self.facts.version.reads_zstd()
    }

    /// The best compression that the engine reads back.
    pub fn compression(&self) -> Compression {
        let codec = if self.reads(Codec::Zstd) { Codec::Zstd } else { Codec::Gzip };
        codec.into()
    }
}
