//! Count, sum and sum of squares: exact in integers, and rounded once when a feature is read.

use crate::value::{NULL, double_of, minor_units};

use super::super::program::{Read, WordKind};
use super::super::tile::wide;
use super::Readout;

/// Sums over the values of a window that are not null.
#[derive(Clone, Copy, Debug, Default)]
pub(in super::super) struct Moments {
    count: i64,
    sum: i128,
    squares: i128,
    /// The same sums for columns of doubles.
    float_sum: f64,
    /// Sum of squared distances from the mean: squares themselves would cancel each other out.
    float_spread: f64,
}

impl Moments {
    /// The sums that a state carries on.
    #[inline]
    pub(in super::super) fn of_running(words: &[i64]) -> Self {
        Self { count: words[0], sum: wide(&words[1..3]), ..Self::default() }
    }

    pub(super) fn add(&mut self, kind: WordKind, words: &[i64], squares: bool) {
        if kind == WordKind::Double {
            let values = || words.iter().filter(|word| **word != NULL).map(|word| double_of(*word));
            let (count, sum) = values().fold((0_i64, 0.0), |(count, sum), value| (count + 1, sum + value));
            #[expect(clippy::cast_precision_loss, reason = "a state holds a few hundred raw events")]
            let mean = sum / count as f64;
            let spread = if squares { values().map(|value| (value - mean) * (value - mean)).sum() } else { 0.0 };
            self.merge(count, sum, spread);
            return;
        }
        // The halves of each word are summed apart, so that the loop needs no 128-bit arithmetic.
        let (mut count, mut low, mut high) = (0_i64, 0_i64, 0_i64);
        for &word in words {
            let present = i64::from(word != NULL);
            let value = word & -present;
            count += present;
            low += value & 0xffff_ffff;
            high += value >> 32;
        }
        self.count += count;
        self.sum += (i128::from(high) << 32) + i128::from(low);
        if squares {
            for &word in words.iter().filter(|word| **word != NULL) {
                self.squares = self.squares.saturating_add(i128::from(word) * i128::from(word));
            }
        }
    }

    /// Joins sums over other values (Chan, Golub and LeVeque 1979).
    #[expect(clippy::cast_precision_loss, reason = "counts of events")]
    fn merge(&mut self, count: i64, sum: f64, spread: f64) {
        if count <= 0 {
            return;
        }
        let (own, other) = (self.count as f64, count as f64);
        self.float_spread += spread;
        if self.count > 0 {
            let apart = sum / other - self.float_sum / own;
            self.float_spread += apart * apart * own * other / (own + other);
        }
        self.count += count;
        self.float_sum += sum;
    }

    pub(super) fn add_tile(&mut self, kind: WordKind, part: &[i64]) {
        if kind == WordKind::Double {
            self.merge(part[0], double_of(part[1]), part.get(3).map_or(0.0, |word| double_of(*word)));
        } else {
            self.count += part[0];
            self.sum += wide(&part[1..3]);
            if part.len() > 3 {
                self.squares = self.squares.saturating_add(wide(&part[3..5]));
            }
        }
    }

    #[inline]
    #[expect(clippy::cast_precision_loss, reason = "sums are rounded once, when they leave the integers")]
    pub(in super::super) fn readout(&self, read: Read, kind: WordKind) -> Readout {
        if self.count == 0 {
            return Readout::default();
        }
        let scale = match kind {
            WordKind::Integer { scale, .. } => minor_units(scale),
            _ => 1.0,
        };
        let sum = if kind == WordKind::Double { self.float_sum } else { rounded(self.sum) };
        match read {
            Read::Sum(_) => match (kind, i64::try_from(self.sum)) {
                (WordKind::Integer { declared_int: true, .. }, Ok(sum)) => Readout::int(sum),
                _ => Readout::double(sum / scale),
            },
            Read::Mean(_) => Readout::double(sum / (self.count as f64 * scale)),
            // Squares beyond 128 bits: no value rather than a wrong one.
            _ if self.count < 2 || self.squares == i128::MAX => Readout::default(),
            _ => Readout::double(self.variance(kind).max(0.0).sqrt() / scale),
        }
    }

    /// The sample's variance: (n q - s^2) / (n (n - 1)), exact in integers where that fits 128 bits.
    #[expect(clippy::cast_precision_loss, reason = "rounded once, when it leaves the integers")]
    fn variance(&self, kind: WordKind) -> f64 {
        let n = self.count as f64;
        if kind == WordKind::Double {
            return self.float_spread / (n - 1.0);
        }
        let exact = i128::from(self.count)
            .checked_mul(self.squares)
            .and_then(|nq| nq.checked_sub(self.sum.checked_mul(self.sum)?));
        match exact {
            Some(numerator) => numerator as f64 / (n * (n - 1.0)),
            None => self.wide_variance(n),
        }
    }

    /// The same where n q passes 128 bits: with s = n m + r it is (q - m (s + r) - r^2 / n) / (n - 1), of which all but the small last
    /// term stays exact. In doubles the squares would cancel each other out.
    #[expect(clippy::cast_precision_loss, reason = "rounded once, when it leaves the integers")]
    fn wide_variance(&self, n: f64) -> f64 {
        let count = i128::from(self.count);
        let (mean, rest) = (self.sum.div_euclid(count), self.sum.rem_euclid(count));
        let apart = mean.checked_mul(self.sum + rest).and_then(|near| self.squares.checked_sub(near));
        let apart =
            apart.map_or_else(|| self.squares as f64 - self.sum as f64 / n * self.sum as f64, |apart| apart as f64);
        (apart - rest as f64 / n * rest as f64) / (n - 1.0)
    }
}

/// A sum as a double. Nearly every sum fits 64 bits, which saves the call that the conversion of 128 bits is.
#[inline]
#[expect(clippy::cast_precision_loss, reason = "sums are rounded once, when they leave the integers")]
fn rounded(sum: i128) -> f64 {
    #[cold]
    #[inline(never)]
    fn wide(sum: i128) -> f64 {
        sum as f64
    }
    i64::try_from(sum).map_or_else(|_wide| wide(sum), |narrow| narrow as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The deviation of `count` integers from `from` on, `step` apart.
    fn check(from: i64, step: i64, count: i64) {
        let words: Vec<i64> = (0..count).map(|at| from + at * step).collect();
        let kind = WordKind::Integer { scale: 0, declared_int: true };
        let mut moments = Moments::default();
        moments.add(kind, &words, true);
        let n = count as f64;
        let expected = step as f64 * (n * (n + 1.0) / 12.0).sqrt();
        let found = moments.readout(Read::Stddev(0), kind).number().unwrap();
        assert!((found / expected - 1.0).abs() < 1e-12, "{found} and not {expected}");
    }

    #[test]
    fn deviations_are_exact_however_large_the_numbers() {
        check(5, 1, 100);
        check(1_600_000_000_000_000_000, 1_000_000_000, 50);
        check(1_600_000_000_000_000_000, 1, 50);
        check(-1_600_000_000_000_000_000, 3, 50);
        check(0, 3_000_000_000_000_000, 200);
    }
}
