//! The same disturbed history through topics of several partitions, which nobody orders among each other: every decision is what the twin
//! counts at the positions that its record names.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use interdict_features::change::Op;
use interdict_features::decision::DecisionRecord;
use interdict_features::time::Timestamp;
use jiff::tz::TimeZone;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use super::binary::{compare_record, line};
use super::captured::check_twin;
use super::history::{Delivery, Payment, What, commits, deliveries};
use super::twin::Twin;
use crate::place::Caller;

/// Partitions of the payments' topic; a payment stays in that of its first customer.
pub(crate) const PAYMENTS: u32 = 4;
/// Partitions of the chargebacks' topic, by payment.
pub(crate) const CHARGEBACKS: u32 = 2;

/// How many changes pass one that is held back, at most.
const HELD_BACK: usize = 150;

/// A change and its place in its topic.
pub(crate) struct Placed {
    delivery: Delivery,
    /// The topic, which is also the source's name.
    pub(crate) topic: &'static str,
    pub(crate) partition: u32,
    pub(crate) offset: u64,
    /// The record's value.
    pub(crate) value: String,
    /// Whether a tombstone comes behind it.
    pub(crate) is_delete: bool,
    /// Whether it happened: a row of a snapshot was there.
    is_new: bool,
}

impl Placed {
    pub(crate) fn key(&self) -> String {
        format!("{{\"transaction_id\":{}}}", self.delivery.id())
    }

    /// Orders the versions of a row.
    pub(crate) fn version(&self) -> u64 {
        self.delivery.lsn
    }

    /// Whether a decision is to come of it.
    pub(crate) fn is_judged(&self) -> bool {
        matches!(self.delivery.what, What::Row(Op::Insert, _))
    }

    /// The row that it inserts after the snapshot, and its version.
    pub(crate) fn inserted(&self) -> Option<(i64, u64)> {
        (self.is_judged() && self.is_new).then_some((self.delivery.id(), self.delivery.lsn))
    }

    fn source(&self) -> String {
        format!("{}/{}", self.topic, self.partition)
    }
}

/// Every change of these payments in order of commit, as connectors produce them.
pub(crate) fn placed(payments: &[(Payment, bool)], seed: u64) -> Vec<Placed> {
    let changes = (1..).zip(commits(payments, seed));
    in_topics(payments, changes.map(|(lsn, (commit, what))| Delivery { what, lsn, commit, position: lsn }))
}

/// The same by producers that send some changes again, long after, and hold some back until others have passed them.
pub(crate) fn disordered(payments: &[(Payment, bool)], seed: u64) -> Vec<Placed> {
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    let mut sent: Vec<(usize, Delivery)> = deliveries(payments, seed).into_iter().enumerate().collect();
    for (at, _) in &mut sent {
        if chance.random_bool(0.08) {
            *at += chance.random_range(1..=HELD_BACK);
        }
    }
    sent.sort_by_key(|(at, _)| *at);
    in_topics(payments, sent.into_iter().map(|(_, delivery)| delivery))
}

fn in_topics(payments: &[(Payment, bool)], changes: impl IntoIterator<Item = Delivery>) -> Vec<Placed> {
    let homes: HashMap<i64, i64> = payments.iter().map(|(payment, _)| (payment.id, payment.customer)).collect();
    let mut ends: BTreeMap<(&str, u32), u64> = BTreeMap::new();
    let place = |change: Delivery| {
        let what = change.what;
        let delivery = Delivery { commit: change.commit - change.commit.rem_euclid(1_000), ..change };
        let (topic, partition) = if delivery.is_report() {
            ("chargebacks", delivery.id() % i64::from(CHARGEBACKS))
        } else {
            ("payments", homes[&delivery.id()] % i64::from(PAYMENTS))
        };
        let partition = u32::try_from(partition).unwrap();
        let is_delete = matches!(what, What::Row(Op::Delete, _));
        let end = ends.entry((topic, partition)).or_default();
        let offset = *end;
        *end += 1 + u64::from(is_delete);
        let value = line(&delivery).trim_end().to_owned();
        Placed { delivery, topic, partition, offset, value, is_delete, is_new: true }
    };
    changes.into_iter().map(place).collect()
}

/// What stands in a topic to which a database was republished: a change that stands there twice is twice in it.
pub(crate) fn republished(topic: &'static str, records: Vec<(u32, u64, Value)>) -> Vec<Placed> {
    let version = |value: &Value| {
        (value["source"]["lsn"].as_u64().unwrap(), value["transaction"]["total_order"].as_u64().unwrap_or(0))
    };
    let versions: BTreeSet<(u64, u64)> = records.iter().map(|(_, _, value)| version(value)).collect();
    let ranks: HashMap<(u64, u64), u64> = versions.into_iter().zip(1..).collect();
    let placed = |(partition, offset, value): (u32, u64, Value)| {
        let lsn = ranks[&version(&value)];
        let delivery = Delivery { what: what(&value), lsn, commit: i64::MAX, position: offset };
        let is_new = value["op"] != "r";
        Placed { delivery, topic, partition, offset, value: value.to_string(), is_delete: false, is_new }
    };
    let mut placed: Vec<Placed> = records.into_iter().map(placed).collect();
    placed.sort_by_key(|change| (change.partition, change.offset));
    placed
}

/// The change that a republished envelope says.
fn what(value: &Value) -> What {
    let (before, after) = (&value["before"], &value["after"]);
    let int = |row: &Value, name: &str| row[name].as_i64().unwrap();
    let micros =
        |row: &Value, name: &str| Timestamp::parse(row[name].as_str().unwrap(), &TimeZone::UTC).unwrap().micros();
    let id = if after.is_null() { int(before, "transaction_id") } else { int(after, "transaction_id") };
    if value["source"]["table"] == "chargebacks" {
        return What::Report { id, value: after["is_fraud"].as_bool(), reported: micros(after, "reported_at") };
    }
    let op = match value["op"].as_str().unwrap() {
        "d" => {
            return What::Row(Op::Delete, Payment { id, time: 0, customer: 0, terminal: 0, cents: 0, label: None });
        }
        "u" => Op::Update,
        _ => Op::Insert,
    };
    let cents = after["amount"].as_str().unwrap().replace('.', "").parse().unwrap();
    let (customer, terminal) = (int(after, "customer_id"), int(after, "terminal_id"));
    let (time, label) = (micros(after, "tx_datetime"), after["is_fraud"].as_bool());
    What::Row(op, Payment { id, time, customer, terminal, cents, label })
}

/// Every decision is what the twin counts at the positions that it names; how many there are.
pub(crate) fn compare(changes: &[Placed], records: &[DecisionRecord]) -> usize {
    let (mut expected, mut count) = (Vec::new(), 0);
    for partition in 0..PAYMENTS {
        let own = format!("payments/{partition}");
        let mut records: Vec<&DecisionRecord> =
            records.iter().filter(|record| record.position.partition == own).collect();
        records.sort_by_key(|record| record.position.position);
        let mut left: BTreeMap<String, VecDeque<&Placed>> = BTreeMap::new();
        for change in changes {
            left.entry(change.source()).or_default().push_back(change);
        }
        let mut twin = Twin::default();
        for record in records {
            for (source, left) in &mut left {
                let seen = record.seen.iter().chain([&record.position]).filter(|seen| seen.partition == *source);
                let Some(seen) = seen.map(|seen| seen.position).max() else { continue };
                while let Some(change) = left.pop_front_if(|change| change.offset <= seen) {
                    twin.apply(&change.delivery);
                }
            }
            let (payment, as_of) = match twin.row(record.event_id.parse().unwrap()) {
                Some((payment, first)) => (payment, twin.vector(&payment, first, &mut expected)),
                // Its delete stands in another partition, which was ahead.
                None => {
                    let own = |change: &&Placed| change.source() == own && change.offset == record.position.position;
                    let change = changes.iter().find(own).expect("what is judged was delivered");
                    let What::Row(Op::Insert, payment) = change.delivery.what else { panic!("{record:?}") };
                    (payment, twin.vector_of_gone(payment, change.delivery.lsn, &mut expected))
                }
            };
            for (entity, as_of) in ["customer", "terminal"].into_iter().zip(as_of) {
                assert_eq!(record.as_of[entity].micros(), as_of, "{record:?}");
            }
            let told = || format!("{record:?}\n{}", twin.told(payment.customer, payment.time - super::DAY));
            compare_record(record, &expected, &told);
            count += 1;
        }
    }
    count
}

/// What is read of every key at the end, over HTTP, is what the twin counts.
pub(crate) fn check_reads(caller: &Caller, changes: &[Placed]) {
    let mut twin = Twin::default();
    changes.iter().for_each(|change| twin.apply(&change.delivery));
    check_twin(caller, &twin);
}
