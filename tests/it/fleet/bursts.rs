//! Ten payments of one card within ten milliseconds, under load: they count one to ten, whichever scorer judges them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use interdict_features::decision::DecisionRecord;
use interdict_features::value::Value;
use serde_json::json;

use super::Fleet;
use super::topics::{INGESTORS, SCORERS, end, feed};
use crate::bank::Bank;
use crate::captured::metric;
use crate::kafka::Kafka;
use crate::parity::partitions::PAYMENTS;
use crate::place::{debezium, row};

const BURSTS: i64 = 24;
const SIZE: i64 = 10;
/// The card of the first burst; one more for each.
const CARDS: i64 = 1_000;
/// Payments of the bursts, a hundred ids for each; those of other cards come behind them.
const FIRST: i64 = 10_000;
const OTHERS: i64 = 1_000_000;
/// Payments of other cards in one transaction.
const LOAD: i64 = 20;

/// A burst as one transaction, or as ten that commit back to back.
fn burst(at: i64) -> String {
    let id = FIRST + at * 100;
    let commit = if at % 2 == 0 { "" } else { "COMMIT;" };
    format!(
        "SET synchronous_commit = off;\nDO $$ BEGIN FOR n IN 1..{SIZE} LOOP INSERT INTO transactions VALUES ({id} + n, \
         timestamptz '2025-06-15 15:06:40+00' + interval '1 second' * {at} + interval '1 millisecond' * n, {}, 5000 + {at} % 7, 1); \
         {commit} END LOOP; END $$;",
        CARDS + at
    )
}

/// Payments of other cards at the same terminals until told to stop; how many.
fn load(bank: &Bank, stop: &AtomicBool) -> i64 {
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        bank.ask(&format!(
            "INSERT INTO transactions SELECT n, timestamptz '2025-06-15 15:06:40+00' + interval '1 millisecond' * (n - {OTHERS}), n / 2, 5000 + n % 50, 5 \
             FROM generate_series({0}, {0} + {LOAD} - 1) n",
            OTHERS + count
        ));
        count += LOAD;
    }
    count
}

/// Waits for the decisions, all of them judged by one scorer or the other; what was decided.
fn decided(fleet: &mut Fleet, namespace: &str, count: i64) -> Vec<DecisionRecord> {
    let count = usize::try_from(count).unwrap();
    fleet.wait_until(&format!("{count} decisions"), |fleet| fleet.decisions(namespace) == count);
    fleet.settle(namespace);
    let judged = [0, 1].map(|scorer| metric(&fleet.caller(scorer), "interdict_scorer_decisions_total", ""));
    assert!(judged.iter().all(|judged| *judged > 0.0), "both scorers judge: {judged:?}");
    let records = end(fleet, namespace);
    assert_eq!(records.len(), count);
    records
}

fn customer(record: &DecisionRecord) -> i64 {
    let Value::Int(customer) = record.event["customer_id"] else { panic!("{record:?}") };
    customer
}

/// Every decision of a burst counts every payment of its card up to its own; other cards paid meanwhile.
fn check(records: &[DecisionRecord], loaded_min: usize) {
    let mut bursts: BTreeMap<i64, BTreeMap<i64, &DecisionRecord>> = BTreeMap::new();
    let mut spans: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for record in records.iter().filter(|record| (CARDS..CARDS + BURSTS).contains(&customer(record))) {
        let at = record.position.position;
        let span = spans.entry(&record.position.partition).or_insert((at, at));
        *span = (span.0.min(at), span.1.max(at));
        bursts.entry(customer(record)).or_default().insert(record.event_id.parse().unwrap(), record);
    }
    assert_eq!(bursts.len(), usize::try_from(BURSTS).unwrap());
    for (card, burst) in &bursts {
        for window in ["1d", "7d", "30d"] {
            let name = format!("customer_spend.count_{window}");
            let count = |record: &&DecisionRecord| {
                let feature = record.features.iter().find(|feature| *feature.name == name);
                feature.expect("it is recorded").reading.value.clone()
            };
            let counts: Vec<Value> = burst.values().map(count).collect();
            assert_eq!(counts, (1..=SIZE).map(Value::Int).collect::<Vec<_>>(), "{name} of card {card}");
        }
    }
    let is_between = |record: &&DecisionRecord| {
        let span = spans.get(record.position.partition.as_str());
        customer(record) >= OTHERS / 2 && span.is_some_and(|span| (span.0..span.1).contains(&record.position.position))
    };
    let loaded = records.iter().filter(is_between).count();
    assert!(loaded >= loaded_min, "{loaded} payments of other cards between the bursts");
}

#[test]
fn ten_payments_within_ten_milliseconds_of_a_database_count_one_to_ten() {
    let mut fleet = Fleet::open("bursts");
    fleet.begin(0);
    fleet.stored_snapshot("bursts");
    fleet.begin_all();
    fleet.process(INGESTORS[1]).wait_for("standing by");
    SCORERS.into_iter().for_each(|scorer| drop(fleet.process(scorer).wait_for("serving")));
    let stop = AtomicBool::new(false);
    let loaded = std::thread::scope(|scope| {
        let load = scope.spawn(|| load(&fleet.bank, &stop));
        for at in 0..BURSTS {
            fleet.bank.ask(&burst(at));
        }
        stop.store(true, Ordering::Relaxed);
        load.join().unwrap()
    });
    let records = decided(&mut fleet, "bursts", BURSTS * SIZE + loaded);
    check(&records, 100);
    // The database's own clock says so of those that committed one by one.
    let span = |card: i64| {
        let committed = records.iter().filter(|record| customer(record) == card).filter_map(|it| it.arrival_time);
        let committed: Vec<i64> = committed.map(interdict_features::time::Timestamp::micros).collect();
        committed.iter().max().unwrap() - committed.iter().min().unwrap()
    };
    let spans: Vec<i64> = (0..BURSTS).filter(|at| at % 2 == 1).map(|at| span(CARDS + at)).collect();
    assert!(spans.iter().any(|micros| (1..10_000).contains(micros)), "none within ten milliseconds: {spans:?}");
}

/// A payment of a burst, or of another card, as Debezium writes it.
fn payment(id: i64, customer: i64, at: i64, millis: i64) -> String {
    let mut row = row(id, at, customer, "1.00");
    row["tx_datetime"] = json!(row["tx_datetime"].as_i64().unwrap() + millis * 1_000);
    debezium("c", id.unsigned_abs(), &row)
}

#[test]
fn ten_payments_within_ten_milliseconds_in_one_of_four_partitions_count_one_to_ten() {
    let kafka = Kafka::start();
    let mut fleet = Fleet::fed("bursts", Some(feed(&kafka)));
    fleet.begin_all();
    INGESTORS.into_iter().for_each(|ingestor| fleet.reads(ingestor, 2));
    SCORERS.into_iter().for_each(|scorer| drop(fleet.process(scorer).wait_for("serving")));
    let partitions = i64::from(PAYMENTS);
    let send = |partition: i64, id: i64, value: &str| {
        kafka.send("payments", i32::try_from(partition).unwrap(), &id.to_string(), Some(value));
    };
    let mut others = OTHERS;
    for at in 0..BURSTS {
        for n in 1..=SIZE {
            let (id, card) = (FIRST + at * 100 + n, CARDS + at);
            send(card % partitions, id, &payment(id, card, at, n));
            // Other cards at the same terminals, in every partition.
            for _ in 0..2 * partitions {
                let card = others / 2;
                send(card % partitions, others, &payment(others, card, at, n));
                others += 1;
            }
        }
        kafka.flush();
    }
    let records = decided(&mut fleet, "bursts", BURSTS * SIZE + others - OTHERS);
    check(&records, 1_000);
}
