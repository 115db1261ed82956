//! What a save has done, in the forms of output.

use serde::Serialize;

use crate::builder::Strategy;
use crate::cli::Format;
use crate::engine::strategy::capture::Taken;
use crate::oci::digest::Digest;
use crate::report::{bytes, count, output};

/// The JSON form of the result.
#[derive(Serialize)]
pub(super) struct Saved<'a> {
    schema: &'static str,
    /// Whether anything was written.
    changed: bool,
    strategy: &'a str,
    /// Stages that were taken from the engine.
    taken: &'a [String],
    /// Stages that were kept as they were.
    kept: &'a [String],
    live_blobs: usize,
    live_bytes: u64,
    dropped_blobs: usize,
    dropped_bytes: u64,
    warnings: &'a [String],
}

impl<'a> Saved<'a> {
    /// There was nothing to save.
    pub(super) fn nothing() -> Self {
        Self {
            schema: "dockercache.save.v1",
            changed: false,
            strategy: "none",
            taken: &[],
            kept: &[],
            live_blobs: 0,
            live_bytes: 0,
            dropped_blobs: 0,
            dropped_bytes: 0,
            warnings: &[],
        }
    }

    /// This was captured; so many blobs, with so many bytes, are live, and these have gone.
    pub(super) fn of(
        changed: bool,
        strategy: Strategy,
        taken: &'a Taken,
        live: (usize, u64),
        dropped: impl Iterator<Item = &'a (Digest, u64)> + Clone,
    ) -> Self {
        Self {
            changed,
            strategy: strategy.name(),
            taken: &taken.taken,
            kept: &taken.kept,
            live_blobs: live.0,
            live_bytes: live.1,
            dropped_blobs: dropped.clone().count(),
            dropped_bytes: dropped.map(|(_, size)| size).sum(),
            warnings: &taken.warnings,
            ..Self::nothing()
        }
    }

    /// One line on it.
    pub(super) fn summary(&self) -> String {
        let dropped = match self.dropped_blobs {
            0 => String::new(),
            blobs => format!("; dropped {}, {}", count(blobs, "blob"), bytes(self.dropped_bytes)),
        };
        format!(
            "save: {}: {} taken, {} kept; {}, {}{dropped} ({})",
            if self.changed { "saved" } else { "nothing has changed" },
            count(self.taken.len(), "stage"),
            self.kept.len(),
            count(self.live_blobs, "blob"),
            bytes(self.live_bytes),
            self.strategy
        )
    }

    /// Prints it on standard output.
    pub(super) fn print(&self, format: Format) {
        match format {
            Format::Text => {}
            Format::Json => output::json(self),
            Format::Env | Format::Github => {
                let env = format == Format::Env;
                output::pair(env, "saved", if self.changed { "true" } else { "false" });
                output::pair(env, "bytes", &self.live_bytes.to_string());
                output::pair(env, "strategy", self.strategy);
            }
        }
    }
}
