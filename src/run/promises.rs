//! What callers of open requests are told under a decision's id before its record is stored.
//!
//! A caller has a deadline and the engine may be behind, so a default may be told first; the engine has to store it then. One table
//! brings both together, for requests and for what comes from sources: whoever settles an id first is followed by all others.
//!
//! Invariants:
//! - Under one id everybody is told one record while a promise for it is open.
//! - A promise is open until the engine has stored what was told, or has refused it: the command on its way holds it.
//! - A record that is being stored is known to every promise opened meanwhile, so that one who finds nothing in the store after
//!   opening his promise may tell a default: nothing else can be stored under that id any more.
//! - The table holds what is open and nothing else: no more than wait for the engine and are being answered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use interdict_features::decision::DecisionRecord;
use interdict_scorer::http::backend::{BackendError, Decided};
use uuid::Uuid;

/// When it is worth asking again once the lists are full: a person has to act, or blocks to end.
pub(super) const FULL_RETRY: Duration = Duration::from_secs(60);

/// Why a request gets no decision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// Its idempotency key was used with another request.
    KeyReused,
    /// The condition under which its stream is judged does not hold for it.
    NotJudged,
    /// The lists take no block that it might bring.
    ListsFull,
    /// Its event is known already and waits for its decision.
    #[cfg(feature = "redis")]
    UnderWay,
}

impl Refusal {
    /// What the caller is told.
    pub(crate) fn answer(self) -> Result<Decided, BackendError> {
        match self {
            Self::KeyReused => Err(BackendError::IdempotencyKeyReused),
            Self::NotJudged => Ok(Decided::NotJudged),
            #[cfg(feature = "redis")]
            Self::UnderWay => Err(BackendError::Overloaded {
                what: "the queue of decisions under way",
                retry_after: Duration::from_secs(1),
            }),
            Self::ListsFull => Err(BackendError::Overloaded { what: "the list of blocks", retry_after: FULL_RETRY }),
        }
    }
}

/// The promises that are open.
#[derive(Debug, Default)]
pub(crate) struct Promises(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    open: HashMap<Uuid, Entry>,
    storing: Option<Storing>,
    requests: u64,
}

/// All open promises under one id.
#[derive(Debug, Default)]
struct Entry {
    holders: usize,
    told: Option<Box<DecisionRecord>>,
    /// A caller has it.
    is_given: bool,
    /// Requests that were refused.
    refused: Vec<(u64, Refusal)>,
}

/// Records on their way to the store. The ids beside them make looking one up cheap.
#[derive(Debug)]
struct Storing {
    ids: Vec<Uuid>,
    records: Arc<Vec<DecisionRecord>>,
}

/// One request's hold on what is told under its decision's id.
#[derive(Debug)]
pub(crate) struct Promise {
    promises: Arc<Promises>,
    id: Uuid,
    request: u64,
}

/// Records that count as being stored until this is dropped.
#[derive(Debug)]
pub(crate) struct Announced<'a>(&'a Promises);

impl Promises {
    /// Opens a promise under `id`.
    pub(crate) fn open(self: &Arc<Self>, id: Uuid) -> Promise {
        let mut guard = self.lock();
        let table = &mut *guard;
        table.requests += 1;
        let request = table.requests;
        let entry = table.open.entry(id).or_insert_with(|| {
            let told = table.storing.as_ref().and_then(|storing| storing.record(id)).map(Box::new);
            Entry { told, ..Entry::default() }
        });
        entry.holders += 1;
        drop(guard);
        Promise { promises: Arc::clone(self), id, request }
    }

    /// Whether no promise is open.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().open.is_empty()
    }

    /// What was told under `id`, if it is not stored yet.
    pub(crate) fn told(&self, id: Uuid) -> Option<DecisionRecord> {
        self.lock().open.get(&id).and_then(|entry| entry.told.as_deref().cloned())
    }

    /// Settles `records`, which the caller is about to store. The last `already_told` of them are what was told before. `None` when
    /// something was told under the id of another one: nothing is settled then.
    pub(crate) fn announce(&self, records: &Arc<Vec<DecisionRecord>>, already_told: usize) -> Option<Announced<'_>> {
        let mut table = self.lock();
        if !table.open.is_empty() {
            let is_told =
                |record: &DecisionRecord| table.open.get(&record.decision_id).is_some_and(|entry| entry.told.is_some());
            if records[..records.len() - already_told].iter().any(is_told) {
                return None;
            }
            for record in records.iter() {
                if let Some(entry) = table.open.get_mut(&record.decision_id) {
                    entry.told.get_or_insert_with(|| Box::new(record.clone()));
                }
            }
        }
        let ids = records.iter().map(|record| record.decision_id).collect();
        table.storing = Some(Storing { ids, records: Arc::clone(records) });
        Some(Announced(self))
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Nothing that changes the table can panic half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Promise {
    /// The decision's id.
    pub(crate) fn id(&self) -> Uuid {
        self.id
    }

    /// For the engine: settles `record` unless another one is; the one to be stored.
    pub(crate) fn settle(&self, record: DecisionRecord) -> DecisionRecord {
        self.with(|entry| (**entry.told.get_or_insert_with(|| Box::new(record))).clone())
    }

    /// For an engine whose commit was refused: what it settled is made anew, unless a caller has it.
    #[cfg(feature = "redis")]
    pub(crate) fn withdraw(&self) {
        self.with(|entry| {
            if !entry.is_given {
                entry.told = None;
            }
            entry.refused.retain(|(request, _)| *request != self.request);
        });
    }

    /// For the caller's side: the record he is to be told, `default` unless another one is settled.
    ///
    /// # Errors
    /// The request was refused, and nothing else was told.
    pub(crate) fn tell(&self, default: impl FnOnce() -> DecisionRecord) -> Result<DecisionRecord, Refusal> {
        self.with(|entry| match (&entry.told, entry.refused.iter().find(|(request, _)| *request == self.request)) {
            (Some(told), _) => {
                entry.is_given = true;
                Ok((**told).clone())
            }
            (None, Some((_, refusal))) => Err(*refusal),
            (None, None) => {
                entry.is_given = true;
                Ok((**entry.told.insert(Box::new(default()))).clone())
            }
        })
    }

    /// Refuses the request unless something is settled already, which is returned: it has to be stored.
    pub(crate) fn refuse(&self, refusal: Refusal) -> Option<DecisionRecord> {
        self.with(|entry| {
            let told = entry.told.as_deref().cloned();
            if told.is_none() {
                entry.refused.push((self.request, refusal));
            }
            told
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Entry) -> T) -> T {
        let mut table = self.promises.lock();
        act(table.open.get_mut(&self.id).expect("its entry stays while a promise is held"))
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        let mut table = self.promises.lock();
        if let Some(entry) = table.open.get_mut(&self.id) {
            entry.holders -= 1;
            if entry.holders == 0 {
                table.open.remove(&self.id);
            }
        }
    }
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        self.0.lock().storing = None;
    }
}

impl Storing {
    fn record(&self, id: Uuid) -> Option<DecisionRecord> {
        let place = self.ids.iter().position(|known| *known == id)?;
        self.records.get(place).cloned()
    }
}

#[cfg(test)]
pub(super) mod tests;
