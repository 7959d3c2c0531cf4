//! The features of the Fraud Detection Handbook in a Redis, through Debezium topics and through a PostgreSQL, with chargebacks that carry
//! only the transaction id: read as of each event they are those of backfill.

use std::collections::HashMap;
use std::fs;

use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array as _, ArrayRef, BooleanArray, RecordBatch};
use arrow_schema::DataType;
use interdict_features::change::Op;
use interdict_features::decision::decision_id;
use interdict_features::time::Timestamp;
use interdict_features::value::Value;
use serde_json::{Value as Json, json};

use crate::bank::{Bank, statement};
use crate::kafka::Kafka;
use crate::parity::history::{Payment, What};
use crate::place::{Caller, Place, debezium};
use crate::program::{handbook, interdict};
use crate::redis_server::RedisServer;

const PARTITIONS: i64 = 4;
/// Behind everything else, of nobody else.
const LAST: i64 = 1_000_000;
/// A chargeback comes so long after its payment, and the terminal's windows end seven days before the next one.
const REPORTED: i64 = 5 * 86_400_000_000;

/// Simulated payments of which every eleventh is a fraud, and what backfill makes of them.
struct Payments {
    ids: Vec<i64>,
    times: Vec<i64>,
    customers: Vec<i64>,
    terminals: Vec<i64>,
    cents: Vec<i128>,
    features: RecordBatch,
}

fn is_fraud(id: i64) -> bool {
    id % 11 == 0
}

impl Payments {
    fn simulate(place: &Place) -> Self {
        let folder = place.path(".");
        let options = "simulate --seed 6 --handbook --transactions 5000 --customers 100 --terminals 400 --output simulated.parquet";
        interdict(&folder, &options.split(' ').collect::<Vec<_>>()).ok();
        let table = crate::backfill::read(&folder.join("simulated.parquet"));
        let ints = |name: &str| table.column_by_name(name).unwrap().as_primitive::<Int64Type>().values().to_vec();
        let ids = ints("transaction_id");
        let labels: BooleanArray = ids.iter().map(|id| Some(is_fraud(*id))).collect();
        let schema = table.schema();
        let columns = schema.fields().iter().zip(table.columns()).map(|(field, column)| {
            let column =
                if field.name() == "is_fraud" { Arc::new(labels.clone()) as ArrayRef } else { Arc::clone(column) };
            (field.name().clone(), column)
        });
        crate::backfill::write_table(&folder.join("in.parquet"), &RecordBatch::try_from_iter(columns).unwrap());
        let config = handbook();
        let backfill = ["backfill", "--config", &config, "--input", "in.parquet", "--output", "out.parquet"];
        interdict(&folder, &backfill).ok();
        let times = table.column_by_name("tx_datetime").unwrap().as_primitive::<TimestampMicrosecondType>().values();
        let amounts = table.column_by_name("amount").unwrap().as_primitive::<Decimal128Type>().values();
        Self {
            times: times.to_vec(),
            customers: ints("customer_id"),
            terminals: ints("terminal_id"),
            cents: amounts.to_vec(),
            ids,
            features: crate::backfill::read(&folder.join("out.parquet")),
        }
    }

    /// Payments and chargebacks in the order in which they commit: when, of which payment, and the table.
    fn changes(&self) -> Vec<(i64, usize, &'static str)> {
        let mut changes: Vec<(i64, usize, &str)> = Vec::new();
        for (at, &time) in self.times.iter().enumerate() {
            changes.push((time, at, "transactions"));
            if is_fraud(self.ids[at]) {
                changes.push((time + REPORTED, at, "chargebacks"));
            }
        }
        changes.sort_unstable();
        changes
    }

    /// Statements that make changes.
    fn script(&self, changes: &[(i64, usize, &str)]) -> String {
        let mut script = String::new();
        for (time, at, table) in changes {
            let (id, cents) = (self.ids[*at], i64::try_from(self.cents[*at]).unwrap());
            let (time, customer, terminal) = (*time, self.customers[*at], self.terminals[*at]);
            let what = if *table == "chargebacks" {
                What::Report { id, value: Some(true), reported: time }
            } else {
                What::Row(Op::Insert, Payment { id, time, customer, terminal, cents, label: None })
            };
            statement(what, &mut script);
        }
        script
    }

    fn produce(&self, kafka: &Kafka) {
        for (lsn, (time, at, topic)) in (1..).zip(self.changes()) {
            let id = self.ids[at];
            let row = if topic == "chargebacks" {
                json!({ "transaction_id": id, "is_fraud": true, "reported_at": time, "tx_datetime": time })
            } else {
                let cents = self.cents[at];
                json!({
                    "transaction_id": id, "tx_datetime": time, "customer_id": self.customers[at],
                    "terminal_id": self.terminals[at], "amount": format!("{}.{:02}", cents / 100, cents % 100), "is_fraud": null,
                })
            };
            let mut line: Json = serde_json::from_str(&debezium("c", lsn, &row)).unwrap();
            line["source"]["table"] = json!(topic);
            if topic == "chargebacks" {
                // No more than the id, the label and when it came.
                line["after"].as_object_mut().unwrap().remove("tx_datetime");
            }
            let key = if topic == "chargebacks" { id } else { self.customers[at] };
            let partition = i32::try_from(key % PARTITIONS).unwrap();
            kafka.send(topic, partition, &format!("{{\"transaction_id\":{id}}}"), Some(&line.to_string()));
        }
        kafka.flush();
    }
}

fn config(sources: &str, redis: &RedisServer) -> String {
    let example = fs::read_to_string(handbook()).unwrap();
    let (definitions, _) = example.split_once("[source]").unwrap();
    format!(
        "{definitions}{}{sources}\n[store]\ntype = \"redis\"\nurl = \"{}\"\n[scorer]\ndefault = \"review\"\n[http]\nbind = \"127.0.0.1:0\"\n",
        crate::bank::CHARGEBACKS,
        redis.url()
    )
}

fn topics(kafka: &Kafka) -> String {
    let source = |name: &str| {
        format!(
            "[[source]]\nname = \"{name}\"\ntype = \"kafka\"\nbrokers = \"{}\"\ntopic = \"{name}\"\nformat = \"debezium\"\n\
             stream = \"{name}\"\ntime_unit = \"us\"\n",
            kafka.brokers()
        )
    };
    source("transactions") + &source("chargebacks")
}

fn bits(column: &ArrayRef, at: usize) -> Option<u64> {
    column.is_valid(at).then(|| match column.data_type() {
        DataType::Int64 => column.as_primitive::<Int64Type>().value(at).cast_unsigned(),
        DataType::Float64 => column.as_primitive::<Float64Type>().value(at).to_bits(),
        other => panic!("no windowed feature is {other}"),
    })
}

/// Reads the features of a key as of an instant and holds them against row `at` of backfill; how many there were.
fn compare(caller: &Caller, payments: &Payments, at: usize, entity: &str, key: i64) -> usize {
    let as_of = Timestamp::from_micros(payments.times[at]).to_string();
    let (status, answer) = caller.post(&format!("/v1/entities/{entity}"), &json!({ "key": key, "as_of": as_of }));
    assert_eq!(status, 200, "{answer}");
    let features = answer["features"].as_array().unwrap();
    for feature in features {
        let name = feature["name"].as_str().unwrap().replace('.', "__");
        let found = match serde_json::from_value(feature["value"].clone()).unwrap() {
            Value::Null => None,
            Value::Int(value) => Some(value.cast_unsigned()),
            Value::Double(value) => Some(value.to_bits()),
            other => panic!("{other:?}"),
        };
        let expected = bits(payments.features.column_by_name(&name).unwrap(), at);
        assert_eq!(found, expected, "{name} of payment {}: {feature}", payments.ids[at]);
    }
    features.len()
}

#[test]
fn topics_give_the_features_of_the_handbook_with_chargebacks_by_id() {
    let (kafka, redis) = (Kafka::start(), RedisServer::start());
    kafka.create("transactions", PARTITIONS);
    kafka.create("chargebacks", PARTITIONS);
    let place = Place::new(&config(&topics(&kafka), &redis));
    let payments = Payments::simulate(&place);
    payments.produce(&kafka);
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    let frauds = payments.ids.iter().filter(|id| is_fraud(**id)).count();
    caller.until(|caller| {
        let (_, metrics) = caller.get("/metrics");
        let says = |source: &str, count: usize| {
            let line = format!("interdict_ingest_topic_records_total{{source=\"{source}\"}} {count}");
            metrics.as_str().is_some_and(|metrics| metrics.lines().any(|found| found == line))
        };
        (says("transactions", payments.ids.len()) && says("chargebacks", frauds)).then_some(())
    });
    // What was delivered is applied and stored once the process has ended.
    process.terminate();
    let (status, log) = process.end();
    assert!(status.success() && place.letters().is_empty(), "{log}");
    compare_all(&place, &payments);
}

#[test]
fn a_database_gives_the_features_of_the_handbook_with_chargebacks_by_id() {
    let (bank, redis) = (Bank::open(), RedisServer::start());
    let place = Place::new(&config(&bank.source("handbook"), &redis));
    let payments = Payments::simulate(&place);
    let changes = payments.changes();
    let (before, after) = changes.split_at(changes.len() / 2);
    bank.ask(&payments.script(before));
    let mut process = place.start("run");
    process.wait_for("the snapshot is read");
    let caller = Caller::new(&process.address());
    bank.ask(&payments.script(after));
    bank.pay(LAST, LAST, "1.00");
    let last = decision_id("default", "transactions", &LAST.to_string(), 0);
    caller.until(|caller| (caller.get(&format!("/v1/decisions/{last}")).0 == 200).then_some(()));
    process.terminate();
    let (status, log) = process.end();
    assert!(status.success() && place.letters().is_empty(), "{log}");
    compare_all(&place, &payments);
}

/// Holds every feature that a new process reads as of every payment against those of backfill.
fn compare_all(place: &Place, payments: &Payments) {
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    let mut of_instant: HashMap<(i64, i64), usize> = HashMap::new();
    for (&customer, &time) in payments.customers.iter().zip(&payments.times) {
        *of_instant.entry((customer, time)).or_default() += 1;
    }
    let mut count = 0;
    for at in 0..payments.ids.len() {
        let (customer, terminal) = (payments.customers[at], payments.terminals[at]);
        // Of two payments of one customer at one instant backfill's first does not see the second.
        if of_instant[&(customer, payments.times[at])] == 1 {
            count += compare(&caller, payments, at, "customer", customer);
        }
        count += compare(&caller, payments, at, "terminal", terminal);
    }
    assert!(count > 59_000, "{count} values");
    let shares = payments.features.column_by_name("terminal_risk__fraud_ratio_7d").unwrap();
    let shares = shares.as_primitive::<Float64Type>();
    assert!(shares.iter().flatten().filter(|share| *share > 0.0).count() > 500, "labels count");
    process.stop();
}
