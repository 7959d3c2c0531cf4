//! Tiles: counts and summaries of a hot key's older events, one row of tiles per window.
//!
//! A tile covers a fixed stretch of time of at most 1 % of its window. Its head holds index, count and the times of its first and last
//! event; the parts that its group's features need follow as words.
//!
//! Invariants:
//! - Tiles of a tier are ascending by index; none is empty of events it counted, none lies behind the tier's reach.
//! - Count, shares and sums of integers and decimals retract exactly; a tile that lost a value from another part carries that part's flag
//!   until it expires.
//! - An event counts in a tier when it is later than the tier's reach before the newest event: no other is added, retracted or relabelled.
//! - The texts that tiles refer to are at most `TILE_TEXTS_MAX` and `TILE_TEXTS_BYTES_MAX`; those seen least give way, and the tiles
//!   they leave carry the part's flag.

mod texts;

use crate::change::Version;
use crate::value::{NULL, double_of};

use super::label::LabelWord;
use super::program::{Part, Program, TIMES_INEXACT, WordKind, part_flag};
use super::sketch::{HISTOGRAM_BINS, HLL_WORDS, TOP_VALUES, hash_bytes, histogram_add, hll_add, mix, top_add};
use super::texts::Texts;
use super::{Slot, label_at};

pub(super) const INDEX: usize = 0;
pub(super) const COUNT: usize = 1;
pub(super) const FIRST: usize = 2;
pub(super) const LAST: usize = 3;
pub(super) const FLAGS: usize = 4;
pub(super) const HEAD: usize = 5;

/// The tiles of one state.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Tiles {
    /// The place in time order up to which events are in tiles.
    pub(super) boundary: (i64, Version, u64),
    /// Time of the key's newest event.
    pub(super) newest: i64,
    /// The latest report time of a label counted here: reads as of earlier see labels too soon.
    pub(super) labels_until: i64,
    /// One per window.
    pub(super) tiers: Vec<Tier>,
}

/// Tiles of one window, flat: `stride` words each.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Tier {
    pub(super) words: Vec<i64>,
}

/// Words a part takes in a tile.
pub(super) const fn part_words(part: Part) -> usize {
    match part {
        Part::Moments { squares: false, .. } | Part::First(_) | Part::Last(_) => 3,
        Part::Moments { squares: true, .. } => 5,
        Part::Min(_) | Part::Max(_) | Part::True(_) | Part::Fraud | Part::Decayed { .. } => 1,
        Part::Distinct(_) => HLL_WORDS,
        Part::Quantiles(_) => HISTOGRAM_BINS,
        Part::Top(_) => TOP_VALUES * 2,
    }
}

/// Words of one tile of `program`.
pub(super) fn stride(program: &Program) -> usize {
    HEAD + program.parts.iter().map(|part| part_words(*part)).sum::<usize>()
}

/// The 128-bit sum in two words.
pub(super) const fn wide(words: &[i64]) -> i128 {
    ((words[1] as i128) << 64) | (words[0].cast_unsigned() as i128)
}

#[expect(clippy::cast_possible_truncation, reason = "splits 128 bits in two halves")]
pub(super) fn set_wide(words: &mut [i64], value: i128) {
    words[0] = value as i64;
    words[1] = (value >> 64) as i64;
}

impl Tiles {
    pub(super) fn new(program: &Program) -> Self {
        Self {
            boundary: (i64::MIN, Version::REQUEST, 0),
            newest: i64::MIN,
            labels_until: i64::MIN,
            tiers: vec![Tier::default(); program.tiers.len()],
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tiers.iter().all(|tier| tier.words.is_empty())
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.tiers.iter().map(|tier| tier.words.capacity() * 8).sum()
    }

    /// Drops the tiles that no read can need any more.
    pub(super) fn prune(&mut self, program: &Program) {
        let stride = stride(program);
        for (tier, spec) in self.tiers.iter_mut().zip(&program.tiers) {
            let horizon = self.newest - spec.reach;
            let gone =
                tier.words.chunks_exact(stride).take_while(|tile| (tile[INDEX] + 1) * spec.width <= horizon).count();
            tier.words.drain(..gone * stride);
        }
    }

    /// Counts an event in every tier; text words index `texts`.
    pub(super) fn add(
        &mut self,
        program: &Program,
        order: (i64, Version, u64),
        label: LabelWord,
        words: &[i64],
        texts: Option<&Texts>,
    ) {
        let stride = stride(program);
        let time = order.0;
        if let Some(reported) = label.reported() {
            self.labels_until = self.labels_until.max(reported.micros());
        }
        for (tier, spec) in self.tiers.iter_mut().zip(&program.tiers) {
            if time <= self.newest - spec.reach {
                continue;
            }
            let tile = tier.tile(program, stride, time.div_euclid(spec.width));
            tile[COUNT] += 1;
            tile[FIRST] = tile[FIRST].min(time);
            tile[LAST] = tile[LAST].max(time);
            let end = (tile[INDEX] + 1) * spec.width;
            let mut from = HEAD;
            for part in &program.parts {
                let to = from + part_words(*part);
                let event = Event { order, label, words, texts, tile_end: end };
                part_add(program, *part, &mut tile[from..to], &event);
                from = to;
            }
        }
    }

    /// Subtracts an event as far as its parts can; false when no tier counts it.
    pub(super) fn retract(&mut self, program: &Program, slot: &Slot<'_>, words: &[i64]) -> bool {
        let stride = stride(program);
        let label = slot.labels.last().copied().unwrap_or_default();
        let mut found = false;
        for (tier, spec) in self.tiers.iter_mut().zip(&program.tiers) {
            if slot.time <= self.newest - spec.reach {
                continue;
            }
            let Some(at) = tier.find(stride, slot.time.div_euclid(spec.width)) else { continue };
            let tile = &mut tier.words[at * stride..(at + 1) * stride];
            if tile[COUNT] <= 0 {
                continue;
            }
            found = true;
            tile[COUNT] -= 1;
            if slot.time == tile[FIRST] || slot.time == tile[LAST] {
                tile[FLAGS] |= TIMES_INEXACT;
            }
            let end = (tile[INDEX] + 1) * spec.width;
            let mut from = HEAD;
            for (place, part) in program.parts.iter().enumerate() {
                let to = from + part_words(*part);
                if !part_retract(program, *part, &mut tile[from..to], words, label, (slot.time, end)) {
                    tile[FLAGS] |= part_flag(place);
                }
                from = to;
            }
            if tile[COUNT] == 0 {
                tier.words.drain(at * stride..(at + 1) * stride);
            }
        }
        found
    }

    /// Replaces the label of a counted event.
    pub(super) fn relabel(&mut self, program: &Program, old: &Slot<'_>, new: &Slot<'_>) {
        let stride = stride(program);
        let fraud = |slot: &Slot<'_>| i64::from(label_at(slot.labels, i64::MAX).is_fraud_by(i64::MAX));
        let change = fraud(new) - fraud(old);
        if let Some(reported) = new.labels.last().and_then(|label| label.reported()) {
            self.labels_until = self.labels_until.max(reported.micros());
        }
        let Some(part) = program.parts.iter().position(|part| *part == Part::Fraud) else { return };
        let offset = HEAD + program.parts[..part].iter().map(|part| part_words(*part)).sum::<usize>();
        for (tier, spec) in self.tiers.iter_mut().zip(&program.tiers) {
            if new.time > self.newest - spec.reach
                && let Some(at) = tier.find(stride, new.time.div_euclid(spec.width))
            {
                tier.words[at * stride + offset] += change;
            }
        }
    }
}

impl Tier {
    fn find(&self, stride: usize, index: i64) -> Option<usize> {
        let tiles = self.words.len() / stride;
        let at = partition(tiles, |at| self.words[at * stride + INDEX] < index);
        (at < tiles && self.words[at * stride + INDEX] == index).then_some(at)
    }

    /// The tile at `index`, made when it is not there.
    fn tile(&mut self, program: &Program, stride: usize, index: i64) -> &mut [i64] {
        let tiles = self.words.len() / stride;
        let last = tiles.checked_sub(1).map(|last| self.words[last * stride + INDEX]);
        let at = match last {
            Some(last) if last == index => tiles - 1,
            Some(last) if last > index => partition(tiles, |at| self.words[at * stride + INDEX] < index),
            _ => tiles,
        };
        if at == tiles || self.words[at * stride + INDEX] != index {
            let from = at * stride;
            self.words.splice(from..from, std::iter::repeat_n(0, stride));
            let tile = &mut self.words[from..from + stride];
            tile[INDEX] = index;
            tile[FIRST] = i64::MAX;
            tile[LAST] = i64::MIN;
            let mut offset = HEAD;
            for part in &program.parts {
                let words = part_words(*part);
                if matches!(
                    part,
                    Part::Min(_) | Part::Max(_) | Part::First(_) | Part::Last(_) | Part::Quantiles(_) | Part::Top(_)
                ) {
                    tile[offset..offset + words].fill(NULL);
                }
                offset += words;
            }
        }
        &mut self.words[at * stride..(at + 1) * stride]
    }
}

/// The first of `0..len` for which `before` does not hold.
pub(super) fn partition(len: usize, before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, len);
    while low < high {
        let middle = usize::midpoint(low, high);
        if before(middle) { low = middle + 1 } else { high = middle }
    }
    low
}

/// An event on its way into a tile.
struct Event<'a> {
    order: (i64, Version, u64),
    label: LabelWord,
    words: &'a [i64],
    texts: Option<&'a Texts>,
    tile_end: i64,
}

/// A hash of a word that does not depend on where its text is held.
pub(super) fn word_hash(kind: WordKind, word: i64, texts: Option<&Texts>) -> u64 {
    match (kind, texts) {
        (WordKind::Text, Some(texts)) => hash_bytes(texts.get(word).as_bytes()),
        _ => mix(word.cast_unsigned() ^ 0x9e37_79b9_7f4a_7c15),
    }
}

/// 2^((time - reference) / half-life): the weight at `reference` of an event at `time`.
#[expect(clippy::cast_precision_loss, reason = "spans within a window are exact in doubles")]
pub(super) fn growth(time: i64, reference: i64, half_life: i64) -> f64 {
    ((time - reference) as f64 / half_life as f64).exp2()
}

fn part_add(program: &Program, part: Part, into: &mut [i64], event: &Event<'_>) {
    match part {
        Part::Fraud => into[0] += i64::from(event.label.is_fraud_by(i64::MAX)),
        Part::Decayed { column, half_life } => {
            let weight = match column {
                None => 1.0,
                Some(column) if event.words[column] == NULL => return,
                Some(column) => program.columns[column].kind.number(event.words[column]),
            };
            into[0] = (double_of(into[0]) + weight * growth(event.order.0, event.tile_end, half_life))
                .to_bits()
                .cast_signed();
        }
        Part::Moments { column, squares } => {
            moments(program.columns[column].kind, into, event.words[column], squares, 1);
        }
        Part::True(column) => into[0] += i64::from(event.words[column] == 1),
        Part::Min(column) | Part::Max(column) => {
            let word = event.words[column];
            if word != NULL && (into[0] == NULL || is_beyond(program.columns[column].kind, part, word, into[0])) {
                into[0] = word;
            }
        }
        Part::First(column) | Part::Last(column) => {
            let word = event.words[column];
            let order = (event.order.0, event.order.1.major.cast_signed());
            let known = (into[0], into[1]);
            let is_first = matches!(part, Part::First(_));
            if word != NULL && (into[0] == NULL || (is_first && order < known) || (!is_first && order >= known)) {
                (into[0], into[1], into[2]) = (order.0, order.1, word);
            }
        }
        Part::Distinct(column) => {
            if event.words[column] != NULL {
                hll_add(into, word_hash(program.columns[column].kind, event.words[column], event.texts));
            }
        }
        Part::Quantiles(column) => {
            if event.words[column] != NULL {
                histogram_add(into, program.columns[column].kind.number(event.words[column]), 1);
            }
        }
        Part::Top(column) => {
            if event.words[column] != NULL {
                top_add(into, event.words[column], 1);
            }
        }
    }
}

fn is_beyond(kind: WordKind, part: Part, word: i64, known: i64) -> bool {
    let less = match kind {
        WordKind::Double => double_of(word) < double_of(known),
        _ => word < known,
    };
    if matches!(part, Part::Min(_)) { less } else { !less }
}

fn moments(kind: WordKind, into: &mut [i64], word: i64, squares: bool, sign: i64) {
    if word == NULL {
        return;
    }
    into[0] += sign;
    if kind == WordKind::Double {
        float_moments(into, double_of(word), squares, sign);
        return;
    }
    let sum = wide(&into[1..3]) + i128::from(sign) * i128::from(word);
    set_wide(&mut into[1..3], sum);
    if squares {
        let square = i128::from(word) * i128::from(word);
        let sum = wide(&into[3..5]).saturating_add(i128::from(sign) * square);
        set_wide(&mut into[3..5], sum);
    }
}

/// Sum and squared distances from the mean, kept up event by event (Welford 1962). `into[0]` is the count after the event.
#[expect(clippy::cast_precision_loss, reason = "counts of events")]
fn float_moments(into: &mut [i64], value: f64, squares: bool, sign: i64) {
    let sum = double_of(into[1]);
    let (now, before) = (into[0] as f64, (into[0] - sign) as f64);
    if into[0] <= 0 {
        into[1..].fill(0);
        return;
    }
    let signed = if sign > 0 { value } else { -value };
    into[1] = (sum + signed).to_bits().cast_signed();
    if squares && into[0] - sign > 0 {
        let step = (value - sum / before) * (value - (sum + signed) / now);
        let spread = double_of(into[3]) + if sign > 0 { step } else { -step };
        into[3] = spread.max(0.0).to_bits().cast_signed();
    }
}

/// Takes an event out of a part; false when the part cannot give it back.
fn part_retract(
    program: &Program,
    part: Part,
    into: &mut [i64],
    words: &[i64],
    label: LabelWord,
    (time, tile_end): (i64, i64),
) -> bool {
    match part {
        Part::Fraud => into[0] -= i64::from(label.is_fraud_by(i64::MAX)),
        Part::True(column) => into[0] -= i64::from(words[column] == 1),
        Part::Moments { column, squares } => {
            moments(program.columns[column].kind, into, words[column], squares, -1);
            return program.columns[column].kind != WordKind::Double || words[column] == NULL;
        }
        Part::Decayed { column: None, half_life } => {
            into[0] = (double_of(into[0]) - growth(time, tile_end, half_life)).to_bits().cast_signed();
            return false;
        }
        Part::Decayed { column: Some(column), .. }
        | Part::Min(column)
        | Part::Max(column)
        | Part::First(column)
        | Part::Last(column)
        | Part::Distinct(column)
        | Part::Quantiles(column)
        | Part::Top(column) => return words[column] == NULL,
    }
    true
}
