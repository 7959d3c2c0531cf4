//! Debezium change events, with schemas and without, one JSON object per record.
//!
//! A record is an envelope, `{"schema":..,"payload":envelope}`, or `{"key":..,"value":one of these}`. A tombstone (a null
//! value) follows its delete and says nothing new; heartbeats, transaction markers and logical messages carry no row.
//! A change of a primary key comes as a delete and a create.
//!
//! What this program republishes says so (`source.connector`), and is read as what was captured, whatever the source is told of values:
//! sensitive texts are hashes already, arrival is the commit time or nothing, and the key is no JSON.
//!
//! Versions: the LSN of the change itself (`source.lsn`, or the second item of `source.sequence`) and its place in the
//! transaction (`transaction.total_order`). Two versions of one row are always in the order of their LSNs, because the
//! second writer waited for the first; a repeated delivery has the same LSN. Where a connector has no LSN the record's
//! ordinal in the file orders versions. One source has the one or the other: ordinals are far below LSNs, so a mixture
//! would silently lose updates, and is refused record by record.

mod envelope;
mod schema;
mod value;

use std::sync::Arc;

use interdict_features::change::{Change, Op, RowWriter, Version};
use interdict_features::definition::Stream;
use interdict_features::time::Timestamp;

use crate::dead_letter::{DeadReason, Fault};
use crate::republish;
use crate::source::config::Reading;

use super::json::{RowObject, not_json};
use super::{Batches, Outcome, Record, finish, op_of};

pub(crate) use value::UNAVAILABLE;

use envelope::{Envelope, Shape};
use schema::{Encodings, Part, SchemaCache};
use value::ValueReader;

pub(super) struct DebeziumRows {
    tables: Vec<Table>,
    schemas: SchemaCache,
    versions: Versions,
    rows_as: Op,
}

/// What is known of one stream's table.
struct Table {
    /// `schema.table` or `table`.
    name: Box<str>,
    stream: Arc<Stream>,
    object: RowObject,
    values: ValueReader,
}

/// Where row versions of a source come from, settled by its first change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Versions {
    Unsettled,
    Lsn,
    Ordinal,
}

impl DebeziumRows {
    pub(super) fn new(tables: Vec<(String, Arc<Stream>)>, reading: &Reading) -> Self {
        let table = |(name, stream): (String, Arc<Stream>)| Table {
            name: name.into(),
            object: RowObject::new(&stream, reading.missing),
            values: ValueReader::new(&stream, reading),
            stream,
        };
        Self {
            tables: tables.into_iter().map(table).collect(),
            schemas: SchemaCache::default(),
            versions: Versions::Unsettled,
            rows_as: reading.rows_as,
        }
    }

    /// Whether it is settled where versions come from.
    pub(super) fn is_settled(&self) -> bool {
        self.versions != Versions::Unsettled
    }

    pub(super) fn decode(&mut self, text: &str, record: &Record<'_>, batches: &mut Batches) -> Result<Outcome, Fault> {
        let mut envelope = Envelope::parse(text)?;
        let op = match envelope.shape() {
            Shape::Change(op) => op,
            Shape::NoRow => return Ok(Outcome::Skipped),
            Shape::Foreign => {
                return Err(Fault::new(
                    DeadReason::BadJson,
                    "no Debezium envelope (no 'op'); rows without envelope are format = \"json\"",
                ));
            }
        };
        if op == "m" {
            return Ok(Outcome::Skipped);
        }
        let mut op = op_of(op).filter(|_| op.len() == 1);
        if op == Some(Op::Insert) && self.rows_as == Op::Snapshot {
            op = Some(Op::Snapshot);
        }
        let of_op = |fault: Fault| match op {
            Some(op) => fault.of_op(op),
            None => fault,
        };
        let index = self.table_of(&envelope).map_err(of_op)?;
        let key = record.key.and_then(|key| std::str::from_utf8(key).ok());
        let decoded = match (envelope.unwrap_key(key), op) {
            (Err(fault), _) => Err(fault),
            (Ok(()), None) => Err(unknown_op()),
            (Ok(()), Some(op)) => self.decode_change(op, index, &envelope, record, batches),
        };
        // Rows that were loaded together may share an LSN; what this program writes has a number within its transaction.
        let version = envelope.lsn_version().filter(|_| envelope.source.is_own);
        decoded.map_err(|fault| of_op(fault).of_table(&self.tables[index].stream, version))
    }

    fn decode_change(
        &mut self,
        op: Op,
        index: usize,
        envelope: &Envelope<'_>,
        record: &Record<'_>,
        batches: &mut Batches,
    ) -> Result<Outcome, Fault> {
        let version = self.version_of(envelope, record.ordinal)?;
        let committed = envelope.source.changed_micros().and_then(Timestamp::checked_from_micros);
        let arrival = if envelope.source.is_own { committed } else { committed.or(record.arrival) };
        let change = Change { op, version, arrival, position: record.position };
        let table = &mut self.tables[index];
        let mut writer = batches.of(index).begin();
        let read = match op {
            Op::Truncate => Ok(()),
            Op::Delete => read_deleted(table, &mut self.schemas, envelope, &mut writer),
            _ => read_row(table, &mut self.schemas, (envelope, op), &mut writer),
        };
        if envelope.source.is_own {
            // Read all the same, for its id.
            check_secret(&table.stream, envelope.source.secret.as_deref(), &writer)?;
        }
        read?;
        let outcome = finish(writer, change)?;
        if self.versions == Versions::Unsettled {
            self.versions = if envelope.source.lsn().is_some() { Versions::Lsn } else { Versions::Ordinal };
        }
        Ok(outcome)
    }

    fn table_of(&self, envelope: &Envelope<'_>) -> Result<usize, Fault> {
        let Some(named) = envelope.source.table.as_deref() else {
            if self.tables.len() == 1 {
                return Ok(0);
            }
            let detail = "'source' names no table and there are several streams; write stream = \"...\" in [source]";
            return Err(Fault::new(DeadReason::UnknownTable, detail));
        };
        let schema = envelope.source.schema.as_deref();
        let found = self.tables.iter().position(|table| match table.name.split_once('.') {
            Some((wanted, bare)) => bare == named && schema.is_none_or(|schema| schema == wanted),
            None => *table.name == *named,
        });
        found.ok_or_else(|| {
            let name: String = named.chars().take(128).collect();
            let detail = format!(
                "table '{name}' belongs to no stream; leave it out of the connector, or declare a stream for it"
            );
            Fault::new(DeadReason::UnknownTable, detail)
        })
    }

    fn version_of(&self, envelope: &Envelope<'_>, ordinal: u64) -> Result<Version, Fault> {
        match (envelope.lsn_version(), self.versions) {
            (Some(version), Versions::Lsn | Versions::Unsettled) => Ok(version),
            (None, Versions::Ordinal | Versions::Unsettled) => Ok(Version::new(ordinal)),
            (Some(_), Versions::Ordinal) => Err(Fault::new(
                DeadReason::VersionMismatch,
                "the record has an LSN, the first change of this source had none; read the two as two sources",
            )),
            (None, Versions::Lsn) => Err(Fault::new(
                DeadReason::VersionMismatch,
                "the record has no LSN, the first change of this source had one; read the two as two sources",
            )),
        }
    }
}

fn read_row(
    table: &mut Table,
    schemas: &mut SchemaCache,
    (envelope, op): (&Envelope<'_>, Op),
    writer: &mut RowWriter<'_>,
) -> Result<(), Fault> {
    let Some(after) = envelope.after else {
        return Err(row_missing("a create, read or update without 'after'"));
    };
    let encodings = schemas.of(envelope.schema, &table.stream, Part::Row)?;
    let (values, is_own) = (&table.values, envelope.source.is_own);
    table.object.read(after, writer, |writer, column, raw| {
        if is_own {
            values.set_own(writer, column, raw, op)
        } else {
            values.set(writer, column, raw, encodings.of(column), op)
        }
    })?;
    table.object.require_all(&table.stream).map_err(|fault| fault.of_row(&writer.row()))
}

/// Only the id of a deleted row is certain: the other columns of `before` hold nulls or defaults unless the table's
/// replica identity is FULL.
fn read_deleted(
    table: &mut Table,
    schemas: &mut SchemaCache,
    envelope: &Envelope<'_>,
    writer: &mut RowWriter<'_>,
) -> Result<(), Fault> {
    let (values, id) = (&table.values, table.stream.id);
    let places = [(envelope.before, envelope.schema, Part::Row), (envelope.key, envelope.key_schema, Part::Key)];
    for (object, schema, part) in places {
        let Some(object) = object.filter(|raw| raw.starts_with('{')) else {
            continue;
        };
        let encodings: &Encodings = schemas.of(schema, &table.stream, part)?;
        table.object.read(object, writer, |writer, column, raw| match envelope.source.is_own {
            _ if column != id => Ok(()),
            true => values.set_own(writer, column, raw, Op::Delete),
            false => values.set(writer, column, raw, encodings.of(column), Op::Delete),
        })?;
        if writer.cell(id) != interdict_features::value::NULL {
            return Ok(());
        }
    }
    let column = &table.stream.columns[id].name;
    Err(row_missing(format!(
        "a delete that names no '{column}', neither in 'before' nor in a key; set the table's replica identity so that it holds the column"
    )))
}

/// What was hashed under another secret would be other customers; an id that is hashed would be another row.
fn check_secret(stream: &Stream, told: Option<&str>, writer: &RowWriter<'_>) -> Result<(), Fault> {
    if told == republish::secret_of(stream).as_deref() {
        return Ok(());
    }
    let detail = "the record was republished under another secret, or with other columns sensitive; give both sides one configuration";
    let fault = Fault::new(DeadReason::WrongSecret, detail);
    Err(if stream.columns[stream.id].sensitive { fault } else { fault.of_row(&writer.row()) })
}

fn row_missing(detail: impl Into<std::borrow::Cow<'static, str>>) -> Fault {
    Fault::new(DeadReason::RowMissing, detail)
}

fn unknown_op() -> Fault {
    Fault::new(DeadReason::UnknownOp, "'op' is none of c, u, d, r, t and m")
}
