//! What holds for every plan, whatever layers come and go.

#![expect(clippy::cast_possible_truncation, reason = "numbers of a test are small")]

use proptest::prelude::*;

use super::*;

const RENEW: Duration = Duration::from_hours(24 * 10);
static NOTHING: BTreeSet<String> = BTreeSet::new();
/// Nothing changes, the newest layers change, more changes.
const SHARES: [u64; 3] = [300, 600, 100];

fn layer(name: u64, size: u64, usage: Usage) -> Layer {
    Layer { digest: Digest::of(&name.to_le_bytes()), size, here: true, usage }
}

fn usage(kind: u64) -> Usage {
    let read = [0b111, 0b110, 0b101, 0b010, 0b001, 0b011][kind as usize % 6];
    let replaced = [0b000, 0b100, 0b110][kind as usize % 3];
    Usage { read, replaced }
}

/// What one save does.
#[derive(Clone, Debug)]
struct Save {
    /// How many days have passed.
    days: u64,
    /// Which layers die, by their places.
    dying: Vec<prop::sample::Index>,
    /// Sizes and kinds of new ones.
    born: Vec<(u64, u64)>,
    /// Which packs were restored.
    restored: u16,
}

fn saves() -> impl Strategy<Value = Vec<Save>> {
    let size = prop_oneof![20_000_u64..200_000, 1_000_000_u64..80_000_000];
    let born = prop::collection::vec((size, 0_u64..6), 0..8);
    let dying = prop::collection::vec(any::<prop::sample::Index>(), 0..6);
    let save = (0_u64..3, dying, born, any::<u16>())
        .prop_map(|(days, dying, born, restored)| Save { days, dying, born, restored });
    prop::collection::vec(save, 1..25)
}

proptest! {
    #[test]
    fn every_plan_keeps_its_promises(saves in saves()) {
        let (mut before, mut layers, mut name, mut today) = (Table::default(), Vec::new(), 0, Day(100));
        for save in saves {
            today.0 += save.days;
            for at in &save.dying {
                if !layers.is_empty() {
                    layers.swap_remove(at.index(layers.len()));
                }
            }
            let held = before.layers().into_iter().cloned().collect::<BTreeSet<_>>();
            for layer in &mut layers {
                let Layer { digest, here, .. }: &mut Layer = layer;
                let place = before.packs.iter().position(|pack| pack.layers.contains_key(digest));
                *here = place.is_none_or(|place| save.restored >> place & 1 == 1);
            }
            for (size, kind) in save.born {
                name += 1;
                layers.push(layer(name, size, usage(kind)));
            }
            let terms = Terms { shares: &SHARES, today, renew_after: RENEW, broken: &NOTHING };
            let plan = plan(&before, &layers, &terms);
            let live: BTreeMap<&Digest, &Layer> = layers.iter().map(|l| (&l.digest, l)).collect();
            let is_new = |pack: &Pack| plan.new.get(&pack.slot) == Some(&pack.key());

            // Every live layer is in exactly one pack.
            for digest in live.keys() {
                let of = plan.table.packs.iter().filter(|p| p.layers.contains_key(digest)).count();
                prop_assert_eq!(of, 1);
            }
            prop_assert!(plan.new.len() <= SLOTS);
            prop_assert_eq!(plan.table.packs.iter().filter(|p| is_new(p)).count(), plan.new.len());
            for pack in &plan.table.packs {
                if is_new(pack) {
                    // No dead layer travels, and no pack is saved that is not whole.
                    prop_assert!(pack.layers.keys().all(|l| live.get(l).is_some_and(|l| l.here)));
                    prop_assert_eq!(pack.made, today);
                } else {
                    // What is kept has its key.
                    prop_assert!(before.packs.contains(pack));
                    let kept: u64 = pack.layers.keys().filter_map(|l| live.get(l)).map(|l| l.size).sum();
                    prop_assert!(kept > 0, "a pack is dead");
                    let dead = pack.size() - kept;
                    let here = pack.layers.keys().filter_map(|l| live.get(l)).all(|l| l.here);
                    let bound = (pack.size() / DEAD_PART).max(DEAD_BYTES);
                    prop_assert!(!here || dead <= bound, "{dead} of {}", pack.size());
                    let old = pack.made.age(today) >= RENEW;
                    prop_assert!(!old || !here || plan.new.len() == SLOTS, "not renewed");
                }
            }
            if layers.iter().all(|layer| layer.here) {
                prop_assert!(plan.table.packs.len() <= MOST_PACKS);
                for build in 0..SHARES.len() {
                    let reads = |p: &&Pack| p.layers.keys().any(|l| {
                        live.get(l).is_some_and(|l| l.usage.read >> build & 1 == 1)
                    });
                    prop_assert!(plan.table.packs.iter().filter(reads).count() <= SLOTS);
                }
            }
            // Nothing is new where nothing has changed.
            if layers.iter().all(|layer| held.contains(&layer.digest)) && plan.new.is_empty() {
                prop_assert!(plan.table.packs.iter().all(|pack| before.packs.contains(pack)));
            }
            before = plan.table;
        }
    }
}

const MIB: u64 = 1 << 20;

fn terms(today: u64) -> Terms<'static> {
    Terms { shares: &SHARES, today: Day(today), renew_after: RENEW, broken: &NOTHING }
}

#[test]
fn an_unchanged_archive_plans_nothing_new() {
    let layers: Vec<_> = (0..6).map(|n| layer(n, (n + 1) * 9 * MIB, usage(n))).collect();
    let first = plan(&Table::default(), &layers, &terms(1));
    assert!(!first.new.is_empty());
    let again = plan(&first.table, &layers, &terms(5));
    assert_eq!(again, Plan { table: first.table, new: BTreeMap::new() });
}

#[test]
fn a_change_saves_the_new_layer_alone() {
    let base = layer(1, 50 * MIB, Usage { read: 0b111, replaced: 0 });
    let packages = layer(2, 80 * MIB, Usage { read: 0b011, replaced: 0b100 });
    let source = |n| layer(n, MIB, Usage { read: 0b001, replaced: 0b110 });
    let first = plan(&Table::default(), &[base.clone(), packages.clone(), source(3)], &terms(1));
    assert_eq!(first.new.len(), 3, "{first:?}");
    let second = plan(&first.table, &[base, packages, source(4)], &terms(1));
    assert_eq!(second.new.len(), 1);
    let new =
        second.table.packs.iter().find(|p| second.new.contains_key(&p.slot) && p.size() == MIB);
    assert!(new.is_some_and(|p| p.layers.contains_key(&source(4).digest)));
    assert!(!second.table.layers().contains(&source(3).digest), "a dead layer is kept");
}

#[test]
fn packs_are_saved_again_before_they_expire_and_one_after_the_other() {
    let layers: Vec<_> = (0..3).map(|n| layer(n, 30 * MIB, usage(n))).collect();
    let first = plan(&Table::default(), &layers, &terms(1));
    assert!(plan(&first.table, &layers, &terms(10)).new.is_empty());
    let renewed = plan(&first.table, &layers, &terms(11));
    assert_eq!(renewed.new.len(), first.new.len());
    assert!(renewed.table.packs.iter().all(|pack| pack.made == Day(11)));
}

#[test]
fn what_is_not_here_is_kept_as_it_is_and_what_is_lost_is_in_no_pack() {
    let mut layers: Vec<_> = (0..2).map(|n| layer(n, 30 * MIB, usage(n))).collect();
    let first = plan(&Table::default(), &layers[..1], &terms(1));
    for layer in &mut layers {
        layer.here = false;
    }
    let second = plan(&first.table, &layers, &terms(30));
    assert_eq!(second.table.packs, first.table.packs);
    assert!(second.new.is_empty());
}

#[test]
fn a_build_restores_what_it_reads_then_what_is_due() {
    let pack = |slot, made, name: u64, size| Pack {
        slot,
        made: Day(made),
        attempt: 0,
        layers: [(layer(name, size, usage(0)).digest, size)].into(),
    };
    let table = Table::new(Day(9), vec![pack(1, 9, 1, 5), pack(2, 9, 2, 50), pack(3, 1, 3, 9)]);
    let needed = |names: &[u64]| -> BTreeSet<Digest> {
        names.iter().map(|name| layer(*name, 1, usage(0)).digest).collect()
    };
    let chosen = |needed: &BTreeSet<Digest>, here: bool, today| -> Vec<usize> {
        let chosen = to_restore(&table, needed, &|_| here, Day(today), RENEW);
        chosen.iter().map(|pack| pack.slot).collect()
    };
    assert_eq!(chosen(&needed(&[1]), false, 9), [1]);
    assert_eq!(chosen(&needed(&[1, 2]), false, 9), [2, 1]);
    assert_eq!(chosen(&needed(&[1]), false, 11), [1, 3]);
    assert!(chosen(&needed(&[1, 2, 3]), true, 11).is_empty());
    assert!(chosen(&needed(&[]), false, 9).is_empty());
}

#[test]
fn a_key_with_something_else_behind_it_is_not_used_again() {
    let layers = [layer(1, 9 * MIB, usage(0))];
    let first = plan(&Table::default(), &layers, &terms(1));
    let broken: BTreeSet<String> = first.new.values().cloned().collect();
    let again = plan(&Table::default(), &layers, &Terms { broken: &broken, ..terms(1) });
    assert_eq!(again.new.len(), 1);
    assert!(again.new.values().all(|key| !broken.contains(key)));
}
