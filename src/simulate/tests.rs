use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};

use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal128Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, RecordBatch};
use base64::Engine as _;
use clap::Parser;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use super::changes::{Change, Row, What};
use super::generator::Transaction;
use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    simulate: Simulate,
}

const SMALL: [&str; 6] = ["--customers", "300", "--terminals", "600", "--radius", "9"];

fn options(arguments: &[&str]) -> Simulate {
    let all = ["simulate"].iter().chain(&SMALL).chain(arguments);
    Line::try_parse_from(all).unwrap_or_else(|error| panic!("{error}")).simulate
}

fn written(name: &str, arguments: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    options(&[&["--output", path.to_str().unwrap()], arguments].concat()).run().unwrap();
    assert_eq!(
        fs::read_dir(folder.path())
            .unwrap()
            .filter(|file| { file.as_ref().unwrap().path().extension().is_some_and(|end| end == "tmp") })
            .count(),
        0
    );
    (folder, path)
}

fn transactions(arguments: &[&str]) -> Vec<Transaction> {
    Generator::new(options(arguments).config()).collect()
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn micros(text: &Value) -> i64 {
    text.as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_microsecond()
}

#[expect(clippy::cast_possible_truncation, reason = "amounts of tests are small")]
fn minor(number: &Value) -> i64 {
    (number.as_f64().unwrap() * 100.0).round() as i64
}

/// What every format must keep: id, time, customer, terminal, minor units, label.
type Kept = (i64, i64, i64, i64, i64, Option<bool>);

fn kept(transaction: &Transaction, is_fraud: Option<bool>) -> Kept {
    let Transaction { id, time_micros, customer, terminal, amount_minor, .. } = *transaction;
    (id, time_micros, customer, terminal, amount_minor, is_fraud)
}

fn kept_known(arguments: &[&str]) -> Vec<Kept> {
    transactions(arguments).iter().map(|t| kept(t, Some(t.reported_micros.is_some()))).collect()
}

fn of_json(row: &Value, amount_minor: i64) -> Kept {
    let number = |name: &str| row[name].as_i64().unwrap();
    (
        number("transaction_id"),
        micros(&row["tx_datetime"]),
        number("customer_id"),
        number("terminal_id"),
        amount_minor,
        row["is_fraud"].as_bool(),
    )
}

fn parquet_batches(path: &Path) -> Vec<RecordBatch> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    reader.build().unwrap().map(Result::unwrap).collect()
}

#[test]
fn parquet_holds_what_was_generated_in_bounded_row_groups() {
    let arguments = ["--transactions", "140000"];
    let (_folder, path) = written("out.parquet", &arguments);
    let mut found = Vec::new();
    for batch in parquet_batches(&path) {
        let (id, time) = (batch.column(0).as_primitive::<Int64Type>(), batch.column(1));
        let time = time.as_primitive::<TimestampMicrosecondType>();
        let (customer, terminal) =
            (batch.column(2).as_primitive::<Int64Type>(), batch.column(3).as_primitive::<Int64Type>());
        let (amount, label) = (batch.column(4).as_primitive::<Decimal128Type>(), batch.column(5).as_boolean());
        assert_eq!((amount.precision(), amount.scale()), (18, 2));
        for row in 0..batch.num_rows() {
            let minor = i64::try_from(amount.value(row)).unwrap();
            let label = label.is_valid(row).then(|| label.value(row));
            found.push((id.value(row), time.value(row), customer.value(row), terminal.value(row), minor, label));
        }
    }
    assert_eq!(found, kept_known(&arguments));
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&path).unwrap()).unwrap();
    let groups: Vec<i64> = reader.metadata().row_groups().iter().map(|group| group.num_rows()).collect();
    assert_eq!(groups, [131_072, 140_000 - 131_072]);
}

#[test]
fn csv_holds_what_was_generated() {
    let arguments = ["--transactions", "3000", "--first-id", "77"];
    let (_folder, path) = written("out.csv", &arguments);
    let mut reader = csv::Reader::from_path(path).unwrap();
    let found: Vec<Kept> = reader
        .records()
        .map(|record| {
            let record = record.unwrap();
            let number = |column: usize| record[column].parse::<i64>().unwrap();
            let time = record[1].parse::<jiff::Timestamp>().unwrap().as_microsecond();
            let minor = record[4].replace('.', "").parse().unwrap();
            (number(0), time, number(2), number(3), minor, record[5].parse().ok())
        })
        .collect();
    assert_eq!(found, kept_known(&arguments));
    assert_eq!(found[0].0, 77);
}

#[test]
fn json_lines_hold_what_was_generated_and_more_if_asked() {
    let arguments = ["--transactions", "3000", "--rich", "--label-as", "column"];
    let (_folder, path) = written("out.jsonl", &arguments);
    let rows = lines(&path);
    let found: Vec<Kept> = rows.iter().map(|row| of_json(row, minor(&row["amount"]))).collect();
    assert_eq!(found, kept_known(&arguments));
    for (row, transaction) in rows.iter().zip(transactions(&arguments)) {
        assert_eq!(row["device_id"], format!("{:016x}", transaction.device));
        assert_eq!(row["latitude"].as_f64(), Some(transaction.latitude));
        assert_eq!(row["longitude"].as_f64(), Some(transaction.longitude));
        let reported = (!row["reported_at"].is_null()).then(|| micros(&row["reported_at"]));
        assert_eq!(reported, transaction.reported_micros);
    }
}

#[test]
fn debezium_holds_what_was_generated_in_every_mode() {
    for schemas in ["on", "off"] {
        for decimals in ["precise", "string", "double"] {
            let length = ["--transactions", "500"];
            let modes = ["--format", "debezium", "--label-as", "none", "--schemas", schemas, "--decimals", decimals];
            let (_folder, path) = written("out.jsonl", &[&length[..], &modes[..]].concat());
            let mut found = Vec::new();
            for line in lines(&path) {
                assert_eq!(line.get("schema").is_some(), schemas == "on");
                let payload = if schemas == "on" { &line["payload"] } else { &line };
                assert_eq!((&payload["op"], &payload["before"]), (&Value::from("c"), &Value::Null));
                let amount = &payload["after"]["amount"];
                let minor = match decimals {
                    "double" => minor(amount),
                    "string" => amount.as_str().unwrap().replace('.', "").parse().unwrap(),
                    _ => {
                        let bytes = base64::engine::general_purpose::STANDARD.decode(amount.as_str().unwrap()).unwrap();
                        bytes[1..].iter().fold(i64::from(bytes[0].cast_signed()), |n, byte| (n << 8) | i64::from(*byte))
                    }
                };
                found.push(of_json(&payload["after"], minor));
            }
            let expected: Vec<Kept> = transactions(&length).iter().map(|t| kept(t, None)).collect();
            assert_eq!(found, expected, "schemas {schemas}, decimals {decimals}");
        }
    }
}

#[test]
fn labels_come_late_as_updates_with_both_images_and_a_later_lsn() {
    let length = ["--days", "20"];
    let (_folder, path) = written("out.jsonl", &[&length[..], &["--format", "debezium"]].concat());
    let generated = transactions(&length);
    let events = lines(&path);
    let lsns: Vec<u64> = events.iter().map(|event| event["source"]["lsn"].as_u64().unwrap()).collect();
    assert!(lsns.is_sorted_by(|a, b| a < b));
    let times: Vec<i64> = events.iter().map(|event| event["source"]["ts_us"].as_i64().unwrap()).collect();
    assert!(times.is_sorted());
    let inserts: HashMap<i64, &Value> = events
        .iter()
        .filter(|event| event["op"] == "c")
        .map(|event| (event["after"]["transaction_id"].as_i64().unwrap(), &event["after"]))
        .collect();
    let updates: Vec<&Value> = events.iter().filter(|event| event["op"] == "u").collect();
    assert_eq!(inserts.len(), generated.len());
    assert_eq!(updates.len(), generated.iter().filter(|t| t.is_fraud()).count());
    assert!(updates.len() > 50);
    for update in updates {
        let id = update["after"]["transaction_id"].as_i64().unwrap();
        let transaction = &generated[usize::try_from(id).unwrap()];
        assert_eq!(update["source"]["ts_us"].as_i64(), transaction.reported_micros);
        assert_eq!(&&update["before"], inserts.get(&id).unwrap());
        let mut expected = update["before"].clone();
        expected["is_fraud"] = true.into();
        assert_eq!(update["after"], expected);
    }
}

#[test]
fn chargebacks_of_their_own_carry_only_the_id() {
    let folder = tempfile::tempdir().unwrap();
    let labels = folder.path().join("labels.csv");
    let length = ["--days", "20"];
    let arguments = [&length[..], &["--label-as", "stream", "--labels", labels.to_str().unwrap()]].concat();
    let (_rows, path) = written("out.csv", &arguments);
    assert!(fs::read_to_string(path).unwrap().lines().skip(1).all(|line| line.ends_with(',')));
    let mut expected: Vec<(i64, i64)> =
        transactions(&length).iter().filter_map(|t| Some((t.reported_micros?, t.id))).collect();
    expected.sort_unstable();
    let mut reader = csv::Reader::from_path(labels).unwrap();
    assert_eq!(reader.headers().unwrap(), vec!["transaction_id", "is_fraud", "reported_at"]);
    let found: Vec<(i64, i64)> = reader
        .records()
        .map(|record| {
            let record = record.unwrap();
            assert_eq!(&record[1], "true");
            (record[2].parse::<jiff::Timestamp>().unwrap().as_microsecond(), record[0].parse().unwrap())
        })
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn the_truth_names_the_scenario_of_every_fraud() {
    let folder = tempfile::tempdir().unwrap();
    let truth = folder.path().join("truth.csv");
    let arguments = ["--days", "20", "--unreported", "0.5", "--truth", truth.to_str().unwrap()];
    let (_rows, _path) = written("out.parquet", &arguments);
    let frauds: Vec<Transaction> = transactions(&arguments).into_iter().filter(Transaction::is_fraud).collect();
    let mut reader = csv::Reader::from_path(truth).unwrap();
    let found: Vec<(i64, u8, bool)> = reader
        .records()
        .map(|record| record.map(|r| (r[0].parse().unwrap(), r[1].parse().unwrap(), r[3].is_empty())).unwrap())
        .collect();
    let expected: Vec<(i64, u8, bool)> =
        frauds.iter().map(|t| (t.id, t.scenario.unwrap().number(), t.reported_micros.is_none())).collect();
    assert_eq!(found, expected);
    assert!(found.iter().any(|fraud| fraud.2) && found.iter().any(|fraud| !fraud.2));
}

const DISTURBED: Disturbances =
    Disturbances { late: 0.1, shuffled: 0.2, duplicated: 0.1, corrected: 0.05, deleted: 0.05 };

fn disturbed(generated: &[Transaction]) -> Vec<Change> {
    Changes::new(generated.iter().copied(), 3, LabelAs::Update, DISTURBED).collect()
}

fn version(change: &Change) -> (i64, Option<Row>, Option<Row>) {
    match change.what {
        What::Insert(row) => (row.transaction.id, None, Some(row)),
        What::Update { before, after } => (after.transaction.id, Some(before), Some(after)),
        What::Delete(row) => (row.transaction.id, Some(row), None),
        What::Chargeback(id) => panic!("labels of {id} come as updates here"),
    }
}

#[test]
fn disturbed_changes_are_a_consistent_history_in_the_order_of_their_lsn() {
    let generated = transactions(&["--days", "20"]);
    let changes = disturbed(&generated);
    assert_eq!(changes, disturbed(&generated), "the same seed disturbs alike");
    assert!(changes.is_sorted_by_key(|change| change.delivered_micros));

    let mut by_lsn: BTreeMap<u64, &Change> = BTreeMap::new();
    for change in &changes {
        match by_lsn.insert(change.lsn, change) {
            None => assert!(!change.repeated || changes.iter().any(|c| c.lsn == change.lsn && !c.repeated)),
            Some(first) => assert_eq!(first.what, change.what),
        }
    }
    assert!(by_lsn.values().map(|change| change.commit_micros).is_sorted());
    let mut rows: HashMap<i64, Option<Row>> = HashMap::new();
    for change in by_lsn.values() {
        let (id, before, after) = version(change);
        assert_eq!(rows.get(&id).copied().flatten(), before, "the row is what the change says it was");
        assert_eq!(rows.contains_key(&id), before.is_some(), "inserted once");
        rows.insert(id, after);
    }
    assert_eq!(rows.len(), generated.len());
    let survivors = rows.values().flatten();
    assert!(survivors.clone().all(|row| row.is_fraud == row.transaction.reported_micros.map(|_| true)));
}

#[test]
fn disturbances_come_as_often_as_asked() {
    let generated = transactions(&["--days", "20"]);
    let changes = disturbed(&generated);
    let first: Vec<&Change> = changes.iter().filter(|change| !change.repeated).collect();
    #[expect(clippy::cast_precision_loss, reason = "counts of tests are small")]
    let share = |count: usize, of: usize| count as f64 / of as f64;
    let near = |found: f64, asked: f64| assert!((found - asked).abs() < 0.02, "{found} instead of {asked}");
    let late =
        first.iter().filter(|c| matches!(c.what, What::Insert(row) if c.commit_micros > row.transaction.time_micros));
    near(share(late.count(), generated.len()), DISTURBED.late);
    near(share(changes.len() - first.len(), first.len()), DISTURBED.duplicated);
    near(share(first.iter().filter(|c| c.delivered_micros > c.commit_micros).count(), first.len()), DISTURBED.shuffled);
    let deleted = first.iter().filter(|c| matches!(c.what, What::Delete(_)));
    near(share(deleted.count(), generated.len()), DISTURBED.deleted);
    let corrected = first.iter().filter(|c| {
        matches!(c.what, What::Update { before, after } if before.transaction.amount_minor != after.transaction.amount_minor)
    });
    near(share(corrected.count(), generated.len()), DISTURBED.corrected);
}

#[test]
fn the_same_options_write_the_same_bytes() {
    let arguments = [
        "--days",
        "5",
        "--format",
        "debezium",
        "--disorder",
        "0.1",
        "--shuffle",
        "0.1",
        "--duplicates",
        "0.1",
        "--updates",
        "0.1",
        "--deletes",
        "0.1",
        "--tombstones",
    ];
    let (_one, first) = written("out.jsonl", &arguments);
    let (_two, second) = written("out.jsonl", &arguments);
    let bytes = fs::read(first).unwrap();
    assert_eq!(bytes, fs::read(second).unwrap());
    let text = String::from_utf8(bytes).unwrap();
    assert_eq!(text.lines().filter(|line| *line == "null").count(), text.matches(r#""op":"d""#).count());
}

#[test]
fn a_paced_run_writes_the_same_and_ends_with_the_last_transaction() {
    let debezium = ["--transactions", "2000", "--format", "debezium"];
    let (_one, all) = written("out.jsonl", &debezium);
    let (_two, paced) = written("out.jsonl", &[&debezium[..], &["--pace", "x1000000000"]].concat());
    let (all, paced) = (fs::read_to_string(all).unwrap(), fs::read_to_string(paced).unwrap());
    assert!(all.starts_with(&paced));
    assert_eq!(paced.matches(r#""op":"c""#).count(), 2000);
    assert!(paced.len() < all.len(), "labels after the end are left out");
}

#[test]
fn options_that_exclude_each_other_are_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let name = |file: &str| folder.path().join(file).to_str().unwrap().to_owned();
    let check = |arguments: &[&str], expected: Contradiction| {
        let error = options(arguments).run().unwrap_err();
        assert_eq!(error.downcast_ref::<Contradiction>(), Some(&expected));
    };
    check(&["-o", &name("x.dat")], Contradiction::UnknownFormat(name("x.dat").into()));
    check(&["-o", &name("x.csv"), "--deletes", "0.1"], Contradiction::DeletesWithoutOperations);
    check(&["-o", &name("x.csv"), "--label-as", "stream"], Contradiction::StreamWithoutFile);
    check(&["-o", &name("x.csv"), "--labels", &name("l.csv")], Contradiction::FileWithoutStream);
    check(&["-o", &name("x.csv"), "--truth", &name("x.csv")], Contradiction::SameFile(name("x.csv").into()));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    for wrong in [["--deletes", "1.5"], ["--radius", "-1"], ["--start", "never"], ["--customers", "0"], ["--pace", "0"]]
    {
        assert!(Line::try_parse_from(["simulate"].iter().chain(&wrong)).is_err(), "{wrong:?}");
    }
}
