//! The engine: applies batches of changes to row records and states, and evaluates features as each event saw them.
//!
//! One batch goes through three steps, each in parallel over shards and with no state shared between them:
//! 1. **resolve** (shards by event id): a change and its row record become an old and a new version of the row;
//! 2. **apply** (shards by entity key): the old version leaves its states, the new one enters, and a judged event reads its features
//!    right there, before the next change of that key;
//! 3. **assemble**: what the shards read becomes one vector per judged event, and derived features are computed.
//!
//! Invariants:
//! - A judged event sees every change before it in its batch and none after it, whatever the number of shards.
//! - Nothing is read that is not in memory: the caller loads what [`Engine::wanted_rows`] and [`Engine::wanted_states`] name.

mod apply;
mod entities;
mod mark;
mod output;
mod plan;
mod resolution;
mod resolve;
mod rows;
mod touch;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use hashbrown::HashMap;
use rayon::prelude::*;

pub use mark::{clear_alike, staleness};
pub use output::{Outcome, Output, Refused};
pub use plan::{Key, Plan, Route, StreamPlan, event_key, key_of, key_text, put_key_text};
pub use resolve::is_judged_by_itself;
pub(crate) use resolve::refusal;

use crate::bytes::Damaged;
use crate::change::{Change, ChangeBatch, Op, Version};
use crate::row::RowRecord;
use crate::state::{AsOf, Program, Readout, Scratch, State, StateError};
use crate::time::Timestamp;
use crate::value::UNCHANGED;
use crate::vector::Flags;

use apply::StateShard;
use mark::Mark;
use resolution::{Incoming, RowPlace};
use resolve::RowShard;

/// Below this many changes a batch is worked off on the calling thread: handing it to others costs more.
const PARALLEL_CHANGES_MIN: usize = 128;

/// Which changes have their features read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Evaluate {
    /// None: history is being loaded.
    Nothing,
    /// Those that are to be judged.
    Judged,
    /// Every row that is applied: training sets and benches.
    Everything,
}

/// A key that outlives its row.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum OwnedKey {
    /// An integer.
    Int(i64),
    /// Encoded bytes.
    Bytes(Box<[u8]>),
}

impl OwnedKey {
    /// The key, borrowed.
    #[must_use]
    pub fn as_key(&self) -> Key<'_> {
        match self {
            Self::Int(value) => Key::Int(*value),
            Self::Bytes(bytes) => Key::Bytes(bytes),
        }
    }
}

impl From<Key<'_>> for OwnedKey {
    fn from(key: Key<'_>) -> Self {
        match key {
            Key::Int(value) => Self::Int(value),
            Key::Bytes(bytes) => Self::Bytes(Box::from(bytes)),
        }
    }
}

/// A state as a checkpoint writes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateImage {
    /// Index of the entity.
    pub entity: usize,
    /// The key's bytes.
    pub key: Box<[u8]>,
    /// Index of the group.
    pub group: usize,
    /// The state's bytes; `None` when nothing is left of it.
    pub bytes: Option<Vec<u8>>,
    /// After which event time nothing reads it any more.
    pub expires: Option<Timestamp>,
}

/// A row record as a checkpoint writes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RowImage {
    /// Index of the stream.
    pub stream: usize,
    /// The id's bytes.
    pub id: Box<[u8]>,
    /// The record's bytes.
    pub bytes: Vec<u8>,
    /// The latest time it knows: of the event, or of a report.
    pub newest: Option<Timestamp>,
}

/// How much a checkpoint writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Unwritten {
    /// States and row records.
    pub records: usize,
    /// Their bytes in memory when they changed first, roughly.
    pub bytes: usize,
}

impl std::iter::Sum for Unwritten {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), |sum, part| Self {
            records: sum.records + part.records,
            bytes: sum.bytes + part.bytes,
        })
    }
}

/// Row records and states in memory, and what happens to them.
#[derive(Debug)]
pub struct Engine {
    plan: Arc<Plan>,
    rows: Vec<RowShard>,
    states: Vec<StateShard>,
    places: Vec<RowPlace>,
    /// Per stream of rows. What its definition says of truncations today does not matter: an older one may have been cleared.
    marks: Vec<Option<Mark>>,
}

impl Engine {
    /// An empty engine that works on `shards` threads at a time (at least one).
    #[must_use]
    pub fn new(plan: Arc<Plan>, shards: usize) -> Self {
        let shards = shards.max(1);
        Self {
            rows: (0..shards).map(|shard| RowShard::new(&plan, shard, shards)).collect(),
            states: (0..shards).map(|shard| StateShard::new(&plan, shard)).collect(),
            places: Vec::new(),
            marks: plan.definitions.streams.iter().map(|stream| stream.labels.is_none().then(Mark::default)).collect(),
            plan,
        }
    }

    /// The compiled definitions.
    #[must_use]
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// Ids of `batch` whose row records are not in memory: (stream, id), each once.
    #[must_use]
    pub fn wanted_rows(&self, batch: &ChangeBatch) -> Vec<(usize, OwnedKey)> {
        let (stream, plan) = self.target(batch);
        if !plan.keeps_records {
            return Vec::new();
        }
        let mut buffer = Vec::new();
        let mut wanted = Vec::new();
        for row in (0..batch.len()).map(|index| batch.row(index)) {
            if let Some(id) = key_of(row, &[row.stream.id], &mut buffer)
                && !self.row_shard(&id).contains(stream, &id)
            {
                wanted.push((stream, OwnedKey::from(id)));
            }
        }
        wanted.sort_unstable();
        wanted.dedup();
        wanted
    }

    /// Takes over what the store holds of a row; `None` when it holds nothing.
    pub fn load_row(&mut self, stream: usize, id: &OwnedKey, bytes: Option<&[u8]>) {
        let shard = self.shard_of(&id.as_key());
        self.rows[shard].load(stream, &id.as_key(), bytes);
    }

    /// Entity keys that `batch` touches or reads and that are not in memory, each once. The rows must be loaded.
    ///
    /// # Errors
    /// [`Damaged`] when a row record cannot be read.
    pub fn wanted_states(&self, batch: &ChangeBatch) -> Result<Vec<(usize, OwnedKey)>, Damaged> {
        let (stream, plan) = self.target(batch);
        let declared = &self.plan.definitions.streams[stream];
        let mut buffer = Vec::new();
        let mut wanted = Vec::new();
        let mut record = RowRecord::default();
        let mut want = |row: crate::change::Row<'_>, buffer: &mut Vec<u8>| {
            for route in &plan.routes {
                if let Some(key) = key_of(row, &route.key, buffer)
                    && !self.states[self.shard_of(&key)].contains(route.entity, &key)
                {
                    wanted.push((route.entity, OwnedKey::from(key)));
                }
            }
        };
        let composite: Vec<usize> = plan
            .routes
            .iter()
            .filter(|route| route.key.len() > 1)
            .flat_map(|route| route.key.iter().copied())
            .collect();
        // Rows whose composite keys become of several versions, as they will stand within the batch.
        let mut merged: HashMap<OwnedKey, RowRecord> = HashMap::new();
        for (change, row) in batch.iter() {
            let is_label = row.stream.labels.is_some();
            if !is_label {
                want(row, &mut buffer);
            }
            let Some(id) = key_of(row, &[row.stream.id], &mut buffer).map(OwnedKey::from) else { continue };
            self.row_shard(&id.as_key()).read(&self.plan, stream, &id.as_key(), &mut record)?;
            // One that is lost comes back as it was where its version in the snapshot cannot be taken.
            let old = if change.op == Op::Recovered { record.last_row(declared) } else { record.row(declared) };
            if let Some(old) = old {
                want(old, &mut buffer);
            }
            let is_partial = |column: &usize| row.cells[*column] == UNCHANGED;
            let is_merged = !composite.is_empty()
                && !is_label
                && (record.has_carried() || merged.contains_key(&id) || composite.iter().any(is_partial));
            if is_merged {
                let record = merged.entry(id).or_insert_with(|| record.clone());
                let _ignored_changes_count_too = record.apply(change, row);
                if let Some(new) = record.row(declared) {
                    want(new, &mut buffer);
                }
            }
        }
        wanted.sort_unstable();
        wanted.dedup();
        Ok(wanted)
    }

    /// Takes over what the store holds of an entity key: bytes per group, in the entity's order of groups.
    ///
    /// # Errors
    /// [`StateError`] when bytes cannot be read.
    pub fn load_states(&mut self, entity: usize, key: &OwnedKey, bytes: &[Option<&[u8]>]) -> Result<(), StateError> {
        let shard = self.shard_of(&key.as_key());
        self.states[shard].load(&self.plan, entity, &key.as_key(), bytes)
    }

    /// Applies a batch, in order, and reads the features of what `evaluate` names into `output`. A truncation that clears its stream, a loss
    /// and its end must be alone in their batches (see [`ChangeBatch::parts`]); among others they come to [`Outcome::Truncated`], as does one
    /// that comes behind a newer change of its stream.
    ///
    /// # Errors
    /// [`Damaged`] when a row record in memory cannot be read; nothing was applied then.
    pub fn process(&mut self, batch: &ChangeBatch, evaluate: Evaluate, output: &mut Output) -> Result<(), Damaged> {
        let (stream, _) = self.target(batch);
        let plan = &self.plan;
        let incoming = Incoming { batch, stream: &plan.definitions.streams[stream], evaluate };
        let is_parallel = batch.len() >= PARALLEL_CHANGES_MIN && self.rows.len() > 1;
        if is_parallel {
            self.rows.par_iter_mut().try_for_each(|shard| shard.resolve(plan, incoming))?;
        } else {
            self.rows.iter_mut().try_for_each(|shard| shard.resolve(plan, incoming))?;
        }
        resolution::note_places(&self.rows, batch.len(), &mut self.places);
        let (rows, places) = (&*self.rows, &*self.places);
        let apply = |shard: &mut StateShard| shard.apply(plan, incoming, rows, places);
        if is_parallel {
            self.states.par_iter_mut().for_each(apply);
        } else {
            self.states.iter_mut().for_each(apply);
        }
        output.assemble(plan, incoming, rows, &self.states, places);
        self.take_mark(batch, output);
        Ok(())
    }

    /// Takes a truncation, a loss or its end, or notes how far the versions of a stream have come.
    fn take_mark(&mut self, batch: &ChangeBatch, output: &mut Output) {
        let stream = batch.stream();
        let Some(mark) = &mut self.marks[stream.index] else { return };
        if mark::clears(stream) {
            mark.note(batch.iter().map(|(change, _)| change));
        }
        let mut alone = batch.iter().filter(|_| batch.len() == 1);
        let Some((Change { op, version, .. }, _)) = alone.next() else { return };
        let outcome = match op {
            Op::Truncate if mark::clears(stream) => mark.truncate(*version),
            Op::Lost if stream.follows_removals() => mark.lose(*version),
            Op::Settled if stream.follows_removals() => mark.settle(*version),
            _ => return,
        };
        output.outcomes[0] = outcome;
        if outcome == Outcome::Applied {
            let cleared = mark.cleared;
            self.rows.iter_mut().for_each(|shard| shard.clear_older(stream.index, cleared));
            // The states behind a loss are those of its snapshot by the time of its end.
            if *op != Op::Settled {
                self.clear_states(stream.index, cleared.at);
            }
        }
    }

    /// Forgets the states that a stream feeds, wherever they are older than the truncation or loss `cleared`.
    fn clear_states(&mut self, stream: usize, cleared: Version) {
        for (entity, groups) in self.plan.entity_groups.iter().enumerate() {
            for (place, &group) in groups.iter().enumerate() {
                if self.plan.definitions.groups[group].stream == stream {
                    self.states.iter_mut().for_each(|shard| shard.truncate(entity, place, cleared));
                }
            }
        }
    }

    /// What is to be stored, with the states that it belongs to, of each stream that has a mark: its index and bytes.
    pub fn marks(&self) -> impl Iterator<Item = (usize, Vec<u8>)> {
        let marks = self.marks.iter().enumerate();
        marks
            .filter_map(|(stream, mark)| Some((stream, (*mark)?)).filter(|(_, mark)| *mark != Mark::default()))
            .map(|(stream, mark)| (stream, mark.encode()))
    }

    /// Streams whose marks are to be brought before anything else.
    pub fn marked_streams(&self) -> impl Iterator<Item = usize> {
        self.marks.iter().enumerate().filter(|(_, mark)| mark.is_some()).map(|(stream, _)| stream)
    }

    /// Takes over what the store holds of a stream, before any of its rows and states is brought.
    ///
    /// # Errors
    /// [`Damaged`] when the bytes are no mark.
    pub fn load_mark(&mut self, stream: usize, bytes: Option<&[u8]>) -> Result<(), Damaged> {
        let mark = bytes.map(Mark::decode).transpose()?.unwrap_or_default();
        self.marks[stream] = Some(mark);
        self.rows.iter_mut().for_each(|shard| shard.clear_older(stream, mark.cleared));
        self.clear_states(stream, mark.cleared.at);
        Ok(())
    }

    /// Reads the features of some groups of an entity key as of an instant; `groups` are places in the entity's list of groups.
    /// Writes one readout per feature and window, group by group; texts go to `scratch`.
    pub fn read(
        &self,
        entity: usize,
        key: &Key<'_>,
        groups: &[usize],
        as_of: AsOf,
        scratch: &mut Scratch,
        out: &mut Vec<Readout>,
    ) {
        let shard = &self.states[self.shard_of(key)];
        for &group in groups {
            let program = &self.plan.programs[self.plan.entity_groups[entity][group]];
            let from = out.len();
            out.resize(from + program.width(), Readout::default());
            match shard.state(entity, key, group).filter(|state| !state.is_empty()) {
                Some(state) => state.read(program, as_of, scratch, &mut out[from..]),
                None => State::read_absent(program, Flags::NO_STATE, &mut out[from..]),
            }
        }
    }

    /// The newest event time known of an entity key, microseconds.
    #[must_use]
    pub fn newest(&self, entity: usize, key: &Key<'_>) -> Option<i64> {
        self.states[self.shard_of(key)].newest(entity, key)
    }

    /// Whether the states of an entity key are in memory.
    #[must_use]
    pub fn holds(&self, entity: usize, key: &Key<'_>) -> bool {
        self.states[self.shard_of(key)].contains(entity, key)
    }

    /// Visits everything that changed since the last checkpoint; it counts as written afterwards.
    pub fn checkpoint(&mut self, mut state: impl FnMut(StateImage), mut row: impl FnMut(RowImage)) {
        for shard in &mut self.states {
            shard.checkpoint(&self.plan, &mut state);
        }
        for shard in &mut self.rows {
            shard.checkpoint(&mut row);
        }
    }

    /// Every state in memory, in order of entity, key and group: what two runs are compared by.
    #[must_use]
    pub fn images(&self) -> Vec<StateImage> {
        let mut images = Vec::new();
        for shard in &self.states {
            shard.images(&self.plan, &mut images);
        }
        images.sort_by(|a, b| (a.entity, &a.key, a.group).cmp(&(b.entity, &b.key, b.group)));
        images
    }

    /// How much the next checkpoint writes.
    #[must_use]
    pub fn unwritten(&self) -> Unwritten {
        self.rows.iter().map(RowShard::unwritten).chain(self.states.iter().map(StateShard::unwritten)).sum()
    }

    /// Bytes of memory behind row records and states, roughly.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.rows.iter().map(RowShard::memory_bytes).sum::<usize>()
            + self.states.iter().map(StateShard::memory_bytes).sum::<usize>()
    }

    /// Entity keys in memory.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.states.iter().map(StateShard::keys).sum()
    }

    /// Forgets everything that the store holds too: call it right after a checkpoint was written.
    pub fn evict(&mut self) {
        self.rows.iter_mut().for_each(RowShard::clear);
        self.states.iter_mut().for_each(StateShard::clear);
    }

    /// The stream whose rows the batch changes, and its plan.
    fn target(&self, batch: &ChangeBatch) -> (usize, &StreamPlan) {
        let stream = batch.stream();
        let target = stream.labels.map_or(stream.index, |labels| labels.stream);
        (target, &self.plan.streams[target])
    }

    fn shard_of(&self, key: &Key<'_>) -> usize {
        key.shard(self.states.len())
    }

    fn row_shard(&self, id: &Key<'_>) -> &RowShard {
        &self.rows[self.shard_of(id)]
    }
}

impl Plan {
    /// A state's bytes, for edges that show or compare them.
    #[must_use]
    pub fn encode(program: &Program, state: &State) -> Vec<u8> {
        let mut bytes = Vec::new();
        state.encode(program, &mut bytes);
        bytes
    }
}

/// Whether a change of this kind can be judged at all.
pub(crate) fn can_be_judged(op: Op) -> bool {
    matches!(op, Op::Insert | Op::Update | Op::Request | Op::Recovered)
}
