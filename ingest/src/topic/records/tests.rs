use interdict_features::change::{Op, Version};

use super::*;
use crate::fixture::{cards, chargebacks, shown, transactions};
use crate::source::config::Reading;
use crate::source::config::topic::{Bursts, SESSION};
use crate::topic::broker::{Broker, FluvioBroker, Tls};

fn config(format: Format, stream: Option<&str>) -> TopicConfig {
    TopicConfig {
        broker: Broker::Fluvio(FluvioBroker { endpoint: "localhost:9003".to_owned(), tls: Tls::default() }),
        topic: "payments".to_owned(),
        group: None,
        format,
        stream: stream.map(str::to_owned),
        tables: Vec::new(),
        reading: Reading::default(),
        bursts: Bursts::Seen,
        session: SESSION,
    }
}

fn decoder(format: Format, stream: Option<&str>) -> TopicDecoder {
    TopicDecoder::new("payments", &config(format, stream), &[transactions(), chargebacks(), cards()]).unwrap()
}

fn record(offset: u64, value: &str) -> TopicRecord<'_> {
    let timestamp = Some(Timestamp::from_micros(1_600_000_000_000_000));
    TopicRecord { offset, timestamp, key: None, value: Some(value.as_bytes()) }
}

const ROW: &str = r#"{"id":1,"at":"2018-04-01T00:00:31Z","customer":"c","amount":1.50,"is_fraud":null,"score":0.5}"#;

#[test]
fn a_plain_row_has_the_offset_as_version_and_the_brokers_time_as_arrival() {
    let mut decoder = decoder(Format::Json, Some("transactions"));
    decoder.push(3, &record(0, ROW));
    decoder.push(3, &record(7, ROW));
    let delivery = decoder.take();
    assert_eq!((delivery.partition, delivery.position, delivery.records), (3, 7, 2));
    let [batch] = delivery.batches.as_slice() else { panic!("one batch") };
    assert_eq!(batch.partition(), 3);
    let (first, row) = batch.get(0);
    assert_eq!(shown(&row), "1|1522540831000000|'c'|150|-|0.5");
    assert_eq!((first.position, first.version), (0, Version::new(1)), "above the version of requests");
    assert_eq!(first.arrival, Some(Timestamp::from_micros(1_600_000_000_000_000)));
    assert_eq!(batch.get(1).0.version, Version::new(8));
    assert!(decoder.is_empty());
}

#[test]
fn a_change_event_keeps_its_commit_time_and_lsn() {
    let mut decoder = decoder(Format::Debezium, None);
    let after = ROW;
    let event = format!(
        r#"{{"op":"c","after":{after},"source":{{"table":"transactions","lsn":900,"ts_ms":1522540832000}},"ts_ms":1522540839000}}"#
    );
    let bare = format!(r#"{{"schema":null,"payload":{event}}}"#);
    decoder.push(1, &record(4, &event));
    decoder.push(1, &record(5, &bare));
    let delivery = decoder.take();
    for at in 0..2 {
        let (change, _) = delivery.batches[0].get(at);
        assert_eq!((change.op, change.version), (Op::Insert, Version::new(900)));
        assert_eq!(change.arrival, Some(Timestamp::from_micros(1_522_540_832_000_000)));
    }
    assert!(delivery.dead.is_empty());
}

#[test]
fn a_delete_takes_its_id_from_the_key_and_its_tombstone_is_skipped() {
    let mut decoder = decoder(Format::Debezium, None);
    let delete = r#"{"op":"d","before":null,"after":null,"source":{"table":"transactions","lsn":901}}"#;
    let key = br#"{"schema":{"type":"struct"},"payload":{"id":1}}"#;
    decoder.push(0, &TopicRecord { key: Some(key), ..record(8, delete) });
    decoder.push(0, &TopicRecord { key: Some(key), value: None, ..record(9, "") });
    // A key in another encoding says nothing, and does no harm where the value says everything.
    let update = format!(r#"{{"op":"u","after":{ROW},"source":{{"table":"transactions","lsn":902}}}}"#);
    decoder.push(0, &TopicRecord { key: Some(&[0xff, 0xfe]), ..record(10, &update) });
    let delivery = decoder.take();
    assert_eq!((delivery.records, delivery.skipped, delivery.dead.len()), (3, 1, 0));
    let (change, row) = delivery.batches[0].get(0);
    assert_eq!((change.op, row.event_id().as_deref()), (Op::Delete, Some("1")));
}

#[test]
fn what_cannot_be_read_is_a_dead_letter_with_partition_and_offset() {
    let mut decoder = decoder(Format::Debezium, None);
    let foreign = format!(r#"{{"op":"c","after":{ROW},"source":{{"table":"orders","lsn":1}}}}"#);
    let long = "x".repeat(LINE_BYTES_MAX + 1);
    let cases = [
        ("payment", DeadReason::BadJson),
        (r#"{"id":1}"#, DeadReason::BadJson),
        (foreign.as_str(), DeadReason::UnknownTable),
        (long.as_str(), DeadReason::LineTooLong),
    ];
    for (offset, (value, _)) in (20..).zip(&cases) {
        decoder.push(2, &record(offset, value));
    }
    let delivery = decoder.take();
    assert_eq!((delivery.records, delivery.dead.len(), delivery.position), (4, 4, 23));
    for ((letter, (_, reason)), offset) in delivery.dead.iter().zip(&cases).zip(20..) {
        assert_eq!((letter.partition, letter.position, letter.reason), (2, offset, *reason), "{}", letter.detail);
        assert!(letter.payload.is_none(), "one of the streams has a sensitive column");
    }
}

#[test]
fn a_decimal_without_scale_is_a_dead_letter_that_says_what_to_write() {
    let mut decoder = decoder(Format::Debezium, Some("transactions"));
    let event = format!(
        r#"{{"op":"c","after":{},"source":{{"table":"transactions","lsn":1}}}}"#,
        ROW.replace("1.50", "\"AJY=\"")
    );
    decoder.push(0, &record(0, &event));
    let delivery = decoder.take();
    assert_eq!(delivery.dead[0].reason, DeadReason::DecimalModeUnknown);
    assert!(delivery.dead[0].detail.contains("decimals = "), "{}", delivery.dead[0].detail);
}
