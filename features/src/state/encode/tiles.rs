//! The bytes of tiles.
//!
//! Layout: boundary (time, version, id), newest, labels-until (`i64::MIN` as such), per tier varint count, then per tile: index
//! (difference), count, first (from the tile's start), last (from first), flags, and its parts:
//! - moments: varint count, then sum and squares, zigzag 128-bit varints, or eight bytes each for doubles;
//! - min, max: `u8` 0 for none, or 1 and the word; first, last: likewise, with time (from the tile's start), version and word;
//! - distinct: `u8` number of registers that are not zero, with index and rank each, or `u8` 255 and all ranks in six bits each;
//! - quantiles: `u8` bins, then number (difference) and count each; top: `u8` values, then word and count each;
//! - counts as varints, decayed sums as eight bytes.

use super::{StateError, TextOrder, instant, is_text};
use crate::bytes::{Reader, put_signed, put_varint};
use crate::change::Version;
use crate::state::program::{Part, Program, WordKind};
use crate::state::sketch::{HISTOGRAM_BINS, HLL_REGISTERS, TOP_VALUES, bin_pack, bin_unpack};
use crate::state::tile::{COUNT, FIRST, FLAGS, HEAD, INDEX, LAST, Tier, Tiles, part_words, set_wide, stride, wide};
use crate::value::NULL;

/// More than any tile counts: a guard against damaged bytes.
const COUNT_MAX: i64 = 1 << 40;
/// Beyond any sum of that many 64-bit numbers.
const SUM_MAX: i128 = 1 << 104;
/// Fewer registers than this are written one by one.
const SPARSE_MAX: usize = HLL_REGISTERS * 6 / 8 / 2;
const DENSE: u8 = 255;

pub(super) fn encode(program: &Program, tiles: &Tiles, texts: &TextOrder, out: &mut Vec<u8>) {
    let (time, version, id) = tiles.boundary;
    put_signed(out, time);
    put_varint(out, version.major);
    put_varint(out, u64::from(version.minor));
    put_varint(out, id);
    put_signed(out, tiles.newest);
    put_signed(out, tiles.labels_until);
    for (tier, spec) in tiles.tiers.iter().zip(&program.tiers) {
        put_varint(out, (tier.words.len() / stride(program)) as u64);
        let mut before = 0;
        for tile in tier.words.chunks_exact(stride(program)) {
            let start = tile[INDEX] * spec.width;
            put_signed(out, tile[INDEX] - before);
            before = tile[INDEX];
            put_varint(out, tile[COUNT].unsigned_abs());
            put_varint(out, (tile[FIRST] - start).unsigned_abs());
            put_varint(out, (tile[LAST] - tile[FIRST]).unsigned_abs());
            put_varint(out, tile[FLAGS].cast_unsigned());
            let mut from = HEAD;
            for &part in &program.parts {
                let words = &tile[from..from + part_words(part)];
                encode_part(program, part, words, start, texts, out);
                from += words.len();
            }
        }
    }
}

pub(super) fn decode(program: &Program, texts: usize, from: &mut Reader<'_>) -> Result<Tiles, StateError> {
    let mut tiles = Tiles::new(program);
    let time = instant(from.signed()?)?;
    let major = from.varint()?;
    let minor = u32::try_from(from.varint()?).map_err(|_wide| StateError::Damaged)?;
    tiles.boundary = (time, Version { major, minor }, from.varint()?);
    tiles.newest = instant(from.signed()?)?;
    tiles.labels_until = from.signed()?;
    let stride = stride(program);
    for (tier, spec) in tiles.tiers.iter_mut().zip(&program.tiers) {
        // A tile takes at least a byte for each of its head's words.
        let count = from.length(usize::try_from(spec.reach / spec.width + 2).unwrap_or(usize::MAX))?;
        let mut words = Vec::with_capacity(count.min(from.remaining() / HEAD) * stride);
        let mut index = 0_i64;
        for at in 0..count {
            let before = index;
            index = index.checked_add(from.signed()?).ok_or(StateError::Damaged)?;
            let start = instant(index.checked_mul(spec.width).ok_or(StateError::Damaged)?)?;
            let count = bounded(from, COUNT_MAX)?;
            let first = start + bounded(from, spec.width - 1)?;
            let last = first + bounded(from, spec.width - 1)?;
            let flags = bounded(from, i64::MAX)?;
            if count == 0 || last - start >= spec.width || (at > 0 && index <= before) {
                return Err(StateError::Damaged);
            }
            words.extend([index, count, first, last, flags]);
            for &part in &program.parts {
                let at = words.len();
                words.resize(at + part_words(part), 0);
                decode_part(program, part, &mut words[at..], start, texts, from)?;
            }
        }
        *tier = Tier { words };
    }
    Ok(tiles)
}

fn bounded(from: &mut Reader<'_>, most: i64) -> Result<i64, StateError> {
    let value = i64::try_from(from.varint()?).map_err(|_wide| StateError::Damaged)?;
    if value > most { Err(StateError::Damaged) } else { Ok(value) }
}

fn encode_part(program: &Program, part: Part, words: &[i64], start: i64, texts: &TextOrder, out: &mut Vec<u8>) {
    match part {
        Part::Moments { column, squares } => {
            put_varint(out, words[0].unsigned_abs());
            let places = if squares { &[1, 3][..] } else { &[1][..] };
            for &at in places {
                if program.columns[column].kind == WordKind::Double {
                    out.extend(words[at].to_le_bytes());
                } else {
                    put_wide(out, wide(&words[at..at + 2]));
                }
            }
        }
        Part::Min(column) | Part::Max(column) => {
            out.push(u8::from(words[0] != NULL));
            if words[0] != NULL {
                encode_word(program, column, words[0], texts, out);
            }
        }
        Part::First(column) | Part::Last(column) => {
            out.push(u8::from(words[2] != NULL));
            if words[2] != NULL {
                put_varint(out, (words[0] - start).unsigned_abs());
                put_varint(out, words[1].cast_unsigned());
                encode_word(program, column, words[2], texts, out);
            }
        }
        Part::Distinct(_) => encode_registers(words, out),
        Part::Quantiles(_) => {
            let used = words.iter().take_while(|word| **word != NULL);
            out.push(u8::try_from(used.clone().count()).expect("a histogram has few bins"));
            let mut before = 0;
            for (bin, count) in used.map(|word| bin_unpack(*word)) {
                put_signed(out, i64::from(bin) - before);
                before = i64::from(bin);
                put_varint(out, u64::from(count));
            }
        }
        Part::Top(column) => {
            let used = words.chunks_exact(2).take_while(|entry| entry[0] != NULL);
            out.push(u8::try_from(used.clone().count()).expect("a list has few values"));
            for entry in used {
                encode_word(program, column, entry[0], texts, out);
                put_varint(out, entry[1].unsigned_abs());
            }
        }
        Part::True(_) | Part::Fraud => put_signed(out, words[0]),
        Part::Decayed { .. } => out.extend(words[0].to_le_bytes()),
    }
}

fn decode_part(
    program: &Program,
    part: Part,
    words: &mut [i64],
    start: i64,
    texts: usize,
    from: &mut Reader<'_>,
) -> Result<(), StateError> {
    match part {
        Part::Moments { column, squares } => {
            words[0] = bounded(from, COUNT_MAX)?;
            let places = if squares { &[1, 3][..] } else { &[1][..] };
            for &at in places {
                if program.columns[column].kind == WordKind::Double {
                    words[at] = from.word()?;
                } else {
                    let sum = read_wide(from)?;
                    if at == 1 && sum.unsigned_abs() > SUM_MAX.unsigned_abs() {
                        return Err(StateError::Damaged);
                    }
                    set_wide(&mut words[at..at + 2], sum);
                }
            }
        }
        Part::Min(column) | Part::Max(column) => {
            words[0] = if from.byte()? == 0 { NULL } else { decode_word(program, column, texts, from)? };
        }
        Part::First(column) | Part::Last(column) => {
            words.fill(NULL);
            if from.byte()? != 0 {
                words[0] = start + bounded(from, program.retention)?;
                words[1] = from.varint()?.cast_signed();
                words[2] = decode_word(program, column, texts, from)?;
            }
        }
        Part::Distinct(_) => decode_registers(words, from)?,
        Part::Quantiles(_) => {
            words.fill(NULL);
            let used = usize::from(from.byte()?);
            let mut bin = 0_i64;
            for at in 0..used.min(HISTOGRAM_BINS + 1) {
                let word = words.get_mut(at).ok_or(StateError::Damaged)?;
                let step = from.signed()?;
                bin = bin.checked_add(step).filter(|bin| bin.abs() < 1 << 20).ok_or(StateError::Damaged)?;
                let count = u32::try_from(from.varint()?).map_err(|_wide| StateError::Damaged)?;
                if at > 0 && step <= 0 {
                    return Err(StateError::Damaged);
                }
                *word = bin_pack(i32::try_from(bin).map_err(|_wide| StateError::Damaged)?, count);
            }
        }
        Part::Top(column) => {
            words.fill(NULL);
            let used = usize::from(from.byte()?);
            if used > TOP_VALUES {
                return Err(StateError::Damaged);
            }
            for entry in words.chunks_exact_mut(2).take(used) {
                entry[0] = decode_word(program, column, texts, from)?;
                entry[1] = bounded(from, COUNT_MAX)?;
            }
        }
        Part::True(_) | Part::Fraud => {
            words[0] = from.signed()?;
            if words[0].unsigned_abs() > COUNT_MAX.unsigned_abs() {
                return Err(StateError::Damaged);
            }
        }
        Part::Decayed { .. } => words[0] = from.word()?,
    }
    Ok(())
}

fn encode_word(program: &Program, column: usize, word: i64, texts: &TextOrder, out: &mut Vec<u8>) {
    match program.columns[column].kind {
        WordKind::Double => out.extend(word.to_le_bytes()),
        WordKind::Text => put_varint(out, texts.place(word).unsigned_abs()),
        _ => put_signed(out, word),
    }
}

fn decode_word(program: &Program, column: usize, texts: usize, from: &mut Reader<'_>) -> Result<i64, StateError> {
    let word = match program.columns[column].kind {
        WordKind::Double => from.word()?,
        WordKind::Text => {
            let word = bounded(from, i64::MAX)?;
            if !is_text(word, texts) {
                return Err(StateError::Damaged);
            }
            word
        }
        _ => from.signed()?,
    };
    if word == NULL { Err(StateError::Damaged) } else { Ok(word) }
}

fn rank(words: &[i64], register: usize) -> u8 {
    words[register / 8].to_le_bytes()[register % 8]
}

fn set_rank(words: &mut [i64], register: usize, rank: u8) {
    words[register / 8] |= i64::from(rank & 63) << (register % 8 * 8);
}

fn encode_registers(words: &[i64], out: &mut Vec<u8>) {
    let used = (0..HLL_REGISTERS).filter(|register| rank(words, *register) != 0);
    let count = used.clone().count();
    if count <= SPARSE_MAX {
        out.push(u8::try_from(count).expect("few registers"));
        used.for_each(|register| out.extend([u8::try_from(register).expect("few registers"), rank(words, register)]));
        return;
    }
    out.push(DENSE);
    for four in 0..HLL_REGISTERS / 4 {
        let bits = (0..4).fold(0_u32, |bits, at| bits | u32::from(rank(words, four * 4 + at)) << (at * 6));
        out.extend(&bits.to_le_bytes()[..3]);
    }
}

fn decode_registers(words: &mut [i64], from: &mut Reader<'_>) -> Result<(), StateError> {
    let count = from.byte()?;
    if count == DENSE {
        for four in 0..HLL_REGISTERS / 4 {
            let bytes = from.take(3)?;
            let bits = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]);
            (0..4).for_each(|at| set_rank(words, four * 4 + at, (bits >> (at * 6)).to_le_bytes()[0] & 63));
        }
        return Ok(());
    }
    for _ in 0..count {
        let (register, rank) = (usize::from(from.byte()?), from.byte()?);
        if register >= HLL_REGISTERS {
            return Err(StateError::Damaged);
        }
        set_rank(words, register, rank);
    }
    Ok(())
}

/// Appends 128 bits zigzag-coded, seven bits to a byte.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seven bits at a time")]
fn put_wide(out: &mut Vec<u8>, value: i128) {
    let mut rest = (value << 1 ^ value >> 127) as u128;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn read_wide(from: &mut Reader<'_>) -> Result<i128, StateError> {
    let mut value = 0_u128;
    for shift in (0..128).step_by(7) {
        let byte = from.byte()?;
        value |= u128::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok((value >> 1).cast_signed() ^ -((value & 1).cast_signed()));
        }
    }
    Err(StateError::Damaged)
}
