//! Batches in, firing and resolved out.
//!
//! States: quiet -> firing when a column drifted in `hits` of its last `of` batches; firing -> quiet after `of` batches
//! in a row in which no column drifted.

use interdict_features::decision::DecisionRecord;
use interdict_features::time::Timestamp;

use super::reference::Reference;
use super::verdict::{Batch, DriftOptions, judge};
use super::window::Window;
use crate::drift::window::WindowSpan;

/// A change of state that a batch caused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transition {
    /// Drift is confirmed.
    Firing,
    /// It is over.
    Resolved,
}

/// Counts since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DriftCounts {
    /// Batches judged.
    pub batches: u64,
    /// Records observed.
    pub rows: u64,
    /// Records left out: no feature vector, or not judged by the reference's model.
    pub skipped: u64,
}

/// Watches one model's inputs and score.
#[derive(Debug)]
pub struct Detector {
    reference: Reference,
    options: DriftOptions,
    window: Window,
    /// Per column the verdicts of the last batches, the newest in the lowest bit.
    history: Vec<u32>,
    /// Batches in a row without any drift.
    quiet_batches: u32,
    is_firing: bool,
    last: Option<Batch>,
    counts: DriftCounts,
}

impl Detector {
    /// Watches for drift from `reference`. `is_firing` says whether an episode is open from an earlier run.
    #[must_use]
    pub fn new(reference: Reference, options: DriftOptions, is_firing: Firing) -> Self {
        let window = Window::new(&reference, options.rows_max);
        Self {
            history: vec![0; reference.columns.len()],
            reference,
            options,
            window,
            quiet_batches: 0,
            is_firing: is_firing == Firing::Yes,
            last: None,
            counts: DriftCounts::default(),
        }
    }

    /// Adds one record; a record that fills the window is judged with it. Records without a feature vector and those
    /// that the reference's model did not judge are counted and left out.
    pub fn observe(&mut self, position: u64, record: &DecisionRecord, now: Timestamp) -> Option<Transition> {
        let champion = record.models.iter().find(|model| model.role == "champion");
        // Events of a stream that no model judges have no champion: their values are not those of the reference.
        let is_own =
            champion.is_some_and(|own| own.name == self.reference.model && own.version == self.reference.version);
        if record.features.is_empty() || !is_own {
            self.counts.skipped += 1;
            return None;
        }
        self.counts.rows += 1;
        self.window.add(&self.reference, position, record, now);
        if self.window.is_full() { self.judge() } else { None }
    }

    /// Judges a window that has waited long enough and has enough rows.
    pub fn tick(&mut self, now: Timestamp) -> Option<Transition> {
        let is_old = self.window.span.is_some_and(|span| now.since(span.since) >= self.options.age_max);
        if is_old && self.window.rows >= self.options.rows_min { self.judge() } else { None }
    }

    /// Forgets the window that is filling.
    pub fn clear(&mut self) {
        self.window.clear();
    }

    fn judge(&mut self) -> Option<Transition> {
        let mut batch = judge(&self.reference, &mut self.window, &self.options)?;
        self.window.clear();
        self.counts.batches += 1;
        let of = self.options.of.clamp(1, 32);
        let kept = u32::MAX >> (32 - of);
        for (bits, column) in self.history.iter_mut().zip(&mut batch.columns) {
            *bits = (*bits << 1 | u32::from(column.drifted_by.is_some())) & kept;
            column.hits = bits.count_ones();
        }
        let is_quiet = batch.columns.iter().all(|column| column.drifted_by.is_none());
        self.quiet_batches = if is_quiet { self.quiet_batches.saturating_add(1) } else { 0 };
        let is_confirmed = batch.columns.iter().any(|column| column.hits >= self.options.hits.clamp(1, of));
        self.last = Some(batch);
        match (self.is_firing, is_confirmed) {
            (false, true) => {
                self.is_firing = true;
                Some(Transition::Firing)
            }
            (true, false) if self.quiet_batches >= of => {
                self.is_firing = false;
                Some(Transition::Resolved)
            }
            _ => None,
        }
    }

    /// The last batch judged.
    #[must_use]
    pub fn last(&self) -> Option<&Batch> {
        self.last.as_ref()
    }

    /// Whether drift is confirmed and not over.
    #[must_use]
    pub fn firing(&self) -> Firing {
        if self.is_firing { Firing::Yes } else { Firing::No }
    }

    /// What was seen since the start.
    #[must_use]
    pub fn counts(&self) -> DriftCounts {
        self.counts
    }

    /// Rows of the window that is filling, and which.
    #[must_use]
    pub fn filling(&self) -> (usize, Option<WindowSpan>) {
        (self.window.rows, self.window.span)
    }

    /// The reference compared with.
    #[must_use]
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// The options in force.
    #[must_use]
    pub fn options(&self) -> &DriftOptions {
        &self.options
    }
}

/// Whether drift is confirmed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Firing {
    /// It is.
    Yes,
    /// It is not.
    No,
}
