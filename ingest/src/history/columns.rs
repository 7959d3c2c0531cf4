//! Which Parquet column feeds which column of a stream, and the turning of record batches into changes.

use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{Array, ListArray, RecordBatch, StringArray, downcast_integer_array};
use arrow_schema::{DataType, Schema, TimeUnit};
use interdict_features::change::{BlockWriter, Change, ChangeBatch, Op, Version};
use interdict_features::definition::Stream;
use interdict_features::time::Timestamp;
use interdict_features::value::{NULL, UNCHANGED};

use crate::dead_letter::{DeadLetter, DeadReason, Fault};
use crate::decoder::archived_op_of;
use crate::source::error::SourceError;

use super::conversion;

const POSITION: &str = "_position";
const POSITION_ROW: &str = "_position_row";
const OP: &str = "_op";
const ARRIVAL: &str = "_arrival";
const UNCHANGED_COLUMNS: &str = "_unchanged";

/// Where each column of a stream stands in the record batches of one file.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    columns: Vec<usize>,
    position: Option<usize>,
    position_row: Option<usize>,
    op: Option<usize>,
    arrival: Option<usize>,
    unchanged: Option<usize>,
}

impl Plan {
    /// Finds the columns of `stream` in a file's schema; also returns the indexes of the columns to read.
    pub(crate) fn new(path: &Path, stream: &Stream, schema: &Schema) -> Result<(Self, Vec<usize>), SourceError> {
        let mut roots = Vec::new();
        for column in &stream.columns {
            let Ok(index) = schema.index_of(&column.name) else {
                return Err(SourceError::MissingColumn {
                    path: path.to_owned(),
                    stream: stream.name.clone(),
                    column: column.name.clone(),
                    declared: column.kind,
                    found: schema.fields().iter().take(32).map(|field| field.name().clone()).collect(),
                });
            };
            let found = schema.field(index).data_type();
            if !conversion::accepts(column.kind, found) {
                return Err(SourceError::ColumnType {
                    path: path.to_owned(),
                    stream: stream.name.clone(),
                    column: column.name.clone(),
                    found: found.to_string().into(),
                    declared: column.kind,
                    suggested: conversion::suggested(found).into(),
                });
            }
            roots.push(index);
        }
        let known = |name: &str, fits: fn(&DataType) -> bool| {
            schema.index_of(name).ok().filter(|index| fits(schema.field(*index).data_type()))
        };
        let position = known(POSITION, DataType::is_integer);
        let position_row = position.and_then(|_| known(POSITION_ROW, DataType::is_integer));
        let op = known(OP, |kind| *kind == DataType::Utf8 || *kind == DataType::LargeUtf8);
        let is_instant = |kind: &DataType| matches!(kind, DataType::Timestamp(TimeUnit::Microsecond, Some(_)));
        let arrival = known(ARRIVAL, is_instant);
        let is_texts = |kind: &DataType| matches!(kind, DataType::List(item) if *item.data_type() == DataType::Utf8);
        let unchanged = known(UNCHANGED_COLUMNS, is_texts);
        let own = [position, position_row, op, arrival, unchanged];
        let mut read: Vec<usize> = roots.iter().copied().chain(own.into_iter().flatten()).collect();
        read.sort_unstable();
        read.dedup();
        let place = |root: usize| read.partition_point(|index| *index < root);
        let plan = Self {
            columns: roots.into_iter().map(place).collect(),
            position: position.map(place),
            position_row: position_row.map(place),
            op: op.map(place),
            arrival: arrival.map(place),
            unchanged: unchanged.map(place),
        };
        Ok((plan, read))
    }

    /// Turns rows into changes, or into dead letters of `source`; `rows_before` is the ordinal of the row before.
    pub(crate) fn decode(
        &self,
        rows: &RecordBatch,
        rows_before: u64,
        rows_as: Op,
        source: &str,
        batch: &mut ChangeBatch,
        dead: &mut Vec<DeadLetter>,
    ) {
        let partition = batch.partition();
        let mut block = batch.begin_block(rows.num_rows());
        let mut faults = Faults::default();
        for (column, place) in self.columns.iter().enumerate() {
            conversion::fill(&mut block, column, rows.column(*place), &mut faults);
        }
        let arrivals = self.arrival.map(|place| rows.column(place).as_primitive::<TimestampMicrosecondType>());
        let arrival = |row: usize| {
            let known = arrivals.filter(|arrivals| arrivals.is_valid(row));
            known.and_then(|arrivals| Timestamp::checked_from_micros(arrivals.value(row)))
        };
        let ops = self.ops(rows, rows_as, &mut faults);
        if let Some(place) = self.unchanged {
            mark_unchanged(&mut block, rows.column(place).as_list(), &ops, &mut faults);
        }
        let versions = self.versions(rows, &mut faults);
        require_cells(&block, &ops, &mut faults);
        let with_id = |(row, fault): (usize, Fault)| (row, fault.of_row(&block.row(row)));
        let faults: Vec<_> = faults.in_order().into_iter().map(with_id).collect();
        let mut faults = faults.into_iter().peekable();
        block.finish(|row| {
            let position = rows_before + row as u64 + 1;
            if let Some((_, fault)) = faults.next_if(|(faulty, _)| *faulty == row) {
                let detail = fault.detail.into_owned();
                let source = source.to_owned();
                dead.push(DeadLetter {
                    source,
                    partition,
                    position,
                    row: None,
                    stream: None,
                    id: fault.id,
                    version: None,
                    op: Some(ops.of(row)),
                    reason: fault.reason,
                    detail,
                    payload: None,
                });
                return None;
            }
            Some(Change { op: ops.of(row), version: versions.of(row, position), arrival: arrival(row), position })
        });
    }

    fn ops(&self, rows: &RecordBatch, rows_as: Op, faults: &mut Faults) -> Ops {
        let Some(place) = self.op else {
            return Ops::All(rows_as);
        };
        let array = rows.column(place);
        let text = |row: usize| match array.data_type() {
            DataType::LargeUtf8 => array.as_string::<i64>().value(row),
            _ => array.as_string::<i32>().value(row),
        };
        let mut ops = Vec::with_capacity(rows.num_rows());
        for row in 0..rows.num_rows() {
            let op = if array.is_null(row) { Some(rows_as) } else { archived_op_of(text(row)) };
            if op.is_none() {
                faults.note(row, Fault::new(DeadReason::UnknownOp, "column '_op' holds no operation that is known"));
            }
            ops.push(op.unwrap_or(rows_as));
        }
        Ops::Each(ops)
    }

    fn versions(&self, rows: &RecordBatch, faults: &mut Faults) -> Versions {
        let Some(place) = self.position else {
            return Versions::Ordinal;
        };
        let majors = unsigned(rows, place, POSITION, faults);
        let minors = self.position_row.map(|place| unsigned(rows, place, POSITION_ROW, faults));
        let mut versions = Vec::with_capacity(rows.num_rows());
        for (row, major) in majors.iter().enumerate() {
            let minor = minors.as_ref().map_or(0, |minors| minors[row]);
            let Ok(minor) = u32::try_from(minor) else {
                faults.note(row, Fault::new(DeadReason::OutOfRange, "column '_position_row' is past 32 bits"));
                versions.push(Version::default());
                continue;
            };
            versions.push(Version { major: *major, minor });
        }
        Versions::Each(versions)
    }
}

/// Marks the cells that an UPDATE did not send; any other row must be whole.
fn mark_unchanged(block: &mut BlockWriter<'_>, names: &ListArray, ops: &Ops, faults: &mut Faults) {
    let stream = Arc::clone(block.stream());
    let of_row = |row: usize| names.is_valid(row).then(|| names.value(row));
    let marked: Vec<(usize, StringArray)> =
        (0..names.len()).filter_map(|row| Some((row, of_row(row)?.as_string().clone()))).collect();
    if marked.is_empty() {
        return;
    }
    for (column, declared) in stream.columns.iter().enumerate() {
        let is_marked = |names: &StringArray| names.iter().flatten().any(|name| name == declared.name);
        for (row, _) in marked.iter().filter(|(_, names)| is_marked(names)) {
            if ops.of(*row) == Op::Update {
                block.set_unchanged(*row, column);
            } else {
                let detail = format!("column '_unchanged' names '{}' in a row that is no update", declared.name);
                faults.note(*row, Fault::new(DeadReason::UnavailableValue, detail));
            }
        }
    }
}

/// What is wrong with which rows of a block; the first fault of a row counts.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<(usize, Fault)>);

impl Faults {
    pub(super) fn note(&mut self, row: usize, fault: Fault) {
        self.0.push((row, fault));
    }

    fn in_order(mut self) -> Vec<(usize, Fault)> {
        self.0.sort_by_key(|(row, _)| *row);
        self.0.dedup_by_key(|(row, _)| *row);
        self.0
    }
}

enum Ops {
    All(Op),
    Each(Vec<Op>),
}

impl Ops {
    fn of(&self, row: usize) -> Op {
        match self {
            Self::All(op) => *op,
            Self::Each(ops) => ops[row],
        }
    }
}

enum Versions {
    Ordinal,
    Each(Vec<Version>),
}

impl Versions {
    fn of(&self, row: usize, position: u64) -> Version {
        match self {
            Self::Ordinal => Version::new(position),
            Self::Each(versions) => versions[row],
        }
    }
}

fn unsigned(rows: &RecordBatch, place: usize, name: &'static str, faults: &mut Faults) -> Vec<u64> {
    let array = rows.column(place);
    let numbers: Vec<Option<u64>> = downcast_integer_array!(
        array => array.iter().map(|value| value.and_then(|value| u64::try_from(i128::from(value)).ok())).collect(),
        _ => vec![None; rows.num_rows()],
    );
    let number = |(row, number): (usize, Option<u64>)| {
        number.unwrap_or_else(|| {
            let detail = format!("column '{name}' is null or negative");
            faults.note(row, Fault::new(DeadReason::VersionMismatch, detail));
            0
        })
    };
    numbers.into_iter().enumerate().map(number).collect()
}

fn require_cells(block: &BlockWriter<'_>, ops: &Ops, faults: &mut Faults) {
    let stream = block.stream();
    let null_id =
        Fault::new(DeadReason::NullId, format!("column '{}' (the id) is null", stream.columns[stream.id].name));
    for (row, cell) in block.column(stream.id).enumerate() {
        if cell <= UNCHANGED && !ops.of(row).is_mark() {
            faults.note(row, null_id.clone());
        }
    }
    let Some(time) = stream.time else {
        return;
    };
    let null_time =
        Fault::new(DeadReason::NullTime, format!("column '{}' (the time) is null", stream.columns[time].name));
    for (row, cell) in block.column(time).enumerate() {
        if cell == NULL && ops.of(row).has_row() {
            faults.note(row, null_time.clone());
        }
    }
}
