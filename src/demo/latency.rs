//! Durations in buckets of at most 3.2 % of their value: percentiles of any number of them in fixed memory.

use std::time::Duration;

/// Buckets per power of two.
const STEPS: u64 = 32;
/// Powers of two above the exact range: durations up to 2^40 us, 12 days.
const POWERS: usize = 35;
const BUCKETS: usize = 64 + POWERS * 32;

/// Counted durations.
#[derive(Clone, Debug)]
pub(super) struct Latencies {
    counts: Vec<u64>,
    total: u64,
}

/// The usual percentiles, microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Percentiles {
    pub(super) p50: u64,
    pub(super) p99: u64,
    pub(super) p999: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0 }
    }
}

impl Latencies {
    pub(super) fn add(&mut self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.counts[bucket(micros)] += 1;
        self.total += 1;
    }

    pub(super) fn clear(&mut self) {
        self.counts.fill(0);
        self.total = 0;
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// The percentiles of these durations and those of `other` together; upper edges of their buckets.
    pub(super) fn percentiles_with(&self, other: Option<&Self>) -> Percentiles {
        let total = self.total + other.map_or(0, Self::total);
        let at = |per_mille: u64| {
            let rank = (total * per_mille).div_ceil(1_000);
            let mut seen = 0;
            for (index, count) in self.counts.iter().enumerate() {
                seen += count + other.map_or(0, |other| other.counts[index]);
                if seen >= rank {
                    return upper_edge(index);
                }
            }
            0
        };
        if total == 0 { Percentiles::default() } else { Percentiles { p50: at(500), p99: at(990), p999: at(999) } }
    }
}

fn bucket(micros: u64) -> usize {
    if micros < 64 {
        return usize::try_from(micros).unwrap_or_default();
    }
    let power = u64::from(micros.ilog2());
    let step = (micros >> (power - 5)) - STEPS;
    usize::try_from(64 + (power - 6) * STEPS + step).unwrap_or(usize::MAX).min(BUCKETS - 1)
}

fn upper_edge(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 64 {
        return bucket;
    }
    let (power, step) = ((bucket - 64) / STEPS, (bucket - 64) % STEPS);
    ((step + STEPS + 1) << (power + 1)) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_its_value_within_its_error() {
        for micros in (0..200_u64).chain([1_000, 4_095, 4_096, 123_456, 9_999_999, 1 << 40]) {
            let edge = upper_edge(bucket(micros));
            assert!(edge >= micros && edge - micros <= micros / 32 + 1, "{micros} in {edge}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_those_of_both_parts() {
        let (mut one, mut other) = (Latencies::default(), Latencies::default());
        (1..=50).for_each(|micros| one.add(Duration::from_micros(micros)));
        (51..=60).for_each(|micros| other.add(Duration::from_micros(micros)));
        assert_eq!(one.percentiles_with(None), Percentiles { p50: 25, p99: 50, p999: 50 });
        assert_eq!(one.percentiles_with(Some(&other)).p50, 30);
        other.clear();
        assert_eq!(other.percentiles_with(None), Percentiles::default());
    }
}
