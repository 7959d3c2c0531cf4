//! Hot keys: tiles against exact recounts, within the bounds that reads state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::change::{Op, Version};
use crate::engine::{Evaluate, Key, Outcome, Plan, Refused};
use crate::state::{AsOf, Scratch, TILED_BYTES_MAX};
use crate::value::Value;
use crate::vector::{Flags, Reading};

use super::world::{CHARGEBACKS, Cell, Delivery, Dice, NOON, PAYMENTS, SECOND, Shell, plan};

pub(super) const HOT: &str = r#"
[time]
disorder = "0s"
slack = "10m"
[stream.payments]
id = "id"
time = "at"
judge = "none"
columns = { id = "int64", at = "timestamp", terminal = "int64", amount = "decimal(2)", weight = "double", country = "string", online = "bool" }
[stream.chargebacks]
labels = "payments"
id = "id"
value = "fraud"
time = "reported"
columns = { id = "int64", fraud = "bool", reported = "timestamp" }
[entity.terminal]
key = "terminal"
[[group]]
name = "exact"
entity = "terminal"
stream = "payments"
windows = ["1h", "1d"]
features = { n = "count()", sum = "sum(amount)", mean = "mean(amount)", sd = "stddev(amount)", fraud = "share(label)", online = "share(online)", least = "min(amount)", wsd = "stddev(weight)", last = "last(country)", since = "time_since_first()" }
[[group]]
name = "sketched"
entity = "terminal"
stream = "payments"
windows = ["1d"]
features = { distinct = "distinct_count(amount)", median = "quantile(amount, 0.5)" }
[[group]]
name = "texts"
entity = "terminal"
stream = "payments"
windows = ["1d"]
features = { top = "most_frequent(country)", decayed = "decayed_count('1h')", first = "first(country)" }
"#;

/// The time of the nth payment: about 30 hours in 100,000.
pub(super) fn at(n: i64) -> i64 {
    NOON + n * 1_080_000
}

pub(super) fn paid(n: i64, seed: u64) -> Delivery {
    let mut dice = Dice(seed ^ u64::try_from(n).unwrap().wrapping_mul(0x1234_5677));
    let country = if dice.one_in(3) { Cell::text("DE") } else { Cell::Text(format!("c{}", dice.below(100_000))) };
    let cells = vec![
        Cell::Word(n),
        Cell::Word(at(n)),
        Cell::Word(1),
        Cell::Word(1 + dice.below(20_000)),
        Cell::double(1e6 + dice.below(1_000) as f64 / 8.0),
        country,
        Cell::Word(dice.below(2)),
    ];
    Delivery {
        stream: PAYMENTS,
        op: Op::Insert,
        version: Version::new(u64::try_from(n).unwrap() + 1),
        arrival: None,
        cells,
    }
}

fn labelled(n: i64, fraud: i64, reported: i64, version: u64) -> Delivery {
    let cells = [n, fraud, reported].map(Cell::Word).to_vec();
    Delivery { stream: CHARGEBACKS, op: Op::Insert, version: Version::new(version), arrival: None, cells }
}

/// A terminal with `events` payments, every tenth reported as fraud at once after them.
pub(super) fn hot_terminal(plan: &Arc<Plan>, events: i64, seed: u64) -> Shell {
    let mut shell = Shell::new(plan, 1, Evaluate::Nothing);
    let payments: Vec<Delivery> = (0..events).map(|n| paid(n, seed)).collect();
    payments.chunks(4_096).for_each(|chunk| drop(shell.all(chunk)));
    let labels: Vec<Delivery> = (0..events).step_by(10).map(|n| labelled(n, 1, at(events), 1)).collect();
    labels.chunks(4_096).for_each(|chunk| drop(shell.all(chunk)));
    shell
}

fn read(plan: &Plan, shell: &mut Shell, instant: i64) -> BTreeMap<String, Reading> {
    let (mut scratch, mut out) = (Scratch::default(), Vec::new());
    let groups: Vec<usize> = (0..plan.programs.len()).collect();
    shell.hold(0, &crate::engine::OwnedKey::Int(1));
    shell.engine.read(0, &Key::Int(1), &groups, AsOf::instant(instant), &mut scratch, &mut out);
    let names = plan.definitions.features.iter().map(|feature| feature.name.to_string());
    names.zip(out.iter().map(|readout| readout.reading(scratch.texts()))).collect()
}

fn number(readings: &BTreeMap<String, Reading>, name: &str) -> f64 {
    readings[name].value.number().unwrap_or_else(|| panic!("{name}: {:?}", readings[name]))
}

fn amount(delivery: &Delivery) -> i64 {
    super::world::word(&delivery.cells[3])
}

/// Payments in (instant - window, instant].
fn within(events: i64, seed: u64, window: i64, instant: i64) -> Vec<Delivery> {
    (0..events).filter(|n| at(*n) > instant - window && at(*n) <= instant).map(|n| paid(n, seed)).collect()
}

/// A half-life so much shorter than a tile that what an event leaves at the tile's end is no double any more.
#[test]
fn half_lives_far_below_a_tile_give_numbers() {
    let group = "[[group]]\nname = \"fast\"\nentity = \"terminal\"\nstream = \"payments\"\nwindows = [\"1d\"]\nfeatures = { n = \"decayed_count('50ms')\", sum = \"decayed_sum(amount, '50ms')\" }\n";
    let plan = plan(&format!("{HOT}{group}"));
    let events = 5_500;
    let mut shell = hot_terminal(&plan, events, 0);
    let found = read(&plan, &mut shell, at(events - 1));
    let weight = |n: i64| (-((at(events - 1) - at(n)) as f64) / 50_000.0).exp2();
    let expected: f64 = (0..events).map(weight).sum();
    assert!((number(&found, "fast.n_1d") - expected).abs() < 1e-9, "{:?}", found["fast.n_1d"]);
    let expected: f64 = (0..events).map(|n| weight(n) * amount(&paid(n, 0)) as f64 / 100.0).sum();
    assert!((number(&found, "fast.sum_1d") - expected).abs() < 1e-9, "{:?}", found["fast.sum_1d"]);
}

#[test]
fn a_million_events_stay_within_their_bounds() {
    let plan = plan(HOT);
    for (seed, events) in [(0, 1_000_000), (1, 110_000), (2, 110_000), (3, 110_000)] {
        let mut shell = hot_terminal(&plan, events, seed);
        let instant = at(events - 1);
        let found = read(&plan, &mut shell, instant);
        for (window, name) in [(3_600 * SECOND, "1h"), (86_400 * SECOND, "1d")] {
            let exact = within(events, seed, window, instant);
            let name = |feature: &str| format!("exact.{feature}_{name}");
            let edge = f64::from(found[&name("n")].edge_events);
            let n = exact.len() as f64;
            assert!(edge > 0.0 && edge <= n * 0.011 + 2.0, "{edge} of {n}");
            assert!((number(&found, &name("n")) - n).abs() <= edge);
            let sum: i64 = exact.iter().map(amount).sum();
            assert!((number(&found, &name("sum")) - sum as f64 / 100.0).abs() <= edge * 200.0 + 1e-6);
            assert!((number(&found, &name("fraud")) - 0.1).abs() <= edge / n + 1e-3);
            assert!(found[&name("n")].flags.has(Flags::TILED) && !found[&name("n")].flags.has(Flags::INEXACT));
        }
        let exact = within(events, seed, 86_400 * SECOND, instant);
        let distinct = exact.iter().map(amount).collect::<BTreeSet<_>>().len() as f64;
        // Four standard errors of 9.2 %.
        assert!((number(&found, "sketched.distinct_1d") / distinct - 1.0).abs() < 0.37);
        let mut amounts: Vec<i64> = exact.iter().map(amount).collect();
        amounts.sort_unstable();
        let median = amounts[amounts.len() / 2] as f64 / 100.0;
        assert!((number(&found, "sketched.median_1d") / median - 1.0).abs() < 0.1);
        assert_eq!(found["texts.top_1d"].value, Value::Text("DE".into()));
        for ((.., group), bytes) in shell.states() {
            let most = plan.programs[group].tiled_bytes_max() + 8 * 1024 + 128;
            println!("group {group}: {} bytes of at most {most}", bytes.len());
            assert!(bytes.len() <= most && bytes.len() <= TILED_BYTES_MAX + 8 * 1024);
        }
    }
}

#[test]
fn edges_that_cut_nothing_are_exact() {
    let plan = plan(HOT);
    let events = 20_000;
    let mut shell = hot_terminal(&plan, events, 4);
    // Everything lies within the day.
    let found = read(&plan, &mut shell, at(events));
    let all = within(events, 4, 86_400 * SECOND, at(events));
    assert_eq!(all.len(), 20_000);
    assert_eq!(found["exact.n_1d"], Reading { value: Value::Int(20_000), flags: Flags::TILED, edge_events: 0 });
    let sum: i64 = all.iter().map(amount).sum();
    assert_eq!(found["exact.sum_1d"].value, Value::Double(sum as f64 / 100.0));
    assert_eq!(found["exact.fraud_1d"].value, Value::Double(0.1));
    let least = all.iter().map(amount).min().unwrap();
    assert_eq!(found["exact.least_1d"].value, Value::Double(least as f64 / 100.0));
    let weights: Vec<f64> =
        all.iter().map(|paid| crate::value::double_of(super::world::word(&paid.cells[4]))).collect();
    let mean = weights.iter().sum::<f64>() / 20_000.0;
    let spread: f64 = weights.iter().map(|weight| (weight - mean).powi(2)).sum();
    let deviation = (spread / 19_999.0).sqrt();
    assert!((number(&found, "exact.wsd_1d") / deviation - 1.0).abs() < 1e-9);
    let decayed: f64 = (0..events).map(|n| (-((at(events) - at(n)) as f64) / 3.6e9).exp2()).sum();
    assert!((number(&found, "texts.decayed_1d") / decayed - 1.0).abs() < 1e-9);
}

#[test]
fn retraction_from_tiles_is_exact_where_it_can_be_and_flagged_where_not() {
    let plan = plan(HOT);
    let events = 5_000;
    let mut shell = hot_terminal(&plan, events, 6);
    let gone: BTreeSet<i64> = (100..3_000).step_by(7).collect();
    let deletes: Vec<Delivery> =
        gone.iter().map(|n| Delivery { op: Op::Delete, version: Version::new(1 << 40), ..paid(*n, 6) }).collect();
    shell.all(&deletes);
    // Repeated, they change nothing.
    shell.all(&deletes);
    let found = read(&plan, &mut shell, at(events));
    let left: Vec<i64> = (0..events).filter(|n| !gone.contains(n)).collect();
    let amounts: Vec<i64> = left.iter().map(|n| amount(&paid(*n, 6))).collect();
    let n = left.len() as f64;
    assert_eq!(found["exact.n_1d"].value, Value::Int(left.len() as i64));
    assert_eq!(found["exact.sum_1d"].value, Value::Double(amounts.iter().sum::<i64>() as f64 / 100.0));
    let frauds = left.iter().filter(|n| **n % 10 == 0).count() as f64;
    assert_eq!(found["exact.fraud_1d"].value, Value::Double(frauds / n));
    let mean = amounts.iter().sum::<i64>() as f64 / n;
    let spread: f64 = amounts.iter().map(|amount| (*amount as f64 - mean).powi(2)).sum();
    assert!((number(&found, "exact.sd_1d") / ((spread / (n - 1.0)).sqrt() / 100.0) - 1.0).abs() < 1e-9);
    for (name, is_inexact) in [
        ("exact.n_1d", false),
        ("exact.sum_1d", false),
        ("exact.sd_1d", false),
        ("exact.fraud_1d", false),
        ("exact.online_1d", false),
        ("exact.least_1d", true),
        ("exact.wsd_1d", true),
        ("sketched.distinct_1d", true),
        ("sketched.median_1d", true),
        ("texts.top_1d", true),
    ] {
        assert_eq!(found[name].flags.has(Flags::INEXACT), is_inexact, "{name}");
    }
    // Once the tiles are out of every window, so is the flag.
    let later = read(&plan, &mut shell, at(3_700) + 86_400 * SECOND);
    assert!(!later["exact.least_1d"].flags.has(Flags::INEXACT));
}

#[test]
fn late_events_labels_and_flips_reach_tiles() {
    let plan = plan(HOT);
    let events = 5_000;
    let mut shell = hot_terminal(&plan, events, 2);
    let late: Vec<Delivery> = (0..50)
        .map(|n| {
            let mut late = paid(n * 31, 2);
            late.cells[0] = Cell::Word(events + n);
            late.version = Version::new(1 << 30);
            late
        })
        .collect();
    let answers = shell.all(&late);
    assert!(answers.iter().all(|answer| answer.outcome == Outcome::Applied));
    // Ten frauds turn out genuine, a little later.
    let flips: Vec<Delivery> = (0..100).step_by(10).map(|n| labelled(n, 0, at(events) + SECOND, 2)).collect();
    shell.all(&flips);
    shell.all(&flips);
    let found = read(&plan, &mut shell, at(events) + SECOND);
    assert_eq!(found["exact.n_1d"].value, Value::Int(5_050));
    assert_eq!(
        found["exact.fraud_1d"],
        Reading { value: Value::Double(490.0 / 5_050.0), flags: Flags::TILED, edge_events: 0 }
    );
    let before = read(&plan, &mut shell, at(events));
    assert!(before["exact.fraud_1d"].flags.has(Flags::INEXACT) && !before["exact.n_1d"].flags.has(Flags::INEXACT));
}

#[test]
fn what_is_behind_the_retention_is_refused_and_leaves_tiles_alone() {
    let plan = plan(HOT);
    let events = 90_000;
    let mut shell = hot_terminal(&plan, events, 2);
    let before = shell.states();
    let mut late = paid(10, 2);
    late.cells[0] = Cell::Word(events + 1);
    late.version = Version::new(1 << 30);
    let answer = shell.all(std::slice::from_ref(&late)).remove(0);
    assert_eq!(answer.outcome, Outcome::Refused(Refused::TooLate));
    for n in [10, events + 1] {
        shell.all(&[labelled(n, 1, at(events), 3), labelled(n, 0, at(events), 4)]);
        let delete = Delivery { op: Op::Delete, version: Version::new(1 << 41), ..paid(n, 2) };
        shell.all(&[delete]);
    }
    assert_eq!(shell.states(), before);
    // A version within the retention is taken, whatever became of the one before.
    late.cells[1] = Cell::Word(at(events - 5));
    late.op = Op::Insert;
    late.version = Version::new(1 << 42);
    assert_eq!(shell.all(&[late]).remove(0).outcome, Outcome::Applied);
    assert_ne!(shell.states(), before);
}

#[test]
fn long_texts_in_tiles_stay_within_their_bound() {
    let plan = plan(HOT);
    let mut shell = Shell::new(&plan, 1, Evaluate::Nothing);
    let mut dice = Dice(8);
    let payments: Vec<Delivery> = (0..6_000)
        .map(|n| {
            let mut paid = paid(n * 10, 8);
            paid.cells[5] = if dice.one_in(5) { Cell::text("often") } else { Cell::Text(format!("{n:0900}")) };
            paid
        })
        .collect();
    shell.all(&payments);
    // Late ones go to tiles without an append that would sweep.
    let late: Vec<Delivery> = (0..1_500)
        .map(|n| {
            let mut late = paid(n * 20, 9);
            late.cells[0] = Cell::Word(1_000_000 + n);
            late.cells[5] = Cell::Text(format!("late {n:0900}"));
            late
        })
        .collect();
    shell.all(&late);
    let found = read(&plan, &mut shell, at(60_000));
    assert_eq!(found["texts.top_1d"].value, Value::Text("often".into()));
    assert!(found["texts.top_1d"].flags.has(Flags::INEXACT));
    let bytes = shell.states().into_iter().find(|((.., group), _)| *group == 2).unwrap().1;
    println!(
        "with long texts: {} bytes of at most {}",
        bytes.len(),
        plan.programs[2].tiled_bytes_max() + 8 * 1024 + 128
    );
    assert!(bytes.len() <= plan.programs[2].tiled_bytes_max() + 8 * 1024 + 128);
}
