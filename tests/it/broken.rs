//! Input that cannot be taken: a clear message and exit code 1, or a dead letter and the policy's default, and nothing lost.

use std::path::Path;

use interdict_features::config::ConfigFile;
use interdict_features::decision::DecidedBy;
use interdict_features::definition::Definitions;

use crate::place::{DEFINITIONS, Place, debezium, row};

fn source(lines: &str) -> String {
    format!("{DEFINITIONS}\n[source]\nname = \"payments\"\ntype = \"file\"\nstream = \"transactions\"\n{lines}\n")
}

fn says(log: &str, words: &[&str]) {
    for word in words {
        assert!(log.contains(word), "no '{word}' in:\n{log}");
    }
}

#[test]
fn ten_mistakes_are_reported_at_once() {
    let mut lines: Vec<String> =
        DEFINITIONS.lines().take_while(|line| *line != "[scorer]").map(str::to_owned).collect();
    let mut mistaken = Vec::new();
    let mistakes = [
        ("", "namespace = \"a b\""),
        ("[scorer]", "default = \"perhaps\""),
        ("[[rule]]\nid = \"large\"\nreason = \"large\"\noutcome = \"review\"", "when = \"amuont > 3.0\""),
        ("[[action]]\nname = \"tell\"\ntype = \"store\"\nentity = \"customer\"", "rules = [\"larg\"]"),
        ("[source]\ntype = \"file\"\npath = \"a.csv\"", "format = \"cvs\""),
        ("[store]", "type = \"rocksdb\""),
        ("", "cache_mb = \"much\""),
        ("[engine]", "shards = 0"),
        ("[http]", "bind = \"localhost\""),
        ("[monitor]\nlog_dir = \"log\"", "batch_rows = 0"),
    ];
    lines.insert(0, "namespace = \"a b\"".to_owned());
    mistaken.push(1);
    for (before, wrong) in &mistakes[1..] {
        lines.extend(before.lines().map(str::to_owned));
        lines.push((*wrong).to_owned());
        mistaken.push(lines.len());
    }
    let place = Place::new(&lines.join("\n"));
    let log = place.fail("run");
    for (line, (_, wrong)) in mistaken.iter().zip(mistakes) {
        assert!(log.contains(&format!("interdict.toml:{line}:")), "line {line} ({wrong}) is not in:\n{log}");
    }
    assert!(!place.path("data").exists(), "nothing was begun");
}

#[test]
fn a_source_that_cannot_be_read_says_what_to_do() {
    let place = Place::new(&source("format = \"parquet\"\npath = \"t.parquet\""));
    says(&place.fail("run"), &["t.parquet", "file"]);
    place.run("simulate --transactions 500 --output t.parquet");

    let whole = std::fs::read(place.path("t.parquet")).unwrap();
    place.write("t.parquet", &whole[..whole.len() / 2]);
    says(&place.fail("run"), &["t.parquet is no complete Parquet file", "write it again"]);
    place.write("t.parquet", b"");
    says(&place.fail("run"), &["t.parquet is no complete Parquet file"]);
    place.write("t.parquet", &whole);

    let declared = source("format = \"parquet\"\npath = \"t.parquet\"");
    place.write(
        "interdict.toml",
        declared.replace("is_fraud = \"bool\" }", "is_fraud = \"bool\", country = \"string\" }"),
    );
    says(&place.fail("run"), &["has no column 'country'", "[stream.transactions]"]);
    place.write("interdict.toml", declared.replace("terminal_id = \"int64\"", "terminal_id = \"uuid\""));
    says(&place.fail("run"), &["column 'terminal_id'", "declares it as uuid"]);

    place.write("interdict.toml", source("format = \"csv\"\npath = \"t.csv\""));
    place.write("t.csv", "transaction_id,tx_datetime,customer_id,amount\n1,2025-01-01,1,1\n");
    says(&place.fail("run"), &["no column 'terminal_id'"]);
    place.write("interdict.toml", source("format = \"json\"\npath = \"nowhere.jsonl\""));
    says(&place.fail("run"), &["nowhere.jsonl", "see that the file exists"]);

    // None of it left anything behind that keeps the right file from being read.
    place.write("interdict.toml", source("format = \"parquet\"\npath = \"t.parquet\""));
    place.run("run");
    assert_eq!(place.remains().decisions.len(), 500);
}

#[test]
fn every_record_ends_in_one_decision_and_what_is_broken_in_a_dead_letter() {
    let place = Place::new(&source("format = \"json\"\npath = \"t.jsonl\""));
    let good = |id: i64, day: i64| {
        format!(
            "{{\"transaction_id\":{id},\"tx_datetime\":\"2025-06-{day:02}T10:00:00Z\",\"customer_id\":1,\"terminal_id\":1,\"amount\":5.5,\"is_fraud\":null}}"
        )
    };
    let with = |id: i64, from: &str, to: &str| good(id, 10).replace(from, to).into_bytes();
    let key = "9".repeat(1 << 20);
    // What each is decided under: its id, where that can be read.
    let cases: Vec<(Vec<u8>, &str, Option<&str>)> = vec![
        (with(11, "5.5", "NaN"), "bad_json", None),
        (with(12, "5.5", "1e999"), "out_of_range", Some("12")),
        (with(13, "5.5", "\"Infinity\""), "not_finite", Some("13")),
        (with(14, "5.5", "5.555"), "inexact", Some("14")),
        (with(15, "5.5", "\"much\""), "wrong_type", Some("15")),
        (with(16, "\"transaction_id\":16", &format!("\"transaction_id\":\"{key}\"")), "out_of_range", None),
        (with(17, "\"transaction_id\":17", "\"transaction_id\":null"), "null_id", None),
        (with(18, "\"2025-06-10T10:00:00Z\"", "null"), "null_time", Some("18")),
        (with(19, "\"terminal_id\":1,", ""), "missing_column", Some("19")),
        ([b"{\"transaction_id\":\"".as_slice(), &[0xFF, 0xFE], b"\"}"].concat(), "not_utf8", None),
        (b"[1, 2".to_vec(), "bad_json", None),
    ];
    let mut bytes = Vec::new();
    for (line, ..) in &cases {
        bytes.extend_from_slice(line);
        bytes.push(b'\n');
    }
    for line in [good(1, 20), good(2, 19)] {
        bytes.extend_from_slice(line.as_bytes());
        bytes.push(b'\n');
    }
    // The customer's state no longer reaches back so far.
    bytes.extend_from_slice(good(3, 1).as_bytes());
    bytes.push(b'\n');
    place.write("t.jsonl", bytes);
    place.run("run");
    let remains = place.remains();
    let found: Vec<(u64, &str)> =
        remains.letters.iter().map(|letter| (letter.position, letter.reason.code())).collect();
    let mut expected: Vec<(u64, &str)> = (1..).zip(cases.iter().map(|(_, reason, _)| *reason)).collect();
    expected.push((cases.len() as u64 + 3, "refused"));
    assert_eq!(found, expected);
    assert_eq!(remains.decisions.len(), cases.len() + 3, "each has a decision");
    for (position, reason) in found {
        let told = usize::try_from(position).ok().and_then(|position| cases.get(position - 1)?.2);
        let id = match (reason, told) {
            ("refused", _) => "3".to_owned(),
            (_, Some(id)) => id.to_owned(),
            (_, None) => format!("payments/0/{position}"),
        };
        let record = remains.decisions.values().find(|record| record.event_id == id).unwrap();
        assert_eq!((record.decided_by, record.position.position), (DecidedBy::Default, position));
        assert!(record.reasons[0].code == "not_judged", "{:?}", record.reasons);
        let text = serde_json::to_string(record).unwrap();
        assert!(text.len() < 4_096, "{} bytes of record for {reason}", text.len());
    }
    place.run("run");
    place.remains().assert_equals(&remains);
}

#[test]
fn a_debezium_payment_from_the_future_is_a_dead_letter_and_reviewed() {
    let place = Place::new(&source("format = \"debezium\"\npath = \"t.jsonl\"\ntime_unit = \"us\""));
    let line = crate::place::debezium("c", 1, &crate::place::row(1, 0, 1, "10.00"));
    let future = crate::place::debezium("c", 2, &crate::place::row(2, 0, 1, "10.00"))
        .replace("1750000000000000", "1750090000000000");
    place.write("t.jsonl", format!("{line}{future}{future}"));
    place.run("run");
    let remains = place.remains();
    let letters: Vec<(u64, &str)> =
        remains.letters.iter().map(|letter| (letter.position, letter.reason.code())).collect();
    assert_eq!(letters, [(2, "future_time"), (3, "future_time")]);
    assert_eq!(remains.decisions.len(), 2);
    let record = remains.decisions.values().find(|record| record.event_id == "2").unwrap();
    assert_eq!(record.decided_by, DecidedBy::Default);
}

fn write_bundle(folder: &Path, groups: &str, inputs: &str) {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("scorer/tests/data");
    std::fs::create_dir_all(folder).unwrap();
    std::fs::copy(data.join("forest.onnx"), folder.join("model.onnx")).unwrap();
    std::fs::copy(data.join("golden.json"), folder.join("golden.json")).unwrap();
    std::fs::write(folder.join("reference.parquet"), b"PAR1").unwrap();
    let manifest = format!(
        "format = 1\nname = \"forest\"\nversion = \"1\"\ncreated = \"2026-11-20T00:00:00Z\"\nmodel = \"model.onnx\"\ngolden = \"golden.json\"\nreference = \"reference.parquet\"\noutput = \"probabilities\"\n[thresholds]\nreview = 0.5\nblock = 0.8\n[groups]\n{groups}\n{inputs}\n[training]\nrows = 2000\n"
    );
    std::fs::write(folder.join("bundle.toml"), manifest).unwrap();
}

const INPUTS: &str = "[[input]]\nname = \"customer_spend.tx_count_1d\"\nmissing = 0.0\n[[input]]\nname = \"customer_spend.amount_avg_1d\"\nmissing = 0.0\n[[input]]\nname = \"amount\"\nmissing = 0.0\n";

#[test]
fn only_a_sound_bundle_that_fits_the_features_is_put_in_force() {
    let config = source("format = \"json\"\npath = \"t.jsonl\"")
        .replace("[scorer]\n", "[scorer]\nbundle = \"bundle\"\n")
        .replace("[monitor]\nlog_dir = \"decisions\"\nbatch_rows = 400\n", "");
    let place = Place::new(&config);
    place.write("t.jsonl", "{\"transaction_id\":1,\"tx_datetime\":\"2025-06-01T10:00:00Z\",\"customer_id\":1,\"terminal_id\":1,\"amount\":5.5,\"is_fraud\":null}\n");
    says(&place.fail("run"), &["bundle", "bundle.toml"]);
    write_bundle(&place.path("bundle"), "customer_spend = \"0123456789abcdef\"", INPUTS);
    says(&place.fail("run"), &["customer_spend"]);

    let file = ConfigFile::parse("interdict.toml", &config).unwrap();
    let definitions = Definitions::read(&file, None).unwrap();
    let group = definitions.groups.iter().find(|group| group.name == "customer_spend").unwrap();
    let groups = format!("customer_spend = \"{:016x}\"", group.hash);
    write_bundle(&place.path("bundle"), &groups, &INPUTS.replace("name = \"amount\"", "name = \"amuont\""));
    says(&place.fail("run"), &["amuont"]);
    write_bundle(&place.path("bundle"), &groups, INPUTS);
    let golden = std::fs::read_to_string(place.path("bundle/golden.json")).unwrap();
    let mut golden: serde_json::Value = serde_json::from_str(&golden).unwrap();
    let score = golden["scores"][0].as_f64().unwrap();
    golden["scores"][0] = serde_json::json!(score + 0.001);
    place.write("bundle/golden.json", golden.to_string());
    says(&place.fail("run"), &["golden"]);
    write_bundle(&place.path("bundle"), &groups, INPUTS);
    place.write("bundle/model.onnx", b"no model");
    says(&place.fail("run"), &["the model cannot be read", "write the bundle again"]);

    write_bundle(&place.path("bundle"), &groups, INPUTS);
    place.run("run");
    let store = place.store();
    let id = interdict_features::decision::decision_id("default", "transactions", "1", 0);
    let stored = store.decision_now(id).unwrap().unwrap();
    let record: interdict_features::decision::DecisionRecord = serde_json::from_slice(&stored.record).unwrap();
    assert!(record.score.is_some() && record.models[0].name == "forest", "{record:?}");
}

#[test]
fn a_folder_in_use_and_a_place_that_cannot_be_written_are_told() {
    let place = Place::new(&format!("{DEFINITIONS}\n[http]\nbind = \"127.0.0.1:0\"\n"));
    let mut first = place.start("run");
    first.address();
    says(&place.fail("run"), &["in use by another process", "[store] path"]);
    first.terminate();
    assert!(first.end().0.success());

    place.write("file", "no folder");
    place.write(
        "interdict.toml",
        format!("{DEFINITIONS}\n[http]\nbind = \"127.0.0.1:0\"\n[engine]\ndead_letters = \"file/dead.jsonl\"\n"),
    );
    says(&place.fail("run"), &["dead-letter file", "file/dead.jsonl"]);
    place.write(
        "interdict.toml",
        format!("{DEFINITIONS}\n[http]\nbind = \"127.0.0.1:0\"\n").replace("path = \"data\"", "path = \"file/data\""),
    );
    says(&place.fail("run"), &["file/data"]);
}

#[test]
fn a_snapshot_row_that_cannot_be_read_is_history_all_the_same() {
    let place = Place::new(&source("format = \"debezium\"\npath = \"t.jsonl\"\ntime_unit = \"us\""));
    let line = |op: &str, id: i64, amount: &str| debezium(op, id.unsigned_abs(), &row(id, 1, 1, amount));
    let lines = [line("r", 1, "much"), line("u", 2, "much"), line("c", 3, "much"), line("c", 4, "4.00")];
    place.write("t.jsonl", lines.concat());
    place.run("run --until-end");
    let remains = place.remains();
    assert_eq!(remains.letters.len(), 3);
    let decided: Vec<DecidedBy> = remains.decisions.values().map(|record| record.decided_by).collect();
    assert_eq!(decided.len(), 2, "only what was inserted is judged: {decided:?}");
    assert!(decided.contains(&DecidedBy::Default));
}
