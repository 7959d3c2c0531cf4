//! The decision log against its recomputation.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::place::{Caller, DEFINITIONS, Place, debezium, row, text};

const SIMULATE: &str = "simulate --seed 11 --customers 600 --terminals 60 --days 2 --label-delay 2h --label-spread 1h --format debezium \
     --disorder 0.1 --shuffle 0.05 --duplicates 0.1 --updates 0.1 --deletes 0.05 --tombstones --output live.jsonl";

const CHARGEBACKS: &str = r#"
[stream.chargebacks]
labels = "transactions"
id = "transaction_id"
value = "is_fraud"
time = "reported_at"
columns = { transaction_id = "int64", is_fraud = "bool", reported_at = "timestamp" }
"#;

fn source(follow: bool) -> String {
    format!(
        "{DEFINITIONS}\n[engine]\ncheckpoint = \"20ms\"\n[[source]]\nname = \"payments\"\ntype = \"file\"\npath = \"live.jsonl\"\nformat = \"debezium\"\nstream = \"transactions\"\ntime_unit = \"us\"\nfollow = {follow}\n"
    )
}

fn two_sources(follow: bool) -> String {
    format!(
        "{}[[source]]\nname = \"chargebacks\"\ntype = \"file\"\npath = \"chargebacks.csv\"\nformat = \"csv\"\nstream = \"chargebacks\"\nfollow = {follow}\n{CHARGEBACKS}",
        source(follow)
    )
}

/// Exit code and summary of an audit.
fn audit(place: &Place, more: &str) -> (Option<i32>, Value) {
    let output = place.command(&format!("score --audit decisions --json {more}")).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let summary = serde_json::from_slice(&output.stdout);
    (output.status.code(), summary.unwrap_or_else(|error| panic!("{error}: {errors}")))
}

/// Every record in the log is audited and equal; how many there are.
pub(crate) fn assert_all_equal(place: &Place) -> u64 {
    let (code, summary) = audit(place, "");
    assert_eq!((code, &summary["different"], &summary["not_audited"]), (Some(0), &json!(0), &json!({})), "{summary:#}");
    assert_eq!(summary["equal"], summary["records"], "{summary:#}");
    summary["records"].as_u64().unwrap()
}

/// The names of the features or fields that differ in the differences shown.
fn differing(summary: &Value) -> Vec<String> {
    let differences = summary["differences"].as_array().unwrap().iter();
    let fields = differences.flat_map(|difference| difference["fields"].as_array().unwrap());
    fields.map(|field| field["path"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn equal_until_one_digit_is_changed() {
    let place = Place::new(&source(false));
    place.run(SIMULATE);
    place.run("run --until-end");
    let records = assert_all_equal(&place);
    assert!(records > 1_000, "{records}");

    let config = text(&place.path("interdict.toml"));
    place.write("interdict.toml", config.replace("amount > 100.0", "amount > 101.0"));
    let (code, summary) = audit(&place, "");
    let different = summary["different"].as_u64().unwrap();
    assert_eq!(code, Some(1));
    assert!(different > 0 && different < records / 4, "{summary:#}");
    assert!(differing(&summary).contains(&"reasons[large]".to_owned()), "{summary:#}");
    place.write("interdict.toml", config);

    // One payment of a customer who pays again costs a cent more.
    let changes = text(&place.path("live.jsonl"));
    let line = changes.lines().find(|line| line.contains("\"op\":\"c\"")).unwrap();
    let from = line.find("\"amount\":\"").unwrap() + "\"amount\":\"".len();
    let digit = from + line[from..].find('"').unwrap() - 1;
    let other = if line.as_bytes()[digit] == b'1' { "2" } else { "1" };
    let changed = format!("{}{other}{}", &line[..digit], &line[digit + 1..]);
    place.write("copy.jsonl", changes.replacen(line, &changed, 1));
    let (code, summary) = audit(&place, "--input copy.jsonl");
    let different = summary["different"].as_u64().unwrap();
    assert_eq!(code, Some(1));
    assert!(different > 0 && different < 100, "{summary:#}");
    let paths = differing(&summary);
    assert!(paths.contains(&"event.amount".to_owned()), "{paths:?}");
    assert!(paths.iter().any(|path| path.starts_with("features[customer_spend.amount_avg_")), "{paths:?}");
    let told = place.command("score --audit decisions --input copy.jsonl").output().unwrap();
    assert!(String::from_utf8_lossy(&told.stdout).contains("  event.amount: logged "), "{told:?}");

    // A record that is gone, and nothing left of the source.
    place.write("copy.jsonl", changes.replacen(&format!("{line}\n"), "\n", 1));
    let (code, summary) = audit(&place, "--input copy.jsonl");
    assert_eq!(code, Some(1), "{summary:#}");
    place.write("copy.jsonl", "");
    let (code, summary) = audit(&place, "--input copy.jsonl");
    assert_eq!((code, summary["different"].as_u64()), (Some(1), Some(records)), "{summary:#}");
    assert_eq!(summary["differences"].as_array().unwrap().len(), 20);
}

#[test]
fn equal_with_a_model_and_compared_without_it_under_another() {
    let handbook = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/handbook");
    let config = text(&handbook.join("interdict.toml"))
        .replace("type = \"stdin\"", "name = \"payments\"\ntype = \"file\"\npath = \"live.jsonl\"")
        .replace("[http]\nbind = \"127.0.0.1:8080\"\ndeadline = \"100ms\"", "")
        .replace("data/decisions", "decisions");
    let place = Place::new(&config);
    std::fs::create_dir(place.path("bundle")).unwrap();
    for file in std::fs::read_dir(handbook.join("bundle")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), place.path("bundle").join(file.file_name())).unwrap();
    }
    place.run(SIMULATE);
    place.run("run --until-end");
    let records = assert_all_equal(&place);

    let manifest = text(&place.path("bundle/bundle.toml"));
    place.write("bundle/bundle.toml", format!("{manifest}\n# another one\n"));
    let (code, summary) = audit(&place, "");
    assert_eq!((code, summary["other_model"].as_u64()), (Some(0), Some(records)), "{summary:#}");
}

#[test]
fn equal_over_records_that_cannot_be_read_or_judged() {
    let place = Place::new(&source(false));
    place.run(SIMULATE);
    let changes = text(&place.path("live.jsonl"));
    let mut broken = String::new();
    for (at, line) in changes.lines().enumerate() {
        if at % 100 == 50 {
            broken.push_str("{\"payload\": nothing}\n");
        }
        broken.push_str(line);
        broken.push('\n');
    }
    let mut future = row(90_000_001, 0, 3, "10.00");
    future["tx_datetime"] = json!(4_000_000_000_000_000_i64);
    let future = debezium("c", 1_u64 << 60, &future).replace("4000000000000,", "1750000000000,");
    place.write("live.jsonl", broken + &future);
    place.run("run --until-end");
    assert!(place.letters().len() > 20);
    assert_all_equal(&place);
}

fn payments(ids: std::ops::Range<i64>) -> Vec<String> {
    ids.map(|id| debezium("c", id.unsigned_abs(), &row(id, id * 20, id % 150, "60.00"))).collect()
}

/// A label a second after each payment.
fn labels(ids: std::ops::Range<i64>) -> Vec<String> {
    let label = |id: i64| {
        let reported = jiff::Timestamp::from_microsecond(1_750_000_000_000_000 + (id * 20 + 1) * 1_000_000).unwrap();
        format!("{id},{},{reported}\n", id % 3 == 0)
    };
    ids.map(label).collect()
}

/// After a crash the backlogs of two sources are read in another order than before: later decisions have seen less than earlier ones.
#[test]
fn equal_over_backlogs_that_are_read_again() {
    let place = Place::new(&two_sources(false).replace("\"20ms\"", "\"30s\""));
    place.write("live.jsonl", payments(1..30_000).concat());
    place.write("chargebacks.csv", "transaction_id,is_fraud,reported_at\n".to_owned() + &labels(1..30_000).concat());
    let mut chance = ChaCha8Rng::seed_from_u64(33);
    for _ in 0..12 {
        let mut process = place.start("run");
        process.wait_for("running");
        if !process.works(Duration::from_millis(chance.random_range(50..300))) {
            break;
        }
        process.kill();
    }
    place.run("run");
    assert_eq!(assert_all_equal(&place), 29_999);
}

#[test]
fn equal_after_kills_with_two_sources_read_in_any_order() {
    let (payments, labels) = (payments(1..3_000), labels(1..3_000));
    // Labels that every later payment has seen, however the sources come after one another from here on.
    let (mut paid, mut told) = (500, 500);
    let place = Place::new(&two_sources(false));
    place.write("live.jsonl", payments[..paid].concat());
    place.write("chargebacks.csv", "transaction_id,is_fraud,reported_at\n".to_owned() + &labels[..told].concat());
    place.run("run --until-end");
    place.write("interdict.toml", two_sources(true));
    let mut chance = ChaCha8Rng::seed_from_u64(31);
    for kill in 1..=20 {
        let mut process = place.start("run");
        process.wait_for("running");
        for _ in 0..6 {
            let until = payments.len().min(paid + chance.random_range(0..40));
            place.append("live.jsonl", payments[paid..until].concat());
            paid = until;
            let until = labels.len().min(told + chance.random_range(0..40));
            place.append("chargebacks.csv", labels[told..until].concat());
            told = until;
            process.work(Duration::from_micros(chance.random_range(0..40_000)));
        }
        if kill % 4 == 0 {
            process.terminate();
            process.end();
        } else {
            process.kill();
        }
    }
    place.append("live.jsonl", payments[paid..].concat());
    place.append("chargebacks.csv", labels[told..].concat());
    place.write("interdict.toml", two_sources(false));
    place.run("run --until-end");
    assert_eq!(assert_all_equal(&place), 2_999);
    let fraud = |record: &interdict_features::decision::DecisionRecord| {
        let of =
            |name: &str| record.features.iter().find(|feature| &*feature.name == name).unwrap().reading.value.clone();
        matches!(of("terminal_risk.fraud_ratio_1d"), interdict_features::value::Value::Double(share) if share > 0.0)
    };
    let decisions = place.decisions(&place.store());
    assert!(decisions.values().filter(|record| fraud(record)).count() > 100, "labels were seen");
}

#[test]
fn equal_over_requests_and_labels_of_the_input_log() {
    let http = "[http]\nbind = \"127.0.0.1:0\"\ndeadline = \"20s\"\n";
    let place = Place::new(&(source(true) + http));
    place.write("live.jsonl", debezium("c", 1, &row(1, 0, 1, "10.00")));
    let mut chance = ChaCha8Rng::seed_from_u64(32);
    let mut id = 1;
    for _ in 0..4 {
        let mut process = place.start("run");
        let caller = Caller::new(&process.address());
        for _ in 0..30 {
            id += 1;
            let (customer, cents) = (chance.random_range(1..12), chance.random_range(1_000..15_000));
            let change = row(id, id * 60, customer, &format!("{}.{:02}", cents / 100, cents % 100));
            if chance.random_bool(0.5) {
                let mut event = change.clone();
                let time = jiff::Timestamp::from_microsecond(change["tx_datetime"].as_i64().unwrap()).unwrap();
                event["tx_datetime"] = json!(time.to_string());
                event.as_object_mut().unwrap().remove("is_fraud");
                let headers = [("idempotency-key", format!("k{id}"))];
                let headers = headers.iter().map(|(name, key)| (*name, key.as_str())).collect::<Vec<_>>();
                let (status, answer) = caller.send("POST", "/v1/decisions", &headers, &json!({ "event": event }));
                assert_eq!((status, &answer["unlogged"]), (200, &json!(false)), "{answer}");
            }
            place.append("live.jsonl", debezium("c", id.unsigned_abs(), &change));
            if chance.random_bool(0.3) {
                let reported = jiff::Timestamp::from_microsecond(1_750_000_000_000_000 + id * 60_000_000).unwrap();
                let label = json!({ "id": id - 1, "value": "fraud", "reported_at": reported.to_string() });
                assert!(caller.post("/v1/labels", &label).0 < 300);
            }
        }
        process.kill();
    }
    place.write("interdict.toml", source(false));
    place.run("run --until-end");
    assert_eq!(assert_all_equal(&place), u64::try_from(id).unwrap());

    // Without its store what saw the input log cannot be made again, and is not said to be equal.
    std::fs::rename(place.path("data"), place.path("elsewhere")).unwrap();
    let (_, summary) = audit(&place, "");
    let not_audited: u64 = summary["not_audited"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
    assert!(not_audited > 50, "{summary:#}");
    assert_eq!(summary["equal"].as_u64().unwrap() + not_audited, summary["records"].as_u64().unwrap(), "{summary:#}");
}

#[test]
fn an_audit_of_nothing_fails() {
    let place = Place::new(&source(false));
    assert!(place.fail("score --audit decisions").contains("no folder"));
    std::fs::create_dir(place.path("decisions")).unwrap();
    assert!(place.fail("score --audit decisions").contains("no decision could be audited"));
    let (status, log) = place.start("score --audit decisions --output x.parquet").end();
    assert_eq!(status.code(), Some(2), "{log}");
}

#[test]
fn a_request_that_comes_before_its_source_is_back_has_seen_what_the_store_holds() {
    let payments: String = (1..6).map(|id: i64| debezium("c", id.unsigned_abs(), &row(id, id, 1, "10.00"))).collect();
    let place = Place::new(&source(false));
    place.write("live.jsonl", &payments);
    place.run("run --until-end");

    // A followed file without a line has no identity yet: its reader waits, requests do not.
    place.write("live.jsonl", "");
    place.write("interdict.toml", source(true) + "[http]\nbind = \"127.0.0.1:0\"\ndeadline = \"20s\"\n");
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    let time = jiff::Timestamp::from_microsecond(1_750_000_000_000_000 + 60_000_000).unwrap();
    let event = json!({
        "transaction_id": 6, "tx_datetime": time.to_string(), "customer_id": 1, "terminal_id": 1, "amount": "10.00",
    });
    let (status, answer) = caller.post("/v1/decisions", &json!({ "event": event }));
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["decision"]["outcome"], "block", "the sixth within a day: {answer}");
    let seen = json!([{ "partition": "input/0", "position": 0 }, { "partition": "payments/0", "position": 5 }]);
    assert_eq!(answer["decision"]["seen"], seen);
    process.stop();
    place.write("live.jsonl", &payments);
    assert_eq!(assert_all_equal(&place), 6);
}
