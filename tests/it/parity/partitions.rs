//! The same disturbed history through topics of several partitions, which nobody orders among each other: every decision is what the twin
//! counts at the positions that its record names.

use std::collections::{BTreeMap, HashMap, VecDeque};

use interdict_features::change::Op;
use interdict_features::decision::DecisionRecord;

use super::binary::{compare_record, line};
use super::captured::check_twin;
use super::history::{Delivery, Payment, What, commits};
use super::twin::Twin;
use crate::place::Caller;

/// Partitions of the payments' topic; a payment stays in that of its first customer.
pub(crate) const PAYMENTS: u32 = 4;
/// Partitions of the chargebacks' topic, by payment.
pub(crate) const CHARGEBACKS: u32 = 2;

/// A change and its place in its topic.
pub(crate) struct Placed {
    delivery: Delivery,
    /// The topic, which is also the source's name.
    pub(crate) topic: &'static str,
    pub(crate) partition: u32,
    offset: u64,
    /// The record's value.
    pub(crate) value: String,
    /// Whether a tombstone comes behind it.
    pub(crate) is_delete: bool,
}

impl Placed {
    pub(crate) fn key(&self) -> String {
        format!("{{\"transaction_id\":{}}}", self.delivery.id())
    }

    /// Whether a decision is to come of it.
    pub(crate) fn is_judged(&self) -> bool {
        matches!(self.delivery.what, What::Row(Op::Insert, _))
    }

    fn source(&self) -> String {
        format!("{}/{}", self.topic, self.partition)
    }
}

/// Every change of these payments in order of commit, as connectors produce them.
pub(crate) fn placed(payments: &[(Payment, bool)], seed: u64) -> Vec<Placed> {
    let homes: HashMap<i64, i64> = payments.iter().map(|(payment, _)| (payment.id, payment.customer)).collect();
    let mut ends: BTreeMap<(&str, u32), u64> = BTreeMap::new();
    let place = |(lsn, (commit, what)): (u64, (i64, What))| {
        let delivery = Delivery { what, lsn, commit: commit - commit.rem_euclid(1_000), position: lsn };
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
        Placed { delivery, topic, partition, offset, value: line(&delivery).trim_end().to_owned(), is_delete }
    };
    (1..).zip(commits(payments, seed)).map(place).collect()
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
            let (payment, first) = twin.row(record.event_id.parse().unwrap()).expect("what is judged is there");
            let as_of = twin.vector(&payment, first, &mut expected);
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
