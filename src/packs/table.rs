//! Which layers are in which pack, and when each pack was made. Lies beside the index.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::SLOTS;
use crate::oci::digest::Digest;
use crate::oci::json;

/// The version of tables that this program writes and reads.
const FORMAT: u32 = 1;
/// The most packs that a table may list; ours list far fewer.
const MOST_PACKS: usize = 100;
const SECONDS_A_DAY: u64 = 86_400;

/// A day, counted from 1970. Packs are dated by days, so that jobs that make the same pack give it the
/// same key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Day(pub u64);

impl Day {
    /// The day of a time.
    pub fn of(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self(since / SECONDS_A_DAY)
    }

    /// How long ago the day began, seen from another.
    pub fn age(self, today: Self) -> Duration {
        Duration::from_secs(today.0.saturating_sub(self.0) * SECONDS_A_DAY)
    }
}

/// Layers that travel together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pack {
    /// Which of the directories it was saved from, from 1 to [`SLOTS`]: a CI's cache restores it there.
    pub slot: usize,
    /// When it was saved.
    pub made: Day,
    /// Tells it from packs of the same layers and day of which the CI has something else.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempt: u32,
    /// The layers with their sizes, dead ones too: the key is made from all of them.
    pub layers: BTreeMap<Digest, u64>,
}

impl Pack {
    /// What names it in the CI's cache: equal for equal layers of one day.
    pub fn key(&self) -> String {
        let mut text = format!("{} {}\n", self.made.0, self.attempt);
        for layer in self.layers.keys() {
            let _ = writeln!(text, "{layer}");
        }
        Digest::of(text.as_bytes()).hex().to_owned()
    }

    /// Bytes of all its layers.
    pub fn size(&self) -> u64 {
        self.layers.values().fold(0, |sum, size| sum.saturating_add(*size))
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// The packs of an archive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// [`FORMAT`] of the writer.
    format: u32,
    /// When the index beside it was saved.
    pub made: Day,
    /// The packs.
    pub packs: Vec<Pack>,
}

impl Table {
    /// A table of these packs.
    pub fn new(made: Day, packs: Vec<Pack>) -> Self {
        Self { format: FORMAT, made, packs }
    }

    /// Reads a table, which anyone may have written; or says why it is not used.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let table: Self = json::parse(bytes).map_err(|e| e.to_string())?;
        if table.format != FORMAT {
            return Err(format!("it has format {}, expected {FORMAT}", table.format));
        }
        if table.packs.len() > MOST_PACKS {
            return Err(format!("it lists {} packs, more than {MOST_PACKS}", table.packs.len()));
        }
        match table.packs.iter().find(|pack| !(1..=SLOTS).contains(&pack.slot)) {
            Some(pack) => Err(format!("it has a pack in slot {}", pack.slot)),
            None => Ok(table),
        }
    }

    /// The layers of all packs.
    pub fn layers(&self) -> BTreeSet<&Digest> {
        self.packs.iter().flat_map(|pack| pack.layers.keys()).collect()
    }

    /// Without the packs that a CI has deleted by now, `lifetime` after they were made.
    pub fn retain_younger(&mut self, lifetime: Duration, today: Day) {
        // A day is the unit: one that ends during the job counts as over.
        self.packs.retain(|pack| pack.made.age(today) < lifetime);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(slot: usize, made: u64, layers: &[&[u8]]) -> Pack {
        let layers = layers.iter().map(|l| (Digest::of(l), l.len() as u64)).collect();
        Pack { slot, made: Day(made), attempt: 0, layers }
    }

    #[test]
    fn a_key_names_layers_and_day_but_no_slot() {
        let key = pack(1, 7, &[b"a", b"b"]).key();
        assert_eq!(pack(2, 7, &[b"b", b"a"]).key(), key);
        assert_ne!(pack(1, 8, &[b"a", b"b"]).key(), key);
        assert_ne!(pack(1, 7, &[b"a"]).key(), key);
    }

    #[test]
    fn refuses_tables_that_it_would_not_write() {
        let parse = |table: &Table| Table::parse(&serde_json::to_vec(table).unwrap());
        let good = Table::new(Day(9), vec![pack(1, 7, &[b"a"]), pack(SLOTS, 9, &[b"b"])]);
        assert_eq!(parse(&good).unwrap(), good);
        assert!(parse(&Table { format: 2, ..good.clone() }).is_err());
        assert!(parse(&Table::new(Day(9), vec![pack(0, 7, &[b"a"])])).is_err());
        assert!(parse(&Table::new(Day(9), vec![pack(SLOTS + 1, 7, &[b"a"])])).is_err());
        let many = vec![pack(1, 7, &[b"a"]); MOST_PACKS + 1];
        assert!(parse(&Table::new(Day(9), many)).is_err());
        assert!(Table::parse(b"[]").is_err());
    }

    #[test]
    fn packs_are_gone_when_the_ci_has_deleted_them() {
        let packs = vec![pack(1, 1, &[b"old"]), pack(2, 2, &[b"new"])];
        let mut table = Table::new(Day(2), packs);
        table.retain_younger(Duration::from_hours(24 * 15), Day(16));
        assert_eq!(table.packs.len(), 1);
        assert_eq!(table.packs[0].made, Day(2));
    }
}
