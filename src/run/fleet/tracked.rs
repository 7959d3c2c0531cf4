//! The store as one worker of several sees it during a micro-batch: what is read is noted, so that a commit which rests on something
//! that another worker has changed meanwhile is refused.
//!
//! Invariants:
//! - Every state and row record that a commit writes was read in the same micro-batch, and is written only over what was read.
//! - Where a micro-batch read at several instants, its commit is refused too when anything else of what it read has changed. So all of it
//!   stands, once the commit went through, as it was at the last of them: the positions of that read say what everything read holds.
//!   Marks, which move with every change of a stream that truncations clear, are read again with everything else, and count as changed when
//!   they clear something else.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use interdict_features::decision::SeenPosition;
use interdict_features::engine::clear_alike;
use interdict_ingest::pipeline::Reader;
use interdict_ingest::pipeline::clocks::is_clock;
use interdict_ingest::pipeline::marks::is_mark;
use interdict_store::error::StoreError;
use interdict_store::online::OnlineStore;
use interdict_store::port::{
    Commit, Fetched, ListEntry, Offset, Place, Query, RowKey, Stamp, StateQuery, Store, Unchanged,
};

use super::super::{charge, sinks, watching};

/// A stored value and who wrote it.
type Read = (Option<Bytes>, Stamp);

/// What was read of an entity's key, by group.
type OfKey = HashMap<u64, Read>;

/// A store and what was read of it in the micro-batch under way.
#[derive(Debug)]
pub(super) struct Tracked {
    store: Arc<OnlineStore>,
    reads: Mutex<Reads>,
}

#[derive(Debug, Default)]
struct Reads {
    states: HashMap<Arc<str>, HashMap<Box<[u8]>, OfKey>>,
    rows: HashMap<RowKey, Read>,
    positions: Vec<SeenPosition>,
    /// At how many instants.
    instants: u32,
    /// A stream was cleared between two of them.
    is_torn: bool,
}

/// What was asked beside states and row records.
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// Per decision: its record.
    pub(super) decisions: Vec<Option<Bytes>>,
    /// Entries of every entity asked for.
    pub(super) lists: Vec<ListEntry>,
}

impl Tracked {
    /// Over a store in a Redis.
    pub(super) fn new(store: Arc<OnlineStore>) -> Self {
        Self { store, reads: Mutex::default() }
    }

    pub(super) fn store(&self) -> &OnlineStore {
        &self.store
    }

    /// Forgets what was read: a new micro-batch begins.
    pub(super) fn begin(&self) {
        *self.reads() = Reads::default();
    }

    /// Reads everything that a micro-batch is known to need, in one round trip and at one instant.
    ///
    /// # Errors
    /// As [`OnlineStore::snapshot`].
    pub(super) async fn prefetch(&self, query: &Query) -> Result<Beside, StoreError> {
        let snapshot = self.store.snapshot(query).await?;
        let mut reads = self.reads();
        for ((asked, states), stamps) in query.states.iter().zip(snapshot.fetched.states).zip(snapshot.states) {
            for ((group, bytes), stamp) in asked.groups.iter().zip(states).zip(stamps) {
                reads.state(asked).insert(*group, (bytes, stamp));
            }
        }
        for ((key, bytes), stamp) in query.rows.iter().zip(snapshot.fetched.rows).zip(snapshot.rows) {
            if let Some((before, _)) = reads.rows.get(key).filter(|_| is_mark(key)) {
                // What was applied rests on the one that was read first; it is written only over that.
                let is_alike = clear_alike(before.as_deref(), bytes.as_deref());
                reads.is_torn |= !is_alike;
            } else {
                reads.rows.insert(key.clone(), (bytes, stamp));
            }
        }
        let seen = |position: interdict_store::port::SourcePosition| SeenPosition {
            partition: format!("{}/{}", position.source, position.partition),
            position: position.position,
        };
        // How far something was handed on says nothing of what was applied.
        let is_applied = |position: &interdict_store::port::SourcePosition| {
            ![sinks::POSITIONS, super::REPUBLISHED, charge::POSITIONS, watching::POSITIONS]
                .iter()
                .any(|name| position.source.starts_with(name))
        };
        reads.positions = snapshot.positions.into_iter().filter(is_applied).map(seen).collect();
        reads.positions.sort_by(|a, b| a.partition.cmp(&b.partition));
        reads.instants += 1;
        drop(reads);
        let lists = snapshot.fetched.lists.into_iter().flatten().collect();
        Ok(Beside { decisions: snapshot.fetched.decisions, lists })
    }

    /// How far every partition was applied to what was read, in order of name.
    pub(super) fn positions(&self) -> Vec<SeenPosition> {
        self.reads().positions.clone()
    }

    /// What was read under a row's key, if it was.
    pub(super) fn row(&self, key: &RowKey) -> Option<Bytes> {
        self.reads().rows.get(key).and_then(|(bytes, _)| bytes.clone())
    }

    /// Makes `commit` one that is refused when anything it writes is not as it was read, and where it was read at several instants anything
    /// it read.
    pub(super) fn expect(&self, commit: &mut Commit) {
        let reads = self.reads();
        for write in &mut commit.states {
            let read = reads.states.get(&write.entity).and_then(|keys| keys.get(&write.key)?.get(&write.group));
            let (_, stamp) = read.expect("a state is written only after it was read in the same micro-batch");
            write.expected = Some(*stamp);
        }
        for write in commit.rows.iter_mut().filter(|write| !is_clock(&write.key)) {
            let (_, stamp) = reads
                .rows
                .get(&write.key)
                .expect("a row record is written only after it was read in the same micro-batch");
            write.expected = Some(*stamp);
        }
        if reads.instants > 1 {
            let unchanged = reads.only_read(commit);
            commit.unchanged.extend(unchanged);
        }
    }

    fn reads(&self) -> MutexGuard<'_, Reads> {
        // Nothing that changes them can panic half way.
        self.reads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What of `query` was not read yet.
    fn missing(&self, query: &Query) -> Query {
        let reads = self.reads();
        let is_missing = |asked: &&StateQuery| {
            let known = reads.states.get(&asked.entity).and_then(|keys| keys.get(&asked.key));
            asked.groups.iter().any(|group| known.is_none_or(|groups| !groups.contains_key(group)))
        };
        let states = query.states.iter().filter(is_missing).cloned().collect();
        let rows = query.rows.iter().filter(|key| !reads.rows.contains_key(*key)).cloned().collect();
        Query { states, rows, ..Query::default() }
    }
}

impl Reads {
    /// What was read and `commit` does not write.
    fn only_read(&self, commit: &Commit) -> Vec<Unchanged> {
        let written: HashSet<_> =
            commit.states.iter().map(|write| (&*write.entity, &*write.key, write.group)).collect();
        let rows_written: HashSet<&RowKey> = commit.rows.iter().map(|write| &write.key).collect();
        let mut unchanged = Vec::new();
        for (entity, keys) in &self.states {
            for (key, groups) in keys {
                for (group, (_, expected)) in groups {
                    if !written.contains(&(&**entity, &**key, *group)) {
                        let place = Place::State { entity: Arc::clone(entity), key: key.clone(), group: *group };
                        unchanged.push(Unchanged { place, expected: *expected });
                    }
                }
            }
        }
        let is_only_read =
            |key: &RowKey| !rows_written.contains(key) && (self.is_torn || !is_mark(key)) && !is_clock(key);
        let rows = self.rows.iter().filter(|(key, _)| is_only_read(key));
        unchanged
            .extend(rows.map(|(key, (_, expected))| Unchanged { place: Place::Row(key.clone()), expected: *expected }));
        unchanged
    }

    fn state(&mut self, asked: &StateQuery) -> &mut OfKey {
        self.states.entry(Arc::clone(&asked.entity)).or_default().entry(asked.key.clone()).or_default()
    }
}

impl Reader for Tracked {
    async fn fetch(&self, query: &Query) -> Result<Fetched, StoreError> {
        let mut missing = self.missing(query);
        if !missing.states.is_empty() || !missing.rows.is_empty() {
            missing.rows.extend(self.reads().rows.keys().filter(|key| is_mark(key)).cloned());
            self.prefetch(&missing).await?;
        }
        let mut reads = self.reads();
        let mut fetched = Fetched::default();
        for asked in &query.states {
            let known = reads.state(asked);
            fetched
                .states
                .push(asked.groups.iter().map(|group| known.get(group).and_then(|(bytes, _)| bytes.clone())).collect());
        }
        fetched.rows = query.rows.iter().map(|key| reads.rows.get(key).and_then(|(bytes, _)| bytes.clone())).collect();
        Ok(fetched)
    }

    async fn offsets(&self, source: &str, incarnation: &str) -> Result<Vec<Offset>, StoreError> {
        Store::offsets(&*self.store, source, incarnation).await
    }
}
