//! What the HTTP edge asks of the engine's thread.

use std::sync::Arc;

use interdict_features::engine::OwnedKey;
use interdict_features::state::Readout;
use interdict_scorer::http::backend::{
    Accepted, BackendError, BlockRemove, BlockSet, DecideRequest, Decided, LabelRequest, Removal,
};
use tokio::sync::oneshot;

use super::promises::Promise;

/// One thing asked of the engine.
#[derive(Debug)]
pub(crate) enum Command {
    Decide(Box<Asked>),
    Label { request: Box<LabelRequest>, reply: Reply<Accepted> },
    SetBlock { set: Box<BlockSet>, reply: Reply<()> },
    RemoveBlock { remove: Box<BlockRemove>, reply: Reply<Removal> },
    Read { read: KeyRead, reply: Reply<KeyAnswer> },
}

/// A request for a decision on its way.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) request: DecideRequest,
    pub(crate) promise: Arc<Promise>,
    pub(crate) reply: Reply<Decided>,
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
