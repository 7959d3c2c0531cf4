//! Population stability index with its null distribution.
//!
//! PSI = sum (p - q) ln(p / q) over the bins that either sample fills, with 0.5 added to every such count. Without
//! drift PSI ~ (1/n + 1/m) chi2(B - 1) for sample sizes n, m and B bins (Yurdakul 2018); the fixed thresholds 0.1
//! and 0.2 alone alarm too often on small samples and too rarely on large ones.

use statrs::distribution::{ChiSquared, ContinuousCDF};
use statrs::function::gamma::ln_gamma;

/// Added to every count, so that an empty bin stays finite.
const PSEUDO_COUNT: f64 = 0.5;

/// The index of two samples.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Psi {
    /// The index, 0 for equal shares.
    pub value: f64,
    /// What is left of it over its mean without drift, (B - 1)(1/n + 1/m): the effect, freed of both samples' size.
    pub excess: f64,
    /// Probability of at least this index without drift, log10.
    pub log10_p: f64,
}

/// Compares two samples by their counts in the same bins. Symmetric. An empty sample is no evidence: all zero.
///
/// # Panics
/// Never for slices of one length; further bins of the longer one are left out.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts are below 2^53")]
pub fn psi(reference: &[u64], current: &[u64]) -> Psi {
    let filled = || reference.iter().zip(current).filter(|(a, b)| **a + **b > 0);
    let (n, m, bins) = filled().fold((0_u64, 0_u64, 0_u64), |(n, m, bins), (a, b)| (n + a, m + b, bins + 1));
    if n == 0 || m == 0 || bins < 2 {
        return Psi::default();
    }
    let (n, m, bins) = (n as f64, m as f64, bins as f64);
    let share = |count: u64, total: f64| (count as f64 + PSEUDO_COUNT) / (total + PSEUDO_COUNT * bins);
    let value: f64 = filled()
        .map(|(a, b)| {
            let (p, q) = (share(*a, n), share(*b, m));
            (p - q) * (p / q).ln()
        })
        .sum();
    let scale = 1.0 / n + 1.0 / m;
    let freedom = bins - 1.0;
    Psi { value, excess: (value - freedom * scale).max(0.0), log10_p: chi2_log10_sf(value / scale, freedom) }
}

/// log10 of the upper tail of chi2 with `freedom` degrees of freedom: finite however small the tail is.
#[must_use]
pub fn chi2_log10_sf(x: f64, freedom: f64) -> f64 {
    if x.is_nan() || x <= 0.0 {
        return 0.0;
    }
    let Ok(distribution) = ChiSquared::new(freedom) else {
        return 0.0;
    };
    let tail = distribution.sf(x);
    if tail > 1e-290 {
        return tail.log10().min(0.0);
    }
    // Gamma(a, z) ~ z^(a-1) e^-z (1 + (a-1)/z + (a-1)(a-2)/z^2) for z far over a (DLMF 8.11.2).
    let (a, z) = (freedom / 2.0, x.min(1e300) / 2.0);
    let series = 1.0 + (a - 1.0) / z + (a - 1.0) * (a - 2.0) / (z * z);
    ((a - 1.0) * z.ln() - z - ln_gamma(a) + series.max(f64::MIN_POSITIVE).ln()) / std::f64::consts::LN_10
}
