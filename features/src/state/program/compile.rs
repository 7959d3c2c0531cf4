//! From a checked group to its program.

use std::sync::Arc;

use crate::definition::{Aggregation, Definitions, Group, GroupKind, Operand as Source};
use crate::expression::Type;
use crate::value::ColumnType;

use super::super::cursor::Course;
use super::super::read::Readout;
use super::size::{slot_bytes, tile_width};
use super::{
    LABELS_INEXACT, Output, Part, Program, Read, SlotColumn, TIMES_INEXACT, TierSpec, UNBOUNDED, WordKind, part_flag,
};

impl Program {
    /// Compiles a checked group.
    #[must_use]
    pub fn compile(definitions: &Definitions, group: &Group) -> Self {
        let stream = &definitions.streams[group.stream];
        let mut builder =
            Builder { columns: Vec::new(), parts: Vec::new(), has_label: false, column_types: &stream.columns };
        let (windows, delay, outputs, is_table): (Vec<i64>, i64, Vec<Output>, bool) = match &group.kind {
            GroupKind::Windowed { windows, delay, features } => {
                let outputs: Vec<Output> = features
                    .iter()
                    .map(|feature| {
                        let is_int = feature.aggregation.kind(stream) == Type::Int;
                        #[expect(clippy::cast_possible_truncation, reason = "checked to be a whole number")]
                        let readout =
                            |value: f64| if is_int { Readout::int(value as i64) } else { Readout::double(value) };
                        let read = builder.read(&feature.aggregation);
                        Output { read, default: feature.default.map(readout), inexact: 0 }
                    })
                    .collect();
                (windows.iter().map(|window| window.micros()).collect(), delay.micros(), outputs, false)
            }
            GroupKind::Table { features } => {
                let outputs = features
                    .iter()
                    .map(|(_, expression)| {
                        let column = builder.column(&Source::Expression(Arc::clone(expression)));
                        Output { read: Read::Latest(column), default: None, inexact: 0 }
                    })
                    .collect();
                (vec![UNBOUNDED], 0, outputs, true)
            }
        };
        let widest = windows.iter().copied().max().unwrap_or(0);
        let slack = definitions.slack.micros();
        let tiers = if is_table {
            Vec::new()
        } else {
            windows
                .iter()
                .map(|&window| TierSpec { width: tile_width(window), reach: delay + window + slack })
                .collect()
        };
        let slot_bytes = slot_bytes(&builder.columns, builder.has_label);
        let outputs: Vec<Output> =
            outputs.into_iter().map(|output| Output { inexact: builder.inexact(output.read), ..output }).collect();
        let course = if is_table {
            Course::default()
        } else {
            Course::of(&outputs, &builder.columns, builder.has_label, windows.len())
        };
        let is_text = |column: &SlotColumn| column.kind == WordKind::Text;
        Self {
            course,
            is_plain: !is_table && !builder.columns.iter().any(is_text),
            has_defaults: outputs.iter().any(|output| output.default.is_some()),
            columns: builder.columns,
            has_label: builder.has_label,
            parts: builder.parts,
            retention: if is_table { UNBOUNDED } else { delay + widest + slack },
            windows,
            delay,
            outputs,
            is_table,
            slot_bytes,
            tiers,
            hash: group.hash,
            filter: group.filter.clone(),
        }
    }
}

struct Builder<'a> {
    columns: Vec<SlotColumn>,
    parts: Vec<Part>,
    has_label: bool,
    column_types: &'a [crate::definition::Column],
}

impl Builder<'_> {
    fn column(&mut self, source: &Source) -> usize {
        let same = |known: &SlotColumn| match (&known.source, source) {
            (Source::Column(a), Source::Column(b)) => a == b,
            (Source::Expression(a), Source::Expression(b)) => a.source() == b.source(),
            _ => false,
        };
        if let Some(index) = self.columns.iter().position(same) {
            return index;
        }
        let kind = match source {
            Source::Column(column) => match self.column_types[*column].kind {
                ColumnType::Int => WordKind::Integer { scale: 0, declared_int: true },
                ColumnType::Decimal { scale } => WordKind::Integer { scale, declared_int: false },
                ColumnType::Double => WordKind::Double,
                ColumnType::Bool => WordKind::Bool,
                ColumnType::Text | ColumnType::Uuid => WordKind::Text,
                ColumnType::Timestamp => WordKind::Timestamp,
            },
            Source::Expression(expression) => match expression.kind() {
                Type::Int => WordKind::Integer { scale: 0, declared_int: true },
                Type::Double => WordKind::Double,
                Type::Bool => WordKind::Bool,
                Type::Text => WordKind::Text,
                Type::Timestamp => WordKind::Timestamp,
            },
        };
        self.columns.push(SlotColumn { source: source.clone(), kind });
        self.columns.len() - 1
    }

    fn part(&mut self, part: Part) {
        if let Part::Moments { column, squares: true } = part {
            let plain = Part::Moments { column, squares: false };
            if let Some(known) = self.parts.iter_mut().find(|known| **known == plain) {
                *known = part;
                return;
            }
        }
        let covered = match part {
            Part::Moments { column, squares: false } => self.parts.contains(&Part::Moments { column, squares: true }),
            _ => false,
        };
        if !covered && !self.parts.contains(&part) {
            self.parts.push(part);
        }
    }

    fn read(&mut self, aggregation: &Aggregation) -> Read {
        match aggregation {
            Aggregation::Count => Read::Count,
            Aggregation::TimeSinceLast => Read::TimeSinceLast,
            Aggregation::TimeSinceFirst => Read::TimeSinceFirst,
            Aggregation::ShareLabel => {
                self.has_label = true;
                self.part(Part::Fraud);
                Read::ShareLabel
            }
            Aggregation::DecayedCount(half_life) => {
                self.part(Part::Decayed { column: None, half_life: half_life.micros() });
                Read::DecayedCount(half_life.micros())
            }
            Aggregation::DecayedSum(source, half_life) => {
                let column = self.column(source);
                self.part(Part::Decayed { column: Some(column), half_life: half_life.micros() });
                Read::DecayedSum(column, half_life.micros())
            }
            Aggregation::TravelSpeed(latitude, longitude) => {
                Read::TravelSpeed(self.column(latitude), self.column(longitude))
            }
            Aggregation::Sum(source) => {
                self.single(source, Read::Sum, |column| Part::Moments { column, squares: false })
            }
            Aggregation::Mean(source) => {
                self.single(source, Read::Mean, |column| Part::Moments { column, squares: false })
            }
            Aggregation::Stddev(source) => {
                self.single(source, Read::Stddev, |column| Part::Moments { column, squares: true })
            }
            Aggregation::Min(source) => self.single(source, Read::Min, Part::Min),
            Aggregation::Max(source) => self.single(source, Read::Max, Part::Max),
            Aggregation::First(source) => self.single(source, Read::First, Part::First),
            Aggregation::Last(source) => self.single(source, Read::Last, Part::Last),
            Aggregation::DistinctCount(source) => self.single(source, Read::DistinctCount, Part::Distinct),
            Aggregation::Quantile(source, q) => {
                let q = *q;
                self.single(source, |column| Read::Quantile(column, q), Part::Quantiles)
            }
            Aggregation::MostFrequent(source) => self.single(source, Read::MostFrequent, Part::Top),
            Aggregation::Share(source) => self.single(source, Read::Share, Part::True),
        }
    }

    /// The tile flags that make what `read` gives inexact.
    fn inexact(&self, read: Read) -> i64 {
        let part = match read {
            Read::Count | Read::Latest(_) | Read::TravelSpeed(..) => return 0,
            Read::TimeSinceLast | Read::TimeSinceFirst => return TIMES_INEXACT,
            Read::ShareLabel => return LABELS_INEXACT,
            Read::Sum(column) | Read::Mean(column) | Read::Stddev(column) => {
                let is_moments = |part: &Part| matches!(part, Part::Moments { column: own, .. } if *own == column);
                return part_flag(self.parts.iter().position(is_moments).unwrap_or(0));
            }
            Read::Min(column) => Part::Min(column),
            Read::Max(column) => Part::Max(column),
            Read::First(column) => Part::First(column),
            Read::Last(column) => Part::Last(column),
            Read::DistinctCount(column) => Part::Distinct(column),
            Read::Quantile(column, _) => Part::Quantiles(column),
            Read::MostFrequent(column) => Part::Top(column),
            Read::Share(column) => Part::True(column),
            Read::DecayedCount(half_life) => Part::Decayed { column: None, half_life },
            Read::DecayedSum(column, half_life) => Part::Decayed { column: Some(column), half_life },
        };
        part_flag(self.parts.iter().position(|known| *known == part).unwrap_or(0))
    }

    fn single(&mut self, source: &Source, read: impl Fn(usize) -> Read, part: impl Fn(usize) -> Part) -> Read {
        let column = self.column(source);
        self.part(part(column));
        read(column)
    }
}
