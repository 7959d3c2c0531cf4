//! Bounded summaries for tiles: HyperLogLog, a log-scaled histogram and the space-saving list of frequent values.
//! Each works on a slice of words inside its tile; each states its error.

use crate::value::NULL;

/// Registers of a tile's HyperLogLog: standard error 1.04 / sqrt(128) = 9.2 % (Flajolet et al. 2007).
pub(crate) const HLL_REGISTERS: usize = 128;
/// Words that hold them, eight to a word.
pub(crate) const HLL_WORDS: usize = HLL_REGISTERS / 8;
/// Bins of a tile's histogram; when full, the two smallest magnitudes next to each other are joined.
pub(crate) const HISTOGRAM_BINS: usize = 24;
/// Values a tile's list of frequent values keeps: the count of each is over by at most a ninth of the tile's events.
pub(crate) const TOP_VALUES: usize = 8;
/// Ratio of a histogram bin's borders: a value is off by at most (gamma - 1) / (gamma + 1) = 4.8 % (Masson et al. 2019, DDSketch).
const GAMMA: f64 = 1.1;

/// Spreads the bits of `word` (finalizer of MurmurHash3).
pub(crate) const fn mix(word: u64) -> u64 {
    let mut x = word;
    x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

/// A hash of bytes that is the same on every machine and in every version (FNV-1a, then mixed).
pub(crate) fn hash_bytes(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    mix(hash)
}

/// Adds a hashed value to registers.
pub(crate) fn hll_add(words: &mut [i64], hash: u64) {
    let register = (hash >> 57) as usize;
    let rank = (u64::from((hash << 7 | 1 << 6).leading_zeros()) + 1).cast_signed();
    let shift = (register % 8) * 8;
    let word = &mut words[register / 8];
    if (*word >> shift) & 0xff < rank {
        *word = (*word & !(0xff << shift)) | (rank << shift);
    }
}

/// Joins the registers of `other` into `words`.
pub(crate) fn hll_merge(words: &mut [i64], other: &[i64]) {
    for (word, theirs) in words.iter_mut().zip(other) {
        let mut merged = 0_i64;
        for shift in (0..64).step_by(8) {
            merged |= ((*word >> shift) & 0xff).max((theirs >> shift) & 0xff) << shift;
        }
        *word = merged;
    }
}

/// The number of distinct values, with linear counting below 2.5 m.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate, positive and far below 2^53"
)]
pub(crate) fn hll_estimate(words: &[i64]) -> u64 {
    let m = HLL_REGISTERS as f64;
    let mut sum = 0.0;
    let mut zeros = 0_u32;
    for word in words {
        for shift in (0..64).step_by(8) {
            let rank = (word >> shift) & 0xff;
            sum += (-(rank as f64)).exp2();
            zeros += u32::from(rank == 0);
        }
    }
    let raw = 0.7213 / (1.0 + 1.079 / m) * m * m / sum;
    let estimate = if raw <= 2.5 * m && zeros > 0 { m * (m / f64::from(zeros)).ln() } else { raw };
    estimate.round() as u64
}

/// The bin of a number: sign and magnitude on a log scale, ordered as the numbers are. Zero is bin 0.
#[expect(clippy::cast_possible_truncation, reason = "logarithms of finite doubles are below 2^17 in this base")]
fn bin_of(number: f64) -> i32 {
    const OFFSET: i32 = 40_000;
    if number == 0.0 {
        return 0;
    }
    let exponent = (number.abs().ln() / GAMMA.ln()).ceil() as i32;
    let magnitude = (exponent + OFFSET).max(1);
    if number > 0.0 { magnitude } else { -magnitude }
}

/// The middle of a bin.
pub(crate) fn bin_value(bin: i32) -> f64 {
    const OFFSET: i32 = 40_000;
    if bin == 0 {
        return 0.0;
    }
    let upper = GAMMA.powi(bin.abs() - OFFSET);
    let middle = upper * 2.0 / (1.0 + GAMMA);
    if bin > 0 { middle } else { -middle }
}

/// Unpacks a histogram word into bin and count.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "packed from 32 bits each")]
pub(crate) const fn bin_unpack(word: i64) -> (i32, u32) {
    ((word >> 32) as i32, word as u32)
}

pub(crate) fn bin_pack(bin: i32, count: u32) -> i64 {
    (i64::from(bin) << 32) | i64::from(count)
}

/// Counts `number` in a histogram; false when two bins had to be joined, which loses accuracy.
pub(crate) fn histogram_add(words: &mut [i64], number: f64, count: u32) -> bool {
    let bin = bin_of(number);
    let used = words.iter().position(|word| *word == NULL).unwrap_or(words.len());
    match words[..used].binary_search_by_key(&bin, |word| bin_unpack(*word).0) {
        Ok(at) => {
            words[at] = bin_pack(bin, bin_unpack(words[at]).1.saturating_add(count));
            true
        }
        Err(at) if used < words.len() => {
            words.copy_within(at..used, at + 1);
            words[at] = bin_pack(bin, count);
            true
        }
        Err(_) => {
            let nearest =
                (1..used).min_by_key(|&at| bin_unpack(words[at]).0.abs_diff(bin_unpack(words[at - 1]).0)).unwrap_or(1);
            let joined = bin_unpack(words[nearest - 1]).1.saturating_add(bin_unpack(words[nearest]).1);
            words[nearest - 1] = bin_pack(bin_unpack(words[nearest - 1]).0, joined);
            words.copy_within(nearest + 1..used, nearest);
            words[used - 1] = NULL;
            histogram_add(words, number, count);
            false
        }
    }
}

/// Counts `value` in a list of frequent values; false when another value had to give way (space-saving, Metwally 2005).
pub(crate) fn top_add(words: &mut [i64], value: i64, count: i64) -> bool {
    let mut least = 0;
    for at in 0..words.len() / 2 {
        if words[at * 2] == value {
            words[at * 2 + 1] += count;
            return true;
        }
        if words[at * 2] == NULL {
            words[at * 2] = value;
            words[at * 2 + 1] = count;
            return true;
        }
        if words[at * 2 + 1] < words[least * 2 + 1] {
            least = at;
        }
    }
    words[least * 2] = value;
    words[least * 2 + 1] += count;
    false
}

/// Drops the values of a list of frequent ones for which `is_kept` does not hold; true when there were any.
pub(crate) fn top_retain(words: &mut [i64], is_kept: impl Fn(i64) -> bool) -> bool {
    let mut kept = 0;
    let used = (0..words.len() / 2).take_while(|at| words[at * 2] != NULL).count();
    for at in 0..used {
        if is_kept(words[at * 2]) {
            words.copy_within(at * 2..at * 2 + 2, kept * 2);
            kept += 1;
        }
    }
    words[kept * 2..used * 2].fill(NULL);
    kept < used
}
