//! The values that rules read.
//!
//! Invariant: what a rule sees is of its slot's declared type or null; no double here is NaN or infinite.

use interdict_features::definition::FeatureName;
use interdict_features::expression::{Operand, Slots, Type};
use interdict_features::time::Timestamp;
use interdict_features::value::{ColumnType, UNCHANGED, Value, double_of, major_units};
use jiff::tz::TimeZone;

use crate::subject::Subject;

/// Slots of rules over one event: its columns, then all features, then the score.
pub(super) struct RuleSlots<'a> {
    pub(super) subject: &'a Subject<'a>,
    pub(super) features: &'a [FeatureName],
    pub(super) score: Option<f64>,
}

impl RuleSlots<'_> {
    /// Those of `slots` that are null.
    pub(super) fn nulls(&self, slots: &[u32]) -> Vec<u32> {
        slots.iter().copied().filter(|&slot| self.slot(slot) == Operand::Null).collect()
    }

    fn column(&self, column: usize) -> Operand<'_> {
        let row = &self.subject.row;
        let cell = row.cells[column];
        if cell <= UNCHANGED {
            return Operand::Null;
        }
        match row.stream.columns[column].kind {
            ColumnType::Int => Operand::Int(cell),
            ColumnType::Double => finite(double_of(cell)),
            ColumnType::Bool => Operand::Bool(cell != 0),
            ColumnType::Text | ColumnType::Uuid => Operand::Text(row.text.get(cell)),
            ColumnType::Timestamp => Operand::Timestamp(cell),
            ColumnType::Decimal { scale } => Operand::Double(major_units(cell, scale)),
        }
    }

    fn feature(&self, feature: usize) -> Operand<'_> {
        let (Some(name), Some(reading)) = (self.features.get(feature), self.subject.vector.get(feature)) else {
            return Operand::Null;
        };
        of_type(&reading.value, name.kind)
    }
}

impl Slots for RuleSlots<'_> {
    fn slot(&self, index: u32) -> Operand<'_> {
        let index = index as usize;
        let columns = self.subject.row.cells.len();
        if index < columns {
            self.column(index)
        } else if index < columns + self.features.len() {
            self.feature(index - columns)
        } else {
            self.score.map_or(Operand::Null, finite)
        }
    }
}

fn finite<'a>(value: f64) -> Operand<'a> {
    if value.is_finite() { Operand::Double(value) } else { Operand::Null }
}

/// `value` as `kind`; null where it is of another type.
#[expect(clippy::cast_precision_loss, reason = "integers over 2^53 lose their last bits as doubles")]
fn of_type(value: &Value, kind: Type) -> Operand<'_> {
    match (value, kind) {
        (Value::Bool(value), Type::Bool) => Operand::Bool(*value),
        (Value::Int(value), Type::Int) => Operand::Int(*value),
        (Value::Int(value), Type::Double) => Operand::Double(*value as f64),
        (Value::Double(value), Type::Double) => finite(*value),
        (Value::Text(value), Type::Text) => Operand::Text(value),
        (Value::Text(value), Type::Timestamp) => {
            Timestamp::parse(value, &TimeZone::UTC).map_or(Operand::Null, |time| Operand::Timestamp(time.micros()))
        }
        _ => Operand::Null,
    }
}
