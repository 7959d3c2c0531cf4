//! What is written is read back by the decoder of Debezium's events, cell by cell; and where each change goes.

use std::sync::Arc;
use std::time::Duration;

use interdict_features::change::{Change, ChangeBatch, Op, Version};
use interdict_features::definition::{Column, Stream};
use interdict_features::time::Timestamp;
use interdict_features::value::{ColumnType, UNCHANGED, double_cell};
use proptest::prelude::*;
use uuid::Uuid;

use super::{Envelopes, key_of};
use crate::dead_letter::DeadReason;
use crate::source::config::password::PasswordSource;
use crate::source::config::postgres::{
    Address, ColumnsBefore, Creation, HeartbeatMessage, OnLostSlot, PostgresConfig, TableOfStream, TlsConfig, TlsMode,
};
use crate::source::config::topic::{Bursts, SESSION, TopicConfig};
use crate::source::config::{DecimalText, Format, Reading};
use crate::source::{Delivery, LeftKey};
use crate::topic::broker::{Broker, KafkaBroker, Tls};
use crate::topic::records::{TopicDecoder, TopicRecord};

const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

/// A stream with a column of every type; the key is `customer`.
fn rich() -> Arc<Stream> {
    let declared = [
        ("id", "int64"),
        ("at", "timestamp"),
        ("customer", "string"),
        ("amount", "decimal(2)"),
        ("rate", "decimal(12)"),
        ("points", "decimal(0)"),
        ("is_fraud", "bool"),
        ("score", "double"),
        ("device", "uuid"),
        ("card", "string"),
        ("say \"what\"", "string"),
    ];
    let column = |(name, kind): (&str, &str)| Column {
        name: name.to_owned(),
        kind: ColumnType::parse(kind).unwrap(),
        sensitive: name == "card",
    };
    let mut stream = Stream::of_columns("payments", declared.map(column).to_vec(), 0, Some(1));
    stream.partition_by = Some(2);
    Arc::new(stream)
}

/// A stream without a key of its own.
fn labels() -> Arc<Stream> {
    let column = |(name, kind): (&str, &str)| Column {
        name: name.to_owned(),
        kind: ColumnType::parse(kind).unwrap(),
        sensitive: false,
    };
    let declared = [("id", "int64"), ("is_fraud", "bool")];
    let mut stream = Stream::of_columns("labels", declared.map(column).to_vec(), 0, None);
    stream.index = 1;
    Arc::new(stream)
}

fn tables() -> Vec<TableOfStream> {
    let table = |(stream, schema, table): (&str, &str, &str)| TableOfStream {
        stream: stream.to_owned(),
        schema: schema.to_owned(),
        table: table.to_owned(),
        before: ColumnsBefore::default(),
    };
    [("payments", "shop", "tx"), ("labels", "public", "chargebacks")].map(table).to_vec()
}

fn envelopes() -> Envelopes {
    let address = Address { host: "h".to_owned(), port: 1, user: "u".to_owned(), database: "bank".to_owned() };
    let config = PostgresConfig {
        address,
        password: PasswordSource::None,
        tls: TlsConfig { mode: TlsMode::Disable, ca: None },
        tables: tables(),
        publication: "p".to_owned(),
        slot: "s".to_owned(),
        creation: Creation::Forbidden,
        on_lost_slot: OnLostSlot::Stop,
        slot_wait: None,
        heartbeat: Duration::from_secs(1),
        heartbeat_message: HeartbeatMessage::Silent,
        republish: None,
    };
    Envelopes::new("bank", &config)
}

/// A reader that was told everything wrong that a source can be told of values.
fn reader() -> TopicDecoder {
    let broker = Broker::Kafka(KafkaBroker { brokers: "b:1".to_owned(), tls: Tls::default(), login: None });
    let config = TopicConfig {
        broker,
        topic: "t".to_owned(),
        group: None,
        format: Format::Debezium,
        stream: None,
        tables: tables(),
        reading: Reading { decimals: DecimalText::Precise, ..Reading::default() },
        bursts: Bursts::Seen,
        session: SESSION,
    };
    TopicDecoder::new("bank", &config, &[rich(), labels()]).unwrap()
}

fn delivery(batches: Vec<ChangeBatch>, left: Vec<LeftKey>) -> Delivery {
    let records = batches.iter().map(|batch| batch.len() as u64).sum();
    Delivery { batches, dead: Vec::new(), skipped: 0, records, partition: 0, position: 1, left }
}

/// Everything that a change is, but its place: stream, operation, version, arrival and cells.
type Told = (String, Op, Version, Option<Timestamp>, Vec<String>);

fn told(batches: &[ChangeBatch]) -> Vec<Told> {
    let rows = batches.iter().flat_map(|batch| {
        batch.iter().map(|(change, row)| {
            let cell = |(column, &cell): (usize, &i64)| {
                let text = row.text(column).filter(|_| row.stream.columns[column].kind.is_text());
                text.map_or_else(|| cell.to_string(), |text| format!("'{text}'"))
            };
            let cells = row.cells.iter().enumerate().map(cell).collect();
            (batch.stream().name.clone(), change.op, change.version, change.arrival, cells)
        })
    });
    rows.collect()
}

/// What a reader takes of a delivery's records, the broker's own time beside each.
fn read_back(delivery: &Delivery) -> Delivery {
    let (mut envelopes, mut reader) = (envelopes(), reader());
    for (offset, record) in (0_u64..).zip(envelopes.records(delivery, 1, NOW)) {
        let (key, value) = (Some(record.key.as_bytes()), Some(record.value));
        reader.push(0, &TopicRecord { offset, timestamp: Some(NOW), key, value });
    }
    reader.take()
}

#[derive(Clone, Debug)]
struct Drawn {
    op: Op,
    version: Version,
    arrival: Option<i64>,
    id: i64,
    at: i64,
    texts: [Option<String>; 3],
    decimals: [Option<i64>; 3],
    is_fraud: Option<bool>,
    score: Option<f64>,
    device: Option<u128>,
    unchanged: u16,
}

fn cell() -> impl Strategy<Value = i64> {
    let edges = [i64::MIN + 2, i64::MIN + 3, -1, 0, 1, 99, 100, -100, i64::MAX - 1, i64::MAX];
    prop_oneof![any::<i64>(), prop::sample::select(edges.to_vec())].prop_map(|cell| cell.max(UNCHANGED + 1))
}

fn text() -> impl Strategy<Value = String> {
    let odd = [
        "",
        " ",
        "null",
        "\"",
        "\\",
        "{",
        "{\"schema\":1}",
        "__debezium_unavailable_value",
        "\"__debezium_unavailable_value\"",
        "\u{0}\u{1f}\u{7f}\u{2028}",
        "\u{1f600}\u{301}",
        "0.10",
        "true",
    ];
    prop_oneof!["\\PC{0,40}", any::<String>(), prop::sample::select(odd.map(str::to_owned).to_vec())]
        .prop_filter("a cell takes 1024 bytes", |text| text.len() <= 1024)
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let ops = prop::sample::select(vec![Op::Insert, Op::Update, Op::Snapshot]);
    let version = (1..u64::MAX, any::<u32>()).prop_map(|(major, minor)| Version { major, minor });
    let instant = Timestamp::MIN.micros()..=Timestamp::MAX.micros();
    let score = any::<f64>().prop_filter("a cell", |score| double_cell(*score).is_ok());
    let arrival = prop::option::of(1..=Timestamp::MAX.micros());
    let texts = [prop::option::of(text()), prop::option::of(text()), prop::option::of(text())];
    let decimals = [prop::option::of(cell()), prop::option::of(cell()), prop::option::of(cell())];
    let rest = (texts, decimals, any::<Option<bool>>(), prop::option::of(score), any::<Option<u128>>(), any::<u16>());
    (ops, version, arrival, cell(), instant, rest).prop_map(|(op, version, arrival, id, at, rest)| {
        let (texts, decimals, is_fraud, score, device, unchanged) = rest;
        Drawn { op, version, arrival, id, at, texts, decimals, is_fraud, score, device, unchanged }
    })
}

fn push(batch: &mut ChangeBatch, drawn: &Drawn) {
    let mut row = batch.begin();
    row.set_cell(0, drawn.id);
    row.set_cell(1, drawn.at);
    for (column, text) in [2, 9, 10].into_iter().zip(&drawn.texts) {
        if let Some(text) = text {
            row.set_text(column, text).unwrap();
        }
    }
    for (column, cell) in (3..6).zip(drawn.decimals) {
        cell.into_iter().for_each(|cell| row.set_cell(column, cell));
    }
    drawn.is_fraud.into_iter().for_each(|is| row.set_cell(6, i64::from(is)));
    drawn.score.into_iter().for_each(|score| row.set_cell(7, double_cell(score).unwrap()));
    if let Some(device) = drawn.device {
        row.set_text(8, &Uuid::from_u128(device).to_string()).unwrap();
    }
    if drawn.op == Op::Update {
        let unchanged = (1..11).filter(|column| drawn.unchanged & (1 << column) != 0);
        unchanged.for_each(|column| row.set_unchanged(column));
    }
    let arrival = drawn.arrival.map(Timestamp::from_micros);
    row.finish(Change { op: drawn.op, version: drawn.version, arrival, position: 5 });
}

proptest! {
    #[test]
    fn what_is_written_is_read_back_bit_for_bit(rows in prop::collection::vec(drawn(), 1..20)) {
        let mut batch = ChangeBatch::new(rich(), 0);
        rows.iter().for_each(|row| push(&mut batch, row));
        let written = delivery(vec![batch], Vec::new());
        let read = read_back(&written);
        prop_assert_eq!(&read.dead, &[]);
        prop_assert_eq!(told(&read.batches), told(&written.batches));
    }
}

fn row(op: Op, id: i64, customer: Option<&str>) -> ChangeBatch {
    let mut batch = ChangeBatch::new(rich(), 0);
    add(&mut batch, op, id, customer);
    batch
}

fn add(batch: &mut ChangeBatch, op: Op, id: i64, customer: Option<&str>) {
    let mut row = batch.begin();
    if op != Op::Truncate {
        row.set_cell(0, id);
    }
    if !matches!(op, Op::Truncate | Op::Delete) {
        row.set_cell(1, 7);
    }
    match customer {
        Some("~") => row.set_unchanged(2),
        Some(customer) => row.set_text(2, customer).unwrap(),
        None => {}
    }
    row.finish(Change { op, version: Version { major: 90, minor: 3 }, arrival: Some(NOW), position: 90 });
}

#[test]
fn an_envelope_is_that_of_debezium() {
    let mut envelopes = envelopes();
    let mut batch = row(Op::Insert, 1, Some("c"));
    add(&mut batch, Op::Delete, 2, None);
    let delivery = delivery(vec![batch], vec![LeftKey { change: (0, 1), key: "c".to_owned() }]);
    let values: Vec<String> =
        envelopes.records(&delivery, 1, NOW).iter().map(|it| String::from_utf8_lossy(it.value).into_owned()).collect();
    let secret = super::secret_of(&rich()).unwrap();
    let source = format!(
        r#""source":{{"version":"{}","connector":"interdict","name":"bank","db":"bank","schema":"shop","table":"tx","secret":"{secret}","snapshot":"false","lsn":90,"ts_ms":1700000000000,"ts_us":1700000000000000}},"transaction":{{"id":"90","total_order":3,"data_collection_order":3}}"#,
        env!("CARGO_PKG_VERSION")
    );
    let after = r#"{"id":1,"at":"1970-01-01T00:00:00.000007Z","customer":"c","amount":null,"rate":null,"points":null,"is_fraud":null,"score":null,"device":null,"card":null,"say \"what\"":null}"#;
    assert_eq!(values[0], format!(r#"{{"before":null,"after":{after},{source},"op":"c","ts_ms":1700000000000}}"#));
    assert_eq!(values[1], format!(r#"{{"before":{{"id":2}},"after":null,{source},"op":"d","ts_ms":1700000000000}}"#));
}

#[test]
fn deletes_and_truncations_are_read_back() {
    let mut batch = row(Op::Delete, 9, None);
    add(&mut batch, Op::Truncate, 0, None);
    let read = read_back(&delivery(vec![batch.clone()], vec![LeftKey { change: (0, 0), key: "{".to_owned() }]));
    assert_eq!((read.dead.len(), told(&read.batches)), (0, told(&[batch])));
}

#[test]
fn tables_of_one_topic_are_told_apart_and_stay_in_order() {
    let mut label = ChangeBatch::new(labels(), 0);
    let mut writer = label.begin();
    writer.set_cell(0, 4);
    writer.finish(Change { op: Op::Insert, version: Version::new(9), arrival: None, position: 9 });
    let batches = vec![row(Op::Insert, 1, Some("a")), label, row(Op::Snapshot, 2, None)];
    assert_eq!(told(&read_back(&delivery(batches.clone(), Vec::new())).batches), told(&batches));
}

/// Keys and partitions to which changes go, of three.
fn check(batch: ChangeBatch, left: &[&str], expected: &[(&str, Option<u32>)]) {
    let left = left.iter().map(|key| LeftKey { change: (0, 0), key: (*key).to_owned() }).collect();
    let (mut envelopes, delivery) = (envelopes(), delivery(vec![batch], left));
    let records = envelopes.records(&delivery, 3, NOW);
    let found: Vec<(&str, Option<u32>)> = records.iter().map(|record| (&*record.key, record.partition)).collect();
    assert_eq!(found, expected);
    assert!(records.windows(2).all(|pair| pair[0].value == pair[1].value));
}

#[test]
fn a_change_goes_where_its_row_is_and_was() {
    let everywhere = [("", Some(0)), ("", Some(1)), ("", Some(2))];
    check(row(Op::Insert, 1, Some("a")), &[], &[("a", None)]);
    check(row(Op::Insert, 1, None), &[], &[("1", None)]);
    check(row(Op::Update, 1, Some("b")), &[], &[("b", None)]);
    check(row(Op::Update, 1, Some("b")), &["a"], &[("a", None), ("b", None)]);
    check(row(Op::Update, 1, Some("~")), &[], &everywhere);
    check(row(Op::Delete, 1, None), &["a"], &[("a", None)]);
    check(row(Op::Delete, 1, None), &[], &everywhere);
    check(row(Op::Truncate, 1, None), &[], &everywhere);
    let mut label = ChangeBatch::new(labels(), 0);
    let mut writer = label.begin();
    writer.set_cell(0, 4);
    writer.finish(Change { op: Op::Delete, version: Version::new(9), arrival: None, position: 9 });
    check(label, &[], &[("4", None)]);
}

#[test]
fn a_sensitive_text_leaves_as_its_hash_and_is_not_hashed_again() {
    let mut batch = ChangeBatch::new(rich(), 0);
    let mut row = batch.begin();
    row.set_cell(0, 1);
    row.set_cell(1, 7);
    row.set_text(9, "4111").unwrap();
    row.finish(Change { op: Op::Insert, version: Version::new(9), arrival: None, position: 9 });
    let written = delivery(vec![batch], Vec::new());
    let mut envelopes = envelopes();
    let records = envelopes.records(&written, 1, NOW);
    let value = String::from_utf8_lossy(records[0].value).into_owned();
    let hash = rich().mask("4111");
    assert!(!value.contains("4111") && value.contains(&hash), "{value}");
    assert_eq!(read_back(&written).batches[0].row(0).text(9), Some(&*hash));

    // Another secret's hash is another customer.
    let other = value.replace(&super::secret_of(&rich()).unwrap(), "another");
    let mut reader = reader();
    for (offset, value) in (0..).zip([&*other, &*value.replace("\"secret\"", "\"other\"")]) {
        reader.push(0, &TopicRecord { offset, timestamp: None, key: None, value: Some(value.as_bytes()) });
    }
    let reasons: Vec<DeadReason> = reader.take().dead.iter().map(|letter| letter.reason).collect();
    assert_eq!(reasons, [DeadReason::WrongSecret; 2]);
}

#[test]
fn a_key_is_the_text_of_its_column() {
    assert_eq!(key_of(row(Op::Insert, 1, Some("a|b")).row(0)), "a|b");
    assert_eq!(key_of(row(Op::Insert, 1, None).row(0)), "1");
    assert_eq!(key_of(row(Op::Insert, 1, Some("~")).row(0)), "1");
}
