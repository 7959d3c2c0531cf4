//! What a group's definition compiles to: which words an event leaves in a state, which reductions its tiles hold,
//! and how features are read from both.

mod size;

use std::sync::Arc;

use super::cursor::Running;
use crate::change::{Row, TextArena};
use crate::definition::{Aggregation, Definitions, Group, GroupKind, Operand as Source};
use crate::expression::{Expression, Operand, Slots, Type};
use crate::time::Span;
use crate::value::{ColumnType, NULL, UNCHANGED, double_cell, double_of, major_units};

use super::read::Readout;
use size::{slot_bytes, tile_width};

/// Bytes of raw events a state may hold before its oldest events move into tiles (DESIGN section 5).
pub const RAW_BYTES_MAX: usize = 8 * 1024;
/// Bytes of a fully tiled state; `check` refuses a group that could pass it (DESIGN 3.1).
pub const TILED_BYTES_MAX: usize = 64 * 1024;
/// Bytes of the texts that tiles refer to, beyond those of raw events: the rarest give way.
pub(crate) const TILE_TEXTS_BYTES_MAX: usize = 4 * 1024;
/// How many texts that are.
pub(crate) const TILE_TEXTS_MAX: usize = 256;
/// A tile's flag: its first or last event was retracted.
pub(crate) const TIMES_INEXACT: i64 = 1 << 60;
/// A window's flag: a label in its tiles was reported after the as-of.
pub(crate) const LABELS_INEXACT: i64 = 1 << 61;
/// Rows a table state holds per key: the latest, and a few before it in case the latest is deleted.
pub(crate) const TABLE_ROWS_MAX: usize = 8;
/// The span of a table group's only window: every instant lies in it.
const UNBOUNDED: i64 = i64::MAX / 4;

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
    source: Source,
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

/// How one feature is read. Numbers are indexes of slot columns.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Read {
    Count,
    Sum(usize),
    Mean(usize),
    Min(usize),
    Max(usize),
    Stddev(usize),
    First(usize),
    Last(usize),
    DistinctCount(usize),
    Quantile(usize, f64),
    MostFrequent(usize),
    TimeSinceLast,
    TimeSinceFirst,
    ShareLabel,
    Share(usize),
    DecayedCount(i64),
    DecayedSum(usize, i64),
    TravelSpeed(usize, usize),
    /// The latest row's value, null included (table groups).
    Latest(usize),
}

/// One feature of a group, read once per window.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    pub(crate) read: Read,
    /// What stands for a window without values.
    pub(crate) default: Option<Readout>,
    /// The tile flags that make it inexact.
    pub(crate) inexact: i64,
}

/// What a tile holds beside the count and the times of its first and last event.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Part {
    /// Non-null count and exact sum; with squares where a deviation is asked for.
    Moments {
        column: usize,
        squares: bool,
    },
    Min(usize),
    Max(usize),
    First(usize),
    Last(usize),
    /// HyperLogLog of [`super::sketch::HLL_REGISTERS`] registers.
    Distinct(usize),
    /// Log-scaled histogram.
    Quantiles(usize),
    /// The most frequent values by the space-saving method.
    Top(usize),
    True(usize),
    Fraud,
    Decayed {
        column: Option<usize>,
        half_life: i64,
    },
}

/// Tiles of one window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TierSpec {
    /// Microseconds a tile covers.
    pub(crate) width: i64,
    /// How far before the newest event tiles are kept: delay and window, and the slack for readers behind the writer, but of that no more
    /// than the window again, so that short windows do not keep thousands of tiles. A read from further behind says it is truncated.
    pub(crate) reach: i64,
}

/// A group, compiled.
#[derive(Clone, Debug)]
pub struct Program {
    pub(crate) columns: Vec<SlotColumn>,
    pub(crate) has_label: bool,
    pub(crate) windows: Vec<i64>,
    pub(crate) delay: i64,
    pub(crate) outputs: Vec<Output>,
    pub(crate) retention: i64,
    pub(crate) is_table: bool,
    pub(crate) slot_bytes: usize,
    pub(crate) tiers: Vec<TierSpec>,
    pub(crate) parts: Vec<Part>,
    /// Sums that are carried on from read to read.
    pub(crate) running: Vec<Running>,
    /// Every output is a count or read from them.
    pub(crate) is_running: bool,
    pub(crate) has_defaults: bool,
    pub(crate) hash: u64,
    filter: Option<Arc<Expression>>,
}

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
        let (running, is_running) = running_sums(&outputs, &builder.columns);
        let is_running = is_running && !is_table;
        Self {
            is_running,
            has_defaults: outputs.iter().any(|output| output.default.is_some()),
            columns: builder.columns,
            has_label: builder.has_label,
            parts: builder.parts,
            running,
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

    /// The group's identity.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many readings an evaluation writes: features times windows, feature-major.
    #[must_use]
    pub fn width(&self) -> usize {
        self.outputs.len() * self.windows.len()
    }

    /// How long an event is kept beyond the newest one of its key; `None` for tables.
    #[must_use]
    pub fn retention(&self) -> Option<Span> {
        (!self.is_table).then(|| Span::from_micros(self.retention))
    }

    /// Bytes one raw event may take, texts apart.
    #[must_use]
    pub fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    /// Raw events that fit the raw budget, texts apart.
    #[must_use]
    pub fn raw_events_max(&self) -> usize {
        if self.is_table { TABLE_ROWS_MAX } else { RAW_BYTES_MAX / self.slot_bytes }
    }

    /// The width of each window's tiles.
    pub fn tile_widths(&self) -> impl Iterator<Item = Span> {
        self.tiers.iter().map(|tier| Span::from_micros(tier.width))
    }

    /// Whether tiles refer to texts.
    pub(crate) fn has_tile_texts(&self) -> bool {
        self.parts.iter().any(|part| self.text_part(*part))
    }

    /// Whether a part's values are texts.
    pub(crate) fn text_part(&self, part: Part) -> bool {
        matches!(part, Part::First(column) | Part::Last(column) | Part::Top(column) if self.columns[column].kind == WordKind::Text)
    }

    /// Words of one slot.
    #[cfg(test)]
    pub(crate) fn raw_words(&self) -> usize {
        self.columns.len()
    }

    /// Whether events of `row` belong to the group.
    #[must_use]
    pub fn admits(&self, row: &Row<'_>) -> bool {
        match &self.filter {
            None => true,
            Some(filter) => filter.evaluate(row) == Operand::Bool(true),
        }
    }

    /// Fills `words` with the row's slot words.
    pub(crate) fn words(&self, row: Row<'_>, words: &mut Vec<i64>, texts: &mut TextArena) {
        words.extend(self.columns.iter().map(|column| column.word(row, texts)));
    }
}

/// The sums that are carried on for `outputs`, and whether they and counts are all that is read.
fn running_sums(outputs: &[Output], columns: &[SlotColumn]) -> (Vec<Running>, bool) {
    let mut running: Vec<Running> = Vec::new();
    let mut is_all = true;
    for output in outputs {
        match Running::of(output.read, |column| columns[column].kind) {
            Some(sum) if !running.contains(&sum) => running.push(sum),
            Some(_) => {}
            None => is_all &= output.read == Read::Count,
        }
    }
    (running, is_all)
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

/// The flag of the part at `place`; parts beyond the sixtieth share flags.
pub(crate) const fn part_flag(place: usize) -> i64 {
    1 << (place % 60)
}
