//! What a fleet is when nothing goes wrong, and what it refuses.

use interdict_features::decision::DecisionRecord;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use super::Fleet;
use crate::archive::captured;
use crate::parity::captured::{compare, script, seen};
use crate::parity::history::{What, commits};

#[test]
fn a_fleet_gives_the_bits_of_the_definition() {
    let mut fleet = Fleet::open("calm");
    let payments =
        crate::parity::payments(&fleet.place.path("."), "--transactions 6000 --customers 300 --terminals 500");
    let changes: Vec<What> = commits(&payments, 51).into_iter().map(|(_, what)| what).collect();
    let (before, after) = changes.split_at(changes.len() / 2);
    let mut chance = ChaCha8Rng::seed_from_u64(52);
    captured::remember(&fleet.bank);
    fleet.bank.ask(&script(before, &mut chance));
    fleet.begin(0);
    fleet.process(0).wait_for("the snapshot is read");
    fleet.begin_all();
    fleet.bank.ask(&script(after, &mut chance));
    fleet.bank.pay(90_000, 1, "1.00");
    fleet.decided("calm", 90_000);
    fleet.end_all();
    fleet.check_archive("calm");
    let records: Vec<DecisionRecord> =
        fleet.logged("calm").into_values().filter(|record| record.event_id != "90000").collect();
    let count = compare(&seen(before), &seen(after), records);
    assert!(count > 2_500, "{count} decisions");
}

#[test]
fn a_namespace_is_worked_on_in_one_way_at_a_time() {
    let mut fleet = Fleet::open("modes");
    fleet.begin(2);
    fleet.process(2).wait_for("serving");
    let said = fleet.place.fail("run --bind 127.0.0.1:0");
    assert!(said.contains("processes with --role works on this namespace"), "{said}");
}

#[test]
fn whoever_stands_by_as_monitor_ends_with_his_ingestor() {
    let mut fleet = Fleet::open("beside");
    fleet.begin(super::MONITOR);
    fleet.process(super::MONITOR).wait_for("serving");
    let mut both = fleet.place.start("run --role ingest,monitor --bind 127.0.0.1:0");
    both.wait_for("standing by");
    both.wait_for("the snapshot is read");
    fleet.bank.ask(
        "ALTER TABLE transactions DROP COLUMN is_fraud;
         INSERT INTO transactions VALUES (1, '2025-06-15 15:06:40+00', 1, 1, 1)",
    );
    let (status, log) = both.end();
    assert!(!status.success() && log.contains("the ingestor has ended"), "{log}");
    assert!(log.contains("is_fraud"), "{log}");
}
