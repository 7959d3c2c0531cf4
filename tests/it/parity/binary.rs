//! The same disturbed history through the program: run, its log, audit, backfill and batch scoring.

use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{Float64Type, Int64Type};
use arrow_array::{
    Array as _, ArrayRef, BooleanArray, Decimal128Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray, UInt64Array,
};
use arrow_schema::DataType;
use interdict_features::change::Op;
use interdict_features::decision::DecisionRecord;
use interdict_features::time::Timestamp;
use interdict_features::vector::Flags;
use serde_json::{Value, json};

use super::history::{Delivery, Payment, What, deliveries};
use super::twin::{DEFINITIONS, Expected, Twin, names};
use super::value_bits;
use crate::place::{Place, debezium};

const SCORER: &str = r#"
[[source]]
name = "payments"
type = "file"
path = "payments.jsonl"
format = "debezium"
stream = "transactions"
time_unit = "us"

[[source]]
name = "chargebacks"
type = "file"
path = "chargebacks.jsonl"
format = "json"
stream = "chargebacks"

[scorer]
default = "review"

[[rule]]
id = "burst"
when = "customer_spend.count_1d >= 8"
outcome = "block"
reason = "eight payments within a day"
condemns = "customer"

[[rule]]
id = "risky"
when = "terminal_risk.fraud_7d > 0.2"
outcome = "review"
reason = "frauds at the terminal"

[store]
path = "data"

[monitor]
log_dir = "decisions"
"#;

/// The deliveries as files carry them: times of commits in milliseconds, reports in the order of their lines.
fn as_files(mut deliveries: Vec<Delivery>) -> Vec<Delivery> {
    for delivery in &mut deliveries {
        delivery.commit -= delivery.commit.rem_euclid(1_000);
        if delivery.is_report() {
            delivery.lsn = delivery.position;
        }
    }
    deliveries
}

fn time(micros: i64) -> String {
    Timestamp::from_micros(micros).to_string()
}

pub(super) fn line(delivery: &Delivery) -> String {
    match delivery.what {
        What::Report { id, value, reported } => {
            format!("{}\n", json!({ "transaction_id": id, "is_fraud": value, "reported_at": time(reported) }))
        }
        What::Row(op, payment) => {
            let row = json!({
                "transaction_id": payment.id, "tx_datetime": payment.time, "customer_id": payment.customer,
                "terminal_id": payment.terminal, "amount": format!("{}.{:02}", payment.cents / 100, payment.cents % 100),
                "is_fraud": payment.label,
            });
            let line = debezium(letter(op), delivery.lsn, &row);
            let mut line: Value = serde_json::from_str(&line).unwrap();
            line["ts_ms"] = json!(delivery.commit / 1_000);
            line["source"]["ts_ms"] = json!(delivery.commit / 1_000);
            format!("{line}\n")
        }
    }
}

const fn letter(op: Op) -> &'static str {
    match op {
        Op::Update => "u",
        Op::Delete => "d",
        _ => "c",
    }
}

/// Every logged decision is what the twin counts at the positions that it names.
fn compare_log(place: &Place, deliveries: &[Delivery]) -> usize {
    let (mut reports, mut rows): (Vec<&Delivery>, Vec<&Delivery>) = deliveries.iter().partition(|it| it.is_report());
    reports.reverse();
    rows.reverse();
    let (mut twin, mut expected, mut count) = (Twin::default(), Vec::new(), 0);
    // The log stands in the order in which decisions were stored, which within a batch need not be that of their positions.
    let log = interdict_monitor::log::read(&place.path("decisions")).unwrap();
    let mut records: Vec<DecisionRecord> = log.map(|entry| entry.unwrap().record).collect();
    records.sort_by_key(|record| record.position.position);
    for record in records {
        let seen = record.seen.iter().find(|seen| seen.partition == "chargebacks/0").map_or(0, |seen| seen.position);
        while let Some(report) = reports.pop_if(|report| report.position <= seen) {
            twin.apply(report);
        }
        while let Some(row) = rows.pop_if(|row| row.position <= record.position.position) {
            twin.apply(row);
        }
        let (payment, first) = twin.row(record.event_id.parse().unwrap()).expect("what is judged is there");
        let as_of = twin.vector(&payment, first, &mut expected);
        for (entity, as_of) in ["customer", "terminal"].into_iter().zip(as_of) {
            assert_eq!(record.as_of[entity].micros(), as_of);
        }
        let told = || format!("{record:?}\n{}", twin.told(payment.customer, payment.time - super::DAY));
        compare_record(&record, &expected, &told);
        count += 1;
    }
    // How many reports the other source still had to deliver when the last row was judged is its own affair.
    assert!(rows.len() < 500, "the log ends with the stream");
    count
}

pub(super) fn compare_record(record: &DecisionRecord, expected: &[Expected], told: &dyn Fn() -> String) {
    let names = names();
    assert_eq!(record.features.len(), names.len());
    for ((feature, expected), name) in record.features.iter().zip(expected).zip(names) {
        assert_eq!(*feature.name, *name);
        let flags = feature.reading.flags;
        let is_told = flags.has(Flags::TRUNCATED) || flags.has(Flags::TILED);
        let is_known = !expected.is_truncated && !expected.was_dropped && !is_told;
        if is_known {
            assert_eq!(value_bits(&feature.reading.value), expected.bits, "{name} of {}", told());
        }
    }
}

/// Every change of a row, newest last, with what it is.
fn history(changes: &[Delivery]) -> RecordBatch {
    let rows: Vec<(&Delivery, Op, Payment)> = changes
        .iter()
        .filter_map(|change| match change.what {
            What::Row(op, payment) => Some((change, op, payment)),
            What::Report { .. } => None,
        })
        .collect();
    let ints = |of: fn(&Payment) -> i64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|(.., payment)| of(payment))))
    };
    let times = rows.iter().map(|(.., payment)| payment.time);
    let amounts = Decimal128Array::from_iter_values(rows.iter().map(|(.., payment)| i128::from(payment.cents)));
    let amounts = amounts.with_precision_and_scale(12, 2).unwrap();
    let labels: BooleanArray = rows.iter().map(|(.., payment)| payment.label).collect();
    let ops = StringArray::from_iter_values(rows.iter().map(|(_, op, _)| letter(*op)));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("transaction_id", ints(|payment| payment.id)),
        ("tx_datetime", Arc::new(TimestampMicrosecondArray::from_iter_values(times))),
        ("customer_id", ints(|payment| payment.customer)),
        ("terminal_id", ints(|payment| payment.terminal)),
        ("amount", Arc::new(amounts)),
        ("is_fraud", Arc::new(labels)),
        ("_op", Arc::new(ops)),
        ("_position", Arc::new(UInt64Array::from_iter_values(rows.iter().map(|(change, ..)| change.lsn)))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn reports(deliveries: &[Delivery]) -> RecordBatch {
    let reports: Vec<(i64, Option<bool>, i64)> = deliveries
        .iter()
        .filter_map(|delivery| match delivery.what {
            What::Report { id, value, reported } => Some((id, value, reported)),
            What::Row(..) => None,
        })
        .collect();
    let ids = Int64Array::from_iter_values(reports.iter().map(|(id, ..)| *id));
    let labels: BooleanArray = reports.iter().map(|(_, label, _)| *label).collect();
    let times = TimestampMicrosecondArray::from_iter_values(reports.iter().map(|(.., reported)| *reported));
    let columns: Vec<(&str, ArrayRef)> =
        vec![("transaction_id", Arc::new(ids)), ("is_fraud", Arc::new(labels)), ("reported_at", Arc::new(times))];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn cell(column: &ArrayRef, at: usize) -> Option<u64> {
    column.is_valid(at).then(|| match column.data_type() {
        DataType::Int64 => column.as_primitive::<Int64Type>().value(at).cast_unsigned(),
        DataType::Float64 => column.as_primitive::<Float64Type>().value(at).to_bits(),
        DataType::Boolean => u64::from(column.as_boolean().value(at)),
        other => panic!("no feature is {other}"),
    })
}

/// Features of backfill, bit for bit those of the twin; a file knows no time of commit, so labels of the row itself are known at once.
fn compare_backfill(table: &RecordBatch, deliveries: &[Delivery]) {
    let mut twin = Twin::default();
    deliveries.iter().for_each(|delivery| twin.apply(&Delivery { commit: i64::MIN, ..*delivery }));
    assert_eq!(table.num_rows(), twin.rows().count());
    let ids = table.column_by_name("transaction_id").unwrap().as_primitive::<Int64Type>().values();
    let names = names();
    let columns: Vec<&ArrayRef> =
        names.iter().map(|name| table.column_by_name(&name.replace('.', "__")).unwrap()).collect();
    let mut expected = Vec::new();
    for (at, id) in ids.iter().enumerate() {
        let (payment, first) = twin.row(*id).unwrap();
        twin.at_its_time(&payment, first, &mut expected);
        for ((column, expected), name) in columns.iter().zip(&expected).zip(&names) {
            assert_eq!(cell(column, at), expected.bits, "{name} of {payment:?}");
        }
    }
}

#[test]
fn the_program_gives_the_same_bits_on_every_way() {
    let place = Place::new(&format!("{DEFINITIONS}{SCORER}"));
    let payments = super::payments(&place.path("."), "--transactions 50000 --customers 700 --terminals 3000");
    let deliveries = as_files(deliveries(&payments, 31));
    // In parts, each begun anew where the one before ended: labels come when many payments have passed.
    for part in deliveries.chunks(deliveries.len() / 4) {
        let (reports, rows): (Vec<&Delivery>, Vec<&Delivery>) = part.iter().partition(|it| it.is_report());
        place.append("payments.jsonl", rows.into_iter().map(line).collect::<String>());
        place.append("chargebacks.jsonl", reports.into_iter().map(line).collect::<String>());
        place.run("run --until-end");
    }
    assert!(place.letters().is_empty(), "{:?}", &place.letters()[..1]);
    let decisions = compare_log(&place, &deliveries);
    assert!(decisions > 49_000, "{decisions} decisions");
    let audited: Value = {
        let output = place.command("score --audit decisions --json").output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    };
    assert_eq!((&audited["equal"], &audited["different"]), (&json!(decisions), &json!(0)), "{audited:#}");

    let changes: Vec<Delivery> =
        super::once(&deliveries.iter().copied().filter(|it| !it.is_report()).collect::<Vec<_>>());
    crate::backfill::write_table(&place.path("history.parquet"), &history(&changes));
    crate::backfill::write_table(&place.path("labels.parquet"), &reports(&deliveries));
    for (command, output) in [("backfill", "features.parquet"), ("score", "scores.parquet")] {
        place.run(&format!(
            "{command} --input history.parquet --stream transactions --labels labels.parquet --output {output}"
        ));
    }
    let features = crate::backfill::read(&place.path("features.parquet"));
    compare_backfill(&features, &deliveries);
    let scores = crate::backfill::read(&place.path("scores.parquet"));
    for name in names() {
        let name = name.replace('.', "__");
        assert_eq!(scores.column_by_name(&name), features.column_by_name(&name), "{name}");
    }
}
