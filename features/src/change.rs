//! Batches of changes: what every source decodes to and what the engine applies.
//!
//! A [`ChangeBatch`] holds changes of one stream from one source partition, in delivery order, as flat cells:
//! one allocation per batch, none per change. Sensitive columns are masked as they are written here, so that
//! no later code can see them.
//!
//! Invariant: every row has the width of its stream's schema; a text cell indexes this batch's own text.

mod parts;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::definition::Stream;
use crate::time::Timestamp;
use crate::value::{CellError, ColumnType, NULL, TEXT_BYTES_MAX, UNCHANGED, Value, double_of, major_units};

/// Orders the versions of one row: commit LSN and row number within the transaction, or broker offset and 0,
/// or file row and 0. The same change has the same version however often and in whatever order it is delivered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Version {
    /// Commit LSN, broker offset or file row.
    pub major: u64,
    /// Row number within the commit; 0 where the source has none.
    pub minor: u32,
}

impl Version {
    /// The version of a request: lower than every version a source gives.
    pub const REQUEST: Self = Self { major: 0, minor: 0 };
    /// Later than every version: the place of an event that has none yet.
    pub const MAX: Self = Self { major: u64::MAX, minor: u32::MAX };

    /// A version with no minor part.
    #[must_use]
    pub const fn new(major: u64) -> Self {
        Self { major, minor: 0 }
    }
}

/// What happened to the row.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// A new row (Debezium `c`), judged when its stream is.
    Insert,
    /// A row of a snapshot or of history (Debezium `r`): builds state, is not judged.
    Snapshot,
    /// A newer version of a row (`u`); cells may be [`UNCHANGED`].
    Update,
    /// The row is gone (`d`); only the id cell is certain.
    Delete,
    /// All rows of the stream with a lower version are gone (`t`); the row has no cells set.
    Truncate,
    /// A request that asks for a decision before the database knows the row.
    Request,
    /// Changes before this version were lost. The rows that there are follow as [`Self::Recovered`] ones, and whatever is not among them is
    /// gone; the row has no cells set.
    Lost,
    /// A row of the snapshot behind [`Self::Lost`]: judged, late, where nothing was known of it.
    Recovered,
    /// All rows behind the [`Self::Lost`] of the same version have come; the row has no cells set.
    Settled,
}

impl Op {
    /// Whether it speaks of all rows of its stream and not of one: such a change stands alone in its part of a batch.
    #[must_use]
    pub const fn is_mark(self) -> bool {
        matches!(self, Self::Truncate | Self::Lost | Self::Settled)
    }

    /// Whether the change holds its row, and not its id alone or nothing.
    #[must_use]
    pub const fn has_row(self) -> bool {
        !matches!(self, Self::Delete) && !self.is_mark()
    }

    /// Whether it comes of reading a table, and not of a change of it.
    #[must_use]
    pub const fn is_of_snapshot(self) -> bool {
        matches!(self, Self::Snapshot | Self::Lost | Self::Recovered | Self::Settled)
    }
}

/// One change; its cells stand in the batch at the same index.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Change {
    /// What happened.
    pub op: Op,
    /// Orders versions of the row.
    pub version: Version,
    /// Commit time, broker timestamp or receipt of the request; for files, `None`: the event's own time.
    pub arrival: Option<Timestamp>,
    /// Where in its partition this change was delivered; what is committed after it is applied.
    pub position: u64,
}

/// Text of many cells in one allocation.
#[derive(PartialEq, Eq, Debug, Default)]
pub struct TextArena {
    bytes: String,
    ends: Vec<usize>,
}

impl Clone for TextArena {
    fn clone(&self) -> Self {
        Self { bytes: self.bytes.clone(), ends: self.ends.clone() }
    }

    /// Reuses the memory of `self`.
    fn clone_from(&mut self, other: &Self) {
        self.bytes.clone_from(&other.bytes);
        self.ends.clone_from(&other.ends);
    }
}

impl TextArena {
    /// Adds `text` and returns its cell.
    #[expect(clippy::cast_possible_wrap, reason = "a batch holds far fewer than 2^63 texts")]
    pub fn push(&mut self, text: &str) -> i64 {
        self.bytes.push_str(text);
        self.ends.push(self.bytes.len());
        self.ends.len() as i64 - 1
    }

    /// The text of a cell made by [`Self::push`]; empty for any other cell.
    #[must_use]
    pub fn get(&self, cell: i64) -> &str {
        let Ok(index) = usize::try_from(cell) else {
            return "";
        };
        let Some(&end) = self.ends.get(index) else {
            return "";
        };
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[start..end]
    }

    /// Forgets all text and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

/// Changes of one stream from one source partition, in delivery order.
#[derive(Clone, Debug)]
pub struct ChangeBatch {
    stream: Arc<Stream>,
    partition: u32,
    cells: Vec<i64>,
    text: TextArena,
    changes: Vec<Change>,
}

impl ChangeBatch {
    /// An empty batch for changes of `stream` from source partition `partition`.
    #[must_use]
    pub fn new(stream: Arc<Stream>, partition: u32) -> Self {
        Self { stream, partition, cells: Vec::new(), text: TextArena::default(), changes: Vec::new() }
    }

    /// The stream these changes belong to.
    #[must_use]
    pub fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// The source partition they came from.
    #[must_use]
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// How many changes the batch holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether the batch holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.cells.clear();
        self.text.clear();
        self.changes.clear();
    }

    /// The change at `index` with its row.
    ///
    /// # Panics
    /// When `index` is not below [`Self::len`].
    #[must_use]
    pub fn get(&self, index: usize) -> (&Change, Row<'_>) {
        (&self.changes[index], self.row(index))
    }

    /// The row at `index`.
    ///
    /// # Panics
    /// When `index` is not below [`Self::len`].
    #[must_use]
    pub fn row(&self, index: usize) -> Row<'_> {
        let width = self.stream.columns.len();
        Row { stream: &self.stream, cells: &self.cells[index * width..(index + 1) * width], text: &self.text }
    }

    /// All changes with their rows, in delivery order.
    pub fn iter(&self) -> impl Iterator<Item = (&Change, Row<'_>)> {
        (0..self.len()).map(|index| self.get(index))
    }

    /// Adds a copy of a row that was decoded before; its sensitive columns are masked already.
    ///
    /// # Panics
    /// When the row has another width than this batch's stream.
    pub fn push_row(&mut self, row: Row<'_>, change: Change) {
        assert_eq!(row.cells.len(), self.stream.columns.len(), "a row of the same stream");
        let start = self.changes.len() * row.cells.len();
        self.cells.truncate(start);
        for (column, &cell) in row.cells.iter().enumerate() {
            let is_text = self.stream.columns[column].kind.is_text() && cell > UNCHANGED;
            let cell = if is_text { self.text.push(row.text.get(cell)) } else { cell };
            self.cells.push(cell);
        }
        self.changes.push(change);
    }

    /// Fills what the row at `index` did not send with what is known of it: `known`, of the same stream, as far as row records keep it,
    /// in `columns`.
    pub(crate) fn complete(&mut self, index: usize, columns: &[usize], known: Row<'_>) {
        let start = index * self.stream.columns.len();
        for &column in columns {
            let cell = known.cells[column];
            if self.cells[start + column] == UNCHANGED && cell > UNCHANGED {
                let is_text = self.stream.columns[column].kind.is_text();
                self.cells[start + column] = if is_text { self.text.push(known.text.get(cell)) } else { cell };
            }
        }
    }

    /// Begins a row of nulls; it joins the batch with [`RowWriter::finish`] and leaves no trace when dropped.
    pub fn begin(&mut self) -> RowWriter<'_> {
        let start = self.changes.len() * self.stream.columns.len();
        self.cells.truncate(start);
        self.cells.resize(start + self.stream.columns.len(), NULL);
        RowWriter { batch: self, start }
    }

    /// Makes room for `rows` more rows.
    pub fn reserve(&mut self, rows: usize) {
        self.cells.reserve(rows * self.stream.columns.len());
        self.changes.reserve(rows);
    }

    /// Begins `rows` rows of nulls that are filled column by column; they join the batch with
    /// [`BlockWriter::finish`] and leave no trace when dropped.
    pub fn begin_block(&mut self, rows: usize) -> BlockWriter<'_> {
        let start = self.changes.len() * self.stream.columns.len();
        self.cells.truncate(start);
        self.cells.resize(start + rows * self.stream.columns.len(), NULL);
        BlockWriter { batch: self, start, rows }
    }

    fn text_cell(&mut self, column: usize, text: &str) -> Result<i64, CellError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(CellError::TooLong);
        }
        let declared = &self.stream.columns[column];
        if declared.sensitive {
            Ok(self.text.push(&self.stream.mask(text)))
        } else if declared.kind == ColumnType::Uuid {
            let uuid = uuid::Uuid::try_parse(text).map_err(|_not_a_uuid| CellError::WrongType)?;
            Ok(self.text.push(uuid.as_hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer())))
        } else {
            Ok(self.text.push(text))
        }
    }
}

/// Fills several rows of a [`ChangeBatch`] column by column: the path of columnar sources.
#[derive(Debug)]
pub struct BlockWriter<'a> {
    batch: &'a mut ChangeBatch,
    start: usize,
    rows: usize,
}

impl BlockWriter<'_> {
    /// The stream whose columns are being written.
    #[must_use]
    pub fn stream(&self) -> &Arc<Stream> {
        &self.batch.stream
    }

    /// How many rows the block has.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The cells of one column that is not text, in row order, to be overwritten.
    ///
    /// # Panics
    /// When `column` is not one of the stream's.
    pub fn column_mut(&mut self, column: usize) -> impl Iterator<Item = &mut i64> {
        let width = self.batch.stream.columns.len();
        assert!(column < width, "a column of the stream");
        debug_assert!(!self.batch.stream.columns[column].kind.is_text(), "text goes through set_text");
        self.batch.cells[self.start..].iter_mut().skip(column).step_by(width)
    }

    /// The cells of one column in row order, texts as indexes.
    ///
    /// # Panics
    /// When `column` is not one of the stream's.
    pub fn column(&self, column: usize) -> impl Iterator<Item = i64> {
        let width = self.batch.stream.columns.len();
        assert!(column < width, "a column of the stream");
        self.batch.cells[self.start..].iter().skip(column).step_by(width).copied()
    }

    /// A row as filled so far.
    ///
    /// # Panics
    /// When `row` is not one of the block's.
    #[must_use]
    pub fn row(&self, row: usize) -> Row<'_> {
        let width = self.batch.stream.columns.len();
        let from = self.start + row * width;
        Row { stream: &self.batch.stream, cells: &self.batch.cells[from..from + width], text: &self.batch.text }
    }

    /// Sets a text or UUID cell as [`RowWriter::set_text`] does.
    ///
    /// # Errors
    /// As [`RowWriter::set_text`].
    pub fn set_text(&mut self, row: usize, column: usize, text: &str) -> Result<(), CellError> {
        let cell = self.batch.text_cell(column, text)?;
        self.batch.cells[self.start + row * self.batch.stream.columns.len() + column] = cell;
        Ok(())
    }

    /// Marks a cell as not sent because it did not change.
    ///
    /// # Panics
    /// When `row` or `column` is not one of the block's.
    pub fn set_unchanged(&mut self, row: usize, column: usize) {
        assert!(row < self.rows && column < self.batch.stream.columns.len(), "a cell of the block");
        self.batch.cells[self.start + row * self.batch.stream.columns.len() + column] = UNCHANGED;
    }

    /// Adds the rows to the batch, each as the change that `change_of` names for it; rows without one are left out.
    pub fn finish(self, mut change_of: impl FnMut(usize) -> Option<Change>) {
        let width = self.batch.stream.columns.len();
        let mut end = self.start;
        for row in 0..self.rows {
            if let Some(change) = change_of(row) {
                let from = self.start + row * width;
                if from != end {
                    self.batch.cells.copy_within(from..from + width, end);
                }
                end += width;
                self.batch.changes.push(change);
            }
        }
        self.batch.cells.truncate(end);
    }
}

/// Fills one row of a [`ChangeBatch`].
#[derive(Debug)]
pub struct RowWriter<'a> {
    batch: &'a mut ChangeBatch,
    start: usize,
}

impl RowWriter<'_> {
    /// The stream whose columns are being written.
    #[must_use]
    pub fn stream(&self) -> &Arc<Stream> {
        &self.batch.stream
    }

    /// Sets a cell made by a conversion of [`crate::value`], for columns that are not text.
    pub fn set_cell(&mut self, column: usize, cell: i64) {
        debug_assert!(!self.batch.stream.columns[column].kind.is_text(), "text goes through set_text");
        self.batch.cells[self.start + column] = cell;
    }

    /// Sets a text or UUID column; a sensitive column stores the keyed hash instead.
    ///
    /// # Errors
    /// [`CellError::TooLong`] past 1 KiB, [`CellError::WrongType`] when a UUID column's text is no UUID.
    pub fn set_text(&mut self, column: usize, text: &str) -> Result<(), CellError> {
        let cell = self.batch.text_cell(column, text)?;
        self.batch.cells[self.start + column] = cell;
        Ok(())
    }

    /// Sets a text column to what a batch held before: a sensitive one is masked already.
    pub fn set_masked(&mut self, column: usize, text: &str) {
        self.batch.cells[self.start + column] = self.batch.text.push(text);
    }

    /// The cell of a column as set so far.
    #[must_use]
    pub fn cell(&self, column: usize) -> i64 {
        self.batch.cells[self.start + column]
    }

    /// The row as filled so far.
    #[must_use]
    pub fn row(&self) -> Row<'_> {
        Row { stream: &self.batch.stream, cells: &self.batch.cells[self.start..], text: &self.batch.text }
    }

    /// Marks a column as not sent because it did not change.
    pub fn set_unchanged(&mut self, column: usize) {
        self.batch.cells[self.start + column] = UNCHANGED;
    }

    /// Adds the row to the batch as `change`.
    pub fn finish(self, change: Change) {
        self.batch.changes.push(change);
    }
}

/// One row's cells, borrowed from a batch or a row record.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// The stream that gives the columns their meaning.
    pub stream: &'a Stream,
    /// One cell per column of the stream.
    pub cells: &'a [i64],
    /// Where text cells point.
    pub text: &'a TextArena,
}

impl<'a> Row<'a> {
    /// The text of a text column, `None` when it is null or unchanged.
    #[must_use]
    pub fn text(&self, column: usize) -> Option<&'a str> {
        let cell = self.cells[column];
        (cell > UNCHANGED).then(|| self.text.get(cell))
    }

    /// The value of a column in the form edges show: decimals in major units, instants as text.
    #[must_use]
    pub fn value(&self, column: usize) -> Value {
        let cell = self.cells[column];
        if cell <= UNCHANGED {
            return Value::Null;
        }
        match self.stream.columns[column].kind {
            ColumnType::Int => Value::Int(cell),
            ColumnType::Double => Value::Double(double_of(cell)),
            ColumnType::Bool => Value::Bool(cell != 0),
            ColumnType::Text | ColumnType::Uuid => Value::Text(Arc::from(self.text.get(cell))),
            ColumnType::Timestamp => Value::Text(Arc::from(Timestamp::from_micros(cell).to_string())),
            ColumnType::Decimal { scale } => Value::Double(major_units(cell, scale)),
        }
    }

    /// The event id as text: what decision ids and answers are made of. `None` when the id is null.
    #[must_use]
    pub fn event_id(&self) -> Option<String> {
        let cell = self.cells[self.stream.id];
        if cell <= UNCHANGED {
            None
        } else if self.stream.columns[self.stream.id].kind.is_text() {
            Some(self.text.get(cell).to_owned())
        } else {
            Some(cell.to_string())
        }
    }

    /// The event's own time; `None` when the stream has none or it is null.
    #[must_use]
    pub fn time(&self) -> Option<Timestamp> {
        let cell = self.cells[self.stream.time?];
        (cell > UNCHANGED).then(|| Timestamp::from_micros(cell))
    }
}
