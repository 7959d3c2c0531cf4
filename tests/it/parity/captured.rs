//! The same disturbed history through a PostgreSQL: what was there before as a snapshot, the rest as it commits.

use std::collections::BTreeMap;

use interdict_features::change::Op;
use interdict_features::decision::{DecidedBy, DecisionRecord, decision_id};
use interdict_features::time::Timestamp;
use interdict_features::value::Value;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::binary::compare_record;
use super::history::{Delivery, Payment, What, commits};
use super::twin::{DEFINITIONS, Entity, Expected, Instant, Twin};
use crate::bank::{Bank, statement};
use crate::place::{Caller, Place};

/// A payment whose id changes goes on under one beyond all others.
const OTHER_ID: i64 = 30_000;

/// Rules and edges of a deployment over [`DEFINITIONS`].
pub(crate) const SCORER: &str = r#"
[scorer]
default = "review"

[[rule]]
id = "burst"
when = "customer_spend.count_1d >= 8"
outcome = "block"
reason = "eight payments within a day"
condemns = "customer"

[[rule]]
id = "risky"
when = "terminal_risk.fraud_7d > 0.2"
outcome = "review"
reason = "frauds at the terminal"

[monitor]
log_dir = "decisions"

[http]
bind = "127.0.0.1:0"
"#;

/// Makes changes in transactions of one to eight; some changes are made and rolled back first.
pub(crate) fn script(changes: &[What], chance: &mut ChaCha8Rng) -> String {
    let mut script = String::new();
    let mut left = changes;
    while !left.is_empty() {
        let (now, rest) = left.split_at(chance.random_range(1..=8).min(left.len()));
        left = rest;
        script.push_str("BEGIN;\n");
        if chance.random_bool(0.1) {
            script.push_str("SAVEPOINT s; UPDATE transactions SET amount = amount + 1 WHERE transaction_id % 50 = 7; ROLLBACK TO s;\n");
        }
        for what in now {
            match *what {
                // Nobody deletes these: their id is corrected.
                What::Row(Op::Delete, payment) if is_renamed(&payment) => {
                    let (id, other) = (payment.id, payment.id + OTHER_ID);
                    script.push_str(&format!(
                        "UPDATE transactions SET transaction_id = {other} WHERE transaction_id = {id};\n"
                    ));
                }
                what => statement(what, &mut script),
            }
        }
        script.push_str("COMMIT;\n");
        if chance.random_bool(0.1) {
            script.push_str("BEGIN; DELETE FROM transactions WHERE transaction_id % 10 = 3; INSERT INTO chargebacks SELECT -1, true, now(); ROLLBACK;\n");
        }
    }
    script
}

fn is_renamed(payment: &Payment) -> bool {
    payment.id % 3 == 0
}

/// The changes that the program is to see, in order.
pub(crate) fn seen(changes: &[What]) -> Vec<What> {
    let mut seen = Vec::with_capacity(changes.len());
    for what in changes {
        seen.push(*what);
        if let What::Row(Op::Delete, payment) = *what
            && is_renamed(&payment)
        {
            seen.push(What::Row(Op::Insert, Payment { id: payment.id + OTHER_ID, ..payment }));
        }
    }
    seen
}

/// The rows that stand in the tables after `changes`.
fn standing(changes: &[What]) -> Vec<What> {
    let (mut rows, mut reports) = (BTreeMap::new(), BTreeMap::new());
    for what in changes {
        match *what {
            What::Row(Op::Delete, payment) => drop(rows.remove(&payment.id)),
            What::Row(_, payment) => drop(rows.insert(payment.id, What::Row(Op::Insert, payment))),
            What::Report { id, .. } => drop(reports.insert(id, *what)),
        }
    }
    rows.into_values().chain(reports.into_values()).collect()
}

/// A label that the row itself gets later is reported as it commits, which is long after every payment.
const fn now(what: What, lsn: u64) -> Delivery {
    Delivery { what, lsn, commit: i64::MAX, position: lsn }
}

/// Every record is what the twin counts when its row was inserted.
pub(crate) fn compare(before: &[What], after: &[What], mut records: Vec<DecisionRecord>) -> usize {
    records.sort_by_key(|record| std::cmp::Reverse((record.position.position, record.judgement)));
    let mut of_event: BTreeMap<i64, Vec<DecisionRecord>> = BTreeMap::new();
    for record in records {
        of_event.entry(record.event_id.parse().unwrap()).or_default().push(record);
    }
    let (mut twin, mut expected, mut count) = (Twin::default(), Vec::<Expected>::new(), 0);
    for what in standing(before) {
        twin.apply(&now(what, 1));
    }
    for (lsn, what) in (2..).zip(after) {
        twin.apply(&now(*what, lsn));
        let What::Row(Op::Insert, payment) = what else { continue };
        let record = of_event.get_mut(&payment.id).and_then(Vec::pop);
        let record = record.unwrap_or_else(|| panic!("no decision on {payment:?}"));
        let (payment, first) = twin.row(payment.id).unwrap();
        let as_of = twin.vector(&payment, first, &mut expected);
        for (entity, as_of) in ["customer", "terminal"].into_iter().zip(as_of) {
            assert_eq!(record.as_of[entity].micros(), as_of, "{record:?}");
        }
        let told = || format!("{record:?}\n{}", twin.told(payment.customer, payment.time - super::DAY));
        compare_record(&record, &expected, &told);
        count += 1;
    }
    let more: Vec<_> = of_event.into_values().flatten().collect();
    assert!(more.is_empty(), "decided without an insert after the snapshot: {more:?}");
    count
}

/// Every decision on a request, but for those that a deadline made, is what the twin counts of the requests that its record says were
/// applied; how many there are. Nothing else touches their customers and terminals.
pub(crate) fn compare_requests(requests: &[(Payment, DecisionRecord)]) -> usize {
    let mut expected = Vec::<Expected>::new();
    let judged = requests.iter().filter(|(_, record)| record.decided_by != DecidedBy::Default);
    let compare = |(payment, record): &(Payment, DecisionRecord)| {
        let has_seen = |other: &DecisionRecord| {
            let mut seen = record.seen.iter().chain([&record.position]);
            let place = &other.position;
            seen.any(|seen| seen.partition == place.partition && seen.position >= place.position)
        };
        let mut twin = Twin::default();
        for (lsn, (other, _)) in (1..).zip(requests).filter(|(_, (_, other))| has_seen(other)) {
            twin.apply(&now(What::Row(Op::Insert, *other), lsn));
        }
        let as_of = twin.vector(payment, u64::MAX, &mut expected);
        for (entity, as_of) in ["customer", "terminal"].into_iter().zip(as_of) {
            assert_eq!(record.as_of[entity].micros(), as_of, "{record:?}");
        }
        compare_record(record, &expected, &|| format!("{record:?}\n{requests:?}"));
    };
    judged.map(compare).count()
}

/// What is read of every key now, over HTTP, is what the twin counts. The payment `last` came besides, and its keys are left out.
pub(crate) fn check_reads(caller: &Caller, before: &[What], after: &[What], last: i64) {
    let mut twin = Twin::default();
    for what in standing(before) {
        twin.apply(&now(what, 1));
    }
    for (lsn, what) in (2..).zip(after) {
        twin.apply(&now(*what, lsn));
    }
    assert!(!twin.knows(last));
    check_twin(caller, &twin);
}

/// What is read of every key now, over HTTP, is what the twin counts; two keys are left out for what comes besides.
pub(super) fn check_twin(caller: &Caller, twin: &Twin) {
    let newest = twin.rows().map(|(payment, _)| payment.time).max().unwrap();
    let as_of = Timestamp::from_micros(newest + 1).to_string();
    let (mut expected, mut count) = (Vec::new(), 0);
    for (entity, name) in Entity::ALL.into_iter().zip(["customer", "terminal"]) {
        let mut keys: Vec<i64> = twin.keys(entity).filter(|key| *key != 1 && *key != 5_001).collect();
        keys.sort_unstable();
        for key in keys {
            expected.clear();
            twin.read(entity, key, Instant { time: newest + 1, subject: None }, &mut expected);
            let asked = serde_json::json!({ "key": key, "as_of": as_of });
            let (status, answer) = caller.post(&format!("/v1/entities/{name}"), &asked);
            assert_eq!(status, 200, "{answer}");
            let found = answer["features"].as_array().unwrap();
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                let flags = found["flags"].as_u64().unwrap_or(0);
                let is_told = flags & 12 != 0 || flags & 2 != 0;
                if expected.is_truncated || expected.was_dropped || is_told {
                    continue;
                }
                let value: Value = serde_json::from_value(found["value"].clone()).unwrap();
                assert_eq!(super::value_bits(&value), expected.bits, "{name} {key}: {found}");
                count += 1;
            }
        }
    }
    assert!(count > 500, "{count} values");
}

#[test]
fn a_database_gives_the_bits_of_the_definition() {
    let bank = Bank::open();
    let place = Place::new(&format!("{DEFINITIONS}{SCORER}[store]\npath = \"data\"\n{}", bank.source("interdict")));
    let payments = super::payments(&place.path("."), "--transactions 20000 --customers 400 --terminals 1500");
    let changes: Vec<What> = commits(&payments, 41).into_iter().map(|(_, what)| what).collect();
    let (before, after) = changes.split_at(changes.len() / 2);
    let mut chance = ChaCha8Rng::seed_from_u64(42);
    bank.ask(&script(before, &mut chance));
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    process.wait_for("the snapshot is read");
    bank.ask(&script(after, &mut chance));
    bank.pay(90_000, 1, "1.00");
    let last = decision_id("default", "transactions", "90000", 0);
    caller.until(|caller| (caller.get(&format!("/v1/decisions/{last}")).0 == 200).then_some(()));
    process.stop();
    assert!(place.letters().is_empty(), "{:?}", &place.letters()[..1]);
    let store = place.store();
    let records = place.decisions(&store).into_values().filter(|record| record.event_id != "90000");
    let count = compare(&seen(before), &seen(after), records.collect());
    assert!(count > 9_000, "{count} decisions");
}
