//! The open database: its folder, its keyspaces, its format.
//!
//! Layout of the folder: `lock` (held as long as the store is open), `data` (the database), `data.new` (a database that
//! is being made: a death before it is renamed leaves nothing behind but itself).

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use fjall::config::PinningPolicy;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Readable, Snapshot};

use super::journal::Syncing;
use super::layout::{self, FORMAT, FORMAT_KEY};
use super::{EmbeddedOptions, failure};
use crate::background;
use crate::error::StoreError;
use crate::port::Durability;

/// What must be free on the disk before a broken database is opened again, bytes.
const PROBE_BYTES: usize = 4 * 1024 * 1024;

/// Full write buffers of one keyspace that may wait to be written out; the engine stops all writers at 4.
const SEALED_MAX: usize = 2;

/// New tables of one keyspace that may wait to be merged; the engine slows writers at 20 and stops them at 30.
const TABLES_NEW_MAX: usize = 24;

/// The open database.
pub(super) struct Engine {
    pub(super) meta: Keyspace,
    pub(super) states: Keyspace,
    pub(super) rows: Keyspace,
    pub(super) decisions: Keyspace,
    pub(super) claims: Keyspace,
    pub(super) appended: Keyspace,
    pub(super) recent: Keyspace,
    pub(super) lists: Keyspace,
    pub(super) outbox: Keyspace,
    pub(super) logs: Keyspace,
    pub(super) expiry: Keyspace,
    journal: Syncing,
    db: Database,
    path: Box<Path>,
}

/// Tries for the folder's lock, and the time between two of them. A child process that is just being started holds a copy of the lock of
/// a store closed meanwhile, until its program begins: a matter of milliseconds, no other process at work.
const LOCK_TRIES: usize = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(4);

/// Takes the folder for this process; makes it when missing.
pub(super) fn lock(path: &Path) -> Result<File, StoreError> {
    fs::create_dir_all(path).map_err(|error| failure::of_file(path, "making the folder", error))?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path.join("lock"))
        .map_err(|error| failure::of_file(path, "opening the lock file", error))?;
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => pause(LOCK_PAUSE),
            Err(TryLockError::Error(error)) => return Err(failure::of_file(path, "locking the folder", error)),
        }
    }
    Err(StoreError::Locked { path: path.to_owned() })
}

#[expect(clippy::disallowed_methods, reason = "nothing tells when another process lets go of a lock")]
fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// Fails as long as the disk is full, so that what is open stays readable meanwhile.
pub(super) fn probe_space(path: &Path) -> Result<(), StoreError> {
    let probe = path.join("probe");
    let written = File::create(&probe).and_then(|mut file| {
        file.write_all(&vec![0x5A; PROBE_BYTES])?;
        file.sync_all()
    });
    let removed = match fs::remove_file(&probe) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    written.and(removed).map_err(|error| failure::of_file(path, "writing to the folder", error))
}

impl Engine {
    /// Opens the database in a folder that is locked; makes it when there is none.
    pub(super) fn open(path: &Path, options: &EmbeddedOptions) -> Result<Self, StoreError> {
        let data = path.join("data");
        let exists = data.try_exists().map_err(|error| failure::of_file(path, "reading the folder", error))?;
        if !exists {
            create(path, &data, options)?;
        }
        let engine = Self::open_keyspaces(path, &data, options)?;
        engine.check_format()?;
        Ok(engine)
    }

    fn open_keyspaces(path: &Path, data: &Path, options: &EmbeddedOptions) -> Result<Self, StoreError> {
        let open = || {
            // Its threads write out and merge what was committed: work that may wait.
            let db = background::starting(|| Database::builder(data).cache_size(options.cache_bytes).open())?;
            Ok(Self {
                meta: db.keyspace("meta", KeyspaceCreateOptions::default)?,
                states: db.keyspace("states", point_reads)?,
                rows: db.keyspace("rows", point_reads)?,
                decisions: db.keyspace("decisions", KeyspaceCreateOptions::default)?,
                claims: db.keyspace("claims", point_reads)?,
                appended: db.keyspace("appended", KeyspaceCreateOptions::default)?,
                recent: db.keyspace("recent", KeyspaceCreateOptions::default)?,
                lists: db.keyspace("lists", point_reads)?,
                outbox: db.keyspace("outbox", KeyspaceCreateOptions::default)?,
                logs: db.keyspace("logs", KeyspaceCreateOptions::default)?,
                expiry: db.keyspace("expiry", KeyspaceCreateOptions::default)?,
                journal: Syncing::start(data)?,
                db,
                path: path.into(),
            })
        };
        open().map_err(|error| failure::of_engine(path, error))
    }

    fn check_format(&self) -> Result<(), StoreError> {
        let why = match self.snapshot().get(&self.meta, FORMAT_KEY).map_err(|error| self.failure(error))?.as_deref() {
            Some([FORMAT]) => return Ok(()),
            Some([other]) => {
                format!(
                    "it is format {other}, this version reads format {FORMAT}; open it with the version that wrote it"
                )
            }
            _ => format!("it names none, this version reads format {FORMAT}"),
        };
        let rest = "or move the folder away and let a new store be filled from the source";
        Err(StoreError::Corrupt { what: "format", why: format!("{why}, {rest} ({})", self.path.display()) })
    }

    /// Everything that was committed so far, and nothing of what is being committed.
    pub(super) fn snapshot(&self) -> Snapshot {
        self.db.snapshot()
    }

    /// An empty batch.
    pub(super) fn batch(&self, capacity: usize) -> OwnedWriteBatch {
        OwnedWriteBatch::with_capacity(self.db.clone(), capacity)
    }

    /// Writes a batch. After Ok it is visible, and with the system or on the disk as asked: a batch without a mode would
    /// stay in this process's own buffer.
    pub(super) fn write(&self, batch: OwnedWriteBatch, durability: Durability) -> Result<(), StoreError> {
        self.make_room()?;
        self.journal.catch_up(|| self.db.persist(PersistMode::SyncData).map_err(|error| self.failure(error)))?;
        let mode = match durability {
            Durability::Process => PersistMode::Buffer,
            Durability::Power => PersistMode::SyncData,
        };
        batch.durability(Some(mode)).commit().map_err(|error| self.failure(error))?;
        if durability == Durability::Process {
            self.journal.written();
        }
        Ok(())
    }

    /// Waits until the engine's threads have written out enough. The engine would wait by itself, but for ever where the
    /// thread that makes room has died of a full disk; this wait ends then.
    fn make_room(&self) -> Result<(), StoreError> {
        for keyspace in self.keyspaces() {
            while keyspace.sealed_memtable_count() > SEALED_MAX || keyspace.l0_table_count() > TABLES_NEW_MAX {
                self.db.persist(PersistMode::Buffer).map_err(|error| self.failure(error))?;
                #[expect(clippy::disallowed_methods, reason = "the engine offers no condition to wait on")]
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    fn keyspaces(&self) -> [&Keyspace; 11] {
        [
            &self.meta,
            &self.states,
            &self.rows,
            &self.decisions,
            &self.claims,
            &self.appended,
            &self.recent,
            &self.lists,
            &self.outbox,
            &self.logs,
            &self.expiry,
        ]
    }

    /// Gives an error of the database its variant.
    pub(super) fn failure(&self, error: fjall::Error) -> StoreError {
        failure::of_engine(&self.path, error)
    }
}

/// Filters stay in memory down to the third level: a row that does not exist costs no read.
fn point_reads() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default().filter_block_pinning_policy(PinningPolicy::new([true, true, true, false]))
}

/// Makes a whole database beside `data`, then renames it.
fn create(path: &Path, data: &Path, options: &EmbeddedOptions) -> Result<(), StoreError> {
    let file = |what: &'static str| move |error| failure::of_file(path, what, error);
    let new = path.join("data.new");
    match fs::remove_dir_all(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(file("removing what an interrupted start left")(error));
        }
        _ => {}
    }
    let engine = Engine::open_keyspaces(path, &new, options)?;
    let mut batch = engine.batch(1);
    batch.insert(&engine.meta, FORMAT_KEY, [FORMAT]);
    engine.write(batch, Durability::Power)?;
    drop(engine);
    fs::rename(&new, data).map_err(file("naming the new database"))?;
    File::open(path).and_then(|folder| folder.sync_all()).map_err(file("syncing the folder"))?;
    tracing::info!(path = %path.display(), format = layout::FORMAT, "new store made");
    Ok(())
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_left_to_the_journals_thread_and_makes_up_for_what_that_failed_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let mut engine = Engine::open(folder.path(), &EmbeddedOptions::default()).unwrap();
        engine.journal = Syncing::still();
        let write = |engine: &Engine, durability| {
            let mut batch = engine.batch(1);
            batch.insert(&engine.meta, "key", "value");
            engine.write(batch, durability).unwrap();
        };
        write(&engine, Durability::Power);
        assert!(!engine.journal.is_written(), "it is on the disk");
        write(&engine, Durability::Process);
        assert!(engine.journal.is_written(), "the thread is to sync it");
        engine.journal.fail();
        write(&engine, Durability::Process);
        assert_eq!(engine.journal.catch_up(|| Err(())), Ok(()), "the commit did what had failed");
    }
}
