//! Conversions of one source value into the cell of a column: shared by every edge, HTTP included.
//!
//! What each type takes:
//! - `int64`: an integer, or text of one; `12.0` and `1e3` are integers, `12.5` is not exact.
//! - `decimal(s)`: a number or text, read from its own digits and never through a double.
//! - `double`: a number or text of one, finite.
//! - `bool`: `true`, `false`, or text `true`, `false`, `t`, `f`, `1`, `0`, or the numbers 1 and 0.
//! - `timestamp`: RFC 3339 text (without zone: the stream's zone). A bare number has no unit and is refused, unless the
//!   caller names the unit. Digits finer than a microsecond are cut.
//! - `string`, `uuid`: text only. A number is refused, because `1`, `1.0` and `01` would be three keys of one customer.
//!
//! Invariant: a value either becomes exactly its cell or a [`CellError`]; nothing is rounded, guessed or truncated
//! (instants finer than a microsecond apart).

use std::borrow::Cow;

use jiff::tz::TimeZone;
use serde_json::Value;

use crate::change::RowWriter;
use crate::definition::Stream;
use crate::time::Timestamp;
use crate::value::{
    CellError, ColumnType, NULL, decimal_cell, decimal_cell_from_double, decimal_cell_from_text, double_cell, int_cell,
    timestamp_cell,
};

/// What a number in a timestamp column counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimeUnit {
    /// Days since 1970-01-01.
    Days,
    /// Seconds since the epoch.
    Seconds,
    /// Milliseconds since the epoch.
    Millis,
    /// Microseconds since the epoch.
    Micros,
    /// Nanoseconds since the epoch.
    Nanos,
}

impl TimeUnit {
    /// The names used in configuration, in the order of [`Self::ALL`].
    pub const NAMES: [&'static str; 5] = ["days", "s", "ms", "us", "ns"];
    /// All units.
    pub const ALL: [Self; 5] = [Self::Days, Self::Seconds, Self::Millis, Self::Micros, Self::Nanos];

    /// The cell of the instant `count` units after the epoch. Nanoseconds are cut to the microsecond before.
    ///
    /// # Errors
    /// [`CellError::OutOfRange`] outside the years 1 to 9999: databases' infinities among them.
    pub fn cell(self, count: i64) -> Result<i64, CellError> {
        let micros = match self {
            Self::Days => count.checked_mul(86_400_000_000),
            Self::Seconds => count.checked_mul(1_000_000),
            Self::Millis => count.checked_mul(1_000),
            Self::Micros => Some(count),
            Self::Nanos => Some(count.div_euclid(1_000)),
        };
        timestamp_cell(micros.ok_or(CellError::OutOfRange)?)
    }
}

/// Sets a column from a parsed JSON value; null leaves it null.
///
/// A parsed number of a decimal column that was not an integer has gone through a double: it is taken when the
/// double is the one nearest to a decimal of the column's scale. Hot paths use [`set_raw_json`], which reads the digits.
///
/// # Errors
/// Why the value does not fit; the row is to be refused then.
pub fn set_json(writer: &mut RowWriter<'_>, column: usize, value: &Value) -> Result<(), CellError> {
    match value {
        Value::Null => {
            set_null(writer, column);
            Ok(())
        }
        Value::Bool(value) => set_bool(writer, column, *value),
        Value::String(text) => set_string(writer, column, text, None),
        Value::Number(number) => {
            if let (ColumnType::Decimal { scale }, false, Some(double)) =
                (writer.stream().columns[column].kind, number.is_i64() || number.is_u64(), number.as_f64())
            {
                let cell = decimal_cell_from_double(double, scale)?;
                writer.set_cell(column, cell);
                return Ok(());
            }
            set_number_text(writer, column, &number.to_string(), None)
        }
        Value::Array(_) | Value::Object(_) => Err(CellError::WrongType),
    }
}

/// Sets a column from the text of one JSON value, numbers read from their own digits. `unit` says what a number in a
/// timestamp column counts; without it such a number is [`CellError::WrongType`].
///
/// # Errors
/// Why the value does not fit; the row is to be refused then.
pub fn set_raw_json(
    writer: &mut RowWriter<'_>,
    column: usize,
    raw: &str,
    unit: Option<TimeUnit>,
) -> Result<(), CellError> {
    match raw.as_bytes().first() {
        Some(b'n') => {
            set_null(writer, column);
            Ok(())
        }
        Some(b't') => set_bool(writer, column, true),
        Some(b'f') => set_bool(writer, column, false),
        Some(b'"') => set_string(writer, column, &unquote(raw)?, unit),
        Some(b'-' | b'0'..=b'9') => set_number_text(writer, column, raw, unit),
        _ => Err(CellError::WrongType),
    }
}

/// Sets a column from a field of a text format: an empty field is null, in text columns too. A field of digits in a
/// timestamp column counts `unit`s, where the caller names one.
///
/// # Errors
/// Why the value does not fit; the row is to be refused then.
pub fn set_text_value(
    writer: &mut RowWriter<'_>,
    column: usize,
    text: &str,
    unit: Option<TimeUnit>,
) -> Result<(), CellError> {
    if text.is_empty() {
        set_null(writer, column);
        return Ok(());
    }
    set_string(writer, column, text, unit)
}

/// Sets a column from `unscaled * 10^-scale`, the form of databases and Parquet.
///
/// # Errors
/// [`CellError::WrongType`] for columns that hold no number, otherwise as [`decimal_cell`].
pub fn set_decimal(
    writer: &mut RowWriter<'_>,
    column: usize,
    unscaled: i128,
    unscaled_scale: u32,
) -> Result<(), CellError> {
    let cell = decimal_as(writer.stream().columns[column].kind, unscaled, unscaled_scale)?;
    writer.set_cell(column, cell);
    Ok(())
}

/// The cell of `unscaled * 10^-scale` in a column of type `kind`; a double is the nearest one.
///
/// # Errors
/// As [`set_decimal`].
pub fn decimal_as(kind: ColumnType, unscaled: i128, unscaled_scale: u32) -> Result<i64, CellError> {
    match kind {
        ColumnType::Decimal { scale } => decimal_cell(unscaled, unscaled_scale, scale),
        ColumnType::Int => decimal_cell(unscaled, unscaled_scale, 0),
        ColumnType::Double => {
            let nearest: f64 =
                format!("{unscaled}e-{unscaled_scale}").parse().map_err(|_not_a_number| CellError::WrongType)?;
            double_cell(nearest)
        }
        _ => Err(CellError::WrongType),
    }
}

/// The cell of an integer in a column of type `kind`, that of a timestamp counted in `unit`s.
///
/// # Errors
/// [`CellError::WrongType`] for text columns and for timestamps without a unit, [`CellError::Inexact`] for a double
/// column when no double is this integer, [`CellError::OutOfRange`] past the type.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "the round trip is checked")]
pub fn int_as(kind: ColumnType, value: i64, unit: Option<TimeUnit>) -> Result<i64, CellError> {
    match kind {
        ColumnType::Int => int_cell(value),
        ColumnType::Decimal { scale } => decimal_cell(i128::from(value), 0, scale),
        ColumnType::Double if (value as f64) as i128 == i128::from(value) => double_cell(value as f64),
        ColumnType::Double => Err(CellError::Inexact),
        ColumnType::Bool if value == 0 || value == 1 => Ok(value),
        ColumnType::Timestamp => unit.ok_or(CellError::WrongType)?.cell(value),
        ColumnType::Bool | ColumnType::Text | ColumnType::Uuid => Err(CellError::WrongType),
    }
}

/// The cell of a wall-clock time in `zone`, given as the microseconds it would be since the epoch in UTC: what databases
/// and Parquet send for a timestamp without zone. Of a time that a change of the clock repeats, the first.
///
/// # Errors
/// [`CellError::OutOfRange`] outside the years 1 to 9999.
pub fn wall_clock_cell(micros: i64, zone: &TimeZone) -> Result<i64, CellError> {
    if *zone == TimeZone::UTC {
        return timestamp_cell(micros);
    }
    let utc = jiff::Timestamp::from_microsecond(micros).map_err(|_beyond| CellError::OutOfRange)?;
    let civil = TimeZone::UTC.to_datetime(utc);
    let instant = zone.to_timestamp(civil).map_err(|_beyond| CellError::OutOfRange)?;
    timestamp_cell(instant.as_microsecond())
}

/// The text of a JSON string, borrowed where it holds no escape.
///
/// # Errors
/// [`CellError::WrongType`] when `raw` is no JSON string, [`CellError::NotUtf8`] when its escapes name no text.
pub fn unquote(raw: &str) -> Result<Cow<'_, str>, CellError> {
    let inner = raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).ok_or(CellError::WrongType)?;
    if inner.contains('\\') {
        serde_json::from_str(raw).map(Cow::Owned).map_err(|_lone_surrogate| CellError::NotUtf8)
    } else {
        Ok(Cow::Borrowed(inner))
    }
}

/// Finds columns of one stream by name, cheaply when names come in about the same order in every row.
#[derive(Clone, Debug)]
pub struct ColumnFinder {
    names: Vec<Box<str>>,
    /// Where the last name was found: sources send columns in one order.
    next: usize,
}

impl ColumnFinder {
    /// A finder of the columns of `stream`.
    #[must_use]
    pub fn new(stream: &Stream) -> Self {
        Self { names: stream.columns.iter().map(|column| column.name.as_str().into()).collect(), next: 0 }
    }

    /// The index of the column called `name`.
    #[must_use]
    pub fn find(&mut self, name: &str) -> Option<usize> {
        let count = self.names.len();
        for step in 0..count {
            let index = if self.next + step < count { self.next + step } else { self.next + step - count };
            if &*self.names[index] == name {
                self.next = if index + 1 == count { 0 } else { index + 1 };
                return Some(index);
            }
        }
        None
    }
}

fn set_null(writer: &mut RowWriter<'_>, column: usize) {
    if !writer.stream().columns[column].kind.is_text() {
        writer.set_cell(column, NULL);
    }
}

fn set_bool(writer: &mut RowWriter<'_>, column: usize, value: bool) -> Result<(), CellError> {
    if writer.stream().columns[column].kind != ColumnType::Bool {
        return Err(CellError::WrongType);
    }
    writer.set_cell(column, i64::from(value));
    Ok(())
}

fn set_string(writer: &mut RowWriter<'_>, column: usize, text: &str, unit: Option<TimeUnit>) -> Result<(), CellError> {
    let cell = match writer.stream().columns[column].kind {
        ColumnType::Text | ColumnType::Uuid => return writer.set_text(column, text),
        ColumnType::Bool => match text {
            "true" | "t" | "1" => 1,
            "false" | "f" | "0" => 0,
            _ => return Err(CellError::WrongType),
        },
        ColumnType::Timestamp => match (unit, text.parse::<i64>()) {
            (Some(unit), Ok(count)) => unit.cell(count)?,
            _ => instant_cell(text, &writer.stream().zone)?,
        },
        ColumnType::Int | ColumnType::Double | ColumnType::Decimal { .. } => {
            return set_number_text(writer, column, text, unit);
        }
    };
    writer.set_cell(column, cell);
    Ok(())
}

fn instant_cell(text: &str, zone: &TimeZone) -> Result<i64, CellError> {
    Timestamp::parse(text, zone).map(Timestamp::micros).ok_or(CellError::WrongType)
}

fn set_number_text(
    writer: &mut RowWriter<'_>,
    column: usize,
    text: &str,
    unit: Option<TimeUnit>,
) -> Result<(), CellError> {
    let kind = writer.stream().columns[column].kind;
    let cell = match (kind, text.parse::<i64>()) {
        (ColumnType::Double, _) => double_cell(text.trim().parse().map_err(|_not_a_number| CellError::WrongType)?)?,
        (_, Ok(value)) => int_as(kind, value, unit)?,
        (ColumnType::Int, Err(_)) => decimal_cell_from_text(text, 0)?,
        (ColumnType::Decimal { scale }, Err(_)) => decimal_cell_from_text(text, scale)?,
        (ColumnType::Timestamp, Err(_)) => {
            let unit = unit.ok_or(CellError::WrongType)?;
            let count = decimal_cell_from_text(text, 0)?;
            unit.cell(count)?
        }
        (ColumnType::Bool | ColumnType::Text | ColumnType::Uuid, _) => return Err(CellError::WrongType),
    };
    writer.set_cell(column, cell);
    Ok(())
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
