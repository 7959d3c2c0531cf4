//! Features of a chunk's events as columns, derived features included.

use std::sync::Arc;

use crate::change::Row;
use crate::expression::{Operand, Slots, Type};
use crate::time::Timestamp;
use crate::value::{NULL, UNCHANGED, Value, double_of};
use crate::vector::{Flags, Reading};

use super::events::Chunk;
use super::route::{ABSENT, ABSENT_DOUBLE, NO_SHARD, NULL_DOUBLE, RouteFeatures, ShardValues};
use super::{Features, derived_from};

/// One feature of a run of events, in order. Absent is null for want of a key or of any state.
#[derive(Clone, PartialEq, Debug)]
pub enum Column {
    /// Integers; null is `i64::MIN`, absent the next one.
    Int(Vec<i64>),
    /// Doubles; null and absent are NaN.
    Double(Vec<f64>),
    /// 0 and 1; null as for integers.
    Bool(Vec<i64>),
    /// Microseconds; null as for integers.
    Timestamp(Vec<i64>),
    /// Texts.
    Text(Vec<TextCell>),
}

/// One value of a column of texts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TextCell {
    /// Null for want of a key or of any state.
    Absent,
    /// Null.
    Null,
    /// A text.
    Text(Arc<str>),
}

impl TextCell {
    fn of(cell: i64, texts: &[Arc<str>]) -> Self {
        if cell == ABSENT {
            return Self::Absent;
        }
        usize::try_from(cell).ok().and_then(|at| texts.get(at)).map_or(Self::Null, |text| Self::Text(Arc::clone(text)))
    }

    /// The text; `None` for null and absent.
    #[must_use]
    pub fn text(&self) -> Option<&Arc<str>> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }
}

impl Column {
    fn new(kind: Type, rows: usize) -> Self {
        match kind {
            Type::Int => Self::Int(Vec::with_capacity(rows)),
            Type::Double => Self::Double(Vec::with_capacity(rows)),
            Type::Bool => Self::Bool(Vec::with_capacity(rows)),
            Type::Timestamp => Self::Timestamp(Vec::with_capacity(rows)),
            Type::Text => Self::Text(Vec::with_capacity(rows)),
        }
    }

    /// The value of event `at` for an edge.
    ///
    /// # Panics
    /// When there is no such event.
    #[must_use]
    pub fn reading(&self, at: usize) -> Reading {
        let (value, is_absent) = match self {
            Self::Int(cells) => (Value::Int(cells[at]), cells[at] == ABSENT),
            Self::Double(values) => (Value::Double(values[at]), values[at].to_bits().cast_signed() == ABSENT_DOUBLE),
            Self::Bool(cells) => (Value::Bool(cells[at] == 1), cells[at] == ABSENT),
            Self::Timestamp(cells) => {
                let text = || Arc::from(Timestamp::from_micros(cells[at]).to_string());
                (if cells[at] > UNCHANGED { Value::Text(text()) } else { Value::Null }, cells[at] == ABSENT)
            }
            Self::Text(cells) => {
                (cells[at].text().cloned().map_or(Value::Null, Value::Text), cells[at] == TextCell::Absent)
            }
        };
        let is_null = match self {
            Self::Int(cells) | Self::Bool(cells) => cells[at] <= UNCHANGED,
            Self::Double(values) => values[at].is_nan(),
            Self::Timestamp(_) | Self::Text(_) => false,
        };
        let flags = if is_absent { Flags::NO_STATE } else { Flags::NONE };
        Reading { value: if is_null { Value::Null } else { value }, flags, edge_events: 0 }
    }

    fn push(&mut self, cell: i64, texts: &[Arc<str>]) {
        match self {
            Self::Int(cells) | Self::Bool(cells) | Self::Timestamp(cells) => cells.push(cell),
            Self::Double(values) => values.push(double_of(cell)),
            Self::Text(values) => values.push(TextCell::of(cell, texts)),
        }
    }
}

/// One event's features while its vector is filled.
struct Vector<'a> {
    row: Row<'a>,
    cells: &'a [i64],
    kinds: &'a [Type],
    /// Per feature, where its texts are.
    texts: &'a [&'a [Arc<str>]],
}

impl Slots for Vector<'_> {
    fn slot(&self, index: u32) -> Operand<'_> {
        let width = self.row.cells.len();
        let Some(feature) = (index as usize).checked_sub(width) else { return self.row.slot(index) };
        let Some(&cell) = self.cells.get(feature) else { return Operand::Null };
        match self.kinds[feature] {
            Type::Double if double_of(cell).is_nan() => Operand::Null,
            Type::Double => Operand::Double(double_of(cell)),
            _ if cell <= UNCHANGED => Operand::Null,
            Type::Int => Operand::Int(cell),
            Type::Bool => Operand::Bool(cell != 0),
            Type::Timestamp => Operand::Timestamp(cell),
            Type::Text => {
                let text = usize::try_from(cell).ok().and_then(|at| self.texts[feature].get(at));
                text.map_or(Operand::Null, |text| Operand::Text(text))
            }
        }
    }
}

/// Where the next values of a route stand.
struct Cursor<'a> {
    route: &'a RouteFeatures,
    shard_of: &'a [u16],
    next: Vec<u32>,
}

impl<'a> Cursor<'a> {
    fn new(route: &'a RouteFeatures, chunk: usize) -> Self {
        Self { route, shard_of: &route.shard_of[chunk], next: route.bases[chunk].clone() }
    }

    /// The values of the chunk's row `at`, called for every row in order.
    fn values(&mut self, at: usize) -> (&'a [i64], Option<&'a ShardValues>) {
        let shard = self.shard_of[at];
        if shard == NO_SHARD {
            return (&self.route.absent, None);
        }
        let shard = shard as usize;
        let width = self.route.features.len();
        let place = self.next[shard] as usize;
        self.next[shard] += 1;
        let values = &self.route.shards[shard];
        (&values.cells[place * width..(place + 1) * width], Some(values))
    }
}

impl Features<'_> {
    /// The columns of chunk `chunk` (index into [`super::Events::chunks`]): one value per event of it, in order of the input.
    #[must_use]
    pub fn chunk(&self, chunk: usize) -> Vec<Column> {
        let Chunk { batch, from, to, first_row } = self.events.chunks()[chunk];
        let batch = &self.events.batches()[batch];
        let mut columns: Vec<Column> = self.columns.iter().map(|column| Column::new(column.kind, to - from)).collect();
        let mut cursors: Vec<Cursor<'_>> = self.routes.iter().map(|route| Cursor::new(route, chunk)).collect();
        let blank: Vec<i64> = self.kinds.iter().map(|kind| null_of(*kind)).collect();
        let mut cells = blank.clone();
        let mut texts: Vec<&[Arc<str>]> = vec![&[]; cells.len()];
        let has_texts = self.kinds.contains(&Type::Text);
        for at in 0..to - from {
            if self.events.is_gone(first_row + at) {
                continue;
            }
            for cursor in &mut cursors {
                let (values, shard) = cursor.values(at);
                for (&feature, &value) in cursor.route.features.iter().zip(values) {
                    cells[feature] = value;
                    if has_texts {
                        texts[feature] = shard.map_or(&[], |shard| &shard.texts);
                    }
                }
            }
            self.derive(batch.row(from + at), &mut cells, &texts);
            for (column, spec) in columns.iter_mut().zip(&self.columns) {
                column.push(cells[spec.feature], texts[spec.feature]);
            }
        }
        columns
    }

    fn derive(&self, row: Row<'_>, cells: &mut [i64], texts: &[&[Arc<str>]]) {
        let first = derived_from(self.plan);
        for (place, derived) in self.plan.definitions.derived.iter().enumerate() {
            if derived.stream != self.events.stream() {
                continue;
            }
            let (known, own) = cells.split_at_mut(first + place);
            let input = Vector { row, cells: known, kinds: &self.kinds, texts };
            let kind = self.kinds[first + place];
            own[0] = match derived.expression.evaluate(&input) {
                Operand::Int(value) | Operand::Timestamp(value) => value,
                Operand::Double(value) if value.is_finite() => value.to_bits().cast_signed(),
                Operand::Bool(value) => i64::from(value),
                _ => null_of(kind),
            };
        }
    }
}

const fn null_of(kind: Type) -> i64 {
    match kind {
        Type::Double => NULL_DOUBLE,
        _ => NULL,
    }
}
