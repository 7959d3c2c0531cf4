//! Column types, cells and the exact conversions from what sources send.
//!
//! A **cell** is one `i64`: the integer itself, minor units of a decimal, microseconds of an instant, 0 or 1
//! of a bool, the bits of a double (with -0.0 normalised to 0.0), or for text an index into the text of the
//! batch it stands in. [`NULL`] and [`UNCHANGED`] are the two values no cell can otherwise have: conversions refuse them.

use std::fmt;
use std::sync::Arc;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize};

use crate::time::Timestamp;

/// The cell of an absent value.
pub const NULL: i64 = i64::MIN;
/// The cell of a value that an UPDATE did not send because it did not change (PostgreSQL TOAST).
pub const UNCHANGED: i64 = i64::MIN + 1;
/// The longest text a cell takes, in bytes; longer values are dead letters. 1 KiB holds every identifier we
/// know and keeps a state within its byte budget.
pub const TEXT_BYTES_MAX: usize = 1024;

/// What a column holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ColumnType {
    /// `int64`
    Int,
    /// `double`: finite 64-bit floating point
    Double,
    /// `bool`
    Bool,
    /// `string`
    Text,
    /// `uuid`: text in canonical lower case
    Uuid,
    /// `timestamp`: an instant in microseconds
    Timestamp,
    /// `decimal(scale)`: an integer count of 10^-scale
    Decimal {
        /// Digits after the point, 0 to 12.
        scale: u8,
    },
}

impl ColumnType {
    /// Reads the name used in definitions: `int64`, `double`, `bool`, `string`, `uuid`, `timestamp`, `decimal(2)`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "int64" => Self::Int,
            "double" => Self::Double,
            "bool" => Self::Bool,
            "string" => Self::Text,
            "uuid" => Self::Uuid,
            "timestamp" => Self::Timestamp,
            _ => {
                let scale: u8 = text.strip_prefix("decimal(")?.strip_suffix(')')?.trim().parse().ok()?;
                if scale > 12 {
                    return None;
                }
                Self::Decimal { scale }
            }
        })
    }

    /// Whether cells of this type are indexes into a batch's text.
    #[must_use]
    pub const fn is_text(self) -> bool {
        matches!(self, Self::Text | Self::Uuid)
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int => f.write_str("int64"),
            Self::Double => f.write_str("double"),
            Self::Bool => f.write_str("bool"),
            Self::Text => f.write_str("string"),
            Self::Uuid => f.write_str("uuid"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Decimal { scale } => write!(f, "decimal({scale})"),
        }
    }
}

/// One value with its type, for edges that handle values one at a time (records, answers, tests).
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// Absent.
    Null,
    /// A bool.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A finite double; decimals appear here in major units.
    Double(f64),
    /// Text, and UUIDs and instants in their text form.
    Text(Arc<str>),
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

/// Takes a value as its format has it: one look, where a derived reader would try each variant.
struct ValueVisitor;

impl Visitor<'_> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("null, a bool, a number or a text")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "an integer that is none of ours is a double, as with any reader of JSON"
    )]
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or(Value::Double(value as f64), Value::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Double(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.into()))
    }
}

impl Value {
    /// The number this value is to a model: bools are 0 and 1, text and null are `None`.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "models take doubles; integers over 2^53 lose their last bits")]
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Bool(value) => Some(f64::from(u8::from(*value))),
            Self::Int(value) => Some(*value as f64),
            Self::Double(value) => Some(*value),
            Self::Null | Self::Text(_) => None,
        }
    }
}

/// Why a value does not fit its column. The text is fit for an operator and never holds the value itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CellError {
    /// The source's value is of another type.
    #[error("wrong type")]
    WrongType,
    /// A number that is NaN or infinite.
    #[error("not a finite number")]
    NotFinite,
    /// A decimal with more digits after the point than its column declares.
    #[error("more decimal places than the column declares")]
    Inexact,
    /// A number or instant beyond what a cell holds.
    #[error("out of range")]
    OutOfRange,
    /// Text over [`TEXT_BYTES_MAX`] bytes.
    #[error("text longer than 1024 bytes")]
    TooLong,
    /// Bytes that are not UTF-8.
    #[error("not valid UTF-8")]
    NotUtf8,
}

/// The cell of an integer.
///
/// # Errors
/// [`CellError::OutOfRange`] for the two integers that mean absence.
pub const fn int_cell(value: i64) -> Result<i64, CellError> {
    if value <= UNCHANGED { Err(CellError::OutOfRange) } else { Ok(value) }
}

/// The cell of a double.
///
/// # Errors
/// [`CellError::NotFinite`] for NaN and infinities.
pub fn double_cell(value: f64) -> Result<i64, CellError> {
    if !value.is_finite() {
        return Err(CellError::NotFinite);
    }
    let normal = if value == 0.0 { 0.0 } else { value };
    int_cell(normal.to_bits().cast_signed())
}

/// The double of a cell made by [`double_cell`].
#[must_use]
pub const fn double_of(cell: i64) -> f64 {
    f64::from_bits(cell.cast_unsigned())
}

/// Minor units of a decimal given as `unscaled * 10^-from_scale`.
///
/// # Errors
/// [`CellError::Inexact`] when digits would be lost, [`CellError::OutOfRange`] past 63 bits.
pub fn decimal_cell(unscaled: i128, from_scale: u32, scale: u8) -> Result<i64, CellError> {
    let scale = u32::from(scale);
    let minor = if from_scale <= scale {
        let factor = 10_i128.checked_pow(scale - from_scale).ok_or(CellError::OutOfRange)?;
        unscaled.checked_mul(factor).ok_or(CellError::OutOfRange)?
    } else {
        let divisor = 10_i128.checked_pow(from_scale - scale).ok_or(CellError::OutOfRange)?;
        if unscaled % divisor != 0 {
            return Err(CellError::Inexact);
        }
        unscaled / divisor
    };
    i64::try_from(minor).map_err(|_too_wide| CellError::OutOfRange).and_then(int_cell)
}

/// Minor units of a decimal sent as a double: exact when the double is the one nearest to a decimal of that scale.
///
/// # Errors
/// [`CellError::NotFinite`], [`CellError::Inexact`] when no decimal of that scale reads as this double, and
/// [`CellError::OutOfRange`] past 2^53 minor units and wherever two decimals read as this double.
#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "bounded by 2^53 first")]
#[expect(clippy::float_cmp, reason = "the round trip must be exact")]
pub fn decimal_cell_from_double(value: f64, scale: u8) -> Result<i64, CellError> {
    if !value.is_finite() {
        return Err(CellError::NotFinite);
    }
    let factor = 10_i64.pow(u32::from(scale)) as f64;
    let minor = (value * factor).round();
    if minor.abs() >= 9_007_199_254_740_992.0 {
        return Err(CellError::OutOfRange);
    }
    if minor.abs() < NEIGHBOURS_FROM {
        return if minor / factor == value { Ok(minor as i64) } else { Err(CellError::Inexact) };
    }
    // The product above may be off by one here, and two decimals may read as this double.
    let mut found = [minor - 1.0, minor, minor + 1.0].into_iter().filter(|near| *near / factor == value);
    match (found.next(), found.next()) {
        (Some(only), None) => Ok(only as i64),
        (Some(_), Some(_)) => Err(CellError::OutOfRange),
        (None, _) => Err(CellError::Inexact),
    }
}

/// Below 2^49 minor units the errors of a double and of its product with the factor stay under an eighth together.
const NEIGHBOURS_FROM: f64 = 562_949_953_421_312.0;

/// Minor units of a decimal sent as text: `12.50`, `-0.1`, `1e3`, with an optional sign and exponent.
///
/// # Errors
/// [`CellError::WrongType`] when it is no number, [`CellError::NotFinite`] for `NaN` and infinities, otherwise as [`decimal_cell`].
pub fn decimal_cell_from_text(text: &str, scale: u8) -> Result<i64, CellError> {
    let text = text.trim();
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => {
            (mantissa, exponent.parse::<i32>().map_err(|_not_a_number| CellError::WrongType)?)
        }
        None => (text, 0),
    };
    let (negative, digits) = match mantissa.as_bytes().first() {
        Some(b'-') => (true, &mantissa[1..]),
        Some(b'+') => (false, &mantissa[1..]),
        _ => (false, mantissa),
    };
    if digits.eq_ignore_ascii_case("nan") || digits.to_ascii_lowercase().starts_with("inf") {
        return Err(CellError::NotFinite);
    }
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.len() + fraction.len() == 0 || !(whole.bytes().chain(fraction.bytes())).all(|b| b.is_ascii_digit()) {
        return Err(CellError::WrongType);
    }
    if whole.len() + fraction.len() > 38 || exponent.unsigned_abs() > 38 {
        return Err(CellError::OutOfRange);
    }
    let mut unscaled: i128 = 0;
    for digit in whole.bytes().chain(fraction.bytes()) {
        unscaled = unscaled * 10 + i128::from(digit - b'0');
    }
    if negative {
        unscaled = -unscaled;
    }
    let from_scale = i32::try_from(fraction.len()).map_err(|_too_long| CellError::OutOfRange)? - exponent;
    match u32::try_from(from_scale) {
        Ok(from_scale) => decimal_cell(unscaled, from_scale, scale),
        Err(_negative) => {
            let factor = 10_i128.checked_pow(from_scale.unsigned_abs()).ok_or(CellError::OutOfRange)?;
            decimal_cell(unscaled.checked_mul(factor).ok_or(CellError::OutOfRange)?, 0, scale)
        }
    }
}

/// The cell of an instant in microseconds.
///
/// # Errors
/// [`CellError::OutOfRange`] outside the years 1 to 9999.
pub fn timestamp_cell(micros: i64) -> Result<i64, CellError> {
    Timestamp::checked_from_micros(micros).map(Timestamp::micros).ok_or(CellError::OutOfRange)
}

/// A decimal cell in major units, correctly rounded.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "major units are for expressions and models, sums stay integers")]
pub fn major_units(minor: i64, scale: u8) -> f64 {
    minor as f64 / minor_units(scale)
}

/// How many minor units of `scale` digits make a major one; exact.
#[must_use]
pub(crate) fn minor_units(scale: u8) -> f64 {
    const POWERS: [f64; 19] =
        [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18];
    POWERS[usize::from(scale)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a derived reader makes of a value: the first variant that takes it.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Derived {
        Null,
        Bool(bool),
        Int(i64),
        Double(f64),
        Text(Arc<str>),
    }

    impl From<Derived> for Value {
        fn from(derived: Derived) -> Self {
            match derived {
                Derived::Null => Self::Null,
                Derived::Bool(value) => Self::Bool(value),
                Derived::Int(value) => Self::Int(value),
                Derived::Double(value) => Self::Double(value),
                Derived::Text(value) => Self::Text(value),
            }
        }
    }

    #[test]
    fn values_are_read_as_they_were_written() {
        let texts =
            ["null", "true", "false", "0", "-9223372036854775808", "9223372036854775807", "9223372036854775808"];
        let more = ["18446744073709551615", "1.5", "-0.0", "1e300", "\"\"", "\"7\"", "\"a\\u00e9\\n\""];
        for text in texts.into_iter().chain(more) {
            let value: Value = serde_json::from_str(text).unwrap();
            let derived: Derived = serde_json::from_str(text).unwrap();
            assert_eq!(value, derived.into(), "{text}");
            let again: Value = serde_json::from_str(&serde_json::to_string(&value).unwrap()).unwrap();
            assert_eq!(value, again, "{text}");
        }
        for text in ["[]", "{}", "[1]", "{\"a\":1}", "nul", ""] {
            assert!(serde_json::from_str::<Value>(text).is_err(), "{text}");
        }
    }
}
