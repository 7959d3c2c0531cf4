//! Sources on threads of their own: what each reads goes to the engine through one bounded queue.
//!
//! Invariants:
//! - A reader asks the engine for its position before it reads, so that it goes on after what the store holds.
//! - A source that forgets what was confirmed hears of a position only once everything up to it is on disk, and in the archive where
//!   there is one.
//! - A delivery goes to the archive before it goes to the engine.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use interdict_features::change::Op;
use interdict_features::definition::Definitions;
#[cfg(feature = "postgres")]
use interdict_features::engine::Plan;
use interdict_features::engine::is_judged_by_itself;
use interdict_ingest::archive::Places;
use interdict_ingest::dead_letter::{DeadLetter, DeadReason};
use interdict_ingest::source::config::{Format, SourceConfig, SourceKind};
use interdict_ingest::source::error::SourceError;
#[cfg(feature = "postgres")]
use interdict_ingest::source::postgres::{self, PostgresSource, metrics::PostgresMetrics};
use interdict_ingest::source::stop::Stop;
use interdict_ingest::source::{Delivery, FileSource};
use interdict_ingest::topic::metrics::TopicMetrics;
use interdict_ingest::topic::{self, Opening};
use interdict_store::port::Offset;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};

use crate::setup::Setup;

use super::archiving::{Archive, Archives, Next};
use super::clock;
use super::core::{Intake, position_of};
use super::reached::Reached;
use super::topics::{self, Among};

/// Records of one delivery at most.
pub(crate) const DELIVERY: usize = 2_048;
/// How long a reader that has something else to do waits for the engine in one go.
const PATIENCE: Duration = Duration::from_millis(200);

/// A source made by the caller, such as the demo's simulation.
pub(crate) struct OwnSource {
    pub(crate) name: String,
    /// Its identity, when it can be taken up again.
    pub(crate) incarnation: Option<String>,
    /// Runs on a thread of its own until it ends or is stopped; is handed the position it goes on after.
    pub(crate) read: Box<dyn FnOnce(Intaker, Stop, Option<u64>) -> anyhow::Result<()> + Send>,
}

/// Where a source puts its deliveries. Blocks while the engine is behind.
#[derive(Debug)]
pub(crate) struct Intaker {
    pub(super) source: Arc<str>,
    pub(super) intake: mpsc::Sender<Intake>,
}

impl Intaker {
    /// Makes a source of one partition known to the engine; the position after which it goes on.
    pub(super) fn attach(&self, incarnation: Option<String>) -> anyhow::Result<Option<u64>> {
        Ok(position_of(&self.attach_partitions(incarnation, vec![0], Vec::new())?, 0))
    }

    /// Makes a source known to the engine; the positions after which `partitions`, all that are read here, go on. `new` are those of
    /// them that another process may still believe to read.
    pub(super) fn attach_partitions(
        &self,
        incarnation: Option<String>,
        partitions: Vec<u32>,
        new: Vec<u32>,
    ) -> anyhow::Result<Vec<Offset>> {
        self.ask(|source, reply| Intake::Attach { source, incarnation, partitions, new, reply })?
    }

    /// Has everything stored that was taken of `partitions`, which are read here no more.
    pub(super) fn release(&self, partitions: Vec<u32>) -> anyhow::Result<()> {
        self.ask(|source, reply| Intake::Release { source, partitions, reply })
    }

    fn ask<T>(&self, question: impl FnOnce(Arc<str>, oneshot::Sender<T>) -> Intake) -> anyhow::Result<T> {
        let (reply, answer) = oneshot::channel();
        let ended = || anyhow!("the engine has ended");
        self.intake.blocking_send(question(Arc::clone(&self.source), reply)).map_err(|_closed| ended())?;
        answer.blocking_recv().map_err(|_closed| ended())
    }

    /// Hands over a delivery; false when the engine has ended.
    pub(crate) fn give(&self, delivery: Delivery) -> bool {
        self.intake.blocking_send(self.given(delivery)).is_ok()
    }

    /// As [`Self::give`]; does `meanwhile` every now and then for as long as the engine takes nothing.
    pub(super) fn give_patiently(&self, runtime: &Runtime, delivery: Delivery, mut meanwhile: impl FnMut()) -> bool {
        let given = self.given(delivery);
        // Asked for once: whoever asks again goes behind all others that wait.
        let mut room = std::pin::pin!(self.intake.reserve());
        loop {
            match runtime.block_on(async { tokio::time::timeout(PATIENCE, room.as_mut()).await }) {
                Ok(Ok(room)) => {
                    room.send(given);
                    return true;
                }
                Ok(Err(_ended)) => return false,
                Err(_full) => meanwhile(),
            }
        }
    }

    fn given(&self, delivery: Delivery) -> Intake {
        Intake::Delivery { source: Arc::clone(&self.source), delivery, read: clock::instant() }
    }
}

/// A source does not begin: the process was told to stop.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("told to stop")]
pub(crate) struct ToldToStop;

/// The judged stream of every source whose records belong to one stream and are not history.
#[derive(Clone, Debug, Default)]
pub(crate) struct JudgedSources(HashMap<String, usize>);

impl JudgedSources {
    pub(crate) fn of(setup: &Setup) -> Self {
        let streams = &setup.definitions.streams;
        let stream_of = |config: &SourceConfig| {
            let (stream, reading, format) = match &config.kind {
                SourceKind::File(file) => (&file.stream, &file.reading, file.format),
                SourceKind::Topic(topic) => (&topic.stream, &topic.reading, topic.format),
                _ => return None,
            };
            let only = match stream {
                Some(name) => streams.iter().find(|stream| stream.name == *name),
                None => streams.first().filter(|_| streams.len() == 1),
            };
            let is_history = reading.rows_as == Op::Snapshot && format != Format::Debezium;
            only.filter(|stream| stream.judge.is_some() && !is_history)
                .map(|stream| (config.name.clone(), stream.index))
        };
        Self(setup.sources.iter().filter_map(stream_of).collect())
    }

    /// The stream by whose policy a record that became no event is decided: the one whose table it names, else the source's only one. None
    /// if it says that it is history, or a change of a kind that is not judged. A row of a snapshot behind lost changes: its stream, judged or
    /// not.
    pub(crate) fn stream_of(&self, definitions: &Definitions, source: &str, letter: &DeadLetter) -> Option<usize> {
        let stream = match &letter.stream {
            _ if letter.reason == DeadReason::UnknownTable => None,
            Some(name) => definitions.stream(name).map(|stream| stream.index),
            None => self.0.get(source).copied(),
        };
        let is_judged = |stream: &usize| {
            let stream = &definitions.streams[*stream];
            if matches!(letter.op, Some(Op::Recovered | Op::Snapshot)) {
                // The row record is to hear that its row is there, and tells whether it is to be judged.
                return letter.id.is_some() && stream.time.is_some() && stream.labels.is_none();
            }
            letter.op.map_or(stream.judge.is_some(), |op| is_judged_by_itself(stream, op))
        };
        stream.filter(is_judged)
    }
}

/// What a source's reader pulls from.
trait Pull: Send + 'static {
    /// The source's identity; `None`: there is no place to return to.
    fn incarnation(&mut self) -> Result<Option<String>, SourceError>;
    /// Goes on after `position`, the lower of what is archived and what is `stored`.
    fn resume(&mut self, position: u64, stored: u64) -> Result<(), SourceError>;
    fn next(&mut self, records_max: usize) -> Result<Option<Delivery>, SourceError>;
}

impl Pull for FileSource {
    fn incarnation(&mut self) -> Result<Option<String>, SourceError> {
        Self::incarnation(self)
    }

    fn resume(&mut self, position: u64, _stored: u64) -> Result<(), SourceError> {
        Self::resume(self, position)
    }

    fn next(&mut self, records_max: usize) -> Result<Option<Delivery>, SourceError> {
        Self::next(self, records_max)
    }
}

#[cfg(feature = "postgres")]
impl Pull for PostgresSource {
    fn incarnation(&mut self) -> Result<Option<String>, SourceError> {
        Self::incarnation(self)
    }

    fn resume(&mut self, position: u64, stored: u64) -> Result<(), SourceError> {
        Self::resume(self, position, stored)
    }

    fn next(&mut self, records_max: usize) -> Result<Option<Delivery>, SourceError> {
        Self::next(self, records_max)
    }
}

#[expect(clippy::disallowed_methods, reason = "passwords are configuration")]
pub(super) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Tells a source up to which position of a partition everything is on disk.
pub(crate) type Confirm = Box<dyn Fn(u32, u64) + Send>;

/// Stored positions by partition.
type Positions = Vec<(u32, u64)>;

/// Confirmations by source.
#[derive(Default)]
pub(crate) struct Confirms {
    sources: Vec<(String, Confirm)>,
    /// Positions that were stored, by source and with their time, and not confirmed yet; oldest first.
    waiting: VecDeque<(Instant, Vec<Positions>)>,
    /// The newest of them, confirmed or not.
    newest: Vec<Positions>,
    /// How long after it was stored a position is confirmed: a store that may lose its last moments is filled again from the source.
    window: Duration,
}

impl std::fmt::Debug for Confirms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.sources.iter().map(|(name, _)| name)).finish()
    }
}

impl Confirms {
    /// No source yet; positions are confirmed `window` after they were stored.
    pub(crate) fn after(window: Duration) -> Self {
        Self { window, ..Self::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Notes the positions that are stored as of `now`, and tells every source the one whose time has come. Sources without one have
    /// nothing stored.
    pub(crate) fn stored(&mut self, now: Instant, positions_of: impl Fn(&str) -> Positions) {
        let positions: Vec<Positions> = self.sources.iter().map(|(name, _)| positions_of(name)).collect();
        if self.newest != positions {
            self.newest.clone_from(&positions);
            self.waiting.push_back((now, positions));
        }
        while self.waiting.front().is_some_and(|(at, _)| now.duration_since(*at) >= self.window) {
            let Some((_, positions)) = self.waiting.pop_front() else { break };
            for ((_, confirm), positions) in self.sources.iter().zip(positions) {
                for (partition, position) in positions {
                    confirm(partition, position);
                }
            }
        }
    }

    /// Whether everything that was stored is confirmed.
    pub(crate) fn are_done(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// Where sources are started from.
pub(crate) struct Starter<'a> {
    pub(crate) setup: &'a Setup,
    /// What is computed of its streams, and so for how long their rows are remembered.
    #[cfg(feature = "postgres")]
    pub(crate) plan: Arc<Plan>,
    pub(crate) intake: mpsc::Sender<Intake>,
    pub(crate) stop: &'a Stop,
    pub(crate) confirms: Confirms,
    pub(crate) reached: Reached,
    pub(crate) topics: TopicMetrics,
    /// What the readers of the topic of a source agree on.
    pub(crate) among: &'a dyn Fn(&str) -> Box<dyn Among>,
    pub(crate) archives: Archives,
    #[cfg(feature = "postgres")]
    pub(crate) postgres: &'a PostgresMetrics,
}

impl Starter<'_> {
    /// Reads a configured source on a thread of its own, from where the store left it. One that has no identity yet (a followed file
    /// that is still empty, a database that is not reachable) waits there, and nothing else does.
    pub(crate) fn configured(&mut self, config: &SourceConfig) -> anyhow::Result<()> {
        match &config.kind {
            SourceKind::File(file) => {
                let streams = &self.setup.definitions.streams;
                let source = FileSource::open(&config.name, file, streams, self.stop.clone())?;
                // A followed file may well be empty for days.
                self.pull(&config.name, Places::Records, source, Arc::default())
            }
            #[cfg(feature = "postgres")]
            SourceKind::Postgres(database) => {
                let streams = &self.setup.definitions.streams;
                let database = database.clone().located(&self.setup.folder);
                let stop = self.stop.clone();
                let plan = Arc::clone(&self.plan);
                let opening = postgres::Opening {
                    name: &config.name,
                    config: &database,
                    streams,
                    retention: &|stream| plan.streams[stream.index].retention,
                    environment: &environment,
                };
                let source = PostgresSource::open(&opening, self.postgres, stop)?;
                let handle = source.handle();
                let is_reached = self.reached.await_source(&config.name, handle.clone());
                self.confirms
                    .sources
                    .push((config.name.clone(), Box::new(move |_only, position| handle.confirm(position))));
                self.pull(&config.name, Places::Log, source, is_reached)
            }
            SourceKind::Topic(topic) => {
                let topic = topic.clone().located(&self.setup.folder);
                let source = topic::open(&Opening {
                    name: &config.name,
                    namespace: &self.setup.namespace,
                    config: &topic,
                    streams: &self.setup.definitions.streams,
                    environment: &environment,
                    metrics: self.topics.of(&config.name),
                    stop: self.stop.clone(),
                })?;
                let handle = source.handle();
                let confirm = move |partition, position| handle.confirm(partition, position);
                self.confirms.sources.push((config.name.clone(), Box::new(confirm)));
                let among = (self.among)(&config.name);
                let read = move |intaker: Intaker, stop: Stop, _position| topics::read(source, among, &intaker, &stop);
                self.own(OwnSource { name: config.name.clone(), incarnation: None, read: Box::new(read) }, None)
            }
            _ => Err(anyhow!("source '{}' is of a kind that this program was built without", config.name)),
        }
    }

    fn pull(
        &self,
        name: &str,
        places: Places,
        mut source: impl Pull,
        is_reached: Arc<AtomicBool>,
    ) -> anyhow::Result<()> {
        let mut archive = self.archives.of(name, places);
        let read = move |intaker: Intaker, stop: Stop, _position: Option<u64>| {
            let incarnation = source.incarnation()?;
            if stop.is_stopped() {
                // It has none of whom it did not reach; and charge of the store, which comes with it, is another's.
                return Ok(());
            }
            is_reached.store(true, Ordering::Release);
            let archived = archive.as_mut().zip(incarnation.clone());
            let (position, stored) = match archived {
                None => (intaker.attach(incarnation)?, 0),
                Some((archive, identity)) => {
                    let Some(folder) = archive.take(&identity)? else { return Ok(()) };
                    let stored = intaker.attach(incarnation)?;
                    (archive.begin(folder, &identity, stored)?, stored.unwrap_or_default())
                }
            };
            if let Some(position) = position {
                let behind = archive.as_ref().and_then(Archive::told_behind);
                let resumed = source.resume(position, stored.max(position));
                match behind {
                    None => resumed?,
                    Some(behind) => resumed.context(behind)?,
                }
            }
            while let Some(mut delivery) = source.next(DELIVERY)? {
                let next = archive.as_mut().map_or(Ok(Next::Engine), |archive| archive.push(&delivery))?;
                // A transaction that comes in parts leaves the position where it was, which is behind the store's while it is read again.
                delivery.position = delivery.position.max(stored);
                if next == Next::Stop || (next == Next::Engine && !intaker.give(delivery)) {
                    break;
                }
            }
            Ok(())
        };
        self.own(OwnSource { name: name.to_owned(), incarnation: None, read: Box::new(read) }, None)
    }

    /// Runs a source of the caller's from `position` on.
    pub(crate) fn own(&self, own: OwnSource, position: Option<u64>) -> anyhow::Result<()> {
        let (intake, stop) = (self.intake.clone(), self.stop.clone());
        let name: Arc<str> = Arc::from(own.name.as_str());
        let thread = std::thread::Builder::new().name(format!("source-{name}"));
        thread.spawn(move || {
            let intaker = Intaker { source: name, intake: intake.clone() };
            let read = std::panic::AssertUnwindSafe(move || (own.read)(intaker, stop, position));
            let ended = match std::panic::catch_unwind(read) {
                Ok(Ok(())) => Intake::Ended,
                Ok(Err(error)) if error.is::<ToldToStop>() => Intake::Ended,
                Ok(Err(error)) => Intake::Failed(error),
                Err(_panic) => Intake::Failed(anyhow!("the reader of a source panicked; the log says where")),
            };
            // The engine has ended first when this fails; there is nobody left to tell.
            drop(intake.blocking_send(ended));
        })?;
        Ok(())
    }
}
