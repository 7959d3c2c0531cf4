//! The bytes of a state.
//!
//! Layout, format 2 (varint = LEB128, signed numbers zigzag first):
//! 1. `u8` format, `u8` flags (1 label lane, 2 minor versions, 4 earlier labels, 8 tiles, 16 ids as eight bytes each,
//!    32 something was dropped), varint number of slot columns, `u8` kind of each.
//! 2. Texts: varint count, then each as varint length and bytes, in order of first use.
//! 3. varint number of raw events, `u8` unit of times (0 us, 1 ms, 2 s), first time, then differences.
//! 4. Ids (differences, or eight bytes each), versions (differences), minor versions.
//! 5. Labels: one byte for four events (2 bits each: 0 unknown, 1 genuine at once, 2 fraud at once, 3 follows), then for each that follows:
//!    value and (report time - event time) in microseconds.
//! 6. Each column: `u8` 1 when a bitmap of nulls follows; integers as varint, doubles as eight bytes, bools as bits in bytes, texts as varint index.
//! 7. Earlier labels: varint count, then time, id, word.
//! 8. Tiles: see [`tiles`].
//! 9. Time of the latest event that fell behind the retention, microseconds. Format 1 does not have it.
//! 10. Four bytes: checksum of all before.
//!
//! A reader takes this format and the one before it; anything else is refused, never guessed.

use crate::value::NULL;

use super::label::LabelWord;
use super::program::{Program, WordKind};
use super::{Dropped, EarlierLabel, ID, LABEL, MAJOR, State, TIME};
use crate::bytes::{Reader, checksum, put_signed, put_varint};
use crate::time::Timestamp;

mod tiles;

const FORMAT: u8 = 2;
const HAS_LABEL: u8 = 1;
const HAS_MINORS: u8 = 2;
const HAS_EARLIER: u8 = 4;
const HAS_TILES: u8 = 8;
const HAS_WIDE_IDS: u8 = 16;
const HAS_DROPPED: u8 = 32;
/// More events than any state can hold: a guard against damaged bytes.
const EVENTS_MAX: usize = 4_096;

/// Why bytes are no state of a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StateError {
    /// Written by a newer version.
    #[error("format {0} is newer than this version reads; upgrade this process first")]
    Format(u8),
    /// Columns or label differ from the program's.
    #[error("the state holds other columns than its group declares")]
    Columns,
    /// The bytes end early or contradict themselves.
    #[error("the bytes are damaged")]
    Damaged,
}

impl From<crate::bytes::Damaged> for StateError {
    fn from(_: crate::bytes::Damaged) -> Self {
        Self::Damaged
    }
}

const fn kind_byte(kind: WordKind) -> u8 {
    match kind {
        WordKind::Integer { scale, declared_int } => scale | if declared_int { 0x20 } else { 0x10 },
        WordKind::Double => 0x40,
        WordKind::Bool => 0x41,
        WordKind::Text => 0x42,
        WordKind::Timestamp => 0x43,
    }
}

impl State {
    /// Appends the state's bytes to `out`.
    pub fn encode(&self, program: &Program, out: &mut Vec<u8>) {
        let from = out.len();
        let rare = self.rare.as_deref();
        let minors = rare.filter(|rare| rare.minors.iter().any(|minor| *minor != 0));
        let wide = has_wide_ids(self.lane(ID));
        let earlier = rare.map_or(&[][..], |rare| &rare.earlier);
        let mut flags = if program.has_label { HAS_LABEL } else { 0 };
        flags |= if minors.is_some() { HAS_MINORS } else { 0 };
        flags |= if earlier.is_empty() { 0 } else { HAS_EARLIER };
        flags |= if self.is_tiled() { HAS_TILES } else { 0 };
        flags |= if wide { HAS_WIDE_IDS } else { 0 };
        flags |= if self.dropped == Dropped::default() { 0 } else { HAS_DROPPED };
        out.extend([FORMAT, flags]);
        put_varint(out, program.columns.len() as u64);
        out.extend(program.columns.iter().map(|column| kind_byte(column.kind)));
        let texts = TextOrder::of(self, program);
        texts.encode(self, out);
        put_varint(out, u64::from(self.len));
        encode_times(self.times(), out);
        encode_ids(self.lane(ID), wide, out);
        encode_differences(self.lane(MAJOR), out);
        if let Some(rare) = minors {
            rare.minors.iter().for_each(|minor| put_varint(out, u64::from(*minor)));
        }
        if program.has_label {
            encode_labels(self.times(), self.lane(LABEL), out);
        }
        for (column, spec) in program.columns.iter().enumerate() {
            encode_column(spec.kind, self.lane(program.first_column() + column), &texts, out);
        }
        if !earlier.is_empty() {
            put_varint(out, earlier.len() as u64);
            for label in earlier {
                put_signed(out, label.time);
                put_varint(out, label.id);
                put_signed(out, label.label.word());
            }
        }
        if let Some(tiles) = self.tiles() {
            tiles::encode(program, tiles, &texts, out);
        }
        if flags & HAS_DROPPED != 0 {
            put_signed(out, self.dropped.0);
        }
        let checksum = checksum(&out[from..]);
        out.extend(checksum.to_le_bytes());
    }

    /// Reads the bytes of a state of `program`.
    ///
    /// # Errors
    /// See [`StateError`]; damaged bytes are never taken for a state.
    pub fn decode(program: &Program, bytes: &[u8]) -> Result<Self, StateError> {
        let format = *bytes.first().ok_or(StateError::Damaged)?;
        if format > FORMAT {
            return Err(StateError::Format(format));
        }
        let (content, sum) = bytes.split_last_chunk().ok_or(StateError::Damaged)?;
        if checksum(content) != u32::from_le_bytes(*sum) {
            return Err(StateError::Damaged);
        }
        let mut from = Reader::new(content);
        if from.byte()? == 0 {
            return Err(StateError::Damaged);
        }
        let flags = from.byte()?;
        let columns = from.length(EVENTS_MAX)?;
        let kinds = from.take(columns)?;
        let declared = program.columns.iter().map(|column| kind_byte(column.kind));
        if (flags & HAS_LABEL != 0) != program.has_label || !declared.eq(kinds.iter().copied()) {
            return Err(StateError::Columns);
        }
        let mut state = Self::default();
        for _ in 0..from.length(usize::MAX)? {
            let length = from.length(usize::MAX)?;
            let text = std::str::from_utf8(from.take(length)?).map_err(|_not_utf8| StateError::Damaged)?;
            state.rare().texts.intern(text);
        }
        let texts = state.rare.as_ref().map_or(0, |rare| rare.texts.len());
        let len = from.length(EVENTS_MAX)?;
        state.len = u32::try_from(len).map_err(|_too_many| StateError::Damaged)?;
        state.capacity = state.len;
        state.lanes = vec![0; len * program.lane_count()];
        // The running sums are not encoded: they begin anew, invalid.
        state.lanes.resize(state.lanes.len() + program.course.words, i64::MIN);
        decode_times(state.lane_mut(TIME), &mut from)?;
        decode_ids(state.lane_mut(ID), flags & HAS_WIDE_IDS != 0, &mut from)?;
        decode_differences(state.lane_mut(MAJOR), &mut from)?;
        if flags & HAS_MINORS != 0 {
            let minor = |from: &mut Reader<'_>| u32::try_from(from.varint()?).map_err(|_wide| StateError::Damaged);
            state.rare().minors = (0..len).map(|_| minor(&mut from)).collect::<Result<_, _>>()?;
        }
        if program.has_label {
            let times = state.times().to_vec();
            decode_labels(&times, state.lane_mut(LABEL), &mut from)?;
        }
        for (column, spec) in program.columns.iter().enumerate() {
            let lane = program.first_column() + column;
            decode_column(spec.kind, state.lane_mut(lane), &mut from)?;
            if spec.kind == WordKind::Text {
                let words = state.lane(lane).to_vec();
                if words.iter().any(|word| !is_text(*word, texts)) {
                    return Err(StateError::Damaged);
                }
                let rare = state.rare();
                rare.text_bytes += words.iter().map(|word| rare.texts.get(*word).len()).sum::<usize>();
            }
        }
        if flags & HAS_EARLIER != 0 {
            for _ in 0..from.length(usize::MAX)? {
                let (time, id) = (from.signed()?, from.varint()?);
                let label = LabelWord::from_word(from.signed()?);
                state.rare().earlier.push(EarlierLabel { time, id, label });
            }
        }
        if flags & HAS_TILES != 0 {
            state.rare().tiles = Some(tiles::decode(program, texts, &mut from)?);
        }
        if flags & HAS_DROPPED != 0 {
            state.dropped = Dropped(instant(from.signed()?)?);
        }
        if from.is_empty() { Ok(state) } else { Err(StateError::Damaged) }
    }
}

/// Texts in order of first use by events, then by tiles, so that equal states have equal bytes.
struct TextOrder {
    place: Vec<i64>,
    words: Vec<i64>,
}

impl TextOrder {
    fn of(state: &State, program: &Program) -> Self {
        let mut order = Self { place: Vec::new(), words: Vec::new() };
        for (column, spec) in program.columns.iter().enumerate() {
            if spec.kind == WordKind::Text {
                for word in state.lane(program.first_column() + column) {
                    order.note(*word);
                }
            }
        }
        if let Some(tiles) = state.tiles() {
            tiles.text_words(program).for_each(|word| order.note(word));
        }
        order
    }

    fn note(&mut self, word: i64) {
        let Ok(at) = usize::try_from(word) else { return };
        if self.place.len() <= at {
            self.place.resize(at + 1, NULL);
        }
        if self.place[at] == NULL {
            self.place[at] = i64::try_from(self.words.len()).expect("fewer texts than memory holds");
            self.words.push(word);
        }
    }

    fn place(&self, word: i64) -> i64 {
        usize::try_from(word).ok().and_then(|at| self.place.get(at)).copied().unwrap_or(NULL)
    }

    fn encode(&self, state: &State, out: &mut Vec<u8>) {
        put_varint(out, self.words.len() as u64);
        for word in &self.words {
            let text = state.rare.as_ref().map_or("", |rare| rare.texts.get(*word));
            put_varint(out, text.len() as u64);
            out.extend(text.as_bytes());
        }
    }
}

fn encode_times(times: &[i64], out: &mut Vec<u8>) {
    let unit = [(2_u8, 1_000_000), (1, 1_000)]
        .into_iter()
        .find(|(_, micros)| times.iter().all(|time| time % micros == 0))
        .unwrap_or((0, 1));
    out.push(unit.0);
    let mut before = 0;
    for time in times {
        let time = time / unit.1;
        put_signed(out, time - before);
        before = time;
    }
}

fn decode_times(times: &mut [i64], from: &mut Reader<'_>) -> Result<(), StateError> {
    let unit = match from.byte()? {
        0 => 1,
        1 => 1_000,
        2 => 1_000_000,
        _ => return Err(StateError::Damaged),
    };
    let mut before = 0_i64;
    for time in &mut *times {
        let next = before.checked_add(from.signed()?).ok_or(StateError::Damaged)?;
        *time = instant(next.checked_mul(unit).ok_or(StateError::Damaged)?)?;
        before = next;
    }
    if times.is_sorted() { Ok(()) } else { Err(StateError::Damaged) }
}

/// Refuses what is no instant: arithmetic on it could overflow.
fn instant(micros: i64) -> Result<i64, StateError> {
    Timestamp::checked_from_micros(micros).map(Timestamp::micros).ok_or(StateError::Damaged)
}

/// Whether `word` is null or the index of one of `texts` texts.
fn is_text(word: i64, texts: usize) -> bool {
    word == NULL || usize::try_from(word).is_ok_and(|at| at < texts)
}

fn has_wide_ids(ids: &[i64]) -> bool {
    ids.windows(2).any(|pair| pair[1].wrapping_sub(pair[0]).unsigned_abs() > 1 << 48)
}

fn encode_ids(ids: &[i64], is_wide: bool, out: &mut Vec<u8>) {
    if is_wide {
        ids.iter().for_each(|id| out.extend(id.to_le_bytes()));
    } else {
        encode_differences(ids, out);
    }
}

fn decode_ids(ids: &mut [i64], is_wide: bool, from: &mut Reader<'_>) -> Result<(), StateError> {
    if !is_wide {
        return decode_differences(ids, from);
    }
    for id in ids {
        *id = from.word()?;
    }
    Ok(())
}

fn encode_differences(words: &[i64], out: &mut Vec<u8>) {
    let mut before = 0_i64;
    for word in words {
        put_signed(out, word.wrapping_sub(before));
        before = *word;
    }
}

fn decode_differences(words: &mut [i64], from: &mut Reader<'_>) -> Result<(), StateError> {
    let mut before = 0_i64;
    for word in words {
        before = before.wrapping_add(from.signed()?);
        *word = before;
    }
    Ok(())
}

fn label_code(word: i64) -> u8 {
    let label = LabelWord::from_word(word);
    match (label.value(), label.reported()) {
        (None, _) => 0,
        (Some(super::LabelValue::Genuine), None) => 1,
        (Some(super::LabelValue::Fraud), None) => 2,
        _ => 3,
    }
}

fn encode_labels(times: &[i64], labels: &[i64], out: &mut Vec<u8>) {
    for four in labels.chunks(4) {
        out.push(four.iter().enumerate().fold(0, |byte, (at, word)| byte | (label_code(*word) << (at * 2))));
    }
    for (word, time) in labels.iter().zip(times) {
        if label_code(*word) == 3 {
            out.push((word & 3).to_le_bytes()[0]);
            put_signed(out, (word >> 2).wrapping_sub(*time));
        }
    }
}

fn decode_labels(times: &[i64], labels: &mut [i64], from: &mut Reader<'_>) -> Result<(), StateError> {
    let codes = from.take(labels.len().div_ceil(4))?;
    for (at, (label, time)) in labels.iter_mut().zip(times).enumerate() {
        *label = match (codes[at / 4] >> (at % 4 * 2)) & 3 {
            0 => LabelWord::UNKNOWN.word(),
            1 => LabelWord::new(super::LabelValue::Genuine, None).word(),
            2 => LabelWord::new(super::LabelValue::Fraud, None).word(),
            _ => {
                let value = i64::from(from.byte()? & 3);
                from.signed()?.wrapping_add(*time) << 2 | value
            }
        };
    }
    Ok(())
}

fn encode_column(kind: WordKind, words: &[i64], texts: &TextOrder, out: &mut Vec<u8>) {
    let has_nulls = words.contains(&NULL);
    out.push(u8::from(has_nulls));
    if has_nulls {
        put_bits(words.iter().map(|word| *word == NULL), out);
    }
    let present = words.iter().copied().filter(|word| *word != NULL);
    match kind {
        WordKind::Integer { .. } | WordKind::Timestamp => present.for_each(|word| put_signed(out, word)),
        WordKind::Double => present.for_each(|word| out.extend(word.to_le_bytes())),
        WordKind::Bool => put_bits(present.map(|word| word == 1), out),
        WordKind::Text => present.for_each(|word| put_varint(out, texts.place(word).unsigned_abs())),
    }
}

fn decode_column(kind: WordKind, words: &mut [i64], from: &mut Reader<'_>) -> Result<(), StateError> {
    let nulls = if from.byte()? == 1 { Some(from.take(words.len().div_ceil(8))?) } else { None };
    let is_null = |at: usize| nulls.is_some_and(|bits| bits[at / 8] >> (at % 8) & 1 == 1);
    let present = (0..words.len()).filter(|at| !is_null(*at)).count();
    let bits = if kind == WordKind::Bool { Some(from.take(present.div_ceil(8))?) } else { None };
    let mut seen = 0;
    for (at, word) in words.iter_mut().enumerate() {
        if is_null(at) {
            *word = NULL;
            continue;
        }
        *word = match (kind, bits) {
            (WordKind::Bool, Some(bits)) => i64::from(bits[seen / 8] >> (seen % 8) & 1),
            (WordKind::Double, _) => from.word()?,
            (WordKind::Text, _) => i64::try_from(from.varint()?).map_err(|_wide| StateError::Damaged)?,
            _ => from.signed()?,
        };
        seen += 1;
    }
    Ok(())
}

fn put_bits(bits: impl Iterator<Item = bool>, out: &mut Vec<u8>) {
    for (used, bit) in bits.enumerate() {
        if used % 8 == 0 {
            out.push(0);
        }
        if bit && let Some(byte) = out.last_mut() {
            *byte |= 1 << (used % 8);
        }
    }
}
