//! Sources taken up again, replaced, several at once, and standard input.

use std::io::Write as _;

use serde_json::json;

use crate::place::{Caller, DEFINITIONS, Place, debezium, row};

fn source(lines: &str) -> String {
    format!(
        "{DEFINITIONS}\n[source]\nname = \"payments\"\nformat = \"debezium\"\nstream = \"transactions\"\ntime_unit = \"us\"\n{lines}\n"
    )
}

fn payments(ids: std::ops::Range<i64>) -> String {
    ids.map(|id| debezium("c", id.unsigned_abs(), &row(id, id, id % 50, "10.00"))).collect()
}

#[test]
fn a_file_goes_on_where_it_was_left_and_another_one_is_refused() {
    let place = Place::new(&source("type = \"file\"\npath = \"live.jsonl\""));
    place.write("live.jsonl", payments(1..40));
    place.run("run");
    place.append("live.jsonl", payments(40..60));
    let log = place.run("run");
    assert!(log.contains("events=20"), "{log}");
    let remains = place.remains();
    assert_eq!(remains.decisions.len(), 59);

    place.write("live.jsonl", payments(1..10));
    let log = place.fail("run");
    assert!(log.contains("ends after 9 records, but 59 were already applied"), "{log}");
    place.write("live.jsonl", payments(100..200));
    let log = place.fail("run");
    assert!(log.contains("is not the source this store was filled from"), "{log}");
    place.remains().assert_equals(&remains);
}

#[test]
fn a_followed_file_that_is_replaced_stops_with_a_message() {
    let place = Place::new(&source("type = \"file\"\npath = \"live.jsonl\"\nfollow = true"));
    place.write("live.jsonl", payments(1..40));
    let mut process = place.start("run");
    process.wait_for("running");
    place.write("new.jsonl", payments(100..140));
    std::fs::rename(place.path("new.jsonl"), place.path("live.jsonl")).unwrap();
    let (status, log) = process.end();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("another file stands at"), "{log}");
    assert_eq!(place.remains().decisions.len(), 39, "what stood there before is decided");
}

#[test]
fn a_followed_file_may_be_empty_and_the_process_can_be_stopped() {
    let place = Place::new(
        &(source("type = \"file\"\npath = \"live.jsonl\"\nfollow = true") + "[http]\nbind = \"127.0.0.1:0\"\n"),
    );
    place.write("live.jsonl", "");
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    assert_eq!(caller.get("/health/live").0, 200);
    place.append("live.jsonl", payments(1..4));
    caller.until(|caller| {
        let (_, answer) = caller.post("/v1/entities/customer", &json!({ "key": 3 }));
        (answer["known"] == json!(true)).then_some(())
    });
    process.stop();
    place.append("live.jsonl", payments(4..6));
    place.write("interdict.toml", source("type = \"file\"\npath = \"live.jsonl\""));
    place.run("run");
    assert_eq!(place.remains().decisions.len(), 5);
}

#[test]
fn standard_input_is_read_to_its_end_and_may_be_repeated() {
    let place = Place::new(&source("type = \"stdin\""));
    for round in 0..2 {
        let mut process = place.start("run");
        let mut input = process.stdin();
        input.write_all(payments(1..80).as_bytes()).unwrap();
        drop(input);
        let (status, log) = process.end();
        assert!(status.success(), "{log}");
        assert_eq!(place.remains().decisions.len(), 79, "round {round}");
    }
}

#[test]
fn chargebacks_come_from_a_source_of_their_own() {
    let config = format!(
        "{DEFINITIONS}\n[stream.chargebacks]\nlabels = \"transactions\"\nid = \"transaction_id\"\nvalue = \"is_fraud\"\ntime = \"reported_at\"\ncolumns = {{ transaction_id = \"int64\", is_fraud = \"bool\", reported_at = \"timestamp\" }}\n\
         [[source]]\nname = \"payments\"\ntype = \"file\"\npath = \"live.jsonl\"\nformat = \"debezium\"\nstream = \"transactions\"\ntime_unit = \"us\"\n\
         [[source]]\nname = \"chargebacks\"\ntype = \"file\"\npath = \"chargebacks.csv\"\nformat = \"csv\"\nstream = \"chargebacks\"\n"
    );
    let place = Place::new(&config);
    place.write("live.jsonl", payments(1..11));
    place.write("chargebacks.csv", "transaction_id,is_fraud,reported_at\n3,true,2025-06-15T15:10:00Z\n4,true,2025-06-15T15:10:00Z\n4,false,2025-06-15T15:11:00Z\nx,true,2025-06-15T15:11:00Z\n");
    let log = place.run("run");
    assert!(log.contains("events=14"), "{log}");
    let remains = place.remains();
    assert_eq!((remains.decisions.len(), remains.letters.len()), (10, 1), "a broken label is no event to be judged");
    let log = place.run("run");
    assert!(log.contains("events=0"), "{log}");
    place.remains().assert_equals(&remains);

    place.write("interdict.toml", config + "[http]\nbind = \"127.0.0.1:0\"\n");
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    // Terminal 3 saw payments 3 and 10, terminal 4 payment 4 (1,750,000,000 s is 15:06:40 on 2025-06-15).
    let risk = |terminal: i64| {
        let (_, answer) =
            caller.post("/v1/entities/terminal", &json!({ "key": terminal, "as_of": "2025-06-15T17:00:00Z" }));
        let features = answer["features"].as_array().unwrap().clone();
        features.into_iter().find(|feature| feature["name"] == "terminal_risk.fraud_ratio_1d").unwrap()["value"].clone()
    };
    assert_eq!((risk(3), risk(4)), (json!(0.5), json!(0.0)));
}

#[test]
fn an_older_store_beside_a_newer_decision_log_is_told_and_changes_nothing() {
    let place = Place::new(&source("type = \"file\"\npath = \"live.jsonl\""));
    let rename = |from: &str, to: &str| std::fs::rename(place.path(from), place.path(to)).unwrap();
    place.write("live.jsonl", payments(1..40));
    place.run("run");
    let copied = std::process::Command::new("cp").arg("-r").arg(place.path("data")).arg(place.path("older")).status();
    assert!(copied.unwrap().success());
    place.append("live.jsonl", payments(40..60));
    place.run("run");
    let remains = place.remains();

    rename("data", "newer");
    rename("older", "data");
    let log = place.fail("run");
    for words in
        ["up to position 59 that the store does not have", "restore store and log of one moment", "[monitor] log_dir"]
    {
        assert!(log.contains(words), "no '{words}' in:\n{log}");
    }
    rename("data", "older");
    rename("newer", "data");
    place.run("run");
    place.remains().assert_equals(&remains);

    // A log that is begun anew takes what the older store still has to tell.
    rename("data", "newer");
    rename("older", "data");
    rename("decisions", "decisions-newer");
    place.run("run");
    assert_eq!(place.remains().decisions.len(), 20, "the older store's log had forgotten the others");
}
