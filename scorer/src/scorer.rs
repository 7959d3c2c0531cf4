//! One worker's model: a session and its reused buffers.
//!
//! Invariant: a row that the model fails on costs its neighbours nothing: a failed batch is run again row by row.

use std::sync::Arc;
use std::time::Instant;

use crate::activation::{Active, Batching};
use crate::runtime::Runtime;
use crate::session::{BATCH_ROWS_MAX, ModelError, Session};
use crate::subject::Subject;

/// What a model said of one event.
#[derive(Clone, PartialEq, Debug)]
pub enum Score {
    /// No model is configured for the event's stream.
    NotAsked,
    /// The model gave no probability; why.
    Failed(String),
    /// The probability of fraud, finite, 0 to 1.
    Given(f64),
}

/// A score with what it cost.
#[derive(Clone, PartialEq, Debug)]
pub struct Scored {
    /// What the model said.
    pub score: Score,
    /// Time of the run it came from, shared by the rows of a batch, microseconds.
    pub micros: u64,
}

impl Scored {
    /// For events of a stream without a model.
    pub const NOT_ASKED: Self = Self { score: Score::NotAsked, micros: 0 };
}

/// Scores events with one model on one thread. Not shared: every worker opens its own.
#[derive(Debug)]
pub struct Scorer {
    active: Arc<Active>,
    session: Session,
    rows: Vec<f32>,
    scores: Vec<f64>,
}

impl Scorer {
    /// Opens a session of `active` for this worker.
    ///
    /// # Errors
    /// As [`Active::session`].
    pub fn open(runtime: &Runtime, active: Arc<Active>) -> Result<Self, ModelError> {
        let session = active.session(runtime)?;
        Ok(Self { active, session, rows: Vec::new(), scores: Vec::new() })
    }

    /// The model in force.
    #[must_use]
    pub fn active(&self) -> &Arc<Active> {
        &self.active
    }

    /// Scores `subjects`, in one run per [`BATCH_ROWS_MAX`] where the model allows it, and appends one entry per
    /// subject, in order. Never fails as a whole: what the model cannot score is [`Score::Failed`].
    pub fn score(&mut self, subjects: &[Subject<'_>], scored: &mut Vec<Scored>) {
        let batch = match self.active.batching {
            Batching::Together => BATCH_ROWS_MAX,
            Batching::OneByOne => 1,
        };
        for chunk in subjects.chunks(batch) {
            if self.run(chunk, scored).is_err() {
                for subject in chunk {
                    if let Err(error) = self.run(std::slice::from_ref(subject), scored) {
                        scored.push(Scored { score: Score::Failed(error.to_string()), micros: 0 });
                    }
                }
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the record says how long the model took; nothing is decided by it")]
    fn run(&mut self, subjects: &[Subject<'_>], scored: &mut Vec<Scored>) -> Result<(), ModelError> {
        self.rows.clear();
        self.scores.clear();
        for subject in subjects {
            self.rows.extend(self.active.inputs.iter().map(|input| input.value(subject)));
        }
        let start = Instant::now();
        self.session.run(&self.rows, &mut self.scores)?;
        let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        scored.extend(self.scores.iter().map(|&score| Scored { score: Score::Given(score), micros }));
        Ok(())
    }
}
