//! The embedded adapter: everything in one folder of this machine, one commit one atomic batch.
//!
//! Invariants:
//! - One process at a time holds a folder.
//! - One commit lock: what a commit checks holds until its batch is written. Readers never wait for it.
//! - After an answer of `commit`, a batch is with the system (it survives kill -9) or, if asked, on the disk.
//! - A write that fails leaves the database closed to writes and open to reads. The next write opens it anew, once the
//!   disk takes bytes again, and finds out what became of the one that failed: the same commit made again is answered,
//!   not made twice.
//! - A batch that a crash cut off, and all after it, is gone when the folder is opened again: offsets, states and
//!   decisions go back together, to the same commit.
//!
//! The trait's methods block for as long as their synchronous twins (`fetch_now`, `commit_now`, ...), which they call:
//! microseconds to milliseconds, a sync of the disk with [`Durability::Power`], longer while the engine makes room.
//! Call them on threads that may block.

mod commit;
mod doubt;
mod engine;
mod expiry;
mod failure;
mod journal;
mod layout;
mod log;
mod prune;
mod read;
mod registry;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::task::Poll;

use bytes::Bytes;
use interdict_features::decision::EntityRef;
use interdict_features::time::Timestamp;
use uuid::Uuid;

use crate::error::StoreError;
use crate::port::{
    Commit, Committed, Durability, Fetched, Intent, ListEntry, LogName, Offset, OutboxPlace, Query, Registered,
    RegistryEntry, Replicated, Store, StoredDecision,
};
use commit::Positions;
use doubt::{Doubts, InDoubt};
use engine::Engine;

/// What the embedded store may use.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// Memory for blocks read from disk, bytes. What was written last stays in memory beside it, up to 64 MiB for each
    /// of states, row records and decisions before it is written out.
    pub cache_bytes: u64,
    /// Unfinished actions at most; a commit that would bring in more fails with [`StoreError::OutboxFull`].
    pub outbox_capacity: usize,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self { cache_bytes: 128 * 1024 * 1024, outbox_capacity: 10_000 }
    }
}

/// A store in a folder.
pub struct EmbeddedStore {
    path: PathBuf,
    options: EmbeddedOptions,
    writer: Mutex<Writer>,
    /// `None` only after opening anew failed.
    engine: RwLock<Option<Engine>>,
    /// No outbox entry stands before this position: so many that were removed need not be passed over.
    outbox_first: AtomicU64,
    /// Released last.
    _lock: File,
}

/// What the one that holds the commit lock knows.
struct Writer {
    positions: Positions,
    index: expiry::Index,
    health: Health,
    in_doubt: Doubts,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Health {
    Sound,
    /// A write failed: the database takes no more before it is opened anew.
    Broken,
}

impl std::fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedStore").field("path", &self.path).finish_non_exhaustive()
    }
}

impl EmbeddedStore {
    /// Opens the store in `path`; makes folder and store when there is none.
    ///
    /// # Errors
    /// [`StoreError::Locked`] while another process (or another store of this process) holds the folder,
    /// [`StoreError::Corrupt`] for a format or bytes that this version cannot read, [`StoreError::Denied`],
    /// [`StoreError::DiskFull`], [`StoreError::Io`].
    pub fn open(path: &Path, options: EmbeddedOptions) -> Result<Self, StoreError> {
        let lock = engine::lock(path)?;
        let engine = Engine::open(path, &options)?;
        let writer = Writer {
            positions: positions(&engine)?,
            index: expiry::Index::new(),
            health: Health::Sound,
            in_doubt: Doubts::default(),
        };
        Ok(Self {
            path: path.to_owned(),
            options,
            writer: Mutex::new(writer),
            engine: RwLock::new(Some(engine)),
            outbox_first: AtomicU64::new(0),
            _lock: lock,
        })
    }

    /// [`Store::fetch`] on this thread.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Io`].
    pub fn fetch_now(&self, query: &Query) -> Result<Fetched, StoreError> {
        self.read(|engine| read::fetch(engine, query))
    }

    /// [`Store::commit`] on this thread.
    ///
    /// # Errors
    /// As [`Store::commit`]; after [`StoreError::DiskFull`] the same commit can be made again as it is.
    pub fn commit_now(&self, commit: &Commit) -> Result<Committed, StoreError> {
        self.write(|writer, engine| {
            if let Some(answer) = writer.in_doubt.landed(commit) {
                return Ok(answer);
            }
            let capacity = self.options.outbox_capacity;
            let staged = commit::stage(engine, &mut writer.index, &writer.positions, capacity, commit)
                .inspect_err(|_| writer.index.unstage())?;
            match engine.write(staged.batch, commit.durability) {
                Ok(()) => {
                    writer.index.settle();
                    writer.positions = staged.positions;
                    Ok(staged.answer)
                }
                Err(error) => {
                    writer.index.unstage();
                    if !is_refused(&error) {
                        let (commit, sequence) = (commit.clone(), staged.positions.sequence);
                        writer.in_doubt.add(InDoubt { commit, answer: staged.answer, sequence, is_landed: false });
                    }
                    Err(error)
                }
            }
        })
    }

    /// [`Store::offsets`] on this thread.
    ///
    /// # Errors
    /// [`StoreError::Incarnation`] for another identity than the stored one, and as [`Store::commit`].
    pub fn offsets_now(&self, source: &str, incarnation: &str) -> Result<Vec<Offset>, StoreError> {
        self.write(|_, engine| {
            let snapshot = engine.snapshot();
            let key = layout::incarnation_key(source)?;
            let offsets = read::offsets(engine, &snapshot, source)?;
            match read::text(engine, &snapshot, &key)? {
                Some(stored) if stored == incarnation => {}
                Some(stored) if !offsets.is_empty() => {
                    let (source_name, now) = (source.to_owned(), incarnation.to_owned());
                    return Err(StoreError::Incarnation { source_name, stored, now });
                }
                Some(_) | None => {
                    layout::bounded_value("incarnation", incarnation.len())?;
                    let mut batch = engine.batch(1);
                    batch.insert(&engine.meta, key.as_slice(), incarnation);
                    engine.write(batch, Durability::Power)?;
                }
            }
            Ok(offsets)
        })
    }

    /// The stored offsets of a source, whatever its identity: what the stored states hold of it.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Io`].
    pub fn positions_now(&self, source: &str) -> Result<Vec<Offset>, StoreError> {
        self.read(|engine| read::offsets(engine, &engine.snapshot(), source))
    }

    /// [`Store::decision`] on this thread.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Io`].
    pub fn decision_now(&self, id: Uuid) -> Result<Option<StoredDecision>, StoreError> {
        self.read(|engine| read::decision(engine, id))
    }

    /// [`Store::recent_decisions`] on this thread.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Io`].
    pub fn recent_decisions_now(&self, entity: &EntityRef, limit: usize) -> Result<Vec<Bytes>, StoreError> {
        self.read(|engine| read::recent(engine, entity, limit))
    }

    /// [`Store::lists`] on this thread.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Io`].
    pub fn lists_now(&self) -> Result<Vec<ListEntry>, StoreError> {
        self.read(read::lists)
    }

    /// Every state with its encoded key, in order of key: for comparing two stores. Holds them all in memory.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Io`].
    pub fn states_now(&self) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.read(|engine| read::images(engine, &engine.states))
    }

    /// Every row record with its encoded key, in order of key: for comparing two stores. Holds them all in memory.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Io`].
    pub fn rows_now(&self) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        self.read(|engine| read::images(engine, &engine.rows))
    }

    /// [`Store::outbox`] on this thread.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Io`].
    pub fn outbox_now(
        &self,
        behind: Option<&OutboxPlace>,
        limit: usize,
    ) -> Result<Vec<(OutboxPlace, Intent)>, StoreError> {
        self.read(|engine| {
            if let Some(OutboxPlace(behind)) = behind {
                return read::outbox(engine, Bound::Excluded(&**behind), limit);
            }
            let first = self.outbox_first.load(Ordering::Relaxed).to_be_bytes();
            let entries = read::outbox(engine, Bound::Included(&first[..]), limit)?;
            // Entries are made in the order of their positions: what is the oldest now stays it until it is removed.
            let first = entries.first().and_then(|(OutboxPlace(key), _)| key.first_chunk());
            if let Some(first) = first {
                self.outbox_first.fetch_max(u64::from_be_bytes(*first), Ordering::Relaxed);
            }
            Ok(entries)
        })
    }

    /// [`Store::read_log`] on this thread.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Io`].
    pub fn read_log_now(&self, name: LogName, position: u64, limit: usize) -> Result<Vec<(u64, Bytes)>, StoreError> {
        self.read(|engine| log::entries(engine, name, position, limit))
    }

    /// The position that the next entry of a log will have.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Io`].
    pub fn log_next_now(&self, name: LogName) -> Result<u64, StoreError> {
        self.read(|engine| log::next(engine, &engine.snapshot(), name))
    }

    /// [`Store::trim_log`] on this thread. A crash in between leaves a part of the entries; trimming again goes on.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn trim_log_now(&self, name: LogName, position: u64) -> Result<(), StoreError> {
        while !self.write(|_, engine| log::trim_step(engine, name, position))? {}
        Ok(())
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        // What the lock guards changes only after a batch is written, in steps that cannot panic.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T>(&self, read: impl Fn(&Engine) -> Result<T, StoreError>) -> Result<T, StoreError> {
        if let Some(engine) = &*self.engine.read().unwrap_or_else(PoisonError::into_inner) {
            return read(engine);
        }
        self.write(|_, engine| read(engine))
    }

    /// Runs `write` under the commit lock. When the database was broken before it wrote anything, opens it anew and
    /// runs `write` once more.
    fn write<T>(&self, mut write: impl FnMut(&mut Writer, &Engine) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut writer = self.writer();
        let mut is_second = false;
        loop {
            if writer.health == Health::Broken {
                self.reopen(&mut writer)?;
            }
            let result = match &*self.engine.read().unwrap_or_else(PoisonError::into_inner) {
                Some(engine) => write(&mut writer, engine),
                None => Err(StoreError::Engine(fjall::Error::Poisoned)),
            };
            let Err(error) = result else { return result };
            if breaks(&error) {
                writer.health = Health::Broken;
            }
            if !is_refused(&error) || is_second {
                return Err(error);
            }
            is_second = true;
        }
    }

    /// Closes and opens the database, and settles what was in doubt.
    fn reopen(&self, writer: &mut Writer) -> Result<(), StoreError> {
        engine::probe_space(&self.path)?;
        let mut slot = self.engine.write().unwrap_or_else(PoisonError::into_inner);
        drop(slot.take());
        let engine = Engine::open(&self.path, &self.options)?;
        writer.positions = positions(&engine)?;
        writer.index = expiry::Index::new();
        let sequence = writer.positions.sequence;
        writer.in_doubt.settle(sequence);
        // What was removed by a batch that is lost is there again.
        self.outbox_first.store(0, Ordering::Relaxed);
        *slot = Some(engine);
        writer.health = Health::Sound;
        tracing::warn!(path = %self.path.display(), "store opened anew after a failed write");
        Ok(())
    }
}

/// The database refused before it wrote anything.
fn is_refused(error: &StoreError) -> bool {
    matches!(error, StoreError::Engine(fjall::Error::Poisoned))
}

/// After this error the database takes no more writes.
fn breaks(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Engine(_) | StoreError::DiskFull { .. } | StoreError::Io { .. } | StoreError::Denied { .. }
    )
}

fn positions(engine: &Engine) -> Result<Positions, StoreError> {
    let snapshot = engine.snapshot();
    Ok(Positions {
        sequence: read::number(engine, &snapshot, &layout::SEQUENCE_KEY)?.unwrap_or(0),
        decisions_next: log::next(engine, &snapshot, LogName::DECISIONS)?,
        logs_next: std::collections::HashMap::new(),
        outbox_entries: read::outbox_entries(engine, &snapshot)?,
    })
}

/// Lets whoever polls see whether there is still a wish for the rest.
async fn step_aside() {
    let mut has_stepped = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut has_stepped, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl Store for EmbeddedStore {
    async fn fetch(&self, query: &Query) -> Result<Fetched, StoreError> {
        self.fetch_now(query)
    }

    async fn commit(&self, commit: Commit) -> Result<Committed, StoreError> {
        self.commit_now(&commit)
    }

    async fn offsets(&self, source: &str, incarnation: &str) -> Result<Vec<Offset>, StoreError> {
        self.offsets_now(source, incarnation)
    }

    async fn positions(&self, source: &str) -> Result<Vec<Offset>, StoreError> {
        self.positions_now(source)
    }

    async fn decision(&self, id: Uuid) -> Result<Option<StoredDecision>, StoreError> {
        self.decision_now(id)
    }

    async fn recent_decisions(&self, entity: &EntityRef, limit: usize) -> Result<Vec<Bytes>, StoreError> {
        self.recent_decisions_now(entity, limit)
    }

    async fn lists(&self) -> Result<Vec<ListEntry>, StoreError> {
        self.lists_now()
    }

    async fn outbox(
        &self,
        behind: Option<&OutboxPlace>,
        limit: usize,
    ) -> Result<Vec<(OutboxPlace, Intent)>, StoreError> {
        self.outbox_now(behind, limit)
    }

    async fn work_waiting(&self) -> Result<u64, StoreError> {
        Ok(0)
    }

    async fn replicated(&self) -> Result<Replicated, StoreError> {
        Ok(Replicated::Nobody)
    }

    async fn read_log(&self, log: LogName, position: u64, limit: usize) -> Result<Vec<(u64, Bytes)>, StoreError> {
        self.read_log_now(log, position, limit)
    }

    async fn log_next(&self, log: LogName) -> Result<u64, StoreError> {
        self.log_next_now(log)
    }

    async fn trim_log(&self, log: LogName, position: u64) -> Result<(), StoreError> {
        self.trim_log_now(log, position)
    }

    async fn expire(&self, now: Timestamp) -> Result<u64, StoreError> {
        let mut removed = 0;
        loop {
            let swept = self.write(|writer, engine| expiry::sweep(engine, &mut writer.index, now))?;
            removed += swept.removed;
            if swept.is_done {
                return Ok(removed);
            }
            step_aside().await;
        }
    }

    async fn prune(
        &self,
        entity: &str,
        group: u64,
        is_stale: &(dyn Fn(&[u8]) -> bool + Sync),
    ) -> Result<u64, StoreError> {
        let (mut removed, mut last) = (0, None);
        loop {
            let pruned = self.write(|_, engine| prune::prune(engine, (entity, group), last.as_deref(), is_stale))?;
            removed += pruned.removed;
            last = pruned.last;
            if last.is_none() {
                return Ok(removed);
            }
            step_aside().await;
        }
    }

    async fn register(&self, entry: RegistryEntry) -> Result<(), StoreError> {
        self.register_now(&entry)
    }

    async fn registry(&self) -> Result<Registered, StoreError> {
        self.registry_now()
    }

    async fn set_alias(&self, alias: &str, version: &str) -> Result<(), StoreError> {
        self.set_alias_now(alias, version)
    }
}
