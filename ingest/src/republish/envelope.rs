//! One change as the JSON of its envelope.

use std::io::Write as _;

use interdict_features::change::{Change, Op, Row};
use interdict_features::definition::Stream;
use interdict_features::time::Timestamp;
use interdict_features::value::{ColumnType, NULL, UNCHANGED, double_of};
use serde::Serialize;

use crate::decoder::UNAVAILABLE;

use super::{CONNECTOR, secret_of};

/// What stands in every envelope of a table, made once.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// The members of `source` that do not change, braces left out.
    source: Vec<u8>,
    /// Per column: its name as a member of a row.
    names: Vec<Vec<u8>>,
}

/// Where a table stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin<'a> {
    /// The source's name.
    pub(super) source: &'a str,
    pub(super) database: &'a str,
    pub(super) schema: &'a str,
    pub(super) table: &'a str,
}

impl Table {
    pub(super) fn new(origin: Origin<'_>, stream: &Stream) -> Self {
        let mut source = Vec::new();
        let members = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("connector", CONNECTOR),
            ("name", origin.source),
            ("db", origin.database),
            ("schema", origin.schema),
            ("table", origin.table),
        ];
        let secret = secret_of(stream);
        let secret = secret.as_deref().map(|secret| ("secret", secret));
        for (name, value) in members.into_iter().chain(secret) {
            put(&mut source, format_args!("\"{name}\":"));
            put_json(&mut source, value);
            source.push(b',');
        }
        let name = |column: &interdict_features::definition::Column| {
            let mut name = Vec::new();
            put_json(&mut name, &column.name);
            name.push(b':');
            name
        };
        Self { source, names: stream.columns.iter().map(name).collect() }
    }

    /// Appends the envelope of a change; `now` is when it is handed on.
    pub(super) fn write(&self, change: &Change, row: Row<'_>, now: Timestamp, out: &mut Vec<u8>) {
        let is_gone = !change.op.has_row();
        out.extend_from_slice(b"{\"before\":");
        match change.op {
            Op::Delete => self.put_row(row, &[row.stream.id], out),
            _ => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"after\":");
        if is_gone {
            out.extend_from_slice(b"null");
        } else {
            let all: Vec<usize> = (0..row.cells.len()).collect();
            self.put_row(row, &all, out);
        }
        out.extend_from_slice(b",\"source\":{");
        out.extend_from_slice(&self.source);
        let (lsn, order) = (change.version.major, change.version.minor);
        let is_snapshot = change.op == Op::Snapshot;
        put(out, format_args!("\"snapshot\":\"{is_snapshot}\",\"lsn\":{lsn}"));
        if let Some(arrival) = change.arrival {
            let micros = arrival.micros();
            put(out, format_args!(",\"ts_ms\":{},\"ts_us\":{micros}", micros.div_euclid(1_000)));
        }
        out.extend_from_slice(b"},\"transaction\":");
        match order {
            0 => out.extend_from_slice(b"null"),
            _ => {
                put(out, format_args!("{{\"id\":\"{lsn}\",\"total_order\":{order},\"data_collection_order\":{order}}}"))
            }
        }
        let now = now.micros().div_euclid(1_000);
        put(out, format_args!(",\"op\":\"{}\",\"ts_ms\":{now}}}", letter(change.op)));
    }

    fn put_row(&self, row: Row<'_>, columns: &[usize], out: &mut Vec<u8>) {
        out.push(b'{');
        for (at, &column) in columns.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            out.extend_from_slice(&self.names[column]);
            put_cell(row, column, out);
        }
        out.push(b'}');
    }
}

/// Debezium's letter of an operation. It has none for what comes behind a lost slot, which a configuration that republishes does not ask for.
fn letter(op: Op) -> &'static str {
    match op {
        Op::Insert | Op::Request => "c",
        Op::Snapshot | Op::Recovered => "r",
        Op::Update => "u",
        Op::Delete => "d",
        Op::Truncate => "t",
        Op::Lost | Op::Settled => "m",
    }
}

fn put_cell(row: Row<'_>, column: usize, out: &mut Vec<u8>) {
    let cell = row.cells[column];
    match (cell, row.stream.columns[column].kind) {
        (NULL, _) => out.extend_from_slice(b"null"),
        (UNCHANGED, _) => out.extend_from_slice(UNAVAILABLE.as_bytes()),
        (_, ColumnType::Int) => put(out, format_args!("{cell}")),
        (_, ColumnType::Bool) => put(out, format_args!("{}", cell != 0)),
        (_, ColumnType::Double) => put_json(out, &double_of(cell)),
        (_, ColumnType::Timestamp) => put(out, format_args!("\"{}\"", Timestamp::from_micros(cell))),
        (_, ColumnType::Decimal { scale }) => put_decimal(cell, scale, out),
        (_, ColumnType::Text | ColumnType::Uuid) => put_text(row.text.get(cell), out),
    }
}

fn put_decimal(minor: i64, scale: u8, out: &mut Vec<u8>) {
    let (sign, digits) = (if minor < 0 { "-" } else { "" }, minor.unsigned_abs());
    let one = 10_u64.pow(u32::from(scale));
    let (whole, part) = (digits / one, digits % one);
    match usize::from(scale) {
        0 => put(out, format_args!("\"{sign}{whole}\"")),
        width => put(out, format_args!("\"{sign}{whole}.{part:0width$}\"")),
    }
}

/// A text; one that reads like the placeholder is escaped, so that it is none.
fn put_text(text: &str, out: &mut Vec<u8>) {
    let from = out.len();
    put_json(out, text);
    if out[from..] == *UNAVAILABLE.as_bytes() {
        out.splice(from + 1..from + 2, *b"\\u005f");
    }
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("memory takes every text");
}

fn put_json<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).expect("texts and finite numbers are JSON");
}
