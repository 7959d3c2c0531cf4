//! A replication slot that is lost among roles: ingestors die in the snapshot that takes its place, scorers judge what it brings.

use std::time::Duration;

use interdict_features::decision::DecisionRecord;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::Fleet;
use crate::captured::lost::{HISTORY, by_payment, check_archive, lose_slot, recovering};
use crate::place::text;

const NAME: &str = "lost";
/// How often both ingestors are killed while the snapshot is read.
const KILLS: u64 = 4;
const LAST: i64 = 90_000;

/// Rows beside the payments, so that the snapshot takes its time.
const MORE: &str = "INSERT INTO transactions SELECT 100000 + n, timestamptz '2025-06-14 12:00Z' + interval '1 second' * n, 1000 + n % 1000, \
    10000 + n % 1000, 5 FROM generate_series(1, 20000) n";

/// Payments of customers 40 to 46, one after the other.
fn pay(fleet: &Fleet, next: &mut i64, count: i64) {
    for id in *next..*next + count {
        fleet.bank.pay(id, 40 + id % 7, "5.00");
    }
    *next += count;
}

#[test]
fn a_slot_that_is_lost_among_roles_loses_and_doubles_nothing() {
    let mut fleet = Fleet::open(NAME);
    let config = fleet.place.path("interdict.toml");
    fleet.place.write("interdict.toml", recovering(&text(&config)));
    fleet.bank.ask(HISTORY);
    fleet.bank.ask(MORE);
    fleet.begin(0);
    fleet.stored_snapshot(NAME);
    fleet.begin_all();
    (101..=130).for_each(|id| fleet.bank.pay(id, id - 100, "5.00"));
    fleet.decided(NAME, 130);
    (0..2).for_each(|ingestor| fleet.kill(ingestor));
    lose_slot(&fleet.bank, NAME);
    let mut next = 3_000;
    pay(&fleet, &mut next, 70);
    let mut chance = ChaCha8Rng::seed_from_u64(98);
    for kill in 0..KILLS {
        (0..2).for_each(|ingestor| fleet.begin(ingestor));
        fleet.wait(Duration::from_millis(chance.random_range(100..200 + 200 * kill)));
        (0..2).for_each(|ingestor| fleet.kill(ingestor));
        pay(&fleet, &mut next, 5);
    }
    fleet.begin_all();
    fleet.decided(NAME, next - 1);
    fleet.bank.pay(LAST, 3, "1.00");
    fleet.decided(NAME, LAST);
    fleet.settle(NAME);
    fleet.end_all();

    let decided = by_payment(fleet.logged(NAME).into_values());
    let expected: Vec<i64> = (101..=130).chain(3_000..next).chain([LAST]).collect();
    assert_eq!(decided.keys().copied().collect::<Vec<_>>(), expected);
    assert!(decided.values().all(|records| records.len() == 1), "each once");
    for (id, records) in &decided {
        let is_late = records[0].late;
        assert!(if *id < 200 || *id == LAST { !is_late } else { is_late || *id >= 3_070 }, "{id}: {is_late}");
    }
    let records: Vec<DecisionRecord> = decided.into_values().flatten().collect();
    fleet.check_blocks(&records);
    check_archive(&fleet.bank, &fleet.place.path(&format!("{NAME}-changes")), LAST);
}
