//! Rows of a history that the stream would refuse: dead letters there, and here.

use hashbrown::HashSet;

use crate::change::ChangeBatch;
use crate::engine::{Plan, Refused, refusal};

/// What the batches of a history are of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The stream itself.
    Rows,
    /// Streams that label it.
    Labels,
}

/// A row that the stream refuses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RefusedRow {
    /// Whose row it is.
    pub part: Part,
    /// Index of its batch among those of its part.
    pub batch: usize,
    /// Its row there.
    pub row: usize,
    /// Why.
    pub why: Refused,
}

/// Places of reports: batch and row.
pub(super) type Places = HashSet<(usize, usize)>;

/// What is refused before anything is looked up: times far beyond their arrival, which only an archive tells.
pub(super) fn at_sight(plan: &Plan, part: Part, batches: &[ChangeBatch]) -> Vec<RefusedRow> {
    let mut refused = Vec::new();
    for (batch, rows) in batches.iter().enumerate() {
        for (row, (change, cells)) in rows.iter().enumerate().filter(|(_, (change, _))| change.arrival.is_some()) {
            refused.extend(refusal(plan, change, cells).map(|why| RefusedRow { part, batch, row, why }));
        }
    }
    refused
}
