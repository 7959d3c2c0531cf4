//! How wide tiles are, and how many bytes events, tiles and states take at most.

use super::{Part, Program, SlotColumn, TILE_TEXTS_BYTES_MAX, WordKind};
use crate::state::sketch;
use crate::state::texts::UNSWEPT_BYTES_MAX;
use crate::time::Span;
use crate::value::TEXT_BYTES_MAX;

/// Bytes of a tile beside its parts: index 2, count 4, first and last event 7 each, flags 2.
const TILE_HEAD_BYTES: usize = 22;
/// A tile is at most this part of its window (DESIGN 3.1).
const TILES_PER_WINDOW: i64 = 100;

impl Program {
    /// Bytes that the tiles of a state and their texts take when every one of them is full.
    #[must_use]
    pub fn tiled_bytes_max(&self) -> usize {
        let tile_bytes: usize =
            TILE_HEAD_BYTES + self.parts.iter().map(|part| part_bytes(&self.columns, *part)).sum::<usize>();
        let tiles: i64 = self.tiers.iter().map(|tier| tier.reach / tier.width + 2).sum();
        let texts = TILE_TEXTS_BYTES_MAX + UNSWEPT_BYTES_MAX + TEXT_BYTES_MAX;
        let texts = if self.has_tile_texts() { texts } else { 0 };
        texts + usize::try_from(tiles).unwrap_or(usize::MAX).saturating_mul(tile_bytes)
    }
}

/// The widest round width of at most a hundredth of `window`.
pub(super) fn tile_width(window: i64) -> i64 {
    const MILLISECOND: i64 = 1_000;
    const ROUND: [i64; 25] = [
        1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 15_000, 30_000, 60_000, 120_000, 300_000,
        600_000, 900_000, 1_800_000, 3_600_000, 7_200_000, 10_800_000, 21_600_000,
    ];
    let widest = window / TILES_PER_WINDOW;
    let days = widest / Span::DAY.micros();
    if days >= 1 {
        return days * Span::DAY.micros();
    }
    if widest >= 43_200_000 * MILLISECOND {
        return 43_200_000 * MILLISECOND;
    }
    ROUND.iter().rev().map(|width| width * MILLISECOND).find(|width| *width <= widest).unwrap_or_else(|| widest.max(1))
}

/// The most bytes one raw event takes in the encoding: time 7, id 9, version 9, minor version 1, report time and
/// label 8, a number 9, a text's index 2.
pub(super) fn slot_bytes(columns: &[SlotColumn], has_label: bool) -> usize {
    let columns: usize = columns
        .iter()
        .map(|column| match column.kind {
            WordKind::Bool => 1,
            WordKind::Text => 2,
            WordKind::Integer { .. } | WordKind::Double | WordKind::Timestamp => 9,
        })
        .sum();
    7 + 9 + 9 + 1 + if has_label { 8 } else { 0 } + columns
}

/// The most bytes a part takes in the encoding, of fewer than 2^28 events and of sums below 2^90.
fn part_bytes(columns: &[SlotColumn], part: Part) -> usize {
    let word = |column: usize| if columns[column].kind == WordKind::Text { 2 } else { 9 };
    match part {
        Part::Moments { squares, .. } => 4 + 13 + if squares { 19 } else { 0 },
        Part::Min(_) | Part::Max(_) => 1 + 9,
        Part::First(column) | Part::Last(column) => 1 + 7 + 9 + word(column),
        Part::Distinct(_) => 1 + sketch::HLL_REGISTERS * 6 / 8,
        Part::Quantiles(_) => 1 + sketch::HISTOGRAM_BINS * 6,
        Part::Top(column) => 1 + sketch::TOP_VALUES * (word(column) + 4),
        Part::True(_) | Part::Fraud => 5,
        Part::Decayed { .. } => 8,
    }
}
