//! One verdict per batch, within a false-alarm budget.
//!
//! A batch is one family of tests: PSI and KS of every column. A column has drifted in the batch when
//! - Holm's step-down procedure at `false_alarm_rate` rejects one of its tests: the probability that any column of a
//!   batch without drift is rejected is at most that rate, whatever the dependence between columns; **and**
//! - that test's effect is worth a person's time: PSI in excess of its mean without drift at least `psi_floor`, or a
//!   KS distance of at least `ks_floor` + 1.75 / sqrt(m). The last term is 3.5 standard deviations of the reference's
//!   own distribution function: the error of a finite reference is the same in every batch, so that no number of
//!   batches averages it out.
//!
//! With one batch per minute, a rate of 0.001 and 2 hits of the last 3 batches, two hits by chance happen at most
//! 43,200 * 2 * 0.001^2 = 0.09 times in 30 days, before the floors are counted.

use super::ks::{Ks, ks};
use super::psi::{Psi, psi};
use super::reference::Reference;
use super::window::{Window, WindowSpan};

/// When a batch is taken, when a column has drifted in it, and when that fires.
#[derive(Clone, PartialEq, Debug)]
pub struct DriftOptions {
    /// A batch is taken with this many rows.
    pub rows_max: usize,
    /// No batch has fewer rows.
    pub rows_min: usize,
    /// A batch of at least `rows_min` rows is taken when its first row is this old.
    pub age_max: interdict_features::time::Span,
    /// Probability that a batch without drift has a column whose tests are rejected.
    pub false_alarm_rate: f64,
    /// Least PSI in excess of its mean without drift.
    pub psi_floor: f64,
    /// Least KS distance, before the finite reference's term.
    pub ks_floor: f64,
    /// A column drifted in so many...
    pub hits: u32,
    /// ...of the last so many batches fires; so many batches without any drift resolve. At most 32.
    pub of: u32,
}

impl Default for DriftOptions {
    fn default() -> Self {
        Self {
            rows_max: 500,
            rows_min: 200,
            age_max: interdict_features::time::Span::from_micros(600_000_000),
            false_alarm_rate: 0.001,
            psi_floor: 0.2,
            ks_floor: 0.1,
            hits: 2,
            of: 3,
        }
    }
}

/// Which test found a drift.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// Population stability index.
    Psi,
    /// Kolmogorov-Smirnov.
    Ks,
}

/// One column of a batch.
#[derive(Clone, PartialEq, Debug)]
pub struct ColumnDrift {
    /// The column as flat tables name it; `score` is the score.
    pub name: String,
    /// Index against the reference.
    pub psi: Psi,
    /// Distance from the reference, nulls left out.
    pub ks: Ks,
    /// Share of null in the batch.
    pub null_ratio: f64,
    /// Share of null in the reference.
    pub reference_null_ratio: f64,
    /// Least distance that counts.
    pub ks_threshold: f64,
    /// The test that found a drift in this batch; PSI when both did.
    pub drifted_by: Option<Test>,
    /// In how many of the last batches it drifted, this one included.
    pub hits: u32,
}

/// The verdict on one batch.
#[derive(Clone, PartialEq, Debug)]
pub struct Batch {
    /// Its rows.
    pub rows: usize,
    /// The records it was made of.
    pub span: WindowSpan,
    /// Every column of the reference, in its order.
    pub columns: Vec<ColumnDrift>,
}

impl Batch {
    /// Columns that drifted in this batch, the strongest evidence first.
    #[must_use]
    pub fn drifted(&self) -> Vec<&ColumnDrift> {
        let mut drifted: Vec<_> = self.columns.iter().filter(|column| column.drifted_by.is_some()).collect();
        let evidence = |column: &ColumnDrift| column.psi.log10_p.min(column.ks.log10_p);
        drifted.sort_by(|a, b| evidence(a).total_cmp(&evidence(b)));
        drifted
    }
}

/// Compares a window with its reference. Sorts the window's values; `None` for an empty window.
pub(crate) fn judge(reference: &Reference, window: &mut Window, options: &DriftOptions) -> Option<Batch> {
    let span = window.span?;
    let rows = window.rows;
    let mut columns: Vec<ColumnDrift> = Vec::with_capacity(reference.columns.len());
    for (sample, column) in window.samples.iter_mut().zip(&reference.columns) {
        sample.values.sort_unstable_by(f64::total_cmp);
        columns.push(ColumnDrift {
            name: column.name.clone(),
            psi: psi(&column.counts, &sample.counts),
            ks: ks(&column.sorted, &sample.values),
            null_ratio: share(sample.counts[0], rows as u64),
            reference_null_ratio: share(column.counts[0], reference.rows() as u64),
            ks_threshold: options.ks_floor + 1.75 / share(column.sorted.len() as u64, 1).max(1.0).sqrt(),
            drifted_by: None,
            hits: 0,
        });
    }
    let evidence: Vec<f64> = columns.iter().flat_map(|column| [column.psi.log10_p, column.ks.log10_p]).collect();
    let rejected = holm(&evidence, options.false_alarm_rate);
    for (column, tests) in columns.iter_mut().zip(rejected.chunks_exact(2)) {
        column.drifted_by = if tests[0] && column.psi.excess >= options.psi_floor {
            Some(Test::Psi)
        } else if tests[1] && column.ks.distance >= column.ks_threshold {
            Some(Test::Ks)
        } else {
            None
        };
    }
    Some(Batch { rows, span, columns })
}

/// Holm's step-down procedure: which of the tests are rejected so that the probability of any false rejection is at
/// most `rate`.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "a few thousand tests")]
pub fn holm(log10_p: &[f64], rate: f64) -> Vec<bool> {
    let mut order: Vec<usize> = (0..log10_p.len()).collect();
    order.sort_by(|a, b| log10_p[*a].total_cmp(&log10_p[*b]));
    let mut rejected = vec![false; log10_p.len()];
    for (rank, test) in order.into_iter().enumerate() {
        if log10_p[test] > (rate / (log10_p.len() - rank) as f64).log10() {
            break;
        }
        rejected[test] = true;
    }
    rejected
}

#[expect(clippy::cast_precision_loss, reason = "counts of rows are below 2^53")]
fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}
