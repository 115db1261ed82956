//! Cache keys in levels: each is a prefix of the next more exact one.
//!
//! A key is, in this order: the version, what the archive depends on besides the project, the
//! project, twelve digits of each stage's digest with dependencies first, and the digest of the
//! whole build with a mark that ends it. A cache that matches by prefix so falls back to the archive
//! that shares most stages. Fields end with two dashes, which no field contains: no project's keys
//! are a prefix of another project's. The mark at the end is for caches that prefer the newest match
//! over an exact one: nothing longer starts with an exact key.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::encoding::Encoder;
use super::stage::StageDigest;

/// The longest key, well below what any CI system allows.
const MAXIMUM_LENGTH: usize = 512;

/// The longest field, so that the stages have room.
const MAXIMUM_FIELD: usize = 48;

/// How many digits of a stage's digest are in a key.
const STAGE_DIGITS: usize = 12;

const PREFIX: &str = "dockercache-v1--";
const TERMINATOR: &str = "--end";

/// What a key depends on besides the stages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyScope {
    /// The generation of the engine, such as `28`.
    pub generation: String,
    /// How the cache is taken out of the engine, such as `buildkit-replay`.
    pub strategy: String,
    /// What the build is for, such as `linux/amd64`.
    pub platform: String,
    /// The name of the project.
    pub project: String,
    /// Other text that separates keys; often empty.
    pub salt: String,
    /// The time in which the key is good, by [`period`]; often empty.
    pub period: String,
}

/// The keys of one build, most exact first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// The levels; the key of each is a prefix of that of the level before it.
    pub levels: Vec<KeyLevel>,
}

/// One level of the keys of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyLevel {
    /// What the level is exact about: `exact`, `stages-3`, `stages-2`, …, `project`.
    pub name: String,
    /// The key, of ASCII letters, digits, dashes, and underscores.
    pub key: String,
}

impl Keys {
    /// Makes the keys of a build from its stages, dependencies first.
    pub fn new(scope: &KeyScope, stages: &[StageDigest]) -> Self {
        let last = stages.len().saturating_sub(1);
        let mut digests: Vec<&str> = Vec::with_capacity(stages.len());
        for (at, stage) in stages.iter().enumerate() {
            // A stage without a step of its own is in the digest of whatever stands on it.
            let passes_on = at != last && stage.steps.iter().all(|step| !step.is_layer);
            if !passes_on && !digests.contains(&stage.digest.as_str()) {
                digests.push(&stage.digest);
            }
        }
        Self::of_digests(scope, &digests)
    }

    /// Makes the keys of a build from its stages' digests, dependencies first.
    pub fn of_digests(scope: &KeyScope, stages: &[&str]) -> Self {
        let mut key = PREFIX.to_owned();
        for field in [&scope.generation, &scope.strategy, &scope.platform, &scope.project] {
            key.push_str(&key_field(field));
            key.push_str("--");
        }
        if !scope.salt.is_empty() {
            key.push_str(&short("salt", [scope.salt.as_str()]));
            key.push_str("--");
        }
        if !scope.period.is_empty() {
            // In front of all levels: an older archive must not be found at all.
            key.push_str(&key_field(&scope.period));
            key.push_str("--");
        }
        let mut levels = vec![KeyLevel { name: "project".to_owned(), key: key.clone() }];
        let end = format!("x{}{TERMINATOR}", whole(&key, stages));
        for (index, part) in
            stage_parts(stages, MAXIMUM_LENGTH - key.len() - end.len()).into_iter().enumerate()
        {
            key.push_str(&part);
            key.push('-');
            levels.push(KeyLevel { name: format!("stages-{}", index + 1), key: key.clone() });
        }
        key.push_str(&end);
        levels.push(KeyLevel { name: "exact".to_owned(), key });
        levels.reverse();
        Self { levels }
    }

    /// Returns the key that only an equal build has.
    pub fn exact(&self) -> &str {
        self.levels.first().map_or("", |level| &level.key)
    }
}

/// Names the piece of time that `now` is in: time is cut into pieces of the length `age`, of a second
/// at least, and a key is good for one of them, so that updates of base images get in.
pub fn period(age: Duration, now: SystemTime) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let age = age.as_secs().max(1);
    format!("t{}", since / age * age)
}

/// Returns a few digits for each stage, or for each group of neighbours where they are too many.
fn stage_parts(stages: &[&str], room: usize) -> Vec<String> {
    let slots = (room / (STAGE_DIGITS + 1)).max(1);
    if stages.len() <= slots {
        return stages.iter().map(|digest| digest[..STAGE_DIGITS].to_owned()).collect();
    }
    stages
        .chunks(stages.len().div_ceil(slots))
        .map(|group| short("stages", group.iter().copied()))
        .collect()
}

fn short<'a>(domain: &str, values: impl IntoIterator<Item = &'a str>) -> String {
    let mut encoder = Encoder::new(domain);
    encoder.list("value", values);
    let mut digest = encoder.digest().hex();
    digest.truncate(STAGE_DIGITS);
    digest
}

/// Digests the whole build, with the full digests of all stages.
fn whole(scope: &str, stages: &[&str]) -> String {
    let mut encoder = Encoder::new("build");
    encoder.field("scope", scope);
    encoder.list("stage", stages.iter().copied());
    let mut digest = encoder.digest().hex();
    digest.truncate(32);
    digest
}

/// Brings a field to the characters that every CI system allows, with single dashes only.
///
/// A field that this changes gets some digits of its digest, so that no two fall together.
pub fn key_field(field: &str) -> String {
    let mut clean = String::new();
    for character in field.chars() {
        if character.is_ascii_alphanumeric() || character == '_' {
            clean.push(character);
        } else if !clean.ends_with('-') {
            clean.push('-');
        }
    }
    let clean = clean.trim_matches('-');
    if clean == field && field.len() <= MAXIMUM_FIELD && !field.is_empty() {
        return clean.to_owned();
    }
    let digits = &short("field", [field])[..8];
    let kept = &clean[..clean.len().min(MAXIMUM_FIELD - digits.len() - 1)];
    match kept.trim_end_matches('-') {
        "" => digits.to_owned(),
        kept => format!("{kept}-{digits}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::LineRange;
    use crate::predict::StepDigest;
    use proptest::prelude::*;

    fn stages(count: usize) -> Vec<StageDigest> {
        (0..count)
            .map(|index| StageDigest {
                index,
                name: None,
                base: String::new(),
                digest: format!("{index:064x}").chars().rev().collect(),
                steps: vec![step(true)],
            })
            .collect()
    }

    fn step(is_layer: bool) -> StepDigest {
        StepDigest {
            lines: LineRange { first: 1, last: 1 },
            instruction: String::new(),
            digest: String::new(),
            is_layer,
            queries: Vec::new(),
            parts: Vec::new(),
        }
    }

    #[test]
    fn a_stage_that_only_passes_another_on_changes_no_key() {
        let keys = |stages: &[StageDigest]| Keys::new(&scope("my-app"), stages);
        let plain = stages(2);
        let passing = StageDigest { steps: vec![step(false)], ..stages(3)[2].clone() };
        let mut more = plain.clone();
        more.insert(0, passing.clone());
        more.insert(2, plain[0].clone());
        assert_eq!(keys(&more), keys(&plain));
        assert_ne!(keys(&[passing]), keys(&[]), "the last one is what is built");
    }

    fn scope(project: &str) -> KeyScope {
        KeyScope {
            generation: "28".to_owned(),
            strategy: "buildkit-replay".to_owned(),
            platform: "linux_amd64".to_owned(),
            project: project.to_owned(),
            ..KeyScope::default()
        }
    }

    #[test]
    fn keys_are_stable() {
        let keys = Keys::new(&scope("my-app"), &stages(2));
        let levels: Vec<_> =
            keys.levels.iter().map(|level| (level.name.as_str(), level.key.as_str())).collect();
        assert_eq!(
            levels,
            [
                (
                    "exact",
                    "dockercache-v1--28--buildkit-replay--linux_amd64--my-app--000000000000-100000000000-x8653901f7584f3ae352340651e1516d7--end"
                ),
                (
                    "stages-2",
                    "dockercache-v1--28--buildkit-replay--linux_amd64--my-app--000000000000-100000000000-"
                ),
                (
                    "stages-1",
                    "dockercache-v1--28--buildkit-replay--linux_amd64--my-app--000000000000-"
                ),
                ("project", "dockercache-v1--28--buildkit-replay--linux_amd64--my-app--"),
            ]
        );
    }

    #[test]
    fn fields_are_sanitised_and_told_apart() {
        assert_eq!(key_field("my_app-2"), "my_app-2");
        let different = ["a/b", "a.b", "a--b", "-a-b", "a-b", "", "é", &"a".repeat(500)];
        let mut clean: Vec<String> = different.iter().map(|field| key_field(field)).collect();
        clean.sort();
        clean.dedup();
        assert_eq!(clean.len(), different.len());
        assert!(key_field("a/b").starts_with("a-b-"));
    }

    proptest! {
        #[test]
        fn levels_are_prefixes_and_bounded(project in any::<String>(), salt in any::<String>(), count in 0_usize..200) {
            let scope = KeyScope { salt, ..scope(&project) };
            let keys = Keys::new(&scope, &stages(count));
            for pair in keys.levels.windows(2) {
                prop_assert!(pair[0].key.starts_with(&pair[1].key));
            }
            let exact = keys.exact();
            prop_assert!(exact.len() <= MAXIMUM_LENGTH);
            prop_assert!(exact.chars().all(|character| character.is_ascii_alphanumeric() || "_-".contains(character)));
            prop_assert!(exact.ends_with(TERMINATOR));
        }

        #[test]
        fn no_project_is_found_by_another(one in "[a-z-]{1,6}", other in "[a-z-]{1,6}") {
            prop_assume!(one != other);
            let [one, other] = [one, other].map(|project| Keys::new(&scope(&project), &stages(1)));
            let project = &one.levels.last().unwrap().key;
            prop_assert!(other.levels.iter().all(|level| !level.key.starts_with(project)));
        }
    }

    #[test]
    fn a_key_rolls_over_after_its_age_and_not_before() {
        let week = Duration::from_hours(7 * 24);
        let at = |seconds| period(week, UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "t0");
        assert_eq!(at(7 * 24 * 3600 - 1), "t0");
        assert_eq!(at(7 * 24 * 3600), "t604800");
    }
}
