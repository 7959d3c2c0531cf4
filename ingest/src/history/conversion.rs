//! Exact conversion of one Arrow array into the cells of one column, in a loop per type.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Date64Type, Decimal128Type, Decimal256Type, Float32Type, Float64Type, Int8Type,
    Int16Type, Int32Type, Int64Type, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, PrimitiveArray};
use arrow_schema::{DataType, TimeUnit as ArrowUnit};
use arrow_select::take::take;
use interdict_features::change::BlockWriter;
use interdict_features::decode::{TimeUnit, decimal_as, int_as, wall_clock_cell};
use interdict_features::time::Timestamp;
use interdict_features::value::{CellError, ColumnType, decimal_cell_from_double, double_cell};
use jiff::tz::TimeZone;

use crate::dead_letter::Fault;

use super::columns::Faults;

/// Whether values of `found` can be exact cells of `kind` (single values may still not be).
pub(super) fn accepts(kind: ColumnType, found: &DataType) -> bool {
    if let DataType::Dictionary(_, values) = found {
        return accepts(kind, values);
    }
    let is_decimal = matches!(found, DataType::Decimal128(..) | DataType::Decimal256(..));
    let is_float = matches!(found, DataType::Float32 | DataType::Float64);
    match kind {
        ColumnType::Int | ColumnType::Double | ColumnType::Decimal { .. } => {
            found.is_integer() || is_decimal || is_float
        }
        ColumnType::Bool => *found == DataType::Boolean || found.is_integer(),
        ColumnType::Text => is_text(found),
        ColumnType::Uuid => is_text(found) || *found == DataType::FixedSizeBinary(16),
        ColumnType::Timestamp => {
            is_text(found) || matches!(found, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64)
        }
    }
}

/// What to declare for a column of type `found`.
pub(super) fn suggested(found: &DataType) -> String {
    match found {
        DataType::Dictionary(_, values) => return suggested(values),
        DataType::Boolean => "bool",
        DataType::Float16 | DataType::Float32 | DataType::Float64 => "double",
        DataType::Decimal128(_, scale @ 0..=12) | DataType::Decimal256(_, scale @ 0..=12) => {
            return format!("decimal({scale})");
        }
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => "timestamp",
        kind if kind.is_integer() => "int64",
        kind if is_text(kind) => "string",
        _ => "... (none fits; leave the column out)",
    }
    .to_owned()
}

fn is_text(found: &DataType) -> bool {
    matches!(
        found,
        DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View
            | DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
    )
}

/// Fills one column of a block from `array`, whose type [`accepts`] agreed to; notes the rows that do not fit.
pub(super) fn fill(block: &mut BlockWriter<'_>, column: usize, array: &ArrayRef, faults: &mut Faults) {
    let mut target = Target { kind: block.stream().columns[column].kind, block, column, faults };
    match array.data_type() {
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let plain = take(dictionary.values(), dictionary.keys(), None).expect("keys lie within their values");
            fill(target.block, column, &plain, target.faults);
        }
        DataType::Boolean => {
            let values = array.as_boolean();
            target.each(array, |row| Ok(i64::from(values.value(row))));
        }
        DataType::Int8 => target.integers::<Int8Type>(array),
        DataType::Int16 => target.integers::<Int16Type>(array),
        DataType::Int32 => target.integers::<Int32Type>(array),
        DataType::Int64 => target.integers::<Int64Type>(array),
        DataType::UInt8 => target.integers::<UInt8Type>(array),
        DataType::UInt16 => target.integers::<UInt16Type>(array),
        DataType::UInt32 => target.integers::<UInt32Type>(array),
        DataType::UInt64 => target.integers::<UInt64Type>(array),
        DataType::Float32 => target.floats(array),
        DataType::Float64 => target.doubles(array),
        DataType::Decimal128(_, scale) => {
            let values = array.as_primitive::<Decimal128Type>().values();
            let kind = target.kind;
            target.each(array, |row| decimal(kind, values[row], *scale));
        }
        DataType::Decimal256(_, scale) => {
            let values = array.as_primitive::<Decimal256Type>().values();
            let kind = target.kind;
            target.each(array, |row| decimal(kind, values[row].to_i128().ok_or(CellError::OutOfRange)?, *scale));
        }
        DataType::Timestamp(unit, zone) => target.instants(array, *unit, zone.is_some()),
        DataType::Date32 => target.times(&array.as_primitive::<Date32Type>().clone(), TimeUnit::Days, Clock::Wall),
        DataType::Date64 => target.times(&array.as_primitive::<Date64Type>().clone(), TimeUnit::Millis, Clock::Wall),
        _ => target.texts(array),
    }
}

/// Whether a number of time units counts from the epoch in UTC or is a wall clock of the stream's zone.
#[derive(Clone, Copy)]
enum Clock {
    Utc,
    Wall,
}

struct Target<'a, 'b> {
    kind: ColumnType,
    block: &'a mut BlockWriter<'b>,
    column: usize,
    faults: &'a mut Faults,
}

impl Target<'_, '_> {
    /// Sets every cell that is not null to what `cell_of` gives for its row.
    fn each(&mut self, array: &dyn Array, cell_of: impl Fn(usize) -> Result<i64, CellError>) {
        let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
        let mut failed = Vec::new();
        for (row, cell) in self.block.column_mut(self.column).enumerate() {
            if nulls.is_none_or(|nulls| nulls.is_valid(row)) {
                match cell_of(row) {
                    Ok(value) => *cell = value,
                    Err(error) => failed.push((row, error)),
                }
            }
        }
        for (row, error) in failed {
            self.fail(row, error);
        }
    }

    fn fail(&mut self, row: usize, error: CellError) {
        let declared = &self.block.stream().columns[self.column];
        self.faults.note(row, Fault::of_cell(&declared.name, declared.kind, error));
    }

    fn integers<T: ArrowPrimitiveType>(&mut self, array: &ArrayRef)
    where
        T::Native: TryInto<i64>,
    {
        let values = array.as_primitive::<T>().values();
        let kind = self.kind;
        self.each(array, |row| {
            let value = values[row].try_into().map_err(|_past_63_bits| CellError::OutOfRange)?;
            int_as(kind, value, None)
        });
    }

    fn doubles(&mut self, array: &ArrayRef) {
        let values = array.as_primitive::<Float64Type>().values();
        match self.kind {
            ColumnType::Double => self.each(array, |row| double_cell(values[row])),
            ColumnType::Decimal { scale } => self.each(array, |row| decimal_cell_from_double(values[row], scale)),
            _ => self.each(array, |row| decimal_cell_from_double(values[row], 0)),
        }
    }

    fn floats(&mut self, array: &ArrayRef) {
        let values = array.as_primitive::<Float32Type>().values();
        match self.kind {
            ColumnType::Double => self.each(array, |row| double_cell(f64::from(values[row]))),
            ColumnType::Decimal { scale } => self.each(array, |row| decimal_from_float(values[row], scale)),
            _ => self.each(array, |row| decimal_from_float(values[row], 0)),
        }
    }

    fn instants(&mut self, array: &ArrayRef, unit: ArrowUnit, has_zone: bool) {
        let clock = if has_zone { Clock::Utc } else { Clock::Wall };
        match unit {
            ArrowUnit::Second => self.times(array.as_primitive::<TimestampSecondType>(), TimeUnit::Seconds, clock),
            ArrowUnit::Millisecond => {
                self.times(array.as_primitive::<TimestampMillisecondType>(), TimeUnit::Millis, clock);
            }
            ArrowUnit::Microsecond => {
                self.times(array.as_primitive::<TimestampMicrosecondType>(), TimeUnit::Micros, clock);
            }
            ArrowUnit::Nanosecond => {
                self.times(array.as_primitive::<TimestampNanosecondType>(), TimeUnit::Nanos, clock);
            }
        }
    }

    fn times<T: ArrowPrimitiveType>(&mut self, array: &PrimitiveArray<T>, unit: TimeUnit, clock: Clock)
    where
        T::Native: Into<i64>,
    {
        let values = array.values();
        let zone = self.block.stream().zone.clone();
        match clock {
            Clock::Wall if zone != TimeZone::UTC => {
                self.each(array, |row| wall_clock_cell(unit.cell(values[row].into())?, &zone));
            }
            _ => self.each(array, |row| unit.cell(values[row].into())),
        }
    }

    fn texts(&mut self, array: &ArrayRef) {
        match array.data_type() {
            DataType::Utf8 => {
                let values = array.as_string::<i32>();
                self.each_text(array, |row| Ok(values.value(row)));
            }
            DataType::LargeUtf8 => {
                let values = array.as_string::<i64>();
                self.each_text(array, |row| Ok(values.value(row)));
            }
            DataType::Utf8View => {
                let values = array.as_string_view();
                self.each_text(array, |row| Ok(values.value(row)));
            }
            DataType::Binary => {
                let values = array.as_binary::<i32>();
                self.each_text(array, |row| utf8(values.value(row)));
            }
            DataType::LargeBinary => {
                let values = array.as_binary::<i64>();
                self.each_text(array, |row| utf8(values.value(row)));
            }
            DataType::BinaryView => {
                let values = array.as_binary_view();
                self.each_text(array, |row| utf8(values.value(row)));
            }
            _ => self.uuids(array),
        }
    }

    fn each_text<'v>(&mut self, array: &dyn Array, text_of: impl Fn(usize) -> Result<&'v str, CellError>) {
        if self.kind == ColumnType::Timestamp {
            let zone = self.block.stream().zone.clone();
            self.each(array, |row| {
                Timestamp::parse(text_of(row)?, &zone).map(Timestamp::micros).ok_or(CellError::WrongType)
            });
            return;
        }
        for row in 0..array.len() {
            if array.is_valid(row) {
                let set = text_of(row).and_then(|text| self.block.set_text(row, self.column, text));
                if let Err(error) = set {
                    self.fail(row, error);
                }
            }
        }
    }

    fn uuids(&mut self, array: &ArrayRef) {
        let values = array.as_fixed_size_binary();
        for row in 0..array.len() {
            if array.is_valid(row) {
                let set = uuid::Uuid::from_slice(values.value(row)).map_err(|_not_16| CellError::WrongType).and_then(
                    |uuid| {
                        let mut buffer = uuid::Uuid::encode_buffer();
                        self.block.set_text(row, self.column, uuid.as_hyphenated().encode_lower(&mut buffer))
                    },
                );
                if let Err(error) = set {
                    self.fail(row, error);
                }
            }
        }
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, CellError> {
    std::str::from_utf8(bytes).map_err(|_not_utf8| CellError::NotUtf8)
}

fn decimal(kind: ColumnType, unscaled: i128, scale: i8) -> Result<i64, CellError> {
    match u32::try_from(scale) {
        Ok(scale) => decimal_as(kind, unscaled, scale),
        Err(_negative) => {
            let factor = 10_i128.checked_pow(u32::from(scale.unsigned_abs())).ok_or(CellError::OutOfRange)?;
            decimal_as(kind, unscaled.checked_mul(factor).ok_or(CellError::OutOfRange)?, 0)
        }
    }
}

/// Minor units of a single-precision number: exact when it is the one nearest to a decimal of that scale.
#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "bounded by 2^24 first")]
#[expect(clippy::float_cmp, reason = "the round trip must be exact")]
fn decimal_from_float(value: f32, scale: u8) -> Result<i64, CellError> {
    if !value.is_finite() {
        return Err(CellError::NotFinite);
    }
    let factor = 10_i64.pow(u32::from(scale)) as f64;
    let minor = (f64::from(value) * factor).round();
    if minor.abs() >= 16_777_216.0 {
        return Err(CellError::OutOfRange);
    }
    if (minor / factor) as f32 == value { Ok(minor as i64) } else { Err(CellError::Inexact) }
}
