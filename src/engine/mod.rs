//! What a Docker engine can do, and how its build cache is taken out and put back.
//!
//! Knows no CI. [`client`] and [`connection`] reach the engine, [`facts`] says what it is,
//! [`strategy`] chooses among [`native`], [`replay`] and [`classic`], and [`run`] builds.

pub mod arguments;
pub mod bake;
pub mod bases;
pub mod build_log;
pub mod cached;
pub mod capture;
pub mod classic;
pub mod client;
pub mod connection;
pub(crate) mod current;
pub(crate) mod disclosure;
pub mod error;
pub mod facts;
pub mod images;
pub mod inbox;
pub mod native;
pub mod process;
pub mod ready;
pub(crate) mod repeat;
pub mod replay;
pub mod run;
pub mod saved;
pub mod settings;
pub mod stages;
pub mod strategy;
pub mod version;

use std::collections::BTreeSet;

use client::Client;
use connection::Connection;
use error::EngineError;
use facts::Facts;

use crate::layout::codec::{Codec, Compression};

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

    /// What the engine's own builder has in its cache; none if it does not say.
    pub fn builder_cache(&self) -> Option<BTreeSet<String>> {
        self.connection.builder_cache().ok()
    }

    /// The tags of images that were made to carry a cache.
    pub fn carriers(&self) -> Result<Vec<String>, EngineError> {
        self.connection.tags("dockercache-carrier:*")
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
