//! Two-sample Kolmogorov-Smirnov, in log10 p.
//!
//! The distance is found in integers, so that ties and equal samples are exact. Its tail:
//! - up to [`EXACT_CELLS_MAX`] cells n*m, exactly, by the recurrence over lattice paths in its complementary form (no
//!   cancellation);
//! - beyond, that of the one-sample statistic with N = round(nm / (n + m)), as scipy's `kstwo`: for N d^2 >= 2.2 twice
//!   the one-sided Birnbaum-Tingey sum (Simard & L'Ecuyer 2011: right to ten digits there), below that, where
//!   p > 0.02 and nothing is decided, the limit law with Stephens' correction.
//!
//! With ties (counts, zeros) the p is too large, never too small: the test is conservative.

use statrs::function::gamma::ln_gamma;

/// The most cells for which the tail is exact: 0.2 ms.
pub const EXACT_CELLS_MAX: u64 = 100_000;

/// The comparison of two samples.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Ks {
    /// Largest difference of the two distribution functions, 0 to 1.
    pub distance: f64,
    /// Probability of at least this distance without drift, log10.
    pub log10_p: f64,
}

/// Compares two samples, each sorted ascending and without NaN. Symmetric. An empty sample is no evidence: all zero.
/// Takes time for the shorter sample times the logarithm of the longer.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "samples have at most a million rows, their product fits 2^53")]
pub fn ks(a: &[f64], b: &[f64]) -> Ks {
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    let (n, m) = (short.len() as u64, long.len() as u64);
    if n == 0 {
        return Ks::default();
    }
    let gap = gap(short, long);
    let distance = gap as f64 / (n * m) as f64;
    Ks { distance, log10_p: log10_p(gap, n, m) }
}

/// The largest |i m - j n| where i values of `short` and j of `long` are at most x. Between two values of `short` only
/// the other function moves, and only upwards, so its ends are the only places to look at.
fn gap(short: &[f64], long: &[f64]) -> u64 {
    let (n, m) = (short.len() as u64, long.len() as u64);
    let (mut below, mut largest) = (0, 0);
    let mut start = 0;
    while let Some(value) = short.get(start) {
        let end = start + short[start..].iter().take_while(|other| *other <= value).count();
        below += gallop(&long[below..], |other| other < value);
        largest = largest.max((start as u64 * m).abs_diff(below as u64 * n));
        below += gallop(&long[below..], |other| other <= value);
        largest = largest.max((end as u64 * m).abs_diff(below as u64 * n));
        start = end;
    }
    largest
}

/// How many leading values hold, found in steps that double.
fn gallop(values: &[f64], holds: impl Fn(&f64) -> bool) -> usize {
    let mut step = 1;
    while step <= values.len() && holds(&values[step - 1]) {
        step *= 2;
    }
    let known = step / 2;
    let unknown = &values[known..values.len().min(step)];
    known + unknown.partition_point(holds)
}

#[expect(clippy::cast_precision_loss, reason = "samples have at most a million rows, their product fits 2^53")]
fn log10_p(gap: u64, n: u64, m: u64) -> f64 {
    if gap == 0 {
        return 0.0;
    }
    let (rows_n, rows_m) = (n as f64, m as f64);
    // No distance is rarer than complete separation: 2 of C(n + m, n) orders.
    let ways = ln_gamma(rows_n + rows_m + 1.0) - ln_gamma(rows_n + 1.0) - ln_gamma(rows_m + 1.0);
    let floor = (std::f64::consts::LN_2 - ways) / std::f64::consts::LN_10;
    if n * m <= EXACT_CELLS_MAX {
        return exact_p(gap, n, m).log10().clamp(floor, 0.0);
    }
    let rows = (rows_n * rows_m / (rows_n + rows_m)).round().max(1.0);
    one_sample_log10_p(gap as f64 / (rows_n * rows_m), rows).clamp(floor, 0.0)
}

/// The share of the orders of n and m values in which the distance reaches `gap` / nm. `reached[j]` is the share of
/// the paths to (i, j) that reached it; the last step of a random path to (i, j) came from (i - 1, j) in i of i + j.
#[expect(clippy::cast_precision_loss, reason = "at most 100,000 cells")]
fn exact_p(gap: u64, n: u64, m: u64) -> f64 {
    let mut reached = vec![0.0_f64; usize::try_from(m).unwrap_or(usize::MAX) + 1];
    for i in 0..=n {
        let mut left = 0.0;
        for (j, cell) in (0_u64..).zip(reached.iter_mut()) {
            let share = if (i * m).abs_diff(j * n) >= gap {
                1.0
            } else if i + j == 0 {
                0.0
            } else {
                (*cell * i as f64 + left * j as f64) / (i + j) as f64
            };
            *cell = share;
            left = share;
        }
    }
    reached.last().copied().unwrap_or(1.0)
}

/// log10 P(D_N >= d) of the two-sided one-sample statistic.
#[must_use]
pub fn one_sample_log10_p(distance: f64, rows: f64) -> f64 {
    if rows * distance * distance < 2.2 {
        let root = rows.sqrt();
        return limit_sf((root + 0.12 + 0.11 / root) * distance).log10();
    }
    let one_sided = one_sided_ln_p(distance, rows);
    ((one_sided + std::f64::consts::LN_2) / std::f64::consts::LN_10).min(0.0)
}

/// ln of d * sum over j of C(N, j) (d + j/N)^(j-1) (1 - d - j/N)^(N-j), j up to N (1 - d): all terms positive.
fn one_sided_ln_p(distance: f64, rows: f64) -> f64 {
    let (mut ln_choose, mut largest, mut sum) = (0.0_f64, f64::NEG_INFINITY, 0.0_f64);
    let mut j = 0.0_f64;
    while j <= rows {
        let left = 1.0 - distance - j / rows;
        if left < 0.0 {
            break;
        }
        let power = if j >= rows { 0.0 } else { (rows - j) * left.ln() };
        let ln_term = ln_choose + (j - 1.0) * (distance + j / rows).ln() + power;
        if ln_term > largest {
            sum = sum * (largest - ln_term).exp() + 1.0;
            largest = ln_term;
        } else if ln_term.is_finite() {
            sum += (ln_term - largest).exp();
        }
        ln_choose += ((rows - j) / (j + 1.0)).ln();
        j += 1.0;
    }
    distance.ln() + largest + sum.ln()
}

/// Upper tail of the Kolmogorov distribution: two series, each used where a few terms are enough.
fn limit_sf(x: f64) -> f64 {
    use std::f64::consts::PI;
    if x < 0.2 {
        return 1.0;
    }
    if x < 1.0 {
        let terms = (1..=4).map(|k| (-(f64::from(2 * k - 1) * PI / x).powi(2) / 8.0).exp());
        return (1.0 - (2.0 * PI).sqrt() / x * terms.sum::<f64>()).clamp(0.0, 1.0);
    }
    let terms = (1..=5).map(|k| {
        let sign = if k % 2 == 1 { 2.0 } else { -2.0 };
        sign * (-2.0 * f64::from(k * k) * x * x).exp()
    });
    terms.sum::<f64>().clamp(0.0, 1.0)
}
