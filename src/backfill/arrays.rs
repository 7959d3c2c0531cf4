//! Feature columns as Arrow arrays.

use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow_buffer::{BooleanBuffer, NullBuffer};
use arrow_schema::{DataType, Field, TimeUnit};
use interdict_features::backfill::{Column, TextCell};
use interdict_features::expression::Type;
use interdict_features::value::UNCHANGED;

/// The field of a feature.
pub(super) fn field(name: &str, kind: Type) -> Field {
    let kind = match kind {
        Type::Int => DataType::Int64,
        Type::Double => DataType::Float64,
        Type::Bool => DataType::Boolean,
        Type::Text => DataType::Utf8,
        Type::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
    };
    Field::new(name, kind, true)
}

/// The values of a feature.
pub(super) fn array(column: Column) -> ArrayRef {
    match column {
        Column::Int(cells) => {
            let nulls = nulls_of(&cells);
            Arc::new(Int64Array::new(cells.into(), nulls))
        }
        Column::Double(values) => {
            let nulls = nulls(values.len(), values.iter().map(|value| !value.is_nan()));
            Arc::new(Float64Array::new(values.into(), nulls))
        }
        Column::Bool(cells) => {
            let values = BooleanBuffer::collect_bool(cells.len(), |at| cells[at] == 1);
            Arc::new(BooleanArray::new(values, nulls_of(&cells)))
        }
        Column::Timestamp(cells) => {
            let nulls = nulls_of(&cells);
            Arc::new(TimestampMicrosecondArray::new(cells.into(), nulls).with_timezone("UTC"))
        }
        Column::Text(cells) => Arc::new(StringArray::from_iter(cells.iter().map(TextCell::text))),
    }
}

fn nulls_of(cells: &[i64]) -> Option<NullBuffer> {
    nulls(cells.len(), cells.iter().map(|cell| *cell > UNCHANGED))
}

fn nulls(rows: usize, mut is_valid: impl Iterator<Item = bool>) -> Option<NullBuffer> {
    let valid = NullBuffer::new(BooleanBuffer::collect_bool(rows, |_| is_valid.next().unwrap_or(false)));
    (valid.null_count() > 0).then_some(valid)
}
