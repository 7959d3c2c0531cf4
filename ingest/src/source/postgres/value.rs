//! PostgreSQL's text of one value to the cell of its column.
//!
//! The session's `TimeZone` is UTC and its `DateStyle` ISO, so that every text has one form. A value becomes exactly
//! its cell or a [`Fault`]. An empty text is a text, not null.

use interdict_features::change::RowWriter;
use interdict_features::decode::set_text_value;
use interdict_features::value::{CellError, ColumnType, decimal_cell_from_text};

use crate::dead_letter::{DeadReason, Fault};

/// Object ids of the built-in types that are told apart (`pg_type.dat`).
mod oid {
    pub(super) const BOOL: u32 = 16;
    pub(super) const BYTEA: u32 = 17;
    pub(super) const INT8: u32 = 20;
    pub(super) const INT2: u32 = 21;
    pub(super) const INT4: u32 = 23;
    pub(super) const TEXT: u32 = 25;
    pub(super) const OID: u32 = 26;
    pub(super) const FLOAT4: u32 = 700;
    pub(super) const FLOAT8: u32 = 701;
    pub(super) const MONEY: u32 = 790;
    pub(super) const BPCHAR: u32 = 1042;
    pub(super) const VARCHAR: u32 = 1043;
    pub(super) const DATE: u32 = 1082;
    pub(super) const TIME: u32 = 1083;
    pub(super) const TIMESTAMP: u32 = 1114;
    pub(super) const TIMESTAMPTZ: u32 = 1184;
    pub(super) const INTERVAL: u32 = 1186;
    pub(super) const TIMETZ: u32 = 1266;
    pub(super) const NUMERIC: u32 = 1700;
    pub(super) const UUID: u32 = 2950;
}

/// The first id that a user's own types get: domains and enumerations are read by their text.
const FIRST_OWN_TYPE: u32 = 16_384;

/// Whether values of the database's type `kind` can become cells of a column declared as `declared`.
pub(super) fn fits(kind: u32, declared: ColumnType) -> bool {
    use oid::*;
    let is_text = matches!(kind, TEXT | BPCHAR | VARCHAR) || kind >= FIRST_OWN_TYPE;
    let is_integer = matches!(kind, INT2 | INT4 | INT8 | OID);
    is_text
        || match declared {
            ColumnType::Int => is_integer || kind == NUMERIC,
            ColumnType::Double | ColumnType::Decimal { .. } => is_integer || matches!(kind, NUMERIC | FLOAT4 | FLOAT8),
            ColumnType::Bool => kind == BOOL || is_integer,
            ColumnType::Timestamp => matches!(kind, TIMESTAMPTZ | TIMESTAMP | DATE),
            ColumnType::Uuid => kind == UUID,
            // A number as a text would be a second key of the same customer.
            ColumnType::Text => {
                let is_number = is_integer || matches!(kind, NUMERIC | FLOAT4 | FLOAT8 | MONEY | BOOL);
                let is_time = matches!(kind, TIMESTAMPTZ | TIMESTAMP | DATE | TIME | TIMETZ | INTERVAL);
                !is_number && !is_time && kind != BYTEA
            }
        }
}

/// Sets `column` from the server's text of its value.
pub(super) fn set(writer: &mut RowWriter<'_>, column: usize, text: &[u8]) -> Result<(), Fault> {
    set_cell(writer, column, text).map_err(|error| {
        let declared = &writer.stream().columns[column];
        Fault::of_cell(&declared.name, declared.kind, error)
    })
}

fn set_cell(writer: &mut RowWriter<'_>, column: usize, text: &[u8]) -> Result<(), CellError> {
    let text = std::str::from_utf8(text).map_err(|_not_utf8| CellError::NotUtf8)?;
    match writer.stream().columns[column].kind {
        ColumnType::Text | ColumnType::Uuid => writer.set_text(column, text),
        _ if text.is_empty() => Err(CellError::WrongType),
        ColumnType::Decimal { scale } => {
            let cell = decimal_cell_from_text(without_trailing_zeros(text), scale)?;
            writer.set_cell(column, cell);
            Ok(())
        }
        ColumnType::Timestamp => set_text_value(writer, column, text, None).map_err(|error| match error {
            // `infinity`, years before Christ and beyond 9999: instants of the database that no cell holds.
            CellError::WrongType if is_beyond(text) => CellError::OutOfRange,
            other => other,
        }),
        ColumnType::Int | ColumnType::Double | ColumnType::Bool => set_text_value(writer, column, text, None),
    }
}

/// `numeric` shows as many zeros as its scale has places; they say nothing about the value.
fn without_trailing_zeros(text: &str) -> &str {
    if text.contains('.') && !text.contains(['e', 'E']) {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        text
    }
}

fn is_beyond(text: &str) -> bool {
    let year = text.bytes().take_while(u8::is_ascii_digit).count();
    text.ends_with("infinity") || text.ends_with(" BC") || year > 4
}

/// A fault of a value that the database did not send where only a whole row makes sense.
pub(super) fn unavailable(column: &str) -> Fault {
    let detail = format!(
        "column '{column}' was not sent by the database because it did not change, and the row before is not known; set REPLICA IDENTITY FULL"
    );
    Fault::new(DeadReason::UnavailableValue, detail)
}
