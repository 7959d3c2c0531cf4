//! `interdict backfill` and `interdict score` over simulated histories and broken ones.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, UInt64Type};
use arrow_array::{
    Array as _, ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow_schema::DataType;
use arrow_select::concat::concat_batches;
use interdict_features::change::{Change, ChangeBatch, Op};
use interdict_features::config::ConfigFile;
use interdict_features::definition::Definitions;
use interdict_features::engine::{Engine, Evaluate, Output, Plan};
use interdict_features::value::Value;
use interdict_ingest::history::History;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::place::Place;
use crate::program::{handbook, interdict, root};
use crate::redis_server::RedisServer;

pub(crate) fn read(path: &Path) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    let schema = Arc::clone(reader.schema());
    let batches: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
    concat_batches(&schema, &batches).unwrap()
}

fn write(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    write_table(path, &RecordBatch::try_from_iter(columns).unwrap());
}

pub(crate) fn write_table(path: &Path, rows: &RecordBatch) {
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), rows.schema(), None).unwrap();
    writer.write(rows).unwrap();
    writer.close().unwrap();
}

/// Rows of the handbook's columns: (id, second, customer, amount).
fn payments(rows: &[(i64, i64, i64, f64)]) -> Vec<(&'static str, ArrayRef)> {
    let ints =
        |of: fn(&(i64, i64, i64, f64)) -> i64| Arc::new(Int64Array::from_iter_values(rows.iter().map(of))) as ArrayRef;
    let times = rows.iter().map(|row| 1_522_540_800_000_000 + row.1 * 1_000_000);
    vec![
        ("transaction_id", ints(|row| row.0)),
        ("tx_datetime", Arc::new(TimestampMicrosecondArray::from_iter_values(times)) as ArrayRef),
        ("customer_id", ints(|row| row.2)),
        ("terminal_id", ints(|row| row.2 + 100)),
        ("amount", Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.3))) as ArrayRef),
        ("is_fraud", Arc::new(arrow_array::BooleanArray::from(vec![None::<bool>; rows.len()])) as ArrayRef),
    ]
}

fn backfill(folder: &Path, more: &[&str]) -> crate::program::Ran {
    let config = handbook();
    let mut arguments =
        vec!["backfill", "--config", &config, "--input", "in.parquet", "--output", "out.parquet", "--json"];
    arguments.extend(more);
    interdict(folder, &arguments)
}

fn plan() -> Plan {
    let source = fs::read_to_string(root().join("examples/handbook/interdict.toml")).unwrap();
    let file = ConfigFile::parse("handbook", &source).unwrap();
    Plan::compile(Arc::new(Definitions::read(&file, None).unwrap()))
}

#[test]
fn columns_are_what_the_engine_evaluates_as_events_pass() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in.parquet");
    let simulate = [
        "simulate",
        "--seed",
        "3",
        "--transactions",
        "1000000",
        "--customers",
        "400",
        "--terminals",
        "60",
        "--output",
        "in.parquet",
    ];
    interdict(folder.path(), &simulate).ok();
    let report = backfill(folder.path(), &[]).ok().json();
    assert_eq!((report["rows"].as_u64(), report["events"].as_u64()), (Some(1_000_000), Some(1_000_000)));
    let table = read(&folder.path().join("out.parquet"));
    assert_eq!(table.columns()[..6], *read(&input).columns(), "columns of the input stay as they are");

    let plan = plan();
    let stream = &plan.definitions.streams[0];
    let mut engine = Engine::new(Arc::new(plan.clone()), 2);
    let mut output = Output::default();
    let history = History::open(&input, stream).unwrap();
    let columns: Vec<&ArrayRef> =
        plan.definitions.features.iter().map(|named| table.column_by_name(&named.column_name()).unwrap()).collect();
    let mut at = 0;
    for group in 0..history.row_groups() {
        let (rows, _) = history.read_group(group).unwrap();
        let mut batch = ChangeBatch::new(Arc::clone(stream), 0);
        for (change, row) in rows.iter() {
            batch.push_row(row, Change { op: Op::Insert, ..*change });
        }
        engine.process(&batch, Evaluate::Everything, &mut output).unwrap();
        for row in 0..batch.len() {
            let readings = output.readings(output.vectors[row].unwrap());
            for ((column, reading), named) in columns.iter().zip(readings).zip(&plan.definitions.features) {
                assert_eq!(value(column, at), bits(&reading.value), "{} of row {at}", named.name);
            }
            at += 1;
        }
    }
    assert_eq!(at, table.num_rows());
}

fn value(column: &ArrayRef, at: usize) -> Option<u64> {
    column.is_valid(at).then(|| match column.data_type() {
        DataType::Int64 => column.as_primitive::<Int64Type>().value(at).cast_unsigned(),
        DataType::Float64 => column.as_primitive::<Float64Type>().value(at).to_bits(),
        DataType::Boolean => u64::from(column.as_boolean().value(at)),
        other => panic!("no feature is {other}"),
    })
}

fn bits(value: &Value) -> Option<u64> {
    match value {
        Value::Null => None,
        Value::Int(value) => Some(value.cast_unsigned()),
        Value::Double(value) => Some(value.to_bits()),
        Value::Bool(value) => Some(u64::from(*value)),
        Value::Text(_) => panic!("no feature of the handbook is a text"),
    }
}

#[test]
fn rows_in_any_order_and_twice_come_out_in_their_place_once() {
    let folder = tempfile::tempdir().unwrap();
    let rows = [(3, 30, 1, 3.0), (1, 10, 1, 1.0), (2, 20, 1, 2.0), (1, 10, 1, 1.0), (4, 30, 1, 5.0)];
    write(&folder.path().join("in.parquet"), payments(&rows));
    let report = backfill(folder.path(), &[]).ok().json();
    assert_eq!((report["events"].as_u64(), report["superseded"].as_u64()), (Some(4), Some(1)));
    let table = read(&folder.path().join("out.parquet"));
    let ints = |name: &str| table.column_by_name(name).unwrap().as_primitive::<Int64Type>().values().to_vec();
    // The later version of payment 1 stands for both.
    assert_eq!(ints("transaction_id"), [3, 2, 1, 4]);
    assert_eq!(ints("customer_spend__tx_count_1d"), [3, 2, 1, 4]);
    assert_eq!(table.column_by_name("_position").unwrap().as_primitive::<UInt64Type>().values().to_vec(), [1, 3, 2, 5]);
}

#[test]
fn rows_that_cannot_be_read_are_dead_letters_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let rows = [(1, 10, 1, 1.0), (2, 20, 1, f64::NAN), (3, 30, 1, f64::INFINITY), (4, 40, 1, 1.005), (5, 50, 1, 2.0)];
    write(&folder.path().join("in.parquet"), payments(&rows));
    let report = backfill(folder.path(), &[]).ok().json();
    assert_eq!(
        (report["rows"].as_u64(), report["events"].as_u64(), report["dead_letters"].as_u64()),
        (Some(5), Some(2), Some(3))
    );
    let letters = fs::read_to_string(folder.path().join("out.parquet.dead-letters.jsonl")).unwrap();
    let reasons: Vec<String> = letters
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["reason"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(reasons, ["not_finite", "not_finite", "inexact"]);
    let table = read(&folder.path().join("out.parquet"));
    assert_eq!(table.column(0).as_primitive::<Int64Type>().values().to_vec(), [1, 5]);
}

#[test]
fn an_output_that_exists_is_kept_unless_forced() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("in.parquet"), payments(&[(1, 10, 1, 1.0)]));
    fs::write(folder.path().join("out.parquet"), "mine").unwrap();
    let ran = backfill(folder.path(), &[]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("--force"), "{}", ran.stderr);
    assert_eq!(fs::read(folder.path().join("out.parquet")).unwrap(), b"mine");
    backfill(folder.path(), &["--force"]).ok();
    assert_eq!(read(&folder.path().join("out.parquet")).num_rows(), 1);
    assert!(!folder.path().join("out.parquet.tmp").exists());
}

#[test]
fn what_is_no_regular_file_is_not_replaced_by_a_table() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("in.parquet"), payments(&[(1, 10, 1, 1.0)]));
    let path = |name: &str| folder.path().join(name);
    std::os::unix::fs::symlink("/dev/null", path("null")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(path("pipe")).status().unwrap().success());
    fs::create_dir(path("folder")).unwrap();
    let config = handbook();
    for (name, told) in [("null", "no regular file"), ("pipe", "no regular file"), ("folder", "is a folder")] {
        let before = fs::symlink_metadata(path(name)).unwrap().file_type();
        for command in ["backfill", "score"] {
            for force in [&[][..], &["--force"]] {
                let named = ["--config", &config, "--input", "in.parquet", "--output", name];
                let ran = interdict(folder.path(), &[&[command][..], &named, force].concat());
                assert_eq!(ran.code, 1, "{command} {name} {force:?}");
                assert!(ran.stderr.contains(told) && !ran.stderr.contains("--force"), "{}", ran.stderr);
            }
        }
        assert_eq!(fs::symlink_metadata(path(name)).unwrap().file_type(), before, "{name}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4, "nothing was left beside them");
}

#[test]
fn a_simulation_goes_into_what_is_no_regular_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::os::unix::fs::symlink("/dev/null", path("null")).unwrap();
    interdict(folder.path(), &["simulate", "--transactions", "100", "--output", "null", "--format", "csv"]).ok();
    assert!(fs::symlink_metadata(path("null")).unwrap().is_symlink());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing was left beside it");
    fs::create_dir(path("folder")).unwrap();
    let ran = interdict(folder.path(), &["simulate", "--transactions", "100", "--output", "folder", "--format", "csv"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("cannot create folder"), "{}", ran.stderr);
}

#[test]
fn broken_inputs_say_what_is_wrong_and_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in.parquet");
    let failed = |expected: &str| {
        let ran = backfill(folder.path(), &[]);
        assert_eq!(ran.code, 1);
        assert!(ran.stderr.contains(expected), "'{expected}' is not in: {}", ran.stderr);
        assert!(!folder.path().join("out.parquet").exists() && !folder.path().join("out.parquet.tmp").exists());
    };
    failed("in.parquet");
    write(&input, payments(&[(1, 10, 1, 1.0)]).into_iter().filter(|(name, _)| *name != "amount").collect());
    failed("no column 'amount'");
    let mut columns = payments(&[(1, 10, 1, 1.0)]);
    columns[2].1 = Arc::new(StringArray::from(vec!["one"]));
    write(&input, columns);
    failed("column 'customer_id'");
    write(&input, payments(&[(1, 10, 1, 1.0)]));
    let whole = fs::read(&input).unwrap();
    fs::write(&input, &whole[..whole.len() - 20]).unwrap();
    failed("no complete Parquet file");
}

#[test]
fn labels_of_several_streams_count_together() {
    let folder = tempfile::tempdir().unwrap();
    let stream = |name: &str| {
        format!(
            "[stream.{name}]\nlabels = \"transactions\"\nid = \"transaction_id\"\nvalue = \"is_fraud\"\ntime = \"reported_at\"\ncolumns = {{ transaction_id = \"int64\", is_fraud = \"bool\", reported_at = \"timestamp\" }}\n"
        )
    };
    let config = format!("{}{}{}", crate::place::DEFINITIONS, stream("chargebacks"), stream("reviews"));
    fs::write(folder.path().join("interdict.toml"), config).unwrap();
    // Two payments at one terminal, and one three hours later that sees them and their labels.
    write(&folder.path().join("in.parquet"), payments(&[(1, 0, 1, 1.0), (2, 60, 1, 1.0), (3, 10_800, 1, 1.0)]));
    for (name, id) in [("chargebacks", 1), ("reviews", 2)] {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("transaction_id", Arc::new(Int64Array::from(vec![id]))),
            ("is_fraud", Arc::new(arrow_array::BooleanArray::from(vec![true]))),
            ("reported_at", Arc::new(TimestampMicrosecondArray::from(vec![1_522_540_800_000_000 + 600_000_000]))),
        ];
        write(&folder.path().join(format!("{name}.parquet")), columns);
    }
    let run = |command: &str, labels: &[&str]| {
        let mut arguments = vec![command, "--input", "in.parquet", "--output", "out.parquet", "--force", "--json"];
        arguments.extend(labels.iter().flat_map(|path| ["--labels", path]));
        interdict(folder.path(), &arguments)
    };
    let (chargebacks, reviews) = ("chargebacks=chargebacks.parquet", "reviews=reviews.parquet");
    for command in ["backfill", "score"] {
        for (labels, ratio) in [
            (&[][..], 0.0),
            (&[chargebacks], 0.5),
            (&[reviews], 0.5),
            (&[chargebacks, reviews], 1.0),
            (&[reviews, chargebacks], 1.0),
        ] {
            let report = run(command, labels).ok().json();
            assert_eq!(report["labelled"].as_u64(), Some(labels.len() as u64), "{labels:?}");
            let table = read(&folder.path().join("out.parquet"));
            let ratios = table.column_by_name("terminal_risk__fraud_ratio_1d").unwrap();
            assert_eq!(ratios.as_primitive::<Float64Type>().value(2).to_bits(), f64::to_bits(ratio), "{labels:?}");
        }
        for (labels, told) in [
            (
                &["chargebacks.parquet"][..],
                "write --labels STREAM=chargebacks.parquet, once for each of chargebacks, reviews",
            ),
            (&[chargebacks, chargebacks], "names those of 'chargebacks' twice"),
        ] {
            let ran = run(command, labels);
            assert!(ran.code == 1 && ran.stderr.contains(told), "{}", ran.stderr);
        }
    }
}

#[test]
fn filling_a_store_twice_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let config = fs::read_to_string(root().join("examples/handbook/interdict.toml")).unwrap();
    fs::write(folder.path().join("interdict.toml"), config.replace("bundle = \"bundle\"\n", "")).unwrap();
    let rows: Vec<_> = (0..500).map(|id| (id, id * 10, id % 7, 1.5)).collect();
    write(&folder.path().join("in.parquet"), payments(&rows));
    let fill = |more: &[&str]| {
        let mut arguments =
            vec!["backfill", "--input", "in.parquet", "--output", "out.parquet", "--force", "--fill-store"];
        arguments.extend(more);
        interdict(folder.path(), &arguments)
    };
    fill(&[]).ok();
    assert!(folder.path().join("data").exists());
    let ran = fill(&[]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("--fill-live"), "{}", ran.stderr);
    fill(&["--fill-live"]).ok();
}

#[test]
fn a_store_is_filled_while_nobody_works_on_it() {
    let redis = RedisServer::start();
    let config = fs::read_to_string(root().join("examples/handbook/interdict.toml")).unwrap();
    let store = format!("[store]\ntype = \"redis\"\nurl = \"{}\"\nlease = \"1s\"", redis.url());
    let place = Place::new(&config.replace("bundle = \"bundle\"\n", "").replace("[store]\npath = \"data\"", &store));
    let rows: Vec<_> = (0..500).map(|id| (id, id * 10, id % 7, 1.5)).collect();
    write(&place.path("in.parquet"), payments(&rows));
    let arguments = ["backfill", "--input", "in.parquet", "--output", "out.parquet", "--force", "--fill-store"];
    let fill = || interdict(&place.path("."), &[&arguments[..], &["--fill-live"]].concat());
    for (role, told) in [("--role scorer", "processes with --role"), ("", "a process without --role")] {
        // Filling it lets others begin at once.
        fill().ok();
        let mut process = place.start(&format!("run {role} --bind 127.0.0.1:0"));
        process.wait_for("serving");
        let ran = fill();
        assert_eq!(ran.code, 1);
        assert!(ran.stderr.contains(&format!("{told} works on this namespace")), "{}", ran.stderr);
        process.stop();
        // The lease of whoever worked has to end.
        while fill().code != 0 {}
    }
}

#[test]
fn every_event_is_scored_and_decided() {
    let folder = tempfile::tempdir().unwrap();
    interdict(
        folder.path(),
        &["simulate", "--seed", "4", "--transactions", "20000", "--customers", "100", "--output", "in.parquet"],
    )
    .ok();
    let config = handbook();
    interdict(folder.path(), &["score", "--config", &config, "--input", "in.parquet", "--output", "scores.parquet"])
        .ok();
    let table = read(&folder.path().join("scores.parquet"));
    assert_eq!(table.num_rows(), 20_000);
    let column = |name: &str| Arc::clone(table.column_by_name(name).unwrap());
    let scores = column("score");
    assert_eq!(scores.null_count(), 0);
    assert!(scores.as_primitive::<Float64Type>().values().iter().all(|score| (0.0..=1.0).contains(score)));
    let (outcomes, by) = (column("outcome"), column("decided_by"));
    let (outcomes, by) = (outcomes.as_string::<i32>(), by.as_string::<i32>());
    let count = |outcome: &str| outcomes.iter().filter(|found| *found == Some(outcome)).count();
    assert_eq!(count("approve") + count("review") + count("block"), 20_000);
    assert!(count("block") > 0 && count("approve") > 15_000);
    let rules = column("rules");
    let has_rule = |at: usize| rules.is_valid(at);
    assert!((0..20_000).filter(|&at| by.value(at) == "rules").all(has_rule));
}
