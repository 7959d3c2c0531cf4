//! Dead letters: records that could not become a change, with reason and position.
//!
//! Invariants:
//! - A letter's bytes depend on the record and its place alone, so that a replay writes the same letter.
//! - Of a stream with sensitive columns no letter holds a value but the row's id, as decisions carry it (hashed where it is sensitive);
//!   `detail` never holds one.

pub mod file;

use std::borrow::Cow;

use interdict_features::change::{Op, Row, Version};
use interdict_features::definition::Stream;
use interdict_features::value::CellError;
use serde::{Deserialize, Serialize};

/// The longest excerpt of a record that a letter keeps, in bytes: enough to find the record, little enough that a
/// flood of them stays small.
pub const PAYLOAD_BYTES_MAX: usize = 1024;

/// Why a record became no change. The serialised names are stable: alerts and scripts match on them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadReason {
    /// The record is no JSON, or not the JSON its format asks for.
    BadJson,
    /// Bytes that are not UTF-8.
    NotUtf8,
    /// A line longer than a line may be.
    LineTooLong,
    /// A CSV line with another number of fields than the header.
    FieldCount,
    /// A CSV line that ends inside a quoted field.
    UnclosedQuote,
    /// A declared column is not in the record.
    MissingColumn,
    /// A column is in the record twice.
    DuplicateColumn,
    /// A value of another type than its column.
    WrongType,
    /// A number that is NaN or infinite.
    NotFinite,
    /// A decimal with more digits than its column, or a number no cell holds exactly.
    Inexact,
    /// A number or instant beyond what a column holds, a database's infinite times among them.
    OutOfRange,
    /// Text longer than a cell takes.
    TextTooLong,
    /// A number in a timestamp column, and nothing says what it counts.
    TimeUnitUnknown,
    /// An encoded decimal, and nothing says its scale or that it is one.
    DecimalModeUnknown,
    /// The event id is null.
    NullId,
    /// The event time is null.
    NullTime,
    /// The record's table belongs to no stream.
    UnknownTable,
    /// The record's operation is none that is known.
    UnknownOp,
    /// The record's operation needs a row that the record does not hold.
    RowMissing,
    /// A value the database did not send where only a whole row makes sense.
    UnavailableValue,
    /// The record has no row version where others of its source have one, or the other way round.
    VersionMismatch,
    /// Sensitive texts were hashed under another secret than this process has.
    WrongSecret,
    /// The event lies too far beyond its arrival (found by the engine).
    FutureTime,
    /// State or policy refused the event (found by the engine).
    Refused,
}

impl DeadReason {
    /// Every reason.
    pub const ALL: [Self; 24] = [
        Self::BadJson,
        Self::NotUtf8,
        Self::LineTooLong,
        Self::FieldCount,
        Self::UnclosedQuote,
        Self::MissingColumn,
        Self::DuplicateColumn,
        Self::WrongType,
        Self::NotFinite,
        Self::Inexact,
        Self::OutOfRange,
        Self::TextTooLong,
        Self::TimeUnitUnknown,
        Self::DecimalModeUnknown,
        Self::NullId,
        Self::NullTime,
        Self::UnknownTable,
        Self::UnknownOp,
        Self::RowMissing,
        Self::UnavailableValue,
        Self::VersionMismatch,
        Self::WrongSecret,
        Self::FutureTime,
        Self::Refused,
    ];

    /// The stable name.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::BadJson => "bad_json",
            Self::NotUtf8 => "not_utf8",
            Self::LineTooLong => "line_too_long",
            Self::FieldCount => "field_count",
            Self::UnclosedQuote => "unclosed_quote",
            Self::MissingColumn => "missing_column",
            Self::DuplicateColumn => "duplicate_column",
            Self::WrongType => "wrong_type",
            Self::NotFinite => "not_finite",
            Self::Inexact => "inexact",
            Self::OutOfRange => "out_of_range",
            Self::TextTooLong => "text_too_long",
            Self::TimeUnitUnknown => "time_unit_unknown",
            Self::DecimalModeUnknown => "decimal_mode_unknown",
            Self::NullId => "null_id",
            Self::NullTime => "null_time",
            Self::UnknownTable => "unknown_table",
            Self::UnknownOp => "unknown_op",
            Self::RowMissing => "row_missing",
            Self::UnavailableValue => "unavailable_value",
            Self::VersionMismatch => "version_mismatch",
            Self::WrongSecret => "wrong_secret",
            Self::FutureTime => "future_time",
            Self::Refused => "refused",
        }
    }
}

impl From<CellError> for DeadReason {
    fn from(error: CellError) -> Self {
        match error {
            CellError::WrongType => Self::WrongType,
            CellError::NotFinite => Self::NotFinite,
            CellError::Inexact => Self::Inexact,
            CellError::OutOfRange => Self::OutOfRange,
            CellError::TooLong => Self::TextTooLong,
            CellError::NotUtf8 => Self::NotUtf8,
        }
    }
}

/// One record that became no change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The source's name.
    pub source: String,
    /// The source's partition.
    pub partition: u32,
    /// Where in its partition the record stands.
    pub position: u64,
    /// Which row of that position it is, from 1, where a position holds several (a transaction of a database).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row: Option<u32>,
    /// The stream it would have belonged to, where the record still names its table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// The id of the row, where the record still tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The version of the change, where the record was republished: the same change may stand at several places of its topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// What happened to the row, where the record still tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op: Option<Op>,
    /// Why.
    pub reason: DeadReason,
    /// The same for a person: which column, what to do. Never a value.
    pub detail: String,
    /// The beginning of the record; absent where the stream has sensitive columns or the source keeps no text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
}

/// What a decoder found wrong with a record, before it is addressed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Why.
    pub reason: DeadReason,
    /// The same for a person, never with a value.
    pub detail: Cow<'static, str>,
    /// What happened to the row, where the record still tells.
    pub op: Option<Op>,
    /// As [`DeadLetter::stream`].
    pub stream: Option<String>,
    /// As [`DeadLetter::id`].
    pub id: Option<String>,
    /// As [`DeadLetter::version`].
    pub version: Option<Version>,
}

impl Fault {
    /// A fault with its explanation.
    pub fn new(reason: DeadReason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, detail: detail.into(), op: None, stream: None, id: None, version: None }
    }

    /// The fault of a record of this operation.
    #[must_use]
    pub fn of_op(self, op: Op) -> Self {
        Self { op: Some(op), ..self }
    }

    /// The fault of a record of a table of `stream`, whose change has this version wherever it stands.
    #[must_use]
    pub fn of_table(self, stream: &Stream, version: Option<Version>) -> Self {
        Self { stream: Some(stream.name.clone()), version, ..self }
    }

    /// The fault of a record of which `row` was read, whose id may be there.
    #[must_use]
    pub fn of_row(self, row: &Row<'_>) -> Self {
        Self { id: row.event_id(), ..self }
    }

    /// A value that does not fit `column`.
    #[must_use]
    pub fn of_cell(column: &str, declared: impl std::fmt::Display, error: CellError) -> Self {
        Self::new(error.into(), format!("column '{column}' ({declared}): {error}"))
    }
}

/// The beginning of a record as text, cut at [`PAYLOAD_BYTES_MAX`]; what is not UTF-8 is shown as U+FFFD.
#[must_use]
pub fn excerpt(record: &[u8]) -> String {
    let cut = &record[..record.len().min(PAYLOAD_BYTES_MAX)];
    let mut text = String::from_utf8_lossy(cut).into_owned();
    if cut.len() < record.len() {
        text.push_str("...");
    }
    text
}
