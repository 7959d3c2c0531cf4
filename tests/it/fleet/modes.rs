//! What a fleet is when nothing goes wrong, and what it refuses.

use std::time::Duration;

use interdict_features::decision::{DecisionRecord, decision_id};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use serde_json::{Value, json};

use super::Fleet;
use crate::archive::captured;
use crate::parity::captured::{compare, script, seen};
use crate::parity::history::{What, commits};
use crate::place::Caller;
use crate::requests::feature;

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
fn work_that_waits_for_a_scorer_is_not_left_to_a_process_without_a_role() {
    let mut fleet = Fleet::open("leaving");
    fleet.begin(0);
    fleet.stored_snapshot("leaving");
    fleet.bank.pay(1, 1, "1.00");
    while fleet.redis.say(&["XLEN", "{leaving}:work"]) != "1" {
        fleet.wait(Duration::from_millis(20));
    }
    fleet.end_all();
    // The lease of the fleet has to end.
    fleet.wait(Duration::from_millis(1_500));
    let said = fleet.place.fail("run --bind 127.0.0.1:0");
    assert!(said.contains("1 events that processes with --role took wait for a scorer"), "{said}");
    fleet.begin(2);
    fleet.decided("leaving", 1);
    fleet.end_all();
    fleet.wait(Duration::from_millis(1_500));
    let mut alone = fleet.place.start("run --bind 127.0.0.1:0");
    alone.wait_for("serving");
    alone.stop();
}

#[test]
fn roles_do_not_begin_behind_what_only_one_process_applies() {
    let mut fleet = Fleet::open("leaving_alone");
    let mut alone = fleet.place.start("run --bind 127.0.0.1:0");
    alone.wait_for("the snapshot is read");
    let caller = Caller::new(&alone.address());
    let label = json!({ "id": 1, "value": "fraud" });
    caller.until(|caller| (caller.post("/v1/labels", &label).0 < 300).then_some(()));
    alone.kill();
    // As if it had died before it stored what it applied.
    fleet.redis.say(&["HDEL", "{leaving_alone}:offsets", "0:input"]);
    fleet.wait(Duration::from_millis(1_500));
    let said = fleet.place.fail("run --role scorer --bind 127.0.0.1:0");
    assert!(said.contains("requests and labels that a process without --role took are in no state yet"), "{said}");
    // Whoever was refused does not stand in the way.
    let mut alone = fleet.place.start("run --bind 127.0.0.1:0");
    let caller = Caller::new(&alone.address());
    caller.until(|caller| (caller.get("/health/ready").0 == 200).then_some(()));
    alone.stop();
    fleet.wait(Duration::from_millis(1_500));
    fleet.begin(2);
    fleet.process(2).wait_for("serving");
    fleet.end_all();
}

/// For a decision on a payment of customer 1.
pub(super) fn request(id: i64) -> Value {
    json!({ "stream": "transactions", "event": {
        "transaction_id": id, "tx_datetime": "2025-06-15T15:06:47Z", "customer_id": 1, "terminal_id": 1, "amount": "1.00",
    } })
}

#[test]
fn what_a_scorer_was_asked_is_not_applied_again_by_a_process_without_a_role() {
    let mut fleet = Fleet::open("asked");
    let text = crate::place::text(&fleet.place.path("interdict.toml"));
    let clearing = text.replacen("judge = \"insert\"", "judge = \"insert\"\non_truncate = \"clear\"", 1);
    assert_ne!(text, clearing);
    fleet.place.write("interdict.toml", clearing);
    fleet.begin(0);
    fleet.stored_snapshot("asked");
    fleet.begin(2);
    assert_eq!(fleet.ready(0).post("/v1/decisions", &request(7)).0, 200);
    // Its row comes, and goes with all of its table; others say when that was taken in.
    fleet.bank.pay(7, 1, "1.00");
    fleet.bank.ask("TRUNCATE transactions");
    fleet.bank.pay(8, 1, "1.00");
    fleet.decided("asked", 8);
    fleet.end_all();
    fleet.wait(Duration::from_millis(1_500));
    let mut alone = fleet.place.start("run --bind 127.0.0.1:0");
    let caller = Caller::new(&alone.address());
    caller.until(|caller| (caller.get("/health/ready").0 == 200).then_some(()));
    // Another payment has the number: it is decided like any other.
    fleet.bank.pay(7, 1, "2.00");
    let id = decision_id("asked", "transactions", "7", 1);
    let record = caller.until(|caller| match caller.get(&format!("/v1/decisions/{id}")) {
        (200, found) => Some(found),
        _ => None,
    });
    let record = &record["decision"];
    assert_eq!(record["event"]["amount"], json!(2.0), "{record}");
    let count = feature(&record["features"], "customer_spend.count_1d");
    assert_eq!(count, json!(2), "this one and the other: {record}");
    alone.stop();
}

#[test]
fn requests_go_on_behind_a_log_of_requests_that_was_trimmed() {
    let mut fleet = Fleet::open("trimmed");
    fleet.begin(2);
    for id in 1..=3 {
        assert_eq!(fleet.ready(0).post("/v1/decisions", &request(id)).0, 200);
    }
    fleet.end_all();
    // As what scorers logged is trimmed in the end.
    assert_eq!(fleet.redis.say(&["XTRIM", "{trimmed}:log:input", "MAXLEN", "0"]), "3");
    fleet.wait(Duration::from_millis(1_500));
    let mut alone = fleet.place.start("run --bind 127.0.0.1:0");
    let caller = Caller::new(&alone.address());
    caller.until(|caller| (caller.get("/health/ready").0 == 200).then_some(()));
    for id in 4..=6 {
        let (status, answer) = caller.post("/v1/decisions", &request(id));
        assert_eq!(status, 200, "{answer}");
    }
    alone.stop();
}

#[test]
fn whoever_stands_by_as_monitor_ends_with_his_ingestor() {
    let mut fleet = Fleet::open("beside");
    fleet.begin(super::MONITOR);
    fleet.process(super::MONITOR).wait_for("monitoring");
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
