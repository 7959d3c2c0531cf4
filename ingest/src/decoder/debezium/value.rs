//! Debezium's encodings of single values: decimals in three modes, times in several units, values not sent.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use interdict_features::change::{Op, RowWriter};
use interdict_features::decode::{TimeUnit, set_decimal, set_raw_json, unquote, wall_clock_cell};
use interdict_features::definition::Stream;
use interdict_features::value::{CellError, ColumnType, NULL};
use serde_json::value::RawValue;

use crate::dead_letter::{DeadReason, Fault};
use crate::decoder::json::unit_unknown;
use crate::source::config::{DecimalText, Reading};

use super::schema::Encoding;

/// What Debezium sends for a value that PostgreSQL did not log because it did not change.
pub(crate) const UNAVAILABLE: &str = "\"__debezium_unavailable_value\"";

/// Sets columns of one stream from Debezium's JSON.
pub(super) struct ValueReader {
    units: Vec<Option<TimeUnit>>,
    decimals: DecimalText,
}

impl ValueReader {
    pub(super) fn new(stream: &Stream, reading: &Reading) -> Self {
        Self {
            units: stream.columns.iter().map(|column| reading.time_units.of(&column.name)).collect(),
            decimals: reading.decimals,
        }
    }

    /// Sets `column` from the text of a JSON value.
    pub(super) fn set(
        &self,
        writer: &mut RowWriter<'_>,
        column: usize,
        raw: &str,
        encoding: Encoding,
        op: Op,
    ) -> Result<(), Fault> {
        if raw == UNAVAILABLE {
            return unavailable(writer, column, op);
        }
        let set = match writer.stream().columns[column].kind {
            ColumnType::Timestamp => return self.set_time(writer, column, raw, encoding),
            ColumnType::Decimal { scale } => return self.set_money(writer, column, raw, encoding, scale),
            ColumnType::Int | ColumnType::Double => match encoding {
                Encoding::Decimal { scale } if raw.starts_with('"') => set_base64(writer, column, raw, scale),
                _ if raw.starts_with('{') => set_variable(writer, column, raw),
                _ => set_raw_json(writer, column, raw, None),
            },
            ColumnType::Bool | ColumnType::Text | ColumnType::Uuid => set_raw_json(writer, column, raw, None),
        };
        set.map_err(|error| {
            let declared = &writer.stream().columns[column];
            Fault::of_cell(&declared.name, declared.kind, error)
        })
    }

    /// Sets `column` from a value that this program wrote.
    pub(super) fn set_own(&self, writer: &mut RowWriter<'_>, column: usize, raw: &str, op: Op) -> Result<(), Fault> {
        let declared = &writer.stream().columns[column];
        if !declared.sensitive || !raw.starts_with('"') || raw == UNAVAILABLE {
            return self.set(writer, column, raw, Encoding::Plain, op);
        }
        let hash = unquote(raw).map_err(|error| Fault::of_cell(&declared.name, declared.kind, error))?;
        writer.set_masked(column, &hash);
        Ok(())
    }

    fn set_time(&self, writer: &mut RowWriter<'_>, column: usize, raw: &str, encoding: Encoding) -> Result<(), Fault> {
        let unit = match encoding {
            Encoding::Time(unit) => Some(unit),
            _ => self.units[column],
        };
        let is_number = !raw.starts_with(['"', 'n']);
        let set = set_raw_json(writer, column, raw, unit.filter(|_| is_number)).and_then(|()| {
            // Only a timestamp without zone comes as a number: a wall clock, counted as if it were UTC.
            if is_number && writer.cell(column) != NULL {
                let cell = wall_clock_cell(writer.cell(column), &writer.stream().zone)?;
                writer.set_cell(column, cell);
            }
            Ok(())
        });
        set.map_err(|error| {
            let declared = &writer.stream().columns[column];
            match error {
                CellError::WrongType if is_number && unit.is_none() && !raw.starts_with(['{', '[', 't', 'f']) => {
                    unit_unknown(&declared.name)
                }
                CellError::OutOfRange => Fault::new(
                    DeadReason::OutOfRange,
                    format!("column '{}' (timestamp): out of range, or the database's infinity", declared.name),
                ),
                _ => Fault::of_cell(&declared.name, declared.kind, error),
            }
        })
    }

    fn set_money(
        &self,
        writer: &mut RowWriter<'_>,
        column: usize,
        raw: &str,
        encoding: Encoding,
        declared_scale: u8,
    ) -> Result<(), Fault> {
        let is_text = raw.starts_with('"');
        let set = match encoding {
            Encoding::Decimal { scale } if is_text => set_base64(writer, column, raw, scale),
            Encoding::Unknown if is_text && self.decimals == DecimalText::Precise => {
                set_base64(writer, column, raw, u32::from(declared_scale))
            }
            _ if raw.starts_with('{') => set_variable(writer, column, raw),
            _ => set_raw_json(writer, column, raw, None),
        };
        set.map_err(|error| {
            let declared = &writer.stream().columns[column];
            let looks_encoded = is_text && encoding == Encoding::Unknown && self.decimals == DecimalText::Digits;
            if error == CellError::WrongType && looks_encoded && base64_of(raw).is_ok() {
                return Fault::new(DeadReason::DecimalModeUnknown, format!(
                    "column '{}' ({}) holds an encoded decimal and no schema says so; write decimals = \"precise\" in [source] if the connector's decimal.handling.mode is precise",
                    declared.name, declared.kind
                ));
            }
            Fault::of_cell(&declared.name, declared.kind, error)
        })
    }
}

fn unavailable(writer: &mut RowWriter<'_>, column: usize, op: Op) -> Result<(), Fault> {
    if op == Op::Update {
        writer.set_unchanged(column);
        return Ok(());
    }
    let detail = format!(
        "column '{}' was not sent by the database, which only an update may do",
        writer.stream().columns[column].name
    );
    Err(Fault::new(DeadReason::UnavailableValue, detail))
}

fn set_base64(writer: &mut RowWriter<'_>, column: usize, raw: &str, scale: u32) -> Result<(), CellError> {
    set_decimal(writer, column, base64_of(raw)?, scale)
}

/// A big-endian two's-complement integer in base64.
fn base64_of(raw: &str) -> Result<i128, CellError> {
    let text = unquote(raw)?;
    if text.len() > 64 {
        return Err(CellError::OutOfRange);
    }
    let mut bytes = [0; 48];
    let length = STANDARD.decode_slice(text.as_bytes(), &mut bytes).map_err(|_not_base64| CellError::WrongType)?;
    let bytes = &bytes[..length];
    let Some(first) = bytes.first() else {
        return Err(CellError::WrongType);
    };
    let fill = if first & 0x80 == 0 { 0 } else { 0xff };
    let (front, back) = bytes.split_at(length.saturating_sub(16));
    if front.iter().any(|byte| *byte != fill) || (!front.is_empty() && (back[0] ^ fill) & 0x80 != 0) {
        return Err(CellError::OutOfRange);
    }
    let mut wide = [fill; 16];
    wide[16 - back.len()..].copy_from_slice(back);
    Ok(i128::from_be_bytes(wide))
}

#[derive(serde::Deserialize)]
struct Variable<'a> {
    scale: u32,
    #[serde(borrow)]
    value: &'a RawValue,
}

/// `{"scale":2,"value":"base64"}`: a NUMERIC without declared scale.
fn set_variable(writer: &mut RowWriter<'_>, column: usize, raw: &str) -> Result<(), CellError> {
    let variable: Variable<'_> = serde_json::from_str(raw).map_err(|_another_shape| CellError::WrongType)?;
    set_base64(writer, column, variable.value.get(), variable.scale)
}
