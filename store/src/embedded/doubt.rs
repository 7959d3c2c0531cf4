//! Commits whose batch failed while it was written: each may be on disk or not.
//!
//! Invariant: a commit that turned out to be on disk is answered once when it is made again, and not made twice.

use std::collections::VecDeque;

use crate::port::{Commit, Committed};

/// Commits that are remembered: more than the callers that make theirs again (the engine, the outbox, a person's act).
const DOUBTS_MAX: usize = 16;

/// One commit in doubt.
pub(super) struct InDoubt {
    pub(super) commit: Commit,
    pub(super) answer: Committed,
    /// Its number, should it be on disk.
    pub(super) sequence: u64,
    pub(super) is_landed: bool,
}

/// The commits in doubt, the newest last: every caller makes its own again before it makes another.
#[derive(Default)]
pub(super) struct Doubts(VecDeque<InDoubt>);

impl Doubts {
    /// Remembers a commit; the oldest goes when there are too many.
    pub(super) fn add(&mut self, doubt: InDoubt) {
        if self.0.len() == DOUBTS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(doubt);
    }

    /// The database was opened anew and `sequence` is the last commit on disk: what did not land is to be made.
    pub(super) fn settle(&mut self, sequence: u64) {
        for doubt in &mut self.0 {
            doubt.is_landed |= doubt.sequence == sequence;
        }
        self.0.retain(|doubt| doubt.is_landed);
    }

    /// The answer to a commit that failed and turned out to be on disk, when it is made again.
    pub(super) fn landed(&mut self, commit: &Commit) -> Option<Committed> {
        let place = self.0.iter().position(|doubt| doubt.is_landed && doubt.commit == *commit)?;
        self.0.remove(place).map(|doubt| doubt.answer)
    }
}
