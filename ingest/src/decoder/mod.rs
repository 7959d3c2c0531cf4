//! Decoders of one record of a text format.
//!
//! Invariants:
//! - A record becomes exactly one row, is skipped because it carries none by nature, or is a [`Fault`].
//! - A faulty record leaves no trace in any batch; a fault's detail never holds a value of the record.

mod csv;
mod debezium;
mod json;

use std::path::Path;
use std::sync::Arc;

use interdict_features::change::{Change, ChangeBatch, Op, RowWriter, Version};
use interdict_features::definition::Stream;
use interdict_features::time::Timestamp;
use interdict_features::value::{NULL, UNCHANGED};

use crate::dead_letter::{DeadLetter, DeadReason, Fault, excerpt};
use crate::source::config::Reading;
use crate::source::error::SourceError;

pub(crate) use debezium::UNAVAILABLE;

use csv::CsvRows;
use debezium::DebeziumRows;
use json::JsonRows;

/// What a record without fault was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// A row, now in a batch.
    Row,
    /// It carries no row by nature.
    Skipped,
}

/// One record of a source.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    /// Where it stands in its partition.
    pub(crate) position: u64,
    /// Its place counted from 1: the version of a plain row. 0 is that of requests.
    pub(crate) ordinal: u64,
    /// What arrived beside the value: Debezium keeps the id of a deleted row there.
    pub(crate) key: Option<&'a [u8]>,
    /// The record itself.
    pub(crate) value: &'a [u8],
    /// When it arrived, where the broker says so; a database's commit time is better.
    pub(crate) arrival: Option<Timestamp>,
}

impl Record<'_> {
    /// What the record says of the row that it is.
    fn plain(&self, op: Op) -> Change {
        Change { op, version: Version::new(self.ordinal), arrival: self.arrival, position: self.position }
    }
}

/// Decodes the records of one source.
pub(crate) struct LineDecoder {
    format: Rows,
    batches: Batches,
    shows_records: Showing,
    /// What a record is that does not say so.
    rows_as: Op,
}

enum Rows {
    Csv(Box<CsvRows>),
    Json(JsonRows),
    Debezium(DebeziumRows),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Showing {
    Allowed,
    Sensitive,
}

impl LineDecoder {
    /// CSV rows of `stream`; the header comes first, by [`Self::set_header`].
    pub(crate) fn csv(stream: Arc<Stream>, reading: &Reading) -> Self {
        Self::new(Rows::Csv(Box::new(CsvRows::new(&stream, reading))), vec![stream], reading)
    }

    /// JSON objects that are rows of `stream`.
    pub(crate) fn json(stream: Arc<Stream>, reading: &Reading) -> Self {
        Self::new(Rows::Json(JsonRows::new(&stream, reading)), vec![stream], reading)
    }

    /// Debezium envelopes of the tables of `streams`.
    pub(crate) fn debezium(streams: &[Arc<Stream>], reading: &Reading) -> Self {
        let name = |stream: &Arc<Stream>| stream.source_table.as_deref().unwrap_or(&stream.name).to_owned();
        let tables = streams.iter().map(|stream| (name(stream), Arc::clone(stream)));
        Self::debezium_of(tables.collect(), reading)
    }

    /// Debezium envelopes of tables, `schema.table` or `table`, each with its stream.
    pub(crate) fn debezium_of(tables: Vec<(String, Arc<Stream>)>, reading: &Reading) -> Self {
        let streams = tables.iter().map(|(_, stream)| Arc::clone(stream)).collect();
        Self::new(Rows::Debezium(DebeziumRows::new(tables, reading)), streams, reading)
    }

    fn new(format: Rows, streams: Vec<Arc<Stream>>, reading: &Reading) -> Self {
        let is_sensitive = streams.iter().any(|stream| stream.columns.iter().any(|column| column.sensitive));
        let shows_records = if is_sensitive { Showing::Sensitive } else { Showing::Allowed };
        Self { format, batches: Batches::new(streams), shows_records, rows_as: reading.rows_as }
    }

    /// Whether the next line is the header.
    pub(crate) fn wants_header(&self) -> bool {
        matches!(&self.format, Rows::Csv(rows) if rows.wants_header())
    }

    /// Takes the header of a CSV file.
    pub(crate) fn set_header(&mut self, path: &Path, line: &[u8]) -> Result<(), SourceError> {
        match &mut self.format {
            Rows::Csv(rows) => rows.set_header(path, line, &self.batches.streams[0]),
            Rows::Json(_) | Rows::Debezium(_) => Ok(()),
        }
    }

    /// Decodes line number `position` of a file into the batches.
    pub(crate) fn decode(&mut self, line: &[u8], position: u64) -> Result<Outcome, Fault> {
        self.decode_record(&Record { position, ordinal: position, key: None, value: line, arrival: None })
    }

    /// Notes what line number `position`, which was delivered before, says of all that follow.
    pub(crate) fn pass_over(&mut self, line: &[u8], position: u64) {
        if matches!(&self.format, Rows::Debezium(rows) if !rows.is_settled()) {
            let _delivered_before = self.decode(line, position);
            let _rows = self.take_batches();
        }
    }

    /// Decodes one record into the batches. Of a source of history every fault is one of history.
    pub(crate) fn decode_record(&mut self, record: &Record<'_>) -> Result<Outcome, Fault> {
        let is_history = self.rows_as == Op::Snapshot;
        self.decode_rows(record).map_err(|fault| match fault.op {
            None if is_history => fault.of_op(Op::Snapshot),
            _ => fault,
        })
    }

    fn decode_rows(&mut self, record: &Record<'_>) -> Result<Outcome, Fault> {
        if record.value.iter().all(u8::is_ascii_whitespace) {
            return Ok(Outcome::Skipped);
        }
        let text = utf8(record.value)?;
        match &mut self.format {
            Rows::Csv(rows) => rows.decode(text, record, self.batches.of(0)),
            Rows::Json(rows) => rows.decode(text, record, self.batches.of(0)),
            Rows::Debezium(rows) => rows.decode(text, record, &mut self.batches),
        }
    }

    /// The dead letter of the record at `position` that `fault` was found in.
    pub(crate) fn letter(&self, source: &str, position: u64, fault: Fault, record: &[u8]) -> DeadLetter {
        let mut detail = fault.detail.into_owned();
        let payload = if self.shows_records == Showing::Allowed {
            Some(excerpt(record))
        } else {
            detail.push_str("; record left out: the stream has sensitive columns");
            None
        };
        DeadLetter {
            source: source.to_owned(),
            partition: self.batches.partition,
            position,
            row: None,
            stream: fault.stream,
            id: fault.id,
            version: fault.version,
            op: fault.op,
            reason: fault.reason,
            detail,
            payload,
        }
    }

    /// From now on records stem from this partition. To be called with no batch begun.
    pub(crate) fn set_partition(&mut self, partition: u32) {
        self.batches.partition = partition;
    }

    /// The batches filled since the last call, in order of delivery: a new one wherever the stream changes.
    pub(crate) fn take_batches(&mut self) -> Vec<ChangeBatch> {
        self.batches.take()
    }
}

/// Rows in order of delivery: one batch for each run of rows of one stream, so that what a change of one table precedes in another it
/// also precedes where it is applied.
pub(crate) struct Batches {
    streams: Vec<Arc<Stream>>,
    partition: u32,
    done: Vec<ChangeBatch>,
    open: Option<(usize, ChangeBatch)>,
}

impl Batches {
    pub(crate) fn new(streams: Vec<Arc<Stream>>) -> Self {
        Self { streams, partition: 0, done: Vec::new(), open: None }
    }

    /// The batch that the next row of stream `index` belongs to.
    pub(crate) fn of(&mut self, index: usize) -> &mut ChangeBatch {
        if self.open.as_ref().is_some_and(|(open, _)| *open != index) {
            self.close();
        }
        let (streams, partition) = (&self.streams, self.partition);
        let begin = || (index, ChangeBatch::new(Arc::clone(&streams[index]), partition));
        let (_, batch) = self.open.get_or_insert_with(begin);
        batch
    }

    /// The batch that the last row went to, and the row's place: batch among those to be taken, and row in it.
    #[cfg(feature = "postgres")]
    pub(crate) fn last(&self) -> Option<(&ChangeBatch, (usize, usize))> {
        let (_, batch) = self.open.as_ref()?;
        Some((batch, (self.done.len(), batch.len().checked_sub(1)?)))
    }

    fn close(&mut self) {
        if let Some((_, batch)) = self.open.take().filter(|(_, batch)| !batch.is_empty()) {
            self.done.push(batch);
        }
    }

    pub(crate) fn take(&mut self) -> Vec<ChangeBatch> {
        self.close();
        std::mem::take(&mut self.done)
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, Fault> {
    let fault = |error: std::str::Utf8Error| format!("not UTF-8 from byte {}", error.valid_up_to());
    std::str::from_utf8(bytes).map_err(|error| Fault::new(DeadReason::NotUtf8, fault(error)))
}

/// The operation that a text names: ours, or Debezium's letter.
pub(crate) fn op_of(text: &str) -> Option<Op> {
    // What only the capture of a database knows of a table as a whole is told by no record.
    archived_op_of(text).filter(|op| !matches!(op, Op::Lost | Op::Recovered | Op::Settled))
}

/// The same of a change that was archived.
pub(crate) fn archived_op_of(text: &str) -> Option<Op> {
    Some(match text {
        "insert" | "c" => Op::Insert,
        "snapshot" | "r" => Op::Snapshot,
        "update" | "u" => Op::Update,
        "delete" | "d" => Op::Delete,
        "truncate" | "t" => Op::Truncate,
        "lost" => Op::Lost,
        "recovered" => Op::Recovered,
        "settled" => Op::Settled,
        _ => return None,
    })
}

/// Adds a row to its batch once its id and time are known to be there.
pub(crate) fn finish(writer: RowWriter<'_>, change: Change) -> Result<Outcome, Fault> {
    let stream = Arc::clone(writer.stream());
    if !change.op.is_mark() && writer.cell(stream.id) <= UNCHANGED {
        let detail = format!("column '{}' (the id) is null", stream.columns[stream.id].name);
        return Err(Fault::new(DeadReason::NullId, detail));
    }
    let needs_time = change.op.has_row();
    if let Some(time) = stream.time.filter(|time| needs_time && writer.cell(*time) == NULL) {
        let detail = format!("column '{}' (the time) is null", stream.columns[time].name);
        return Err(Fault::new(DeadReason::NullTime, detail).of_row(&writer.row()));
    }
    writer.finish(change);
    Ok(Outcome::Row)
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod told;
