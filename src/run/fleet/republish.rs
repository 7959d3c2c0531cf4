//! The republisher: hands what databases deliver on to topics, from which any number of ingestors read it.
//!
//! It holds the replication slots as an ingestor would; a second one stands by. A delivery is produced first, then the position behind it
//! is stored, with what its dead letters leave to be judged; then, as everywhere, the database is told. So the topic has every change at
//! least once: after a crash the last ones come again under the same versions, which readers know.
//!
//! Invariants:
//! - A position is stored only once all in-sync replicas of the topic have everything up to it.
//! - Every commit says from which position its source went on: a process that was taken for dead stores nothing, and what it still
//!   produces is a repetition.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use interdict_features::change::ChangeBatch;
use interdict_features::definition::Definitions;
use interdict_ingest::republish::kafka::Republisher;
use interdict_ingest::source::Delivery;
use interdict_ingest::source::stop::Stop;
use interdict_store::online::OnlineStore;
use interdict_store::port::{Commit, Durability, Offset, OffsetMove, Store as _};
use tokio::sync::mpsc;

use super::super::clock;
use super::super::core::{Intake, position_of};
use super::super::letters::{self, Letters};
use super::super::patience::{self, patiently};
use super::super::sources::JudgedSources;
use super::super::stats::Stats;
use super::charges;
use super::confirming::Confirming;
use super::stats::FleetStats;
use super::work::Work;

/// The first wait after a failure, doubled up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_millis(500);
/// The longest wait: what a person must mend is tried again all the same, since nothing else tells that it was.
const RETRY_MAX: Duration = Duration::from_secs(10);
/// For how long a process that was told to stop still waits for acknowledgements.
const GRACE: Duration = Duration::from_secs(5);

/// The name under which it is kept how far a source is republished; its own is that of its topic's readers.
fn offset_name(source: &str) -> String {
    format!("{}{source}", super::REPUBLISHED)
}

/// Republishes the sources of a process.
pub(super) struct Republishing {
    pub(super) definitions: Arc<Definitions>,
    /// By source.
    pub(super) topics: HashMap<String, Republisher>,
    pub(super) store: Arc<OnlineStore>,
    pub(super) letters: Letters,
    /// Whether sinks are to have what becomes a dead letter.
    pub(super) sinks_letters: bool,
    pub(super) stats: Arc<Stats>,
    pub(super) fleet: Arc<FleetStats>,
    pub(super) judged_sources: JudgedSources,
    pub(super) confirming: Confirming,
    pub(super) stop: Stop,
    /// What every commit names.
    pub(super) charge: OffsetMove,
    /// Up to where each source is republished.
    pub(super) stored: HashMap<Arc<str>, u64>,
}

impl Republishing {
    /// Works until no source delivers any more.
    pub(super) async fn run(&mut self, mut intake: mpsc::Receiver<Intake>) -> anyhow::Result<()> {
        loop {
            match self.confirming.next(&mut intake).await {
                None if intake.is_closed() => return Ok(()),
                None => self.confirm().await?,
                Some(Intake::Delivery { source, delivery, .. }) => self.take(&source, &delivery).await?,
                Some(Intake::Attach { source, incarnation, reply, .. }) => {
                    let _reader_stopped = reply.send(self.attach(&source, incarnation.as_deref()).await);
                }
                Some(Intake::Release { reply, .. }) => {
                    let _reader_stopped = reply.send(());
                }
                Some(Intake::Ended) => {}
                Some(Intake::Failed(error)) => return Err(error),
            }
        }
    }

    /// Where a source goes on.
    async fn attach(&mut self, source: &Arc<str>, incarnation: Option<&str>) -> anyhow::Result<Vec<Offset>> {
        // One that was told to stop before it had the slot delivers nothing.
        let Some(incarnation) = incarnation else { return Ok(Vec::new()) };
        let (name, told) = (offset_name(source), "the store does not answer; capture waits");
        let offsets = patiently(&self.stop, told, async || self.store.offsets(&name, incarnation).await).await?;
        match position_of(&offsets, 0) {
            Some(position) => self.stored.insert(Arc::clone(source), position),
            None => self.stored.remove(source),
        };
        Ok(offsets)
    }

    /// Produces a delivery and stores that it was.
    async fn take(&mut self, source: &Arc<str>, delivery: &Delivery) -> anyhow::Result<()> {
        let start = clock::instant();
        self.letters.keep(&delivery.dead)?;
        self.letters.flush()?;
        self.publish(source, delivery)?;
        let mut commit = self.commit_of(source, delivery)?;
        let confirms = self.confirming.is_due(start);
        commit.durability = if confirms { Durability::Power } else { Durability::Process };
        let pieces = commit.work.len();
        self.commit(commit).await?;
        self.letters.count(&delivery.dead);
        self.stored.insert(Arc::clone(source), delivery.position);
        self.confirming.stored(|source| self.stored.get(source).copied());
        self.fleet.left_work(pieces);
        let arrivals = delivery.batches.iter().flat_map(ChangeBatch::iter).filter_map(|(change, _)| change.arrival);
        if let Some(arrival) = arrivals.max() {
            self.stats.lag(source, arrival, clock::now());
        }
        if confirms {
            self.tell_confirmed(start);
        }
        Ok(())
    }

    /// Produces a delivery, again and again while the topic does not take it.
    fn publish(&mut self, source: &str, delivery: &Delivery) -> anyhow::Result<()> {
        let topic = self.topics.get_mut(source).context("a source that is republished has a topic")?;
        let (stop, told) = (&self.stop, Cell::new(None));
        let gives_up = || {
            let now = clock::instant();
            let since = told.get().or_else(|| stop.is_stopped().then_some(now));
            told.set(since);
            since.is_some_and(|since| now - since >= GRACE)
        };
        let mut wait = RETRY;
        while let Err(error) = topic.publish(delivery, clock::now(), &gives_up) {
            tracing::error!(source, %error, "the topic takes nothing; capture waits, and the database keeps its log");
            ensure!(
                !self.stop.wait(wait),
                "told to stop while the topic takes nothing; what it does not have is read again after the next start"
            );
            wait = (wait * 2).min(RETRY_MAX);
        }
        Ok(())
    }

    fn commit_of(&self, source: &Arc<str>, delivery: &Delivery) -> anyhow::Result<Commit> {
        let mut commit = Commit::default();
        if self.sinks_letters {
            commit.appends = letters::appends(&delivery.dead)?;
        }
        for letter in &delivery.dead {
            if let Some(stream) = self.judged_sources.stream_of(&self.definitions, source, letter) {
                let stream = self.definitions.streams[stream].name.clone();
                commit.work.push(Work::Undecodable { stream, letter: letter.clone() }.encode()?);
            }
        }
        commit.offsets = vec![self.moved(source, delivery.position)];
        Ok(commit)
    }

    fn moved(&self, source: &str, to: u64) -> OffsetMove {
        OffsetMove { source: offset_name(source), partition: 0, from: self.stored.get(source).copied(), to }
    }

    async fn commit(&self, mut commit: Commit) -> anyhow::Result<()> {
        commit.offsets.insert(0, self.charge.clone());
        let told = "the store does not take a commit; capture waits";
        let committed = patience::commit(&*self.store, &self.stop, told, &commit).await.map_err(charges::told)?;
        committed.map(drop).context("a commit that rests on nothing was refused")
    }

    /// Tells sources what is stored when nothing else does.
    async fn confirm(&mut self) -> anyhow::Result<()> {
        let now = clock::instant();
        if self.confirming.is_owed(now) {
            // Only if the store still holds what it held: one that went back must not have what it lost confirmed.
            let offsets = self.stored.iter().map(|(source, position)| self.moved(source, *position)).collect();
            self.commit(Commit { durability: Durability::Power, offsets, ..Commit::default() }).await?;
            self.tell_confirmed(now);
        }
        Ok(())
    }

    fn tell_confirmed(&mut self, now: Instant) {
        self.confirming
            .tell(now, |source| self.stored.get(source).map(|position| (0, *position)).into_iter().collect());
    }
}
