//! TRUNCATE in a captured database, as the stream says.

use interdict_features::decision::{DecisionRecord, decision_id};
use serde_json::{Value, json};

use super::{config, decision};
use crate::bank::Bank;
use crate::place::{Caller, Place};
use crate::requests::feature;

const CUSTOMER: i64 = 9;

/// A database and a deployment whose stream says this of truncations, with two payments of the customer in the table.
fn open(on_truncate: &str) -> (Bank, Place) {
    let bank = Bank::open();
    let judged = "judge = \"insert\"\n";
    let said = format!("{judged}on_truncate = \"{on_truncate}\"\n");
    let place = Place::new(&config(&bank, "interdict", "").replacen(judged, &said, 1));
    pay(&bank, 1..=2);
    (bank, place)
}

fn pay(bank: &Bank, ids: std::ops::RangeInclusive<i64>) {
    ids.for_each(|id| bank.pay(id, CUSTOMER, "5.00"));
}

/// How many payments of the customer the stored decision on one counts.
fn counted(caller: &Caller, payment: i64) -> Value {
    let answer = decision(caller, payment);
    feature(&answer["decision"]["features"], "customer_spend.tx_count_1d")
}

fn end(process: crate::place::Process) {
    process.stop();
}

#[test]
fn a_truncation_that_clears_takes_the_history_and_no_decision() {
    let (bank, place) = open("clear");
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    process.wait_for("the snapshot is read");
    pay(&bank, 3..=4);
    assert_eq!((counted(&caller, 3), counted(&caller, 4)), (json!(3), json!(4)));
    let before = decision(&caller, 4);
    bank.ask("TRUNCATE transactions");
    pay(&bank, 5..=5);
    assert_eq!(counted(&caller, 5), json!(1));
    process.kill();

    // What was read before the crash is gone also when it is read again. A row that comes again is another one.
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    pay(&bank, 3..=3);
    pay(&bank, 6..=6);
    assert_eq!(counted(&caller, 6), json!(3));
    assert_eq!(decision(&caller, 4), before);
    end(process);
    let store = place.store();
    let records: Vec<DecisionRecord> = place.decisions(&store).into_values().collect();
    let mut judged: Vec<(&str, u32)> = records.iter().map(|it| (it.event_id.as_str(), it.judgement)).collect();
    judged.sort_unstable();
    assert_eq!(judged, [("3", 0), ("3", 1), ("4", 0), ("5", 0), ("6", 0)]);
    assert!(store.decision_now(decision_id("default", "transactions", "3", 1)).unwrap().is_some());
}

#[test]
fn a_truncation_that_is_ignored_changes_nothing() {
    let (bank, place) = open("ignore");
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    process.wait_for("the snapshot is read");
    pay(&bank, 3..=3);
    assert_eq!(counted(&caller, 3), json!(3));
    bank.ask("TRUNCATE transactions");
    pay(&bank, 4..=4);
    assert_eq!(counted(&caller, 4), json!(4));
    end(process);
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    pay(&bank, 5..=5);
    assert_eq!((counted(&caller, 5), counted(&caller, 3)), (json!(5), json!(3)));
    end(process);
}

#[test]
fn a_truncation_of_which_nothing_good_is_said_stops_until_somebody_says_it() {
    let (bank, place) = open("stop");
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    process.wait_for("the snapshot is read");
    pay(&bank, 3..=3);
    assert_eq!(counted(&caller, 3), json!(3));
    bank.ask("TRUNCATE transactions");
    pay(&bank, 4..=4);
    let (status, log) = process.end();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("on_truncate = \"clear\""), "{log}");
    let said = place.fail("run");
    assert!(said.contains("on_truncate = \"clear\""), "{said}");
    {
        let store = place.store();
        let of = |payment: &str| store.decision_now(decision_id("default", "transactions", payment, 0)).unwrap();
        assert!(of("3").is_some() && of("4").is_none(), "what came before is decided, what came behind waits");
    }

    let config = crate::place::text(&place.path("interdict.toml"));
    place.write("interdict.toml", config.replacen("on_truncate = \"stop\"", "on_truncate = \"clear\"", 1));
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    assert_eq!((counted(&caller, 4), counted(&caller, 3)), (json!(1), json!(3)));
    end(process);
}
