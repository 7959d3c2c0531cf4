//! What a group's definition compiles to: which words an event leaves in a state, which reductions its tiles hold,
//! and how features are read from both.

mod compile;
mod size;
mod slot;

use std::sync::Arc;

use super::LABEL;
use super::cursor::Course;
use super::read::Readout;
use crate::change::{Row, TextArena};
use crate::expression::{Expression, Operand};
use crate::time::Span;

pub(crate) use slot::{SlotColumn, WordKind};

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
    pub(super) course: Course,
    pub(crate) has_defaults: bool,
    /// Events leave no text and are no rows of a table: the next one in order of time is written behind the last.
    pub(super) is_plain: bool,
    pub(crate) hash: u64,
    filter: Option<Arc<Expression>>,
}

impl Program {
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

    /// Whether the words of a slot column are texts.
    pub(crate) fn is_text(&self, column: usize) -> bool {
        self.columns[column].kind == WordKind::Text
    }

    /// The lane of the first slot column.
    pub(super) fn first_column(&self) -> usize {
        LABEL + usize::from(self.has_label)
    }

    /// Lanes of a state's block.
    pub(super) fn lane_count(&self) -> usize {
        self.first_column() + self.columns.len()
    }

    /// Fills `words` with the row's slot words.
    pub(crate) fn words(&self, row: Row<'_>, words: &mut Vec<i64>, texts: &mut TextArena) {
        words.extend(self.columns.iter().map(|column| column.word(row, texts)));
    }
}

/// The flag of the part at `place`; parts beyond the sixtieth share flags.
pub(crate) const fn part_flag(place: usize) -> i64 {
    1 << (place % 60)
}
