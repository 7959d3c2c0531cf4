//! The micro-batch loop's inner part: brings what a batch needs from the store, applies it, and prepares what is to be written.
//!
//! Invariants:
//! - A batch is applied only when every row record and state it touches is in memory, as the store holds it or newer.
//! - States, row records and offsets leave in one commit: what is stored is the outcome of the changes up to the stored offsets, of
//!   all of them and of no others.
//! - What a commit was filled with counts as written. A commit that fails is made again as it is, or the process ends.

pub mod clocks;
pub mod marks;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use interdict_features::bytes::Damaged;
use interdict_features::change::{Change, ChangeBatch, Op, Row};
use interdict_features::decision::SeenPosition;
use interdict_features::definition::Definitions;
use interdict_features::engine::{Engine, Evaluate, Key, Output, OwnedKey, Plan, RowImage};
use interdict_features::state::{AsOf, Readout, Scratch, StateError};
use interdict_features::time::Timestamp;
use interdict_features::value::UNCHANGED;
use interdict_store::error::{Class, StoreError};
use interdict_store::port::{
    Commit, Fetched, Offset, OffsetMove, Query, RowKey, RowWrite, StateQuery, StateWrite, Store,
};

use crate::event_clock::EventClock;
use clocks::Clocks;
use marks::Marks;

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

/// Where one source partition stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Standing {
    /// As the store has it.
    stored: Option<u64>,
    /// Applied in memory.
    applied: Option<u64>,
    /// Standard input and the like have no place to return to.
    is_volatile: bool,
    /// Something was taken of it since the last commit, which need not have moved it: part of a transaction or of a snapshot.
    is_touched: bool,
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
    standings: BTreeMap<(String, u32), Standing>,
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

/// What is to be brought from the store: places of streams and entities, with ids and keys.
struct Wanted {
    rows: Vec<(usize, OwnedKey)>,
    states: Vec<(usize, OwnedKey)>,
}

/// Names that queries carry.
#[derive(Debug)]
struct Names {
    streams: Vec<Arc<str>>,
    entities: Vec<Arc<str>>,
    /// Per entity, the identities of its groups.
    groups: Vec<Arc<[u64]>>,
}

impl<S: Reader> Pipeline<S> {
    /// A pipeline over `store` with nothing in memory.
    #[must_use]
    pub fn new(plan: Arc<Plan>, store: Arc<S>, limits: Limits) -> Self {
        let definitions = &plan.definitions;
        let names = Names {
            streams: definitions.streams.iter().map(|stream| Arc::from(stream.name.as_str())).collect(),
            entities: definitions.entities.iter().map(|entity| Arc::from(entity.name.as_str())).collect(),
            groups: plan
                .entity_groups
                .iter()
                .map(|groups| groups.iter().map(|&group| definitions.groups[group].hash).collect())
                .collect(),
        };
        Self {
            engine: Engine::new(plan, limits.shards),
            store,
            names,
            limits,
            output: Output::default(),
            standings: BTreeMap::new(),
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

    /// Takes up a source where the store left it: the positions after which its partitions go on, those that are missing from
    /// their beginning. `incarnation` is its identity; `None` for a source that has no place to return to.
    ///
    /// # Errors
    /// [`StoreError::Incarnation`] when it is another source than before.
    pub async fn attach(&mut self, source: &str, incarnation: Option<&str>) -> Result<Vec<Offset>, PipelineError> {
        let Some(incarnation) = incarnation else {
            self.standings.insert((source.to_owned(), 0), Standing { is_volatile: true, ..Standing::default() });
            return Ok(Vec::new());
        };
        let offsets = self.store.offsets(source, incarnation).await?;
        let partitions: Vec<u32> = offsets.iter().map(|offset| offset.partition).collect();
        self.bring_clocks(source, &partitions).await?;
        self.take_up(source, &offsets);
        Ok(offsets)
    }

    /// Notes what the stored states hold of a source that is not attached yet: decisions made meanwhile have seen it.
    pub fn take_up(&mut self, source: &str, offsets: &[Offset]) {
        for offset in offsets {
            let (stored, applied) = (Some(offset.position), Some(offset.position));
            let standing = Standing { stored, applied, ..Standing::default() };
            self.standings.insert((source.to_owned(), offset.partition), standing);
        }
    }

    /// The sources whose places are known.
    #[must_use]
    pub fn sources(&self) -> Vec<String> {
        let mut sources: Vec<String> = self.standings.keys().map(|(source, _)| source.clone()).collect();
        sources.dedup();
        sources
    }

    /// Lets go of partitions: another process goes on with them.
    pub fn let_go(&mut self, source: &str, partitions: &[u32]) {
        for &partition in partitions {
            self.standings.remove(&(source.to_owned(), partition));
            self.clocks.let_go(source, partition);
        }
    }

    /// How far each partition was applied, in order of name.
    #[must_use]
    pub fn seen(&self) -> Vec<SeenPosition> {
        let position = |((source, partition), standing): (&(String, u32), &Standing)| {
            standing.applied.map(|position| SeenPosition { partition: format!("{source}/{partition}"), position })
        };
        let mut seen: Vec<SeenPosition> = self.standings.iter().filter_map(position).collect();
        // Ten partitions and more are ordered otherwise as texts than as numbers.
        seen.sort_unstable_by(|one, other| one.partition.cmp(&other.partition));
        seen
    }

    /// How far the partitions of a source are stored.
    pub fn stored_positions<'a>(&'a self, source: &'a str) -> impl Iterator<Item = (u32, u64)> + 'a {
        let of_source = self.standings.range((source.to_owned(), 0)..=(source.to_owned(), u32::MAX));
        of_source.filter_map(|((_, partition), standing)| Some((*partition, standing.stored?)))
    }

    /// Notes that everything up to `position` was applied, and perhaps some of what comes behind it.
    pub fn advance(&mut self, source: &str, partition: u32, position: u64) {
        let standing = self.standings.entry((source.to_owned(), partition)).or_default();
        (standing.applied, standing.is_touched) = (Some(position), true);
        self.clocks.settle(source, partition);
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

    /// Row records and states that `batches` are known to need and that are not in memory: what one read can bring beforehand. States of
    /// keys that only a stored row names are not among them.
    ///
    /// # Errors
    /// [`PipelineError::Row`].
    pub fn wants<'a>(&self, batches: impl IntoIterator<Item = &'a ChangeBatch>) -> Result<Query, PipelineError> {
        let Wanted { rows, states } = self.wanted(batches)?;
        let rows = self.mark_keys().chain(self.row_keys(&rows)).collect();
        Ok(Query { rows, states: self.state_queries(&states), ..Query::default() })
    }

    /// What [`Self::read`] needs of a key, the streams' marks among it: what one read can bring beforehand.
    #[must_use]
    pub fn wants_key(&self, entity: usize, key: &OwnedKey) -> Query {
        let states = self.state_queries(&[(entity, key.clone())]);
        Query { rows: self.mark_keys().collect(), states, ..Query::default() }
    }

    /// Brings what [`Self::wants`] names into memory, in one read together with `beside`; the answer to that.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub async fn bring<'a>(
        &mut self,
        batches: impl IntoIterator<Item = &'a ChangeBatch>,
        mut beside: Query,
    ) -> Result<Fetched, PipelineError> {
        self.bring_marks().await?;
        let Wanted { rows, states } = self.wanted(batches)?;
        beside.rows.splice(..0, self.row_keys(&rows));
        beside.states.splice(..0, self.state_queries(&states));
        let mut fetched = self.store.fetch(&beside).await?;
        self.load_rows(&rows, fetched.rows.drain(..rows.len()));
        self.load_states(&states, fetched.states.drain(..states.len()))?;
        Ok(fetched)
    }

    fn wanted<'a>(&self, batches: impl IntoIterator<Item = &'a ChangeBatch>) -> Result<Wanted, PipelineError> {
        let (mut rows, mut states) = (Vec::new(), Vec::new());
        for batch in batches {
            rows.append(&mut self.engine.wanted_rows(batch));
            states.append(&mut self.engine.wanted_states(batch).map_err(|source| self.damaged_row(batch, source))?);
        }
        rows.sort_unstable();
        rows.dedup();
        states.sort_unstable();
        states.dedup();
        Ok(Wanted { rows, states })
    }

    fn row_keys(&self, wanted: &[(usize, OwnedKey)]) -> Vec<RowKey> {
        let row = |(stream, id): &(usize, OwnedKey)| RowKey {
            stream: Arc::clone(&self.names.streams[*stream]),
            id: id.as_key().to_bytes(),
        };
        wanted.iter().map(row).collect()
    }

    fn state_queries(&self, wanted: &[(usize, OwnedKey)]) -> Vec<StateQuery> {
        let state = |(entity, key): &(usize, OwnedKey)| StateQuery {
            entity: Arc::clone(&self.names.entities[*entity]),
            key: key.as_key().to_bytes(),
            groups: Arc::clone(&self.names.groups[*entity]),
        };
        wanted.iter().map(state).collect()
    }

    async fn bring_rows(&mut self, batch: &ChangeBatch) -> Result<(), PipelineError> {
        let wanted = self.engine.wanted_rows(batch);
        if wanted.is_empty() {
            return Ok(());
        }
        let query = Query { rows: self.row_keys(&wanted), ..Query::default() };
        let fetched = self.store.fetch(&query).await?;
        self.load_rows(&wanted, fetched.rows);
        Ok(())
    }

    fn load_rows(&mut self, wanted: &[(usize, OwnedKey)], fetched: impl IntoIterator<Item = Option<Bytes>>) {
        for ((stream, id), bytes) in wanted.iter().zip(fetched) {
            self.engine.load_row(*stream, id, bytes.as_deref());
        }
    }

    async fn bring_states(&mut self, wanted: &[(usize, OwnedKey)]) -> Result<(), PipelineError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let query = Query { states: self.state_queries(wanted), ..Query::default() };
        let fetched = self.store.fetch(&query).await?;
        self.load_states(wanted, fetched.states)
    }

    fn load_states(
        &mut self,
        wanted: &[(usize, OwnedKey)],
        fetched: impl IntoIterator<Item = Vec<Option<Bytes>>>,
    ) -> Result<(), PipelineError> {
        self.unlooked += wanted.len();
        for ((entity, key), bytes) in wanted.iter().zip(fetched) {
            // A key of which nothing is stored takes no memory until an event of it comes: anyone may ask for keys that do not exist.
            if bytes.iter().all(Option::is_none) {
                continue;
            }
            let bytes: Vec<Option<&[u8]>> = bytes.iter().map(|bytes| bytes.as_deref()).collect();
            self.engine
                .load_states(*entity, key, &bytes)
                .map_err(|source| PipelineError::State { entity: self.names.entities[*entity].to_string(), source })?;
        }
        Ok(())
    }

    fn damaged_row(&self, batch: &ChangeBatch, source: Damaged) -> PipelineError {
        PipelineError::Row { stream: batch.stream().name.clone(), source }
    }

    /// Whether anything was applied that is not stored.
    #[must_use]
    pub fn is_ahead(&self) -> bool {
        self.unstored > 0 || self.standings.values().any(|standing| standing.applied != standing.stored)
    }

    /// How many changes were applied since the last commit: a commit's size grows with them. Positions need not have moved:
    /// a snapshot has but one.
    #[must_use]
    pub fn unstored(&self) -> usize {
        self.unstored
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
        for ((source, partition), standing) in &self.standings {
            if let Some(to) = standing.applied
                && !standing.is_volatile
                && (standing.applied != standing.stored || standing.is_touched)
            {
                let source = source.clone();
                commit.offsets.push(OffsetMove { source, partition: *partition, from: standing.stored, to });
            }
        }
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
        for standing in self.standings.values_mut() {
            (standing.applied, standing.is_touched) = (standing.stored, false);
        }
    }

    /// Moves that say where every source stands and leave it there: a commit with them is refused where the store does not hold that.
    #[must_use]
    pub fn held(&self) -> Vec<OffsetMove> {
        let held = |((source, partition), standing): (&(String, u32), &Standing)| {
            let to = standing.stored.filter(|_| !standing.is_volatile)?;
            Some(OffsetMove { source: source.clone(), partition: *partition, from: Some(to), to })
        };
        self.standings.iter().filter_map(held).collect()
    }

    /// Notes that the commit of the last [`Self::fill`] went through, and drops what is in memory if it is too much.
    pub fn stored(&mut self) {
        self.unstored = 0;
        for standing in self.standings.values_mut() {
            (standing.stored, standing.is_touched) = (standing.applied, false);
        }
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
