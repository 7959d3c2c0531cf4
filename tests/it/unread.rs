//! Records of a file that feeds several streams and that cannot be read: judged by default once, whatever dies and however often they come.

use std::collections::BTreeMap;
use std::time::Duration;

use interdict_features::decision::{DecidedBy, DecisionRecord};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::audit::assert_all_equal;
use crate::crash::simulated;
use crate::place::{Caller, DEFINITIONS, Place, debezium, row};
use crate::requests::{config, counted, event};

const CHARGEBACKS: &str = r#"
[stream.chargebacks]
labels = "transactions"
id = "transaction_id"
value = "is_fraud"
time = "reported_at"
columns = { transaction_id = "int64", is_fraud = "bool", reported_at = "timestamp" }
"#;

fn tables(more: &str) -> String {
    format!(
        "{DEFINITIONS}\n[source]\nname = \"bank\"\ntype = \"file\"\npath = \"live.jsonl\"\nformat = \"debezium\"\n{more}\n{CHARGEBACKS}"
    )
}

/// Of every event its judgements and by what each was decided.
fn decided(records: &BTreeMap<uuid::Uuid, DecisionRecord>) -> BTreeMap<(&str, u32), DecidedBy> {
    records.values().map(|record| ((record.event_id.as_str(), record.judgement), record.decided_by)).collect()
}

#[test]
fn a_file_of_several_tables_has_a_decision_for_what_it_still_tells_to_be_a_payment() {
    let place = Place::new(&tables("time_unit = \"us\""));
    let line = |op: &str, lsn: u64, id: i64, amount: &str| debezium(op, lsn, &row(id, 1, 1, amount));
    let other =
        |line: String, table: &str| line.replace("\"table\":\"transactions\"", &format!("\"table\":\"{table}\""));
    let lines = [
        line("c", 1, 1, "1.00"),
        line("c", 2, 2, "much"),
        line("u", 3, 1, "much"),
        line("r", 4, 3, "much"),
        other(line("c", 5, 1, "1.00"), "chargebacks").replace("null", "\"perhaps\""),
        other(line("c", 6, 1, "1.00"), "strangers"),
        line("c", 7, 4, "1.00").replace("terminal_id", "terminal"),
        line("c", 7, 4, "1.00").replace("terminal_id", "terminal"),
        line("x", 9, 5, "1.00"),
        line("c", 2, 2, "2.00"),
        line("c", 11, 6, "1.00").replace("\"transaction_id\":6", "\"transaction_id\":null"),
        "{\n".to_owned(),
        line("c", 2, 2, "much"),
    ];
    place.write("live.jsonl", lines.concat());
    place.run("run");
    let remains = place.remains();
    let found: Vec<(u64, Option<&str>)> =
        remains.letters.iter().map(|letter| (letter.position, letter.stream.as_deref())).collect();
    let (payments, chargebacks) = (Some("transactions"), Some("chargebacks"));
    let expected = [
        (2, payments),
        (3, payments),
        (4, payments),
        (5, chargebacks),
        (6, None),
        (7, payments),
        (8, payments),
        (9, payments),
        (11, payments),
        (12, None),
        (13, payments),
    ];
    assert_eq!(found, expected);
    let (default, rules) = (DecidedBy::Default, DecidedBy::Rules);
    let expected = BTreeMap::from([
        (("1", 0), rules),
        (("2", 0), default),
        (("2", 1), rules),
        (("4", 0), default),
        (("bank/0/9", 0), default),
        (("bank/0/11", 0), default),
    ]);
    assert_eq!(decided(&remains.decisions), expected);
    let unread = remains.decisions.values().find(|record| record.event_id == "4").unwrap();
    assert!(unread.reasons[0].text.contains("missing_column"), "{:?}", unread.reasons);
    assert_eq!(assert_all_equal(&place), 6);
    place.run("run");
    place.remains().assert_equals(&remains);
}

/// Every seventh insert costs what no column holds; its repetitions may be sound.
fn broken(changes: &str) -> String {
    let mut inserts = 0;
    let breaks = |line: &str| {
        inserts += usize::from(line.contains("\"op\":\"c\""));
        let is_broken = line.contains("\"op\":\"c\"") && inserts % 7 == 0;
        if is_broken { line.replace("\"amount\":\"", "\"amount\":\"x") } else { line.to_owned() }
    };
    changes.split_inclusive('\n').map(breaks).collect()
}

#[test]
fn kills_leave_one_decision_on_every_record_that_cannot_be_read() {
    let changes = broken(&simulated());
    let calm = Place::new(&tables(""));
    calm.write("live.jsonl", &changes);
    calm.run("run");
    let expected = calm.remains();
    assert!(expected.letters.len() > 100, "{} letters", expected.letters.len());
    let unread = expected.decisions.values().filter(|record| record.event.is_empty()).count();
    assert!(unread > 100 && unread < expected.letters.len(), "{unread} decisions, repeated ones left out");

    let place = Place::new(&tables("follow = true\n[engine]\ncheckpoint = \"20ms\""));
    let mut chance = ChaCha8Rng::seed_from_u64(30);
    let (mut fed, pieces) = (0, 30);
    for piece in 1..=pieces {
        let mut process = place.start("run");
        let end = changes.len() * piece / pieces;
        place.append("live.jsonl", &changes.as_bytes()[fed..end]);
        fed = end;
        process.work(Duration::from_micros(chance.random_range(10_000..150_000)));
        process.kill();
    }
    place.write("interdict.toml", tables(""));
    place.run("run");
    place.remains().assert_equals(&expected);
    assert_eq!(assert_all_equal(&place), expected.decisions.len() as u64);
}

#[test]
fn a_payment_that_was_requested_is_not_decided_again_by_a_record_that_cannot_be_read() {
    let config = config("").replace("stream = \"transactions\"\n", "") + CHARGEBACKS;
    let (place, process, caller) = crate::requests::serving(&config);
    let (status, asked) = caller.post("/v1/decisions", &event(2, 60, 1, "20.00"));
    assert_eq!((status, &asked["decision"]["decided_by"]), (200, &json!("rules")), "{asked}");
    let line = |lsn: u64, id: i64, amount: &str| debezium("c", lsn, &row(id, 60, 1, amount));
    place.append("live.jsonl", line(2, 2, "much") + &line(3, 3, "much") + &debezium("c", 4, &row(4, 62, 9, "1.00")));
    let is_read = |caller: &Caller| (counted(caller, 9, "1d") == json!(1)).then_some(());
    caller.until(is_read);
    let (status, asked) = caller.post("/v1/decisions", &event(3, 60, 1, "20.00"));
    let answer = (status, &asked["replayed"], &asked["decision"]["decided_by"]);
    assert_eq!(answer, (200, &json!(true), &json!("default")), "what was told is told again: {asked}");
    process.terminate();
    assert!(process.end().0.success());
    let remains = place.remains();
    let decided: Vec<(&str, u32)> = decided(&remains.decisions).into_keys().collect();
    assert_eq!(decided, [("1", 0), ("2", 0), ("3", 0), ("4", 0)]);
}
