//! Changes as rows of Parquet.
//!
//! Columns: `_op`, `_position` and `_position_row` (the row version: LSN and row number, offset or file row), `_delivered` (the position in the
//! source), `_arrival`, `_unchanged` (names of the columns that an UPDATE did not send), then the stream's own. These are the names that
//! [`crate::history`] reads, so an archive is a source as it stands.
//!
//! Invariant: decimals stay integers in minor units, sensitive columns are masked already: nothing is converted on the way.

use std::sync::Arc;

use arrow_array::builder::{
    BooleanBuilder, Decimal128Builder, Float64Builder, Int64Builder, ListBuilder, StringBuilder,
    TimestampMicrosecondBuilder, UInt32Builder, UInt64Builder,
};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::ArrowError;
use arrow_schema::{DataType, Field, Schema};
use interdict_features::change::{Change, Op, Row};
use interdict_features::definition::{Column, Stream};
use interdict_features::hive;
use interdict_features::time::Span;
use interdict_features::value::{ColumnType, UNCHANGED, double_of};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;

/// The columns that are not the stream's.
pub(crate) const OWN: [&str; 6] = ["_op", "_position", "_position_row", "_delivered", "_arrival", "_unchanged"];

/// Digits of an integer of 64 bits.
const DECIMAL_DIGITS: u8 = 19;

/// Memory of a row beside its cells and texts.
const ROW_BYTES: usize = 64;

const MICROS_PER_DAY: i64 = Span::DAY.micros();
const HOURS_PER_DAY: i64 = 24;

/// Which file a change belongs into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Partition {
    stream: usize,
    /// Days after 1970.
    day: Option<i64>,
}

impl Partition {
    /// The day is that of the arrival, where there is none that of the event; rows of a snapshot have none: they are of no day, and would
    /// make a file for each day of the past.
    pub(super) fn of(change: &Change, row: &Row<'_>) -> Self {
        let time = if change.op == Op::Snapshot { change.arrival } else { change.arrival.or_else(|| row.time()) };
        Self { stream: row.stream.index, day: time.map(|time| time.micros().div_euclid(MICROS_PER_DAY)) }
    }

    /// The folder, relative to the source's.
    pub(super) fn folder(self, stream: &Stream) -> String {
        let date = self.day.map(|day| hive::date_and_hour(day.saturating_mul(HOURS_PER_DAY)).0);
        format!("stream={}/date={}", hive::folder_text(&stream.name), date.as_deref().unwrap_or(hive::NULL))
    }
}

/// The cells of one column.
#[derive(Debug)]
enum Cells {
    Int(Int64Builder),
    Decimal(Decimal128Builder),
    Double(Float64Builder),
    Bool(BooleanBuilder),
    Text(StringBuilder),
    Instant(TimestampMicrosecondBuilder),
}

impl Cells {
    fn of(column: &Column) -> Result<Self, ArrowError> {
        Ok(match column.kind {
            ColumnType::Int => Self::Int(Int64Builder::new()),
            ColumnType::Double => Self::Double(Float64Builder::new()),
            ColumnType::Bool => Self::Bool(BooleanBuilder::new()),
            ColumnType::Text | ColumnType::Uuid => Self::Text(StringBuilder::new()),
            ColumnType::Timestamp => Self::Instant(instants()),
            ColumnType::Decimal { scale } => {
                let scale = i8::try_from(scale).unwrap_or(i8::MAX);
                Self::Decimal(Decimal128Builder::new().with_precision_and_scale(DECIMAL_DIGITS, scale)?)
            }
        })
    }

    /// Adds a cell; the bytes it takes.
    fn push(&mut self, row: &Row<'_>, column: usize) -> usize {
        let cell = Some(row.cells[column]).filter(|cell| *cell > UNCHANGED);
        match self {
            Self::Int(cells) => cells.append_option(cell),
            Self::Decimal(cells) => cells.append_option(cell.map(i128::from)),
            Self::Double(cells) => cells.append_option(cell.map(double_of)),
            Self::Bool(cells) => cells.append_option(cell.map(|cell| cell != 0)),
            Self::Instant(cells) => cells.append_option(cell),
            Self::Text(cells) => {
                let text = row.text(column);
                cells.append_option(text);
                return text.map_or(0, str::len) + 8;
            }
        }
        8
    }

    fn finish(self) -> ArrayRef {
        match self {
            Self::Int(mut cells) => Arc::new(cells.finish()),
            Self::Decimal(mut cells) => Arc::new(cells.finish()),
            Self::Double(mut cells) => Arc::new(cells.finish()),
            Self::Bool(mut cells) => Arc::new(cells.finish()),
            Self::Text(mut cells) => Arc::new(cells.finish()),
            Self::Instant(mut cells) => Arc::new(cells.finish()),
        }
    }
}

fn instants() -> TimestampMicrosecondBuilder {
    TimestampMicrosecondBuilder::new().with_timezone("UTC")
}

/// Rows of one file under construction.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) stream: Arc<Stream>,
    pub(super) rows: usize,
    pub(super) bytes: usize,
    /// Positions in the source of the first row and the last one.
    pub(super) first: u64,
    pub(super) last: u64,
    op: StringBuilder,
    major: UInt64Builder,
    minor: UInt32Builder,
    delivered: UInt64Builder,
    arrival: TimestampMicrosecondBuilder,
    unchanged: ListBuilder<StringBuilder>,
    cells: Vec<Cells>,
}

impl Rows {
    pub(super) fn of(stream: &Arc<Stream>) -> Result<Self, ArrowError> {
        Ok(Self {
            stream: Arc::clone(stream),
            rows: 0,
            bytes: 0,
            first: 0,
            last: 0,
            op: StringBuilder::new(),
            major: UInt64Builder::new(),
            minor: UInt32Builder::new(),
            delivered: UInt64Builder::new(),
            arrival: instants(),
            unchanged: ListBuilder::new(StringBuilder::new()),
            cells: stream.columns.iter().map(Cells::of).collect::<Result<_, _>>()?,
        })
    }

    /// Adds a change; the bytes it takes.
    pub(super) fn push(&mut self, change: &Change, row: &Row<'_>) -> usize {
        if self.rows == 0 {
            self.first = change.position;
        }
        self.last = change.position;
        self.op.append_value(op_text(change.op));
        self.major.append_value(change.version.major);
        self.minor.append_value(change.version.minor);
        self.delivered.append_value(change.position);
        self.arrival.append_option(change.arrival.map(interdict_features::time::Timestamp::micros));
        let mut bytes = ROW_BYTES;
        let mut is_whole = true;
        for (column, cells) in self.cells.iter_mut().enumerate() {
            bytes += cells.push(row, column);
            if row.cells[column] == UNCHANGED {
                is_whole = false;
                self.unchanged.values().append_value(&row.stream.columns[column].name);
            }
        }
        self.unchanged.append(!is_whole);
        self.rows += 1;
        self.bytes += bytes;
        bytes
    }

    fn finish(mut self) -> Result<RecordBatch, ArrowError> {
        let own: [ArrayRef; 6] = [
            Arc::new(self.op.finish()),
            Arc::new(self.major.finish()),
            Arc::new(self.minor.finish()),
            Arc::new(self.delivered.finish()),
            Arc::new(self.arrival.finish()),
            Arc::new(self.unchanged.finish()),
        ];
        let names = OWN.into_iter().chain(self.stream.columns.iter().map(|column| column.name.as_str()));
        let arrays: Vec<ArrayRef> = own.into_iter().chain(self.cells.into_iter().map(Cells::finish)).collect();
        let field = |(name, array): (&str, &ArrayRef)| {
            let kind: DataType = array.data_type().clone();
            Field::new(name, kind, true)
        };
        let fields: Vec<Field> = names.zip(&arrays).map(field).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
    }

    /// The rows as a Parquet file; its footer names what it holds.
    pub(super) fn encode(self, facts: &[(&str, String)]) -> Result<Vec<u8>, ParquetError> {
        let own = [
            ("stream", self.stream.name.clone()),
            ("first_position", self.first.to_string()),
            ("last_position", self.last.to_string()),
            ("rows", self.rows.to_string()),
        ];
        let facts =
            own.iter().chain(facts).map(|(key, value)| KeyValue::new(format!("interdict.{key}"), value.clone()));
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
            .set_key_value_metadata(Some(facts.collect()))
            .build();
        let batch = self.finish()?;
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties))?;
        writer.write(&batch)?;
        writer.into_inner()
    }
}

fn op_text(op: Op) -> &'static str {
    match op {
        Op::Insert => "insert",
        Op::Snapshot => "snapshot",
        Op::Update => "update",
        Op::Delete => "delete",
        Op::Truncate => "truncate",
        Op::Request => "request",
        Op::Lost => "lost",
        Op::Recovered => "recovered",
        Op::Settled => "settled",
    }
}
