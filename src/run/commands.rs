//! What the HTTP edge asks of the engine's thread, and the cell in which a decision is handed over.
//!
//! Invariant: a [`Slot`] is decided once: either by the engine, or, when the deadline comes first, by default; whoever comes second takes
//! what is there.

use std::sync::{Arc, Mutex, PoisonError};

use interdict_features::decision::DecisionRecord;
use interdict_features::engine::OwnedKey;
use interdict_features::state::Readout;
use interdict_scorer::http::backend::{
    Accepted, Answer, BackendError, BlockRemove, BlockSet, DecideRequest, LabelRequest, Removal,
};
use tokio::sync::oneshot;

/// One thing asked of the engine.
#[derive(Debug)]
pub(crate) enum Command {
    Decide { request: Box<DecideRequest>, slot: Arc<Slot>, reply: Reply<Answer> },
    Label { request: Box<LabelRequest>, reply: Reply<Accepted> },
    SetBlock { set: Box<BlockSet>, reply: Reply<()> },
    RemoveBlock { remove: Box<BlockRemove>, reply: Reply<Removal> },
    Read { read: KeyRead, reply: Reply<KeyAnswer> },
}

/// Where an answer goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, BackendError>>;

/// A read of one entity key.
#[derive(Clone, Debug)]
pub(crate) struct KeyRead {
    pub(crate) entity: usize,
    pub(crate) key: OwnedKey,
    /// Microseconds.
    pub(crate) as_of: i64,
}

/// What the engine reads of a key.
#[derive(Debug)]
pub(crate) struct KeyAnswer {
    pub(crate) is_known: bool,
    pub(crate) readouts: Vec<Readout>,
    pub(crate) texts: Vec<Arc<str>>,
}

/// The hand-over of one decision between the engine and a caller with a deadline.
#[derive(Debug, Default)]
pub(crate) struct Slot(Mutex<Standing>);

#[derive(Debug, Default)]
enum Standing {
    #[default]
    Open,
    Decided(Box<DecisionRecord>),
}

impl Slot {
    /// Puts `record` in force unless another one is; returns the one in force.
    pub(crate) fn settle(&self, record: DecisionRecord) -> DecisionRecord {
        let mut standing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Standing::Decided(earlier) = &*standing {
            return (**earlier).clone();
        }
        *standing = Standing::Decided(Box::new(record.clone()));
        record
    }

    /// The record in force, if there is one.
    pub(crate) fn decided(&self) -> Option<DecisionRecord> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Standing::Open => None,
            Standing::Decided(record) => Some((**record).clone()),
        }
    }
}
