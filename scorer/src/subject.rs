//! What is judged: one event with its features, keys and circumstances.

use std::collections::BTreeMap;

use interdict_features::change::Row;
use interdict_features::decision::{EntityRef, SeenPosition};
use interdict_features::time::Timestamp;
use interdict_features::value::ColumnType;
use interdict_features::value::{UNCHANGED, double_of, major_units};
use interdict_features::vector::Reading;
use serde::{Deserialize, Serialize};

/// One event to be judged. Borrowed: the caller's batch and vectors stay where they are.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The judged row.
    pub row: Row<'a>,
    /// Its features, index as in `Definitions::features`, derived ones included. One that the slice does not reach is missing.
    pub vector: &'a [Reading],
    /// The keys of its entities that are not null.
    pub entities: &'a [EntityRef],
    /// Where, when and for whom.
    pub context: &'a Context,
}

/// The circumstances of a judgement: what goes into the record beside values.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Context {
    /// The event's id as text.
    pub event_id: String,
    /// Which judgement of this event it is, from 0.
    pub judgement: u32,
    /// Where the judged change was delivered.
    pub position: SeenPosition,
    /// How far each source partition had been applied.
    pub seen: Vec<SeenPosition>,
    /// The event's own time.
    pub event_time: Option<Timestamp>,
    /// When it reached us.
    pub arrival_time: Option<Timestamp>,
    /// The instant the windows were read as of, per entity name.
    pub as_of: BTreeMap<String, Timestamp>,
    /// The caller's key, for requests.
    pub idempotency_key: Option<String>,
    /// The deadline given, microseconds from receipt.
    pub deadline_micros: Option<u64>,
    /// What was left of it when the decision was made.
    pub left_micros: Option<i64>,
    /// Judged from a snapshot after a gap, not live.
    pub late: bool,
}

impl Context {
    /// The context of an event of which nothing but its id and place is known.
    #[must_use]
    pub fn at(event_id: String, position: SeenPosition) -> Self {
        Self {
            event_id,
            judgement: 0,
            position,
            seen: Vec::new(),
            event_time: None,
            arrival_time: None,
            as_of: BTreeMap::new(),
            idempotency_key: None,
            deadline_micros: None,
            left_micros: None,
            late: false,
        }
    }
}

/// A column of a row as models take numbers: decimals in major units, bools 0 and 1; `None` for null, text and instants.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "models take doubles; integers over 2^53 lose their last bits")]
pub fn column_number(row: &Row<'_>, column: usize) -> Option<f64> {
    let cell = row.cells[column];
    if cell <= UNCHANGED {
        return None;
    }
    match row.stream.columns[column].kind {
        ColumnType::Int => Some(cell as f64),
        ColumnType::Double => Some(double_of(cell)),
        ColumnType::Bool => Some(f64::from(u8::from(cell != 0))),
        ColumnType::Decimal { scale } => Some(major_units(cell, scale)),
        ColumnType::Text | ColumnType::Uuid | ColumnType::Timestamp => None,
    }
}
