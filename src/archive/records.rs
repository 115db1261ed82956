//! BuildKit's cache records: reading them, merging those of several images, and writing them.
//!
//! Follows `application/vnd.buildkit.cacheconfig.v0` as BuildKit's `cache/remotecache/v1`
//! reads it. A record is a step of some build. It is identified by its digest and, through its
//! inputs, by all that led to it; its results are chains of layers. Merging the records of each
//! stage's image gives what one `mode=max` export of the whole build would have held.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::oci::digest::Digest;

/// Importers refuse a larger config or manifest.
pub const IMPORT_LIMIT: usize = 1 << 20;

/// A cache config as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheConfig {
    /// The layers, each pointing at the one below it.
    #[serde(default)]
    pub layers: Vec<CacheLayer>,
    /// The steps.
    #[serde(default)]
    pub records: Vec<CacheRecord>,
}

impl CacheConfig {
    /// How many steps there are, of builds.
    pub fn steps(&self) -> usize {
        let end = end_of_all();
        self.records.iter().filter(|record| record.digest != end).count()
    }
}

/// A layer on top of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheLayer {
    /// The layer's blob.
    pub blob: Digest,
    /// The index of the layer below; -1 for none. Left out, it means 0.
    #[serde(default)]
    pub parent: i64,
}

/// A step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheRecord {
    /// The layers that hold the step's result, by the index of the topmost.
    #[serde(default, rename = "layers", skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<CacheResult>,
    /// Results that are not a chain in the forest, as lists of layer indexes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chains: Vec<ChainedResult>,
    /// The step's own digest. Not always SHA-256: local sources have `random:` ones.
    #[serde(default)]
    pub digest: String,
    /// For each input of the step, the records that give it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Vec<CacheInput>>,
}

/// A result by its topmost layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CacheResult {
    /// Index of the topmost layer.
    pub layer: usize,
    /// RFC 3339, as the builder wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
}

/// A result by all its layers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChainedResult {
    /// Indexes of the layers.
    pub layers: Vec<usize>,
    /// RFC 3339, as the builder wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
}

/// An input: the record that gives it, and which part of its result is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheInput {
    /// A path in the result.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selector: String,
    /// Index of the record.
    pub link: usize,
}

/// Why cache records can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// Not JSON, or not of the expected form.
    #[error("cache records are not readable: {0}")]
    Json(#[from] serde_json::Error),
    /// An index points outside its list.
    #[error("cache records point at {what} {index}, of which there are {count}")]
    OutOfRange {
        /// `record` or `layer`.
        what: &'static str,
        /// The index.
        index: i64,
        /// The length of the list.
        count: usize,
    },
    /// More than any builder accepts, many times over.
    #[error("cache records of more than {WEIGHT_LIMIT} records, links and layers")]
    TooMany,
    /// A record is its own input, or a layer its own parent.
    #[error("cache records run in a circle at {what} {index}")]
    Loop {
        /// `record` or `layer`.
        what: &'static str,
        /// The index.
        index: usize,
    },
}

/// The most records, links and layers that a graph takes in. Some 20,000 are as many as importers
/// accept.
const WEIGHT_LIMIT: usize = 150_000;

/// A layer by its content and what lies below it.
type LayerNode = (Digest, Option<usize>);

#[derive(Clone, Debug)]
struct Node {
    digest: String,
    inputs: Vec<BTreeSet<(String, usize)>>,
    results: BTreeMap<usize, Option<String>>,
    chains: BTreeMap<Vec<usize>, Option<String>>,
}

/// Records of any number of builds, each once. Inputs come before what they lead to.
#[derive(Debug, Default)]
pub struct RecordGraph {
    layers: Vec<LayerNode>,
    layer_index: HashMap<LayerNode, usize>,
    records: Vec<Node>,
    identities: Vec<Digest>,
    record_index: HashMap<Digest, usize>,
    weight: usize,
}

/// A cache config that importers accept, and what had to go to make it so.
#[derive(Debug)]
pub struct Fitted {
    /// The config.
    pub config: CacheConfig,
    /// The config as JSON.
    pub bytes: Vec<u8>,
    /// Records that were cut because of [`IMPORT_LIMIT`].
    pub cut_records: usize,
}

impl RecordGraph {
    /// Adds the records of one cache config. Layers are told apart by digest and position, be
    /// it a blob's digest or a diffID: the same kind in every call.
    pub fn add(&mut self, config: &CacheConfig) -> Result<(), RecordsError> {
        let layers = self.add_layers(&config.layers)?;
        self.weigh()?;
        let layer = |index: usize| {
            layers.get(index).copied().ok_or(RecordsError::OutOfRange {
                what: "layer",
                index: i64::try_from(index).unwrap_or(i64::MAX),
                count: layers.len(),
            })
        };
        let mut added: Vec<Option<usize>> = vec![None; config.records.len()];
        for index in inputs_first(&config.records)? {
            let record = &config.records[index];
            let mut node = Node {
                digest: record.digest.clone(),
                inputs: Vec::with_capacity(record.inputs.len()),
                results: BTreeMap::new(),
                chains: BTreeMap::new(),
            };
            for input in &record.inputs {
                node.inputs.push(
                    input
                        .iter()
                        .filter_map(|i| Some((i.selector.clone(), added[i.link]?)))
                        .collect(),
                );
            }
            for result in &record.results {
                node.results.insert(layer(result.layer)?, result.created_at.clone());
            }
            for chain in &record.chains {
                let chain_layers =
                    chain.layers.iter().map(|&l| layer(l)).collect::<Result<Vec<_>, _>>()?;
                node.chains.insert(chain_layers, chain.created_at.clone());
            }
            added[index] = Some(self.add_record(node));
            self.weigh()?;
        }
        Ok(())
    }

    fn weigh(&self) -> Result<(), RecordsError> {
        let is_accepted = self.weight + self.layers.len() <= WEIGHT_LIMIT;
        is_accepted.then_some(()).ok_or(RecordsError::TooMany)
    }

    /// The number of records, and that of their results.
    pub fn size(&self) -> (usize, usize) {
        let results = self.records.iter().map(|r| r.results.len() + r.chains.len());
        (self.records.len(), results.sum())
    }

    fn add_layers(&mut self, layers: &[CacheLayer]) -> Result<Vec<usize>, RecordsError> {
        let mut added: Vec<Option<usize>> = vec![None; layers.len()];
        for start in 0..layers.len() {
            // Down to a layer that is there already, then up again.
            let mut path = Vec::new();
            let mut at = start;
            let mut below = loop {
                if let Some(known) = added[at] {
                    break Some(known);
                }
                if path.len() > layers.len() {
                    return Err(RecordsError::Loop { what: "layer", index: at });
                }
                path.push(at);
                match layers[at].parent {
                    -1 => break None,
                    parent => {
                        at = usize::try_from(parent).ok().filter(|&p| p < layers.len()).ok_or(
                            RecordsError::OutOfRange {
                                what: "layer",
                                index: parent,
                                count: layers.len(),
                            },
                        )?;
                    }
                }
            };
            for at in path.into_iter().rev() {
                let node = (layers[at].blob.clone(), below);
                let next = self.layers.len();
                let index = *self.layer_index.entry(node.clone()).or_insert(next);
                if index == next {
                    self.layers.push(node);
                }
                added[at] = Some(index);
                below = Some(index);
            }
        }
        Ok(added.into_iter().flatten().collect())
    }

    fn add_record(&mut self, node: Node) -> usize {
        let identity = self.identity(&node);
        if let Some(&known) = self.record_index.get(&identity) {
            self.weight += node.results.len() + node.chains.keys().map(Vec::len).sum::<usize>();
            let record = &mut self.records[known];
            record.results.extend(node.results);
            record.chains.extend(node.chains);
            return known;
        }
        self.weight +=
            1 + node.results.len() + node.inputs.iter().map(BTreeSet::len).sum::<usize>();
        self.weight += node.chains.keys().map(Vec::len).sum::<usize>();
        let index = self.records.len();
        self.record_index.insert(identity.clone(), index);
        self.identities.push(identity);
        self.records.push(node);
        index
    }

    /// Equal for records with the same digest and, recursively, the same inputs.
    fn identity(&self, node: &Node) -> Digest {
        let mut text = format!("{}\n", node.digest);
        for input in &node.inputs {
            let mut links: Vec<_> =
                input.iter().map(|(selector, i)| (selector, &self.identities[*i])).collect();
            links.sort();
            for (selector, identity) in links {
                let _ = write!(text, "{}:{selector}{identity}", selector.len());
            }
            text.push('\n');
        }
        Digest::of(text.as_bytes())
    }

    /// Writes the records out. `blob` gives the blob of each layer, or `None` where there is
    /// none: such a layer goes, with the results that need it. Records that lead to no result
    /// go too, and the last ones where the whole would exceed [`IMPORT_LIMIT`].
    pub fn to_config(&self, blob: impl Fn(&Digest) -> Option<Digest>) -> Fitted {
        let all = self.records.len();
        let of_first = |kept: usize| {
            let config = self.config_of_first(kept, &blob);
            let bytes = serde_json::to_vec(&config).unwrap_or_default();
            let is_accepted = bytes.len() <= IMPORT_LIMIT;
            (Fitted { config, bytes, cut_records: all - kept }, is_accepted)
        };
        let (mut fitted, is_accepted) = of_first(all);
        if is_accepted {
            return fitted;
        }
        // The most that are accepted are found by halving: few rounds, whatever the records are.
        let (mut most, mut too_many) = (0, all);
        (fitted, _) = of_first(0);
        while most + 1 < too_many {
            let middle = most.midpoint(too_many);
            match of_first(middle) {
                (accepted, true) => (fitted, most) = (accepted, middle),
                (_, false) => too_many = middle,
            }
        }
        fitted
    }

    fn config_of_first(
        &self,
        kept: usize,
        blob: &impl Fn(&Digest) -> Option<Digest>,
    ) -> CacheConfig {
        let records = &self.records[..kept];
        // Layers are listed after the ones below them, so one pass settles which are whole.
        let mut blobs: Vec<Option<Digest>> = Vec::with_capacity(self.layers.len());
        for (content, below) in &self.layers {
            let whole = below.is_none_or(|b| blobs[b].is_some());
            blobs.push(if whole { blob(content) } else { None });
        }

        let mut used_layers = vec![false; self.layers.len()];
        let mut used_records = vec![false; kept];
        for (index, record) in records.iter().enumerate().rev() {
            let results = record.results.keys().copied().filter(|&l| blobs[l].is_some());
            let chains = record.chains.keys().filter(|c| c.iter().all(|&l| blobs[l].is_some()));
            for layer in results.chain(chains.flatten().copied()) {
                used_records[index] = true;
                let mut at = Some(layer);
                while let Some(layer) = at.filter(|&l| !used_layers[l]) {
                    used_layers[layer] = true;
                    at = self.layers[layer].1;
                }
            }
            if used_records[index] {
                for &(_, input) in record.inputs.iter().flatten() {
                    used_records[input] = true;
                }
            }
        }

        let layer_number = numbered(&used_layers);
        let record_number = numbered(&used_records);
        let layers = self
            .layers
            .iter()
            .enumerate()
            .filter(|(i, _)| used_layers[*i])
            .filter_map(|(i, (_, below))| {
                let parent = below.map_or(-1, |b| i64::try_from(layer_number[b]).unwrap_or(-1));
                Some(CacheLayer { blob: blobs[i].clone()?, parent })
            })
            .collect();
        let mut records: Vec<CacheRecord> = records
            .iter()
            .enumerate()
            .filter(|(i, _)| used_records[*i])
            .map(|(_, record)| CacheRecord {
                results: record
                    .results
                    .iter()
                    .filter(|(l, _)| used_layers[**l])
                    .map(|(&l, created_at)| CacheResult {
                        layer: layer_number[l],
                        created_at: created_at.clone(),
                    })
                    .collect(),
                chains: record
                    .chains
                    .iter()
                    .filter(|(c, _)| c.iter().all(|&l| used_layers[l]))
                    .map(|(c, created_at)| ChainedResult {
                        layers: c.iter().map(|&l| layer_number[l]).collect(),
                        created_at: created_at.clone(),
                    })
                    .collect(),
                digest: record.digest.clone(),
                inputs: record
                    .inputs
                    .iter()
                    .map(|input| {
                        input
                            .iter()
                            .map(|(selector, i)| CacheInput {
                                selector: selector.clone(),
                                link: record_number[*i],
                            })
                            .collect()
                    })
                    .collect(),
            })
            .collect();
        records.extend(one_end(&records));
        CacheConfig { layers, records }
    }
}

/// A step of no build that all others lead to, if they lead to several. BuildKit (that of Docker
/// 28.5, for one) takes records in from their ends, in any order, and then does not always find
/// those from which several ends are reached. Without a result, the step goes when it is read
/// back.
fn one_end(records: &[CacheRecord]) -> Option<CacheRecord> {
    let inputs = records.iter().flat_map(|record| record.inputs.iter().flatten());
    let passed: BTreeSet<usize> = inputs.map(|input| input.link).collect();
    let ends: Vec<usize> = (0..records.len()).filter(|index| !passed.contains(index)).collect();
    let input = |&link| vec![CacheInput { selector: String::new(), link }];
    (ends.len() > 1).then(|| CacheRecord {
        digest: end_of_all(),
        inputs: ends.iter().map(input).collect(),
        ..CacheRecord::default()
    })
}

/// The digest of that step.
fn end_of_all() -> String {
    Digest::of(b"dockercache: where all builds end").to_string()
}

/// For each used place, how many used places come before it.
fn numbered(used: &[bool]) -> Vec<usize> {
    let mut next = 0;
    used.iter()
        .map(|&is_used| {
            let number = next;
            next += usize::from(is_used);
            number
        })
        .collect()
}

/// The order in which each record comes after its inputs.
fn inputs_first(records: &[CacheRecord]) -> Result<Vec<usize>, RecordsError> {
    #[derive(Clone, Copy, PartialEq)]
    enum State {
        New,
        Open,
        Done,
    }
    let mut state = vec![State::New; records.len()];
    let mut order = Vec::with_capacity(records.len());
    for start in 0..records.len() {
        // A stack of our own: a build may be thousands of steps deep.
        let mut stack = vec![start];
        while let Some(&at) = stack.last() {
            match state[at] {
                State::Done => {
                    stack.pop();
                }
                State::Open => {
                    state[at] = State::Done;
                    order.push(at);
                    stack.pop();
                }
                State::New => {
                    state[at] = State::Open;
                    for input in records[at].inputs.iter().flatten() {
                        match state.get(input.link) {
                            None => {
                                return Err(RecordsError::OutOfRange {
                                    what: "record",
                                    index: i64::try_from(input.link).unwrap_or(i64::MAX),
                                    count: records.len(),
                                });
                            }
                            Some(State::Open) => {
                                return Err(RecordsError::Loop {
                                    what: "record",
                                    index: input.link,
                                });
                            }
                            Some(State::New) => stack.push(input.link),
                            Some(State::Done) => {}
                        }
                    }
                }
            }
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(name: &str, parent: i64) -> CacheLayer {
        CacheLayer { blob: Digest::of(name.as_bytes()), parent }
    }

    fn record(digest: &str, inputs: &[usize], result: Option<usize>) -> CacheRecord {
        CacheRecord {
            results: result
                .map(|layer| CacheResult { layer, created_at: Some("t".into()) })
                .into_iter()
                .collect(),
            chains: Vec::new(),
            digest: digest.into(),
            inputs: inputs
                .iter()
                .map(|&link| vec![CacheInput { selector: String::new(), link }])
                .collect(),
        }
    }

    #[test]
    fn several_builds_have_one_end_however_often_they_are_read_and_written() {
        let config = CacheConfig {
            layers: vec![layer("base", -1), layer("app", 0), layer("worker", 0)],
            records: vec![
                record("base", &[], Some(0)),
                record("app", &[0], Some(1)),
                record("worker", &[0], Some(2)),
            ],
        };
        let mut written = config;
        for _ in 0..3 {
            let mut graph = RecordGraph::default();
            graph.add(&written).unwrap();
            written = graph.to_config(same).config;
            assert_eq!((written.steps(), written.records.len()), (3, 4));
            let end = &written.records[3];
            let linked: Vec<_> = end.inputs.iter().map(|input| input[0].link).collect();
            assert_eq!(linked, [1, 2]);
        }
        let mut graph = RecordGraph::default();
        graph.add(&CacheConfig { records: written.records[..2].to_vec(), ..written }).unwrap();
        assert_eq!(graph.to_config(same).config.records.len(), 2);
    }

    #[expect(clippy::unnecessary_wraps, reason = "the form that the graph asks for")]
    fn same(digest: &Digest) -> Option<Digest> {
        Some(digest.clone())
    }

    #[test]
    fn merging_two_stages_joins_their_common_steps() {
        let build = CacheConfig {
            layers: vec![layer("base", -1), layer("built", 0)],
            records: vec![record("from", &[], Some(0)), record("run", &[0], Some(1))],
        };
        // The final stage knows the build stage's steps, but has none of its layers.
        let last = CacheConfig {
            layers: vec![layer("copied", -1)],
            records: vec![
                record("copy", &[1], Some(0)),
                record("run", &[2], None),
                record("from", &[], None),
            ],
        };
        let mut graph = RecordGraph::default();
        graph.add(&build).unwrap();
        graph.add(&last).unwrap();
        let merged = graph.to_config(same).config;
        assert_eq!(merged.layers.len(), 3);
        let digests: Vec<_> = merged.records.iter().map(|r| r.digest.as_str()).collect();
        assert_eq!(digests, ["from", "run", "copy"]);
        assert_eq!(merged.records[2].inputs[0][0].link, 1);
        assert!(merged.records.iter().all(|r| r.results.len() == 1));
    }

    #[test]
    fn a_lost_layer_takes_only_what_stands_on_it() {
        let config = CacheConfig {
            layers: vec![layer("a", -1), layer("b", 0), layer("c", 1), layer("d", 0)],
            records: vec![
                record("a", &[], Some(0)),
                record("b", &[0], Some(1)),
                record("c", &[1], Some(2)),
                record("d", &[0], Some(3)),
            ],
        };
        let mut graph = RecordGraph::default();
        graph.add(&config).unwrap();
        let lost = Digest::of(b"b");
        let left = graph.to_config(|d| (*d != lost).then(|| d.clone())).config;
        assert_eq!(left.layers, [layer("a", -1), layer("d", 0)]);
        let digests: Vec<_> = left.records.iter().map(|r| r.digest.as_str()).collect();
        assert_eq!(digests, ["a", "d"]);
    }

    #[test]
    fn an_omitted_parent_is_the_first_layer() {
        let json = format!(
            r#"{{"layers":[{{"blob":"{0}","parent":-1}},{{"blob":"{1}"}}],"records":[]}}"#,
            Digest::of(b"a"),
            Digest::of(b"b")
        );
        let config: CacheConfig = serde_json::from_str(&json).unwrap();
        assert_eq!(config.layers[1].parent, 0);
        assert!(serde_json::to_string(&config).unwrap().contains(r#""parent":0"#));
    }

    #[test]
    fn what_points_nowhere_or_runs_in_a_circle_is_refused() {
        let broken = [
            CacheConfig { layers: vec![layer("a", 5)], records: vec![] },
            CacheConfig { layers: vec![layer("a", 1), layer("b", 0)], records: vec![] },
            CacheConfig { layers: vec![layer("a", -2)], records: vec![] },
            CacheConfig { layers: vec![], records: vec![record("a", &[3], None)] },
            CacheConfig { layers: vec![], records: vec![record("a", &[], Some(0))] },
            CacheConfig { layers: vec![], records: vec![record("a", &[0], None)] },
            CacheConfig {
                layers: vec![],
                records: vec![record("a", &[1], None), record("b", &[0], None)],
            },
        ];
        for config in broken {
            assert!(RecordGraph::default().add(&config).is_err(), "{config:?}");
        }
    }

    #[test]
    fn one_huge_record_before_many_small_ones_is_cut_in_a_few_rounds() {
        let huge = "x".repeat(IMPORT_LIMIT);
        let small = (0..50_000).map(|n| record(&n.to_string(), &[], Some(0)));
        let config = CacheConfig {
            layers: vec![layer("a", -1)],
            records: std::iter::once(record(&huge, &[], Some(0))).chain(small).collect(),
        };
        let mut graph = RecordGraph::default();
        graph.add(&config).unwrap();
        let begun = std::time::Instant::now();
        assert_eq!(graph.to_config(same).cut_records, 50_001);
        assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
    }

    #[test]
    fn more_records_than_any_builder_accepts_are_refused() {
        let records = (0..=WEIGHT_LIMIT).map(|n| record(&n.to_string(), &[], None)).collect();
        let error = RecordGraph::default().add(&CacheConfig { layers: vec![], records });
        assert!(matches!(error, Err(RecordsError::TooMany)));
    }

    #[test]
    fn five_thousand_steps_are_cut_to_what_importers_accept() {
        let count = 5000;
        let config = CacheConfig {
            layers: (0..count)
                .map(|i| layer(&format!("layer {i}"), if i % 100 == 0 { -1 } else { i - 1 }))
                .collect(),
            records: (0..usize::try_from(count).unwrap())
                .map(|i| {
                    let inputs: Vec<_> = i.checked_sub(1).into_iter().collect();
                    record(Digest::of(&i.to_le_bytes()).as_str(), &inputs, Some(i))
                })
                .collect(),
        };
        let mut graph = RecordGraph::default();
        graph.add(&config).unwrap();
        let fitted = graph.to_config(same);
        assert!(fitted.bytes.len() <= IMPORT_LIMIT);
        assert!(fitted.cut_records > 0);
        assert!(fitted.bytes.len() > IMPORT_LIMIT * 9 / 10, "{}", fitted.bytes.len());
        RecordGraph::default().add(&fitted.config).unwrap();
    }

    #[test]
    fn merging_the_same_records_again_changes_nothing() {
        let config = CacheConfig {
            layers: vec![layer("a", -1), layer("b", 0)],
            records: vec![record("x", &[], Some(0)), record("y", &[0], Some(1))],
        };
        let mut graph = RecordGraph::default();
        graph.add(&config).unwrap();
        let once = graph.to_config(same).bytes;
        graph.add(&config).unwrap();
        assert_eq!(graph.to_config(same).bytes, once);
    }
}
