//! A replication slot that is lost, where a snapshot is to take the place of what it held: what committed meanwhile is judged late and once,
//! and everything stands as if it had been captured.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use interdict_features::decision::DecisionRecord;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::crash::{OLDER, check_blocks, check_features, features, finish};
use super::{config, decision, metric};
use crate::archive::archived;
use crate::bank::Bank;
use crate::place::{Caller, Place};

/// Kills while the snapshot behind the gap is read.
const KILLS: u64 = 6;

/// Forty payments of ten customers, so that there is a clock.
pub(crate) const HISTORY: &str = "INSERT INTO transactions SELECT n, timestamptz '2025-06-15 12:00Z' + interval '1 minute' * n, n % 10, 5000 + n % 10, 5 \
    FROM generate_series(1, 40) n";

/// `config` with a source that recovers.
pub(crate) fn recovering(config: &str) -> String {
    let heartbeat = "heartbeat = \"200ms\"\n";
    assert!(config.contains(heartbeat));
    config.replace(heartbeat, &format!("{heartbeat}on_lost_slot = \"snapshot\"\n"))
}

/// Drops a slot that nobody reads any more.
pub(crate) fn lose_slot(bank: &Bank, slot: &str) {
    bank.wait_for(&format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{slot}'"), "f");
    bank.ask(&format!("SELECT pg_drop_replication_slot('{slot}')"));
}

/// Decisions by payment.
pub(crate) fn by_payment(records: impl IntoIterator<Item = DecisionRecord>) -> BTreeMap<i64, Vec<DecisionRecord>> {
    let mut decided: BTreeMap<i64, Vec<DecisionRecord>> = BTreeMap::new();
    for record in records {
        decided.entry(record.event_id.parse().unwrap()).or_default().push(record);
    }
    decided
}

/// How many payments of its customer a decision saw.
fn count_of(record: &DecisionRecord) -> String {
    let count = record.features.iter().find(|it| &*it.name == "customer_spend.tx_count_1d").unwrap();
    format!("{:?}", count.reading.value)
}

/// What a deployment that has captured nothing before reads of the same tables.
fn calm(bank: &Bank, then: i64) -> BTreeMap<String, serde_json::Value> {
    let place = Place::new(&config(bank, "calm", ""));
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    process.wait_for("the snapshot is read");
    bank.pay(then, 2_000, "1.00");
    decision(&caller, then);
    bank.ask(&format!("DELETE FROM transactions WHERE transaction_id = {then}"));
    features(bank, &caller)
}

#[test]
fn what_committed_while_nothing_was_captured_is_judged_late_and_the_rest_is_as_it_was() {
    let bank = Bank::open();
    let place = Place::new(&config(&bank, "interdict", &bank.action()));
    bank.ask(HISTORY);
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    process.wait_for("the snapshot is read");
    (101..=104).for_each(|id| bank.pay(id, id - 100, "5.00"));
    bank.ask("INSERT INTO chargebacks VALUES (102, true, '2025-06-15 12:41Z')");
    bank.pay(105, 5, "5.00");
    decision(&caller, 105);
    process.stop();
    lose_slot(&bank, "interdict");
    // A burst that is to be blocked, labels of what is known and what is not, and rows that go and change.
    (2_001..=2_007).for_each(|id| bank.pay(id, 20, "5.00"));
    bank.ask(
        "INSERT INTO chargebacks VALUES (101, true, '2025-06-15 12:42Z'), (106, true, '2025-06-15 12:43Z');
         UPDATE chargebacks SET is_fraud = false, reported_at = '2025-06-15 12:44Z' WHERE transaction_id = 102;
         INSERT INTO transactions VALUES (106, '2025-06-15 12:40Z', 6, 5006, 7), (107, '2025-06-01 12:00Z', 7, 5007, 7);
         DELETE FROM transactions WHERE transaction_id IN (7, 103);
         UPDATE transactions SET amount = 500, customer_id = 8 WHERE transaction_id = 104",
    );
    let said = place.fail("run");
    assert!(said.contains("is gone") && said.contains("on_lost_slot = \"snapshot\""), "{said}");

    place.write("interdict.toml", recovering(&config(&bank, "interdict", &bank.action())));
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    process.wait_for("changes were lost;");
    process.wait_for("nothing was captured of the log in between");
    bank.wait_for("SELECT status, blocks FROM accounts WHERE id = 20", "blocked|1");
    let late = decision(&caller, 106);
    assert_eq!((&late["decision"]["late"], &late["decision"]["decided_by"]), (&true.into(), &"rules".into()), "{late}");
    bank.pay(301, 9, "1.00");
    assert_eq!(decision(&caller, 301)["decision"]["late"], false);
    caller.until(|caller| (metric(caller, "interdict_scorer_outbox_intents", "") == 0.0).then_some(()));
    assert!((metric(&caller, "interdict_ingest_postgres_lost_slots_total", "") - 1.0).abs() < f64::EPSILON);
    let found = features(&bank, &caller);
    process.stop();

    let decided = by_payment(place.decisions(&place.store()).into_values());
    let expected: BTreeSet<i64> = (101..=106).chain(2_001..=2_007).chain([301]).collect();
    assert_eq!(decided.keys().copied().collect::<BTreeSet<_>>(), expected);
    for (id, records) in &decided {
        assert_eq!(records.len(), 1, "{id}");
        assert_eq!(records[0].late, *id == 106 || *id > 2_000, "{id}");
    }
    let counts: Vec<String> = (2_001..=2_007).map(|id| count_of(&decided[&id][0])).collect();
    assert_eq!(counts, (1..=7).map(|n| format!("Int({n})")).collect::<Vec<_>>(), "as they came");
    check_features(&found, &calm(&bank, 302), 10);
    // All of it once more changes nothing: the slot is one like any other.
    let mut process = place.start("run");
    process.wait_for("serving");
    let log = process.stop();
    assert!(!log.contains("changes were lost"), "{log}");
}

#[test]
fn rows_of_the_snapshot_that_cannot_be_read_are_decided_where_nothing_is_known_and_else_stay() {
    let bank = Bank::open();
    let place = Place::new(&recovering(&config(&bank, "interdict", "")));
    bank.ask(HISTORY);
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    process.wait_for("the snapshot is read");
    bank.pay(101, 1, "5.00");
    decision(&caller, 101);
    process.stop();
    lose_slot(&bank, "interdict");
    (102..=104).for_each(|id| bank.pay(id, 1, "1.00"));
    // One that is history, one that was decided, one that nobody has seen; and two without a time, of which one was decided.
    bank.ask(
        "UPDATE transactions SET amount = 'NaN' WHERE transaction_id IN (1, 102);
         UPDATE transactions SET tx_datetime = 'infinity' WHERE transaction_id IN (101, 104)",
    );
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    process.wait_for("nothing was captured of the log in between");
    let unread = decision(&caller, 102);
    let told = |key: &str| unread["decision"][key].clone();
    assert_eq!((told("late"), told("decided_by")), (true.into(), "default".into()), "{unread}");
    bank.ask("INSERT INTO transactions VALUES (105, '2025-06-15 12:40Z', 1, 5001, 1)");
    decision(&caller, 105);
    process.stop();
    let decided = by_payment(place.decisions(&place.store()).into_values());
    let counts: Vec<(i64, usize)> = decided.iter().map(|(id, all)| (*id, all.len())).collect();
    assert_eq!(counts, [(101, 1), (102, 1), (103, 1), (105, 1)]);
    assert_eq!(count_of(&decided[&103][0]), "Int(6)", "four of history, 101, and this one");
    assert_eq!(count_of(&decided[&105][0]), "Int(7)", "and 103");
}

#[test]
fn kills_in_the_snapshot_behind_a_lost_slot_lose_and_double_nothing() {
    let bank = Bank::open();
    let archive = "[archive]\ndir = \"changes\"\nfile_rows = 400\nfile_age = \"100ms\"\n";
    let place = Place::new(&format!("{}{archive}", recovering(&config(&bank, "interdict", &bank.action()))));
    bank.ask(HISTORY);
    bank.ask(OLDER);
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    process.wait_for("the snapshot is read");
    (101..=130).for_each(|id| bank.pay(id, id - 100, "5.00"));
    decision(&caller, 130);
    let mut chance = ChaCha8Rng::seed_from_u64(97);
    process.stop();
    lose_slot(&bank, "interdict");
    // Every customer from 40 to 46 is to be blocked.
    let mut next = 3_000;
    let mut blind = |bank: &Bank, count: i64| {
        (next..next + count).for_each(|id| bank.pay(id, 40 + id % 7, "5.00"));
        next += count;
        next
    };
    blind(&bank, 60);
    let mut cut_off = 0;
    for kill in 0..KILLS {
        let mut process = place.start("run");
        process.wait_for(if cut_off == kill { "nothing was captured of the log in between" } else { "serving" });
        process.work(Duration::from_micros(chance.random_range(0..1 + 60_000 * kill)));
        let log = process.kill();
        cut_off += u64::from(!log.contains("the snapshot is read"));
        blind(&bank, 5);
    }
    assert!(cut_off > 1, "{cut_off} kills fell into the snapshot");
    let end = blind(&bank, 1);
    let (process, caller) = finish(&place, end - 1);
    let last = 90_000;
    bank.pay(last, 3, "1.00");
    decision(&caller, last);
    caller.until(|caller| (metric(caller, "interdict_scorer_outbox_intents", "") == 0.0).then_some(()));
    let found = features(&bank, &caller);
    process.stop();

    let decided = by_payment(place.decisions(&place.store()).into_values());
    let expected: BTreeSet<i64> = (101..=130).chain(3_000..end).chain([last]).collect();
    assert_eq!(decided.keys().copied().collect::<BTreeSet<_>>(), expected);
    assert!(decided.values().all(|records| records.len() == 1), "each once");
    assert!((3_000..3_060).all(|id| decided[&id][0].late) && (101..=130).all(|id| !decided[&id][0].late));
    let records: Vec<DecisionRecord> = decided.into_values().flatten().collect();
    check_blocks(&bank, &records, 7);
    check_archive(&bank, &place.path("changes"), last);
    // Nothing that was stored is missing: the process before the gap ended well.
    let before = archived(&place.path("changes"), "bank", "transactions");
    assert!((101..=130).all(|id| before.iter().any(|row| row.id == Some(id) && row.op == "insert")));
    check_features(&found, &calm(&bank, last + 1), 70);
}

/// The archive holds one whole snapshot behind the gap, between its marks, and what was streamed behind it.
pub(crate) fn check_archive(bank: &Bank, dir: &Path, last: i64) {
    let rows = archived(dir, "bank", "transactions");
    let lost: Vec<u64> = rows.iter().filter(|row| row.op == "lost").map(|row| row.major).collect();
    let [lsn] = lost[..] else { panic!("{lost:?}") };
    let of_it = || rows.iter().filter(|row| row.major == lsn && row.minor == 0);
    assert_eq!(of_it().filter(|row| row.op == "settled").count(), 1);
    let found: Vec<i64> = of_it().filter_map(|row| row.id).collect();
    let streamed: BTreeSet<i64> =
        rows.iter().filter(|row| row.major >= lsn && row.minor > 0).filter_map(|row| row.id).collect();
    assert!(streamed.contains(&last));
    let there = bank.ask("SELECT transaction_id FROM transactions ORDER BY 1");
    let there: BTreeSet<i64> = there.lines().map(|id| id.parse().unwrap()).collect();
    let expected: BTreeSet<i64> = there.difference(&streamed).copied().collect();
    assert_eq!(found.len(), expected.len(), "each once");
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
}
