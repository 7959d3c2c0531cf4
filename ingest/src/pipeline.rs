//! The micro-batch loop's inner part: brings what a batch needs from the store, applies it, and prepares what is to be written.
//!
//! Invariants:
//! - A batch is applied only when every row record and state it touches is in memory, as the store holds it or newer.
//! - States, row records and offsets leave in one commit: what is stored is the outcome of the changes up to the stored offsets, of
//!   all of them and of no others.
//! - What a commit was filled with counts as written. A commit that fails is made again as it is, or the process ends.

mod bring;
pub mod clocks;
pub mod marks;
mod standing;

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use interdict_features::bytes::Damaged;
use interdict_features::change::{Change, ChangeBatch, Op, Row};
use interdict_features::definition::Definitions;
use interdict_features::engine::{Engine, Evaluate, Key, Output, OwnedKey, Plan, RowImage, Unwritten};
use interdict_features::state::{AsOf, Readout, Scratch, StateError};
use interdict_features::time::Timestamp;
use interdict_features::value::UNCHANGED;
use interdict_store::error::{Class, StoreError};
use interdict_store::port::{Commit, Fetched, Offset, Query, RowKey, RowWrite, StateWrite, Store};

use crate::event_clock::EventClock;
use bring::Names;
use clocks::Clocks;
use marks::Marks;
use standing::Standings;

/// What bounds a pipeline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Threads that work on a batch.
    pub shards: usize,
    /// Memory for row records and states; above it everything is dropped after a checkpoint and comes back from the store as needed.
    pub memory_bytes: usize,
}

/// The most changes and keys brought between two looks at the memory in use: a look goes over every state.
const MEMORY_LOOK: usize = 262_144;

/// Memory of one change or key brought, by a rough guess: where the bound is small a look comes sooner.
const CHANGE_BYTES: usize = 4_096;

/// The most states and row records that are left unstored, and their bytes, before [`Pipeline::is_full`]: a store takes 250,000 writes and
/// 128 MiB in one commit, and nothing is decided while it does.
const UNSTORED_RECORDS: usize = 50_000;
const UNSTORED_BYTES: usize = 32 * 1024 * 1024;

/// Why a pipeline cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A stored state cannot be read.
    #[error("the stored state of a {entity} cannot be read: {source}; restore the store, or fill a new namespace")]
    State {
        /// The entity.
        entity: String,
        /// Why.
        source: StateError,
    },
    /// A stored row record cannot be read.
    #[error(
        "a stored row record of stream {stream} cannot be read: {source}; restore the store, or fill a new namespace"
    )]
    Row {
        /// The stream.
        stream: String,
        /// Why.
        source: Damaged,
    },
}

impl PipelineError {
    /// Whether what failed is worth doing again a moment later; nothing was applied.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Store(error) if error.class() == Class::Transient)
    }
}

/// What a pipeline reads from: a store, or one that notes what was read.
pub trait Reader: Send + Sync + 'static {
    /// As [`Store::fetch`].
    fn fetch(&self, query: &Query) -> impl Future<Output = Result<Fetched, StoreError>> + Send;

    /// As [`Store::offsets`].
    fn offsets(&self, source: &str, incarnation: &str) -> impl Future<Output = Result<Vec<Offset>, StoreError>> + Send;
}

impl<S: Store> Reader for S {
    fn fetch(&self, query: &Query) -> impl Future<Output = Result<Fetched, StoreError>> + Send {
        Store::fetch(self, query)
    }

    fn offsets(&self, source: &str, incarnation: &str) -> impl Future<Output = Result<Vec<Offset>, StoreError>> + Send {
        Store::offsets(self, source, incarnation)
    }
}

/// Applies changes to an engine over a store.
#[derive(Debug)]
pub struct Pipeline<S> {
    engine: Engine,
    store: Arc<S>,
    names: Names,
    limits: Limits,
    output: Output,
    standings: Standings,
    scratch: Scratch,
    clock: EventClock,
    /// As it stood with the last commit, once more was taken in.
    clock_before: Option<EventClock>,
    clocks: Clocks,
    began: Option<Timestamp>,
    /// Changes and keys brought since the last look at the memory in use.
    unlooked: usize,
    memory_bytes: usize,
    marks: Marks,
    late: u64,
    unstored: usize,
}

impl<S: Reader> Pipeline<S> {
    /// A pipeline over `store` with nothing in memory.
    #[must_use]
    pub fn new(plan: Arc<Plan>, store: Arc<S>, limits: Limits) -> Self {
        Self {
            names: Names::of(&plan),
            engine: Engine::new(plan, limits.shards),
            store,
            limits,
            output: Output::default(),
            standings: Standings::default(),
            scratch: Scratch::default(),
            clock: EventClock::default(),
            clock_before: None,
            clocks: Clocks::default(),
            began: None,
            unlooked: 0,
            memory_bytes: 0,
            marks: Marks::default(),
            late: 0,
            unstored: 0,
        }
    }

    /// The definitions in force.
    #[must_use]
    pub fn definitions(&self) -> &Arc<Definitions> {
        &self.engine.plan().definitions
    }

    /// What the last [`Self::apply`] came to.
    #[must_use]
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// Bytes of memory behind row records and states at the last look.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// The engine, for reads.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Applies a batch and reads the features of what `evaluate` names; see [`Self::output`].
    ///
    /// # Errors
    /// Nothing was applied.
    pub async fn apply(&mut self, batch: &ChangeBatch, evaluate: Evaluate) -> Result<&Output, PipelineError> {
        self.bring_marks().await?;
        self.bring_rows(batch).await?;
        let wanted = self.engine.wanted_states(batch).map_err(|source| self.damaged_row(batch, source))?;
        self.bring_states(&wanted).await?;
        if let Err(source) = self.engine.process(batch, evaluate, &mut self.output) {
            return Err(self.damaged_row(batch, source));
        }
        self.unstored += batch.len();
        self.unlooked += batch.len();
        self.late = 0;
        if batch.stream().labels.is_none() {
            self.late = self.late_rows(batch);
            self.clock_before.get_or_insert_with(|| self.clock.clone());
            self.clock.observe(batch.len(), |row| batch.row(row).time());
            self.clocks.observe(batch.len(), |row| batch.row(row).time());
        }
        Ok(&self.output)
    }

    /// New rows of the last [`Self::apply`] whose time lay before the stream clock by more than `disorder`.
    #[must_use]
    pub fn late(&self) -> u64 {
        self.late
    }

    fn late_rows(&self, batch: &ChangeBatch) -> u64 {
        let Some(clock) = self.clock.now() else { return 0 };
        let is_new = |change: &Change| matches!(change.op, Op::Insert | Op::Request);
        let lag = |row: Row<'_>| row.time().map(|time| clock.since(time));
        let late = batch.iter().filter(|(change, row)| is_new(change) && lag(*row) > Some(self.definitions().disorder));
        late.count() as u64
    }

    /// Notes the wall clock at the beginning: what has no time of its own is kept by it until the first row tells the stream clock.
    pub fn began(&mut self, now: Timestamp) {
        self.began = Some(now);
    }

    /// Reads features of an entity key as of an instant, bringing its states first. `groups` are places in the entity's list of
    /// groups. `None` when nothing is known of the key; the readouts are those of empty windows then. Texts: see [`Self::texts`].
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub async fn read(
        &mut self,
        entity: usize,
        key: &OwnedKey,
        groups: &[usize],
        as_of: AsOf,
    ) -> Result<(bool, Vec<Readout>), PipelineError> {
        self.bring_marks().await?;
        if !self.engine.holds(entity, &key.as_key()) {
            self.bring_states(&[(entity, key.clone())]).await?;
        }
        self.scratch.clear_texts();
        let mut readouts = Vec::new();
        self.engine.read(entity, &key.as_key(), groups, as_of, &mut self.scratch, &mut readouts);
        Ok((self.engine.newest(entity, &key.as_key()).is_some(), readouts))
    }

    /// The texts of the last [`Self::read`].
    #[must_use]
    pub fn texts(&self) -> &[Arc<str>] {
        self.scratch.texts()
    }

    /// Whether anything was applied that is not stored.
    #[must_use]
    pub fn is_ahead(&self) -> bool {
        self.unstored > 0 || self.standings.are_ahead()
    }

    /// How many changes were applied since the last commit: a commit's size grows with them. Positions need not have moved:
    /// a snapshot has but one.
    #[must_use]
    pub fn unstored(&self) -> usize {
        self.unstored
    }

    /// Whether so much changed that it is to be stored before more is applied, however few changes it came of.
    #[must_use]
    pub fn is_full(&self) -> bool {
        is_full(self.engine.unwritten())
    }

    /// Adds every dirty state and row record to `commit`, and the offset of every source that something was taken of: also where it did not
    /// move, so that nobody stores part of what another process has taken over. Call [`Self::stored`] once it went through.
    pub fn fill(&mut self, commit: &mut Commit) {
        let plan = Arc::clone(self.engine.plan());
        let names = &self.names;
        let now = self.clock.now().or(self.began);
        let mut states = Vec::new();
        let mut rows = Vec::new();
        self.engine.checkpoint(
            |image| {
                states.push(StateWrite {
                    entity: Arc::clone(&names.entities[image.entity]),
                    key: image.key,
                    group: plan.definitions.groups[image.group].hash,
                    bytes: image.bytes.map(Bytes::from),
                    expires: image.expires,
                    expected: None,
                });
            },
            |image| {
                let expires = row_expiry(&plan, &image, now);
                let key = RowKey { stream: Arc::clone(&names.streams[image.stream]), id: image.id };
                rows.push(RowWrite { key, bytes: Some(Bytes::from(image.bytes)), expires, expected: None });
            },
        );
        rows.extend(self.mark_writes());
        rows.extend(self.clocks.writes());
        commit.states.append(&mut states);
        commit.rows.append(&mut rows);
        commit.offsets.extend(self.standings.moves());
    }

    /// Forgets what is in memory; it comes back from the store as needed. Call it right after [`Self::stored`].
    pub fn forget(&mut self) {
        self.engine.evict();
        self.marks.are_known = false;
    }

    /// Forgets what was applied since the last commit that went through: it is to be applied again on what the store holds by then.
    pub fn rewind(&mut self) {
        self.engine.evict();
        self.unstored = 0;
        self.marks = Marks::default();
        if let Some(before) = self.clock_before.take() {
            self.clock = before;
        }
        self.clocks.rewind();
        self.standings.rewind();
    }

    /// Notes that the commit of the last [`Self::fill`] went through, and drops what is in memory if it is too much.
    pub fn stored(&mut self) {
        self.unstored = 0;
        self.standings.stored();
        self.marks_stored();
        self.clock_before = None;
        self.clocks.stored();
        if self.unlooked >= (self.limits.memory_bytes / CHANGE_BYTES).min(MEMORY_LOOK) {
            self.unlooked = 0;
            self.memory_bytes = self.engine.memory_bytes();
            if self.memory_bytes > self.limits.memory_bytes {
                self.engine.evict();
            }
        }
    }
}

fn is_full(unwritten: Unwritten) -> bool {
    unwritten.records >= UNSTORED_RECORDS || unwritten.bytes >= UNSTORED_BYTES
}

/// After which event time nothing can ask for a row any more: its own time and the retention of its stream. Labels without any time, of
/// a row that did not come, are kept as if they were of `now`, the stream clock when they are written: ids that never come would stay
/// for ever.
fn row_expiry(plan: &Plan, image: &RowImage, now: Option<Timestamp>) -> Option<Timestamp> {
    image.newest.or(now).map(|newest| newest.plus(plan.streams[image.stream].retention))
}

/// The keys of a row's entities: index of the entity, its key as the engine takes it and as people write it.
#[must_use]
pub fn entity_keys(plan: &Plan, row: interdict_features::change::Row<'_>) -> Vec<(usize, OwnedKey, String)> {
    let mut keys = Vec::new();
    let mut buffer = Vec::new();
    for (entity, declared) in plan.definitions.entities.iter().enumerate() {
        let columns: Option<Vec<usize>> = declared.key.iter().map(|name| row.stream.column(name)).collect();
        let Some(columns) = columns else { continue };
        if columns.iter().any(|&column| row.cells[column] <= UNCHANGED) {
            continue;
        }
        let key = interdict_features::engine::key_of(row, &columns, &mut buffer).map(Key::into);
        let text = interdict_features::key_text::of_row(row, &columns);
        if let (Some(key), Some(text)) = (key, text) {
            keys.push((entity, key, text));
        }
    }
    keys
}
