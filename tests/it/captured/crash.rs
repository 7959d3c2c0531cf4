//! kill -9 of the program, lost connections and a server that crashes, under load: nothing is lost and nothing is doubled.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use interdict_features::change::Op;
use interdict_features::decision::DecisionRecord;
use interdict_features::value::Value;
use interdict_ingest::dead_letter::DeadReason;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use super::{config, decision, metric};
use crate::bank::{Bank, statement};
use crate::parity::history::{Payment, What, commits};
use crate::parity::payments;
use crate::place::{Caller, Place, Process};

/// Kills while the snapshot is read, and while changes come.
const SNAPSHOT_KILLS: u64 = 5;
const KILLS: usize = 14;
/// What is written between two of them.
const PIECES: usize = 3;

/// Many more payments of the days before, so that the snapshot takes its time.
pub(super) const OLDER: &str = "INSERT INTO transactions SELECT 100000 + n, first - interval '3 days' + interval '1 second' * n, 1000 + n % 1000, \
    10000 + n % 1000, 5 FROM generate_series(1, 60000) n, (SELECT min(tx_datetime) AS first FROM transactions) t";

/// The flag of a window that begins before what is remembered: an event that came or went late moved that.
const TRUNCATED: u64 = 4;

/// Writes changes in transactions of one to six; remembers the payments that were inserted.
struct Writer<'a> {
    bank: &'a Bank,
    chance: ChaCha8Rng,
    left: &'a [What],
    inserted: Vec<i64>,
}

impl Writer<'_> {
    fn write(&mut self, changes: usize) {
        let (now, rest) = self.left.split_at(changes.min(self.left.len()));
        self.left = rest;
        let mut script = String::new();
        let mut open = 0;
        for what in now {
            if open == 0 {
                script.push_str("BEGIN;\n");
                open = self.chance.random_range(1..=6);
            }
            statement(*what, &mut script);
            open -= 1;
            if open == 0 {
                script.push_str("COMMIT;\n");
            }
            if let What::Row(Op::Insert, payment) = what {
                self.inserted.push(payment.id);
            }
        }
        if open > 0 {
            script.push_str("COMMIT;\n");
        }
        self.bank.ask(&script);
    }

    fn pause(&mut self, most_micros: u64) -> Duration {
        Duration::from_micros(self.chance.random_range(0..most_micros))
    }
}

/// Labels come as chargebacks alone, one for a payment: then the tables tell what is known, and when.
fn changes(payments: &[(Payment, bool)]) -> Vec<What> {
    let mut reported = BTreeSet::new();
    let changes = commits(payments, 43).into_iter().filter_map(|(_, what)| match what {
        What::Row(op, payment) => Some(What::Row(op, Payment { label: None, ..payment })),
        What::Report { id, .. } => reported.insert(id).then_some(what),
    });
    changes.collect()
}

/// What the server was told is stored, and moves on.
fn check_slot(bank: &Bank, place: &Place, before: u64) -> u64 {
    let store = place.store();
    let stored = store.positions_now("bank").unwrap().first().map_or(0, |offset| offset.position);
    let confirmed = bank.confirmed();
    assert!(confirmed <= stored || stored == 0, "the server was told {confirmed}, stored is {stored}");
    assert!(confirmed >= before, "the slot went back from {before} to {confirmed}");
    confirmed
}

fn has_snapshot(place: &Place) -> bool {
    place.store().positions_now("bank").unwrap().iter().any(|offset| offset.position > 0)
}

/// Kills while the snapshot is read, until one comes too late for it.
fn kill_in_snapshots(place: &Place, writer: &mut Writer<'_>) {
    let mut cut_off = 0;
    while cut_off < SNAPSHOT_KILLS {
        writer.write(20);
        let mut process = place.start("run");
        process.wait_for("taking a snapshot");
        // The first one surely falls into it; the others come later and later.
        process.work(writer.pause(1 + 20_000 * cut_off));
        process.kill();
        if has_snapshot(place) {
            break;
        }
        cut_off += 1;
    }
    assert!(cut_off > 0, "no kill fell into a snapshot");
}

/// Lets the snapshot be read to its end and stored.
fn read_snapshot(place: &Place) {
    if has_snapshot(place) {
        return;
    }
    let mut process = place.start("run");
    process.wait_for("the snapshot is read");
    process.stop();
}

/// Something that happens to the server while the program runs.
fn disturb(bank: &Bank, kill: usize) {
    let end_connections = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'interdict'";
    match kill % 4 {
        1 => drop(bank.ask(end_connections)),
        2 if kill == 6 => {
            bank.crash();
            bank.start();
        }
        _ => {}
    }
}

fn kill_in_stream(bank: &Bank, place: &Place, writer: &mut Writer<'_>) {
    let piece = writer.left.len() / (KILLS * PIECES) + 1;
    let mut confirmed = 0;
    for kill in 0..KILLS {
        let mut process = place.start("run");
        for at in 0..PIECES {
            writer.write(piece);
            if at == 1 {
                disturb(bank, kill);
            }
            process.work(writer.pause(250_000));
        }
        process.kill();
        confirmed = check_slot(bank, place, confirmed);
    }
    assert!(confirmed > 0 && writer.left.is_empty());
}

/// Every payment from some commit on has one decision, and none before: those were in the snapshot.
fn check_decided(inserted: &[i64], history_max: usize, records: &[DecisionRecord]) {
    let mut decided: BTreeMap<i64, usize> = BTreeMap::new();
    for record in records {
        *decided.entry(record.event_id.parse().unwrap()).or_default() += 1;
    }
    let history = inserted.len().checked_sub(records.len()).expect("no more decisions than payments");
    let mut expected: BTreeMap<i64, usize> = BTreeMap::new();
    for id in &inserted[history..] {
        *expected.entry(*id).or_default() += 1;
    }
    assert_eq!(decided, expected);
    assert!(history <= history_max, "what was inserted after the snapshot is judged");
}

/// Whom decisions condemned is blocked, once for each of them; nobody else is.
pub(super) fn check_blocks(bank: &Bank, records: &[DecisionRecord], least: usize) {
    let mut blocks: BTreeMap<i64, usize> = BTreeMap::new();
    let mut lines = BTreeSet::new();
    for record in records.iter().filter(|record| record.actions.iter().any(|intent| intent.action == "block_account")) {
        let Value::Int(customer) = record.event["customer_id"] else { panic!("{record:?}") };
        *blocks.entry(customer).or_default() += 1;
        lines.insert(format!("{}|{customer}|block|done", record.decision_id));
    }
    assert!(blocks.len() >= least, "{} accounts to be blocked", blocks.len());
    let rows = bank.ask("SELECT decision_id, entity_key, kind, outcome FROM interdict_ledger");
    assert_eq!(rows.lines().map(str::to_owned).collect::<Vec<_>>().len(), lines.len());
    assert_eq!(rows.lines().map(str::to_owned).collect::<BTreeSet<_>>(), lines);
    let rows = bank.ask("SELECT id, status, blocks FROM accounts WHERE status <> 'active' OR blocks <> 0 ORDER BY id");
    let expected: Vec<String> = blocks.iter().map(|(customer, count)| format!("{customer}|blocked|{count}")).collect();
    assert_eq!(rows.lines().collect::<Vec<_>>(), expected);
}

/// The features of every customer and terminal of the last hours, just after its newest payment.
pub(super) fn features(bank: &Bank, caller: &Caller) -> BTreeMap<String, serde_json::Value> {
    let mut features = BTreeMap::new();
    for entity in ["customer", "terminal"] {
        let newest = format!(
            "SELECT {entity}_id, to_char(max(tx_datetime) AT TIME ZONE 'UTC' + interval '30 minutes', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') \
             FROM transactions GROUP BY 1 HAVING max(tx_datetime) > (SELECT max(tx_datetime) - interval '20 hours' FROM transactions)"
        );
        for line in bank.ask(&newest).lines() {
            let (key, as_of) = line.split_once('|').unwrap();
            let key: i64 = key.parse().unwrap();
            let asked = json!({ "key": key, "as_of": as_of });
            let (status, answer) = caller.post(&format!("/v1/entities/{entity}"), &asked);
            assert_eq!((status, &answer["known"]), (200, &json!(true)), "{answer}");
            features.insert(format!("{entity} {key}"), answer["features"].clone());
        }
    }
    features
}

pub(super) fn check_features(
    disturbed: &BTreeMap<String, serde_json::Value>,
    calm: &BTreeMap<String, serde_json::Value>,
    least: usize,
) {
    assert!(calm.len() >= least, "{} entities", calm.len());
    assert_eq!(disturbed.len(), calm.len());
    let (mut compared, mut total) = (0, 0);
    for (entity, expected) in calm {
        let pairs = disturbed[entity].as_array().unwrap().iter().zip(expected.as_array().unwrap());
        for (found, expected) in pairs {
            total += 1;
            if [found, expected].iter().any(|it| it["flags"].as_u64().unwrap_or(0) & TRUNCATED != 0) {
                continue;
            }
            assert_eq!(
                (&found["name"], &found["value"]),
                (&expected["name"], &expected["value"]),
                "{entity}: {}",
                disturbed[entity]
            );
            compared += 1;
        }
    }
    assert!(compared * 10 > total * 9, "{compared} of {total} values");
}

/// Serves until the decision on the payment `last` is stored and every action is done.
pub(super) fn finish(place: &Place, last: i64) -> (Process, Caller) {
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    decision(&caller, last);
    caller.until(|caller| (metric(caller, "interdict_scorer_outbox_intents", "") == 0.0).then_some(()));
    (process, caller)
}

#[test]
fn kills_lost_connections_and_a_crash_of_the_server_change_nothing() {
    let bank = Bank::open();
    let place = Place::new(&config(&bank, "interdict", &bank.action()));
    let payments = payments(&place.path("."), "--transactions 9000 --customers 500 --terminals 600");
    let changes = changes(&payments);
    let chance = ChaCha8Rng::seed_from_u64(44);
    let mut writer = Writer { bank: &bank, chance, left: &changes, inserted: Vec::new() };
    writer.write(changes.len() / 2);
    bank.ask(OLDER);
    kill_in_snapshots(&place, &mut writer);
    read_snapshot(&place);
    let history_max = writer.inserted.len();
    kill_in_stream(&bank, &place, &mut writer);
    let last = 90_000;
    bank.pay(last, 3, "1.00");
    writer.inserted.push(last);
    let (process, caller) = finish(&place, last);
    let disturbed = features(&bank, &caller);
    let confirmed = bank.confirmed();
    bank.pay(last + 1, 4, "1.00");
    writer.inserted.push(last + 1);
    decision(&caller, last + 1);
    caller.until(|_| (bank.confirmed() > confirmed).then_some(()));
    process.stop();
    // Some payments come days late, when their entities remember less.
    assert!(place.letters().iter().all(|letter| letter.reason == DeadReason::Refused), "{:?}", place.letters());
    let store = place.store();
    let records: Vec<DecisionRecord> = place.decisions(&store).into_values().collect();
    check_decided(&writer.inserted, history_max, &records);
    check_blocks(&bank, &records, 20);

    let calm = Place::new(&config(&bank, "calm", ""));
    bank.ask(&format!("DELETE FROM transactions WHERE transaction_id = {}", last + 1));
    let mut process = calm.start("run");
    let caller = Caller::new(&process.address());
    process.wait_for("the snapshot is read");
    bank.pay(last + 2, 2_000, "1.00");
    decision(&caller, last + 2);
    bank.ask(&format!("DELETE FROM transactions WHERE transaction_id = {}", last + 2));
    check_features(&disturbed, &features(&bank, &caller), 500);
}
