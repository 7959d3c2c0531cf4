//! Slot columns: the words that an event leaves in a state.

use crate::change::{Row, TextArena};
use crate::definition::Operand as Source;
use crate::expression::{Operand, Slots};
use crate::value::{ColumnType, NULL, UNCHANGED, double_cell, double_of, major_units};

/// How the words of a slot column are to be understood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WordKind {
    /// Integers in units of 10^-scale; `scale` 0 for counts and plain integers.
    Integer { scale: u8, declared_int: bool },
    /// Bits of a double.
    Double,
    /// 0 or 1.
    Bool,
    /// Index into the state's texts.
    Text,
    /// Microseconds.
    Timestamp,
}

impl WordKind {
    /// The number that `word` stands for, in major units.
    pub(crate) fn number(self, word: i64) -> f64 {
        match self {
            Self::Integer { scale, .. } => major_units(word, scale),
            Self::Double => double_of(word),
            #[expect(
                clippy::cast_precision_loss,
                reason = "bools, and instants below 2^53 microseconds from 1970 to 2255"
            )]
            Self::Bool | Self::Text | Self::Timestamp => word as f64,
        }
    }
}

/// One word per event: a column's cell or the value of an expression over the row.
#[derive(Clone, Debug)]
pub(crate) struct SlotColumn {
    pub(super) source: Source,
    pub(crate) kind: WordKind,
}

impl SlotColumn {
    /// The word of `row`; text is copied into `texts` and the word indexes it there.
    pub(crate) fn word(&self, row: Row<'_>, texts: &mut TextArena) -> i64 {
        match &self.source {
            Source::Column(column) => {
                let cell = row.cells[*column];
                if cell <= UNCHANGED {
                    NULL
                } else if self.kind == WordKind::Text {
                    texts.push(row.text.get(cell))
                } else {
                    cell
                }
            }
            Source::Expression(expression) => match expression.evaluate(&row) {
                Operand::Null => NULL,
                Operand::Int(value) | Operand::Timestamp(value) => {
                    if value <= UNCHANGED {
                        NULL
                    } else {
                        value
                    }
                }
                Operand::Double(value) => double_cell(value).unwrap_or(NULL),
                Operand::Bool(value) => i64::from(value),
                Operand::Text(text) => texts.push(text),
            },
        }
    }
}

impl Slots for Row<'_> {
    fn slot(&self, index: u32) -> Operand<'_> {
        let column = index as usize;
        let cell = self.cells[column];
        if cell <= UNCHANGED {
            return Operand::Null;
        }
        match self.stream.columns[column].kind {
            ColumnType::Int => Operand::Int(cell),
            ColumnType::Double => Operand::Double(double_of(cell)),
            ColumnType::Bool => Operand::Bool(cell != 0),
            ColumnType::Text | ColumnType::Uuid => Operand::Text(self.text.get(cell)),
            ColumnType::Timestamp => Operand::Timestamp(cell),
            ColumnType::Decimal { scale } => Operand::Double(major_units(cell, scale)),
        }
    }
}
