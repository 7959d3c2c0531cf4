//! The archive of a running process: a thread for every archived source, between its reader and the disk.
//!
//! Order: a reader hands every delivery to its archive before the engine gets it; the engine tells how far each source is stored; files
//! are published up to there. A full or slow disk fills the queue, and the reader waits.
//!
//! Invariants:
//! - No source is told that something is durable before it is archived (`Archives::confirmable`).
//! - What the store holds and the archive does not is read again for the archive alone: the engine does not see it twice.
//! - A snapshot's files are on disk before the engine learns that it has ended.

mod keeper;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use interdict_features::change::ChangeBatch;
use interdict_features::time::Timestamp;
use interdict_ingest::archive::config::ArchiveConfig;
use interdict_ingest::archive::folder::{Owner, Sharing, SourceFolder};
use interdict_ingest::archive::metrics::{ArchiveMetrics, SourceMetrics};
use interdict_ingest::archive::{Places, Writer, snapshot_of};
use interdict_ingest::source::Delivery;
use interdict_ingest::source::stop::Stop;
use interdict_store::error::Class;
use prometheus_client::registry::Registry;

use keeper::Keeper;

use crate::setup::Setup;

use super::clock;

/// Deliveries that wait for a source's archive at most.
const QUEUE: usize = 8;

/// How often an archive looks whether something is due, and a reader whether there is room.
const LOOK: Duration = Duration::from_millis(20);

/// How often a folder that another process is publishing to is asked for.
const STANDBY: Duration = Duration::from_millis(200);

/// How far a source is stored and archived.
#[derive(Debug, Default)]
struct Progress {
    stored: AtomicU64,
    archived: AtomicU64,
    /// The archive was begun; before, nothing is known of it.
    is_begun: AtomicBool,
}

/// The archives of a process; without `[archive]` there is none, and nothing waits for any.
#[derive(Clone, Debug, Default)]
pub(crate) struct Archives(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    config: ArchiveConfig,
    namespace: String,
    sharing: Sharing,
    metrics: ArchiveMetrics,
    stop: Stop,
    /// Nothing more will be stored.
    is_over: AtomicBool,
    sources: Mutex<Vec<(String, Arc<Progress>)>>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

impl Archives {
    /// Those that `setup` asks for, once their folder can be written to; `stop` is the signal that readers heed.
    pub(crate) fn open(setup: &Setup, sharing: Sharing, registry: &mut Registry, stop: &Stop) -> anyhow::Result<Self> {
        let Some(config) = &setup.archive else { return Ok(Self::default()) };
        check(&config.dir)?;
        Ok(Self(Some(Arc::new(Shared {
            config: config.clone(),
            namespace: setup.namespace.clone(),
            sharing,
            metrics: ArchiveMetrics::register(registry),
            stop: stop.clone(),
            is_over: AtomicBool::new(false),
            sources: Mutex::default(),
            threads: Mutex::default(),
        }))))
    }

    /// What the reader of `source` hands its deliveries to.
    pub(crate) fn of(&self, source: &str, places: Places) -> Option<Archive> {
        let shared = Arc::clone(self.0.as_ref()?);
        let progress = Arc::new(Progress::default());
        lock(&shared.sources).push((source.to_owned(), Arc::clone(&progress)));
        // They are shown from the start.
        let metrics = shared.metrics.of(source);
        metrics.published.set(now_seconds());
        Some(Archive { shared, source: source.to_owned(), places, progress, metrics, queue: None })
    }

    /// Tells how far every source is stored.
    pub(crate) fn stored(&self, position: impl Fn(&str) -> Option<u64>) {
        let Some(shared) = &self.0 else { return };
        for (source, progress) in lock(&shared.sources).iter() {
            progress.stored.store(position(source).unwrap_or_default(), Ordering::Release);
        }
    }

    /// Up to where `source`, which is stored up to `stored`, may be told that everything is durable.
    pub(crate) fn confirmable(&self, source: &str, stored: u64) -> Option<u64> {
        let Some(progress) = self.progress(source) else { return Some(stored) };
        let archived = progress.archived.load(Ordering::Acquire);
        progress.is_begun.load(Ordering::Acquire).then_some(archived.min(stored))
    }

    /// Whether any archive is behind the store: sources will be told more later.
    pub(crate) fn are_behind(&self) -> bool {
        let Some(shared) = &self.0 else { return false };
        lock(&shared.sources).iter().any(|(_, progress)| {
            let archived = progress.archived.load(Ordering::Acquire);
            progress.is_begun.load(Ordering::Acquire) && archived < progress.stored.load(Ordering::Acquire)
        })
    }

    fn progress(&self, source: &str) -> Option<Arc<Progress>> {
        let sources = lock(&self.0.as_ref()?.sources);
        sources.iter().find(|(name, _)| name == source).map(|(_, progress)| Arc::clone(progress))
    }

    /// Publishes what is stored and waits for the threads; to be called once nothing more will be stored and the readers have ended.
    pub(crate) fn finish(&self) {
        let Some(shared) = &self.0 else { return };
        shared.is_over.store(true, Ordering::Release);
        let threads = std::mem::take(&mut *lock(&shared.threads));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!(
                    "an archive's thread panicked; what it did not publish is read again after the next start"
                );
            }
        }
    }
}

/// The wall clock in seconds after 1970.
fn now_seconds() -> f64 {
    clock::now().since(Timestamp::from_micros(0)).seconds()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing that changes them can panic half way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a reader hands over.
struct Given {
    batches: Vec<ChangeBatch>,
    position: u64,
    /// Told once everything up to `position` is prepared on disk.
    prepared: Option<SyncSender<()>>,
}

/// The archive of one source, as its reader sees it.
#[derive(Debug)]
pub(crate) struct Archive {
    shared: Arc<Shared>,
    source: String,
    places: Places,
    progress: Arc<Progress>,
    metrics: SourceMetrics,
    queue: Option<Begun>,
}

#[derive(Debug)]
struct Begun {
    sender: SyncSender<Given>,
    /// Where the source stood with the delivery before.
    position: u64,
    /// The position with which the snapshot that is being read ends.
    snapshot: Option<u64>,
    /// What the store held at the beginning: up to there deliveries are for the archive alone.
    stored: u64,
}

/// Whose turn it is after a delivery was archived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// The engine gets it.
    Engine,
    /// The engine has it already.
    Nobody,
    /// The reader was told to stop.
    Stop,
}

impl Archive {
    /// Takes the source's folder over; `None` when told to stop. To be called before the engine is asked for the source's position: whoever
    /// had it publishes nothing any more then.
    pub(crate) fn take(&self, incarnation: &str) -> anyhow::Result<Option<SourceFolder>> {
        let mut is_told = false;
        loop {
            match SourceFolder::take(&self.shared.config.dir, &self.owner(incarnation), self.shared.sharing) {
                Ok(Some(folder)) => return Ok(Some(folder)),
                Ok(None) if !std::mem::replace(&mut is_told, true) => {
                    tracing::info!(
                        source = self.source,
                        "another process is publishing this source's archive; waiting"
                    );
                }
                Ok(None) => {}
                Err(error) if error.class() == Class::Transient => {
                    self.metrics.failures.inc();
                    tracing::error!(%error, source = self.source, "the archive takes nothing; intake waits");
                }
                Err(error) => return Err(error).with_context(|| format!("the archive of source '{}'", self.source)),
            }
            if self.shared.stop.wait(STANDBY) {
                return Ok(None);
            }
        }
    }

    fn owner(&self, incarnation: &str) -> Owner {
        Owner {
            namespace: self.shared.namespace.clone(),
            source: self.source.clone(),
            incarnation: incarnation.to_owned(),
        }
    }

    /// Begins to archive what comes of `incarnation`, which is stored up to `stored`; the position after which the source goes on.
    pub(crate) fn begin(
        &mut self,
        folder: SourceFolder,
        incarnation: &str,
        stored: Option<u64>,
    ) -> anyhow::Result<Option<u64>> {
        let stored = stored.unwrap_or_default();
        let options = self.shared.config.options;
        let (writer, position) = Writer::begin(folder, self.owner(incarnation), stored, self.places, options)
            .with_context(|| format!("the archive of source '{}'", self.source))?;
        if position < stored {
            tracing::info!(
                source = self.source,
                archived = position,
                stored,
                "what is stored is read again for the archive"
            );
        }
        self.progress.archived.store(writer.position(), Ordering::Release);
        self.progress.stored.store(stored, Ordering::Release);
        self.progress.is_begun.store(true, Ordering::Release);
        // Without a position the first snapshot comes, and any position is its end.
        let snapshot = (position == 0).then_some(1);
        self.queue = Some(Begun { sender: self.keep(writer)?, position, snapshot, stored });
        Ok((position > 0).then_some(position))
    }

    /// Starts the archive's thread; where it takes deliveries.
    fn keep(&self, writer: Writer) -> anyhow::Result<SyncSender<Given>> {
        let (sender, queue) = sync_channel(QUEUE);
        let mut keeper = Keeper {
            shared: Arc::clone(&self.shared),
            source: self.source.clone(),
            progress: Arc::clone(&self.progress),
            metrics: self.metrics.clone(),
            writer,
        };
        let thread = std::thread::Builder::new().name(format!("archive-{}", self.source));
        let thread = thread.spawn(move || {
            if let Err(error) = keeper.run(&queue) {
                tracing::error!(error = crate::told::told(&error), source = keeper.source, "an archive has ended");
            }
        })?;
        lock(&self.shared.threads).push(thread);
        Ok(sender)
    }

    /// What to say of a source that cannot go on where the archive does.
    pub(crate) fn told_behind(&self) -> Option<String> {
        let begun = self.queue.as_ref().filter(|begun| begun.position < begun.stored)?;
        Some(format!(
            "the archive of source '{}' in {} ends at position {}, the store stands at {}; if the changes in between are gone (they went by while [archive] was off, or the folder is an older copy), move the folder away to begin a new archive with the next change",
            self.source,
            self.shared.config.dir.display(),
            begun.position,
            begun.stored
        ))
    }

    /// Hands a delivery over; waits while the archive is behind.
    pub(crate) fn push(&mut self, delivery: &Delivery) -> anyhow::Result<Next> {
        let Some(begun) = &mut self.queue else { return Ok(Next::Engine) };
        begun.snapshot = snapshot_of(&delivery.batches).or(begun.snapshot).filter(|_| self.places == Places::Log);
        let ends_snapshot = begun.snapshot.take_if(|end| *end <= delivery.position).is_some();
        begun.position = begun.position.max(delivery.position);
        let (prepared, is_prepared) = sync_channel(1);
        let given = Given {
            batches: delivery.batches.clone(),
            position: delivery.position,
            prepared: ends_snapshot.then_some(prepared),
        };
        let ended = || anyhow!("the archive of source '{}' has ended; the log says why", self.source);
        if !hand_over(&begun.sender, given, &self.shared.stop, &self.source).ok_or_else(ended)? {
            return Ok(Next::Stop);
        }
        if ends_snapshot && !wait_for(&is_prepared, &self.shared.stop).ok_or_else(ended)? {
            return Ok(Next::Stop);
        }
        let is_known = begun.stored > 0 && self.places.covers_all(begun.stored, delivery);
        Ok(if is_known { Next::Nobody } else { Next::Engine })
    }
}

/// Waits until `told`; false when told to stop before, `None` when nobody will tell any more.
fn wait_for(told: &Receiver<()>, stop: &Stop) -> Option<bool> {
    loop {
        match told.recv_timeout(LOOK) {
            Ok(()) => return Some(true),
            Err(_) if stop.is_stopped() => return Some(false),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
}

/// Puts `given` into the queue; false when told to stop before there was room, `None` when nobody takes it any more.
fn hand_over(queue: &SyncSender<Given>, mut given: Given, stop: &Stop, source: &str) -> Option<bool> {
    let mut waited = 0;
    loop {
        match queue.try_send(given) {
            Ok(()) => return Some(true),
            Err(TrySendError::Disconnected(_)) => return None,
            Err(TrySendError::Full(back)) => given = back,
        }
        if waited == 50 {
            tracing::warn!(source, "the archive does not keep up; intake waits");
        }
        waited += 1;
        if stop.wait(LOOK) {
            return Some(false);
        }
    }
}

/// Whether an archive can be written at `dir`.
fn check(dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir)
        .and_then(|()| tempfile::tempfile_in(dir).map(drop))
        .with_context(|| format!("[archive] dir {} cannot be written to", dir.display()))
}
