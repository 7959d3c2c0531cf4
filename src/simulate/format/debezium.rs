//! Debezium change events of the PostgreSQL connector, one JSON value per line, with REPLICA IDENTITY FULL.
//!
//! The table's time columns are `timestamptz`, so that their text (ZonedTimestamp) means the same with and without
//! schemas. `source.ts_us` is the commit time, `source.lsn` ascends with it and is repeated by a repeated delivery.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::super::changes::{Change, Row, What};
use super::text::object;
use super::{Columns, Place, Report, Sink, decimal, instant};

/// Whether each message brings its schema.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Schemas {
    /// The message is the payload.
    #[default]
    Off,
    /// `{"schema": ..., "payload": ...}`.
    On,
}

/// `decimal.handling.mode` of the connector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Decimals {
    /// Base64 of the big-endian two's-complement unscaled integer.
    Precise,
    /// Text.
    #[default]
    String,
    /// A JSON number.
    Double,
}

/// How events are wrapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Envelope {
    /// With or without schema.
    pub(crate) schemas: Schemas,
    /// How amounts are written.
    pub(crate) decimals: Decimals,
    /// Whether a deletion is followed by a tombstone.
    pub(crate) tombstones: Tombstones,
}

/// Whether a deletion is followed by a line `null`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tombstones {
    /// It is not.
    #[default]
    Off,
    /// It is.
    On,
}

pub(crate) struct Debezium {
    columns: Columns,
    envelope: Envelope,
    table: &'static str,
    prefix: String,
    sink: Sink,
    line: String,
}

impl Debezium {
    pub(super) fn of_transactions(columns: Columns, envelope: Envelope, sink: Sink) -> Self {
        Self::new("transactions", &transaction_fields(columns, envelope.decimals), columns, envelope, sink)
    }

    pub(super) fn of_chargebacks(envelope: Envelope, sink: Sink) -> Self {
        let fields = json!([
            {"type": "int64", "optional": false, "field": "transaction_id"},
            {"type": "boolean", "optional": false, "field": "is_fraud"},
            {"type": "string", "optional": false, "name": "io.debezium.time.ZonedTimestamp", "version": 1, "field": "reported_at"},
        ]);
        Self::new("chargebacks", &fields, Columns::default(), envelope, sink)
    }

    fn new(table: &'static str, fields: &Value, columns: Columns, envelope: Envelope, sink: Sink) -> Self {
        let prefix = match envelope.schemas {
            Schemas::Off => String::new(),
            Schemas::On => format!(r#"{{"schema":{},"payload":"#, schema(table, fields)),
        };
        Self { columns, envelope, table, prefix, sink, line: String::new() }
    }

    pub(super) fn write(&mut self, change: &Change) -> io::Result<()> {
        self.line.clear();
        self.line.push_str(&self.prefix);
        let op = match &change.what {
            What::Insert(row) => {
                self.images(None, Some(row));
                "c"
            }
            What::Update { before, after } => {
                self.images(Some(before), Some(after));
                "u"
            }
            What::Delete(row) => {
                self.images(Some(row), None);
                "d"
            }
            What::Chargeback(id) => {
                let reported = instant(change.commit_micros);
                let _infallible = write!(
                    self.line,
                    r#"{{"before":null,"after":{{"transaction_id":{id},"is_fraud":true,"reported_at":"{reported}"}}"#
                );
                "c"
            }
        };
        self.tail(change, op);
        self.line.push('\n');
        if matches!(change.what, What::Delete(_)) && self.envelope.tombstones == Tombstones::On {
            self.line.push_str("null\n");
        }
        self.sink.write_all(self.line.as_bytes())
    }

    fn images(&mut self, before: Option<&Row>, after: Option<&Row>) {
        for (name, row) in [(r#"{"before":"#, before), (r#","after":"#, after)] {
            self.line.push_str(name);
            match row {
                None => self.line.push_str("null"),
                Some(row) => {
                    let amount = amount(row.transaction.amount_minor, self.envelope.decimals);
                    object(&mut self.line, row, self.columns, &amount, |micros| format!("\"{}\"", instant(micros)));
                }
            }
        }
    }

    fn tail(&mut self, change: &Change, op: &str) {
        let (commit, seen, lsn, table) = (change.commit_micros, change.delivered_micros, change.lsn, self.table);
        let _infallible = write!(
            self.line,
            concat!(
                r#","source":{{"version":"3.4.0.Final","connector":"postgresql","name":"shop","ts_ms":{},"#,
                r#""snapshot":"false","db":"shop","sequence":"[\"{}\",\"{}\"]","ts_us":{},"ts_ns":{},"#,
                r#""schema":"public","table":"{}","txId":{},"lsn":{},"xmin":null}},"#,
                r#""transaction":null,"op":"{}","ts_ms":{},"ts_us":{},"ts_ns":{}}}"#
            ),
            commit.div_euclid(1000),
            lsn,
            lsn,
            commit,
            i128::from(commit) * 1000,
            table,
            lsn >> 3,
            lsn,
            op,
            seen.div_euclid(1000),
            seen,
            i128::from(seen) * 1000
        );
        if self.envelope.schemas == Schemas::On {
            self.line.push('}');
        }
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

fn amount(minor: i64, decimals: Decimals) -> String {
    match decimals {
        Decimals::String => format!("\"{}\"", decimal(minor)),
        Decimals::Double => decimal(minor),
        Decimals::Precise => format!("\"{}\"", STANDARD.encode(twos_complement(minor, &mut [0; 8]))),
    }
}

/// The fewest big-endian bytes that hold `number`, at least one.
fn twos_complement(number: i64, bytes: &mut [u8; 8]) -> &[u8] {
    *bytes = number.to_be_bytes();
    let mut start = 0;
    while start < 7 {
        let sign = if bytes[start + 1] & 0x80 == 0 { 0x00 } else { 0xff };
        if bytes[start] != sign {
            break;
        }
        start += 1;
    }
    &bytes[start..]
}

fn transaction_fields(columns: Columns, decimals: Decimals) -> Value {
    let zoned = "io.debezium.time.ZonedTimestamp";
    let amount = match decimals {
        Decimals::Precise => {
            json!({"type": "bytes", "optional": false, "name": "org.apache.kafka.connect.data.Decimal",
            "version": 1, "parameters": {"scale": "2", "connect.decimal.precision": "18"}, "field": "amount"})
        }
        Decimals::String => json!({"type": "string", "optional": false, "field": "amount"}),
        Decimals::Double => json!({"type": "double", "optional": false, "field": "amount"}),
    };
    let mut fields = vec![
        json!({"type": "int64", "optional": false, "field": "transaction_id"}),
        json!({"type": "string", "optional": false, "name": zoned, "version": 1, "field": "tx_datetime"}),
        json!({"type": "int64", "optional": false, "field": "customer_id"}),
        json!({"type": "int64", "optional": false, "field": "terminal_id"}),
        amount,
        json!({"type": "boolean", "optional": true, "field": "is_fraud"}),
    ];
    if columns.place == Place::Present {
        fields.push(json!({"type": "string", "optional": false, "field": "device_id"}));
        fields.push(json!({"type": "double", "optional": false, "field": "latitude"}));
        fields.push(json!({"type": "double", "optional": false, "field": "longitude"}));
    }
    if columns.report == Report::Present {
        fields.push(json!({"type": "string", "optional": true, "name": zoned, "version": 1, "field": "reported_at"}));
    }
    Value::Array(fields)
}

fn schema(table: &str, fields: &Value) -> Value {
    let image = |field: &str| json!({"type": "struct", "fields": fields, "optional": true, "name": format!("shop.public.{table}.Value"), "field": field});
    let of = |kind: &str, optional: bool, field: &str| json!({"type": kind, "optional": optional, "field": field});
    let source = json!({"type": "struct", "optional": false, "name": "io.debezium.connector.postgresql.Source", "field": "source",
        "fields": [of("string", false, "version"), of("string", false, "connector"), of("string", false, "name"),
            of("int64", false, "ts_ms"), of("string", true, "snapshot"), of("string", false, "db"), of("string", true, "sequence"),
            of("int64", true, "ts_us"), of("int64", true, "ts_ns"), of("string", false, "schema"), of("string", false, "table"),
            of("int64", true, "txId"), of("int64", true, "lsn"), of("int64", true, "xmin")]});
    let transaction = json!({"type": "struct", "optional": true, "name": "event.block", "version": 1, "field": "transaction",
        "fields": [of("string", false, "id"), of("int64", false, "total_order"), of("int64", false, "data_collection_order")]});
    json!({"type": "struct", "optional": false, "name": format!("shop.public.{table}.Envelope"), "version": 2,
        "fields": [image("before"), image("after"), source, transaction, of("string", false, "op"),
            of("int64", true, "ts_ms"), of("int64", true, "ts_us"), of("int64", true, "ts_ns")]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precise_amounts_take_the_fewest_bytes() {
        for (minor, bytes) in [
            (0, vec![0]),
            (127, vec![127]),
            (128, vec![0, 128]),
            (-128, vec![128]),
            (-129, vec![255, 127]),
            (10_077, vec![39, 93]),
            (i64::MIN, vec![128, 0, 0, 0, 0, 0, 0, 0]),
        ] {
            assert_eq!(twos_complement(minor, &mut [0; 8]), bytes, "{minor}");
        }
    }
}
