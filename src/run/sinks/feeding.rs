//! A sink at work, on a thread of its own.
//!
//! Invariant: a position whose commit was not answered is committed again as it was before anything else is produced: else a sink would take
//! what it did itself for another one's doing.

use std::time::Duration;

use bytes::Bytes;
use interdict_ingest::topic::error::TopicError;
use interdict_ingest::topic::sink::{Produced, TopicSink, What};
use interdict_store::error::{Class, StoreError};
use interdict_store::online::OnlineStore;
use interdict_store::port::{Commit, Durability, OffsetMove, Replicated, Store};
use serde::Deserialize;
use tokio::runtime::Handle;
use uuid::Uuid;

use super::super::core::position_of;
use super::{End, Feeder, Met, Trims, Until, log_of, offset_name};

/// Records produced at once.
const STEP: usize = 1_000;
/// How often a log is looked at.
const TICK: Duration = Duration::from_millis(100);
/// The first wait after a failure, doubled up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_millis(500);
/// The longest wait: what a person must mend is tried again all the same, since nothing else tells that it was.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// For how long a sink leaves its topic to another process that produces to it, and looks whether that one still does.
const YIELD: Duration = Duration::from_secs(5);

/// One at work.
pub(super) struct Feeding<S = OnlineStore> {
    feeder: Feeder<S>,
    sink: Box<dyn TopicSink>,
    /// Up to where it has produced, as the store has it.
    stored: Option<u64>,
    /// The last entry produced, while the store did not say that it has its place.
    unconfirmed: Option<(u64, Bytes)>,
    /// Another process was found to produce.
    yields: bool,
    /// The end of the log when it was last looked at what that one does.
    waiting: u64,
}

impl<S: Store> Feeding<S> {
    pub(super) fn new(feeder: Feeder<S>, sink: Box<dyn TopicSink>, stored: Option<u64>) -> Self {
        Self { feeder, sink, stored, unconfirmed: None, yields: false, waiting: 0 }
    }

    /// Produces `until` it is told to end, or something ends it that does not pass.
    pub(super) fn work(mut self, runtime: &Handle, until: &Until) -> anyhow::Result<End> {
        let ended = self.run(runtime, until);
        match &ended {
            // Who ends at his own fault leaves the lag that he leaves.
            Err(error) => {
                tracing::error!(sink = self.feeder.config.name, error = crate::told::told(error), "a sink has ended")
            }
            Ok(_) => _ = self.feeder.metrics.lag.set(0),
        }
        ended
    }

    fn next(&self) -> u64 {
        self.stored.map_or(0, |stored| stored + 1)
    }

    fn run(&mut self, runtime: &Handle, until: &Until) -> anyhow::Result<End> {
        let (mut wait, mut end) = (RETRY, None);
        loop {
            let is_last = until.stop.is_cancelled();
            if is_last && end.is_none() {
                end = runtime.block_on(self.feeder.store.log_next(log_of(self.feeder.config.what))).ok();
            }
            if is_last && end.is_none_or(|end| self.next() >= end) {
                return Ok(End::Stopped);
            }
            if !is_last && until.lost.is_cancelled() {
                return Ok(End::Elsewhere);
            }
            let pause = match self.turn(runtime) {
                Ok(None) if is_last => return Ok(End::Stopped),
                Ok(None) => YIELD,
                Ok(Some(0)) if is_last => return Ok(End::Stopped),
                Ok(Some(0)) => TICK,
                Ok(Some(_)) => {
                    wait = RETRY;
                    continue;
                }
                Err(StepError::Store(StoreError::Fenced { .. })) if self.feeder.met == Met::Ends => {
                    return Ok(End::Elsewhere);
                }
                Err(StepError::Store(StoreError::Fenced { stored, expected, .. })) => {
                    let sink = &self.feeder.config.name;
                    tracing::warn!(
                        sink,
                        stored,
                        expected,
                        "another process produces what this sink does; one is enough"
                    );
                    (self.stored, self.unconfirmed, self.yields, self.waiting) = (stored, None, true, 0);
                    if is_last {
                        return Ok(End::Stopped);
                    }
                    YIELD
                }
                Err(StepError::Store(error)) if error.class() != Class::Transient => return Err(error.into()),
                Err(error) => {
                    self.feeder.metrics.failures.inc();
                    tracing::error!(sink = self.feeder.config.name, %error, "a sink takes nothing; its log waits in the store");
                    if is_last {
                        return Ok(End::Stopped);
                    }
                    let pause = wait;
                    wait = (wait * 2).min(RETRY_MAX);
                    pause
                }
            };
            runtime.block_on(async {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = until.stop.cancelled() => {}
                    () = until.lost.cancelled() => {}
                }
            });
        }
    }

    /// Produces the next entries; how many. `None` while another process does.
    fn turn(&mut self, runtime: &Handle) -> Result<Option<usize>, StepError> {
        if self.yields {
            let name = offset_name(&self.feeder.config.name);
            let stored = position_of(&runtime.block_on(self.feeder.store.positions(&name))?, 0);
            let end = runtime.block_on(self.feeder.store.log_next(log_of(self.feeder.config.what)))?;
            let has_moved = std::mem::replace(&mut self.stored, stored) != stored;
            let waiting = std::mem::replace(&mut self.waiting, end);
            // Who has nothing to do has not ceased: something must have lain there since the last look.
            if has_moved || self.next() >= waiting {
                return Ok(None);
            }
            self.yields = false;
        }
        self.step(runtime).map(Some)
    }

    /// Produces the next entries; how many.
    fn step(&mut self, runtime: &Handle) -> Result<usize, StepError> {
        if let Some((to, entry)) = self.unconfirmed.clone() {
            if runtime.block_on(self.holds(to, &entry))? {
                runtime.block_on(self.produced_to(to, entry))?;
            } else {
                // A fail-over took it, and its place goes to another entry, which is still to be produced.
                self.unconfirmed = None;
            }
        }
        let log = log_of(self.feeder.config.what);
        let next = self.next();
        let entries = runtime.block_on(self.feeder.store.read_log(log, next, STEP))?;
        let behind = runtime.block_on(self.feeder.store.log_next(log))?.saturating_sub(next);
        self.feeder.metrics.lag.set(i64::try_from(behind).unwrap_or(i64::MAX));
        let entries = runtime.block_on(self.lasting(entries))?;
        let Some((last, entry)) = entries.last().cloned() else { return Ok(0) };
        let records: Vec<Produced<'_>> =
            entries.iter().map(|(position, bytes)| produced(self.feeder.config.what, *position, bytes)).collect();
        self.sink.produce(&records)?;
        self.feeder.metrics.records.inc_by(records.len() as u64);
        runtime.block_on(self.produced_to(last, entry))?;
        self.feeder.metrics.lag.set(i64::try_from(behind.saturating_sub(records.len() as u64)).unwrap_or(i64::MAX));
        Ok(records.len())
    }

    /// Whether the log still has, or had, `entry` at its place.
    async fn holds(&self, place: u64, entry: &Bytes) -> Result<bool, StoreError> {
        let (store, log) = (&self.feeder.store, log_of(self.feeder.config.what));
        match store.read_log(log, place, 1).await?.first() {
            Some((position, bytes)) if *position == place => Ok(bytes == entry),
            // Trimmed, by whoever saw that it was produced.
            _ => Ok(store.log_next(log).await? > place),
        }
    }

    /// Notes that everything up to `entry` at `to` is produced, and forgets what no sink needs any more.
    async fn produced_to(&mut self, to: u64, entry: Bytes) -> Result<(), StoreError> {
        let Feeder { config, produce, store, trims, .. } = &self.feeder;
        self.unconfirmed = Some((to, entry));
        let source = offset_name(&config.name);
        let offsets = vec![OffsetMove { source, partition: 0, from: self.stored, to }];
        store.commit(Commit { offsets, ..Commit::default() }).await?;
        (self.stored, self.unconfirmed) = (Some(to), None);
        produce.refresh(&**store).await?;
        if *trims == Trims::Itself {
            store.trim_log(log_of(config.what), produce.needed(config.what)).await?;
        }
        Ok(())
    }

    /// What of `entries`, which were read from here on, nothing takes from the store any more: it is on disk and with the replicas.
    async fn lasting(&self, mut entries: Vec<(u64, Bytes)>) -> Result<Vec<(u64, Bytes)>, StoreError> {
        if entries.is_empty() {
            return Ok(entries);
        }
        let store = &self.feeder.store;
        match store.replicated().await? {
            Replicated::Nobody => {
                store.commit(Commit { durability: Durability::Power, ..Commit::default() }).await?;
            }
            // Whoever confirmed may have taken the store over from the one that was read, and lack what that one held.
            Replicated::Confirmed => {
                let there = store.read_log(log_of(self.feeder.config.what), self.next(), entries.len()).await?;
                let same = entries.iter().zip(&there).take_while(|(read, there)| read == there).count();
                entries.truncate(same);
            }
        }
        Ok(entries)
    }
}

/// Why a step came to nothing.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Topic(#[from] TopicError),
}

#[derive(Deserialize)]
struct DecisionHead {
    decision_id: Uuid,
    event_id: String,
}

#[derive(Deserialize)]
struct LetterHead {
    source: String,
    partition: u32,
    position: u64,
    reason: String,
}

/// An entry of a log as it is produced.
fn produced(what: What, position: u64, bytes: &Bytes) -> Produced<'_> {
    let (key, name, value) = match what {
        What::Decisions => match serde_json::from_slice::<DecisionHead>(bytes) {
            Ok(head) => (head.event_id, "decision_id", head.decision_id.to_string()),
            Err(_not_a_record) => (String::new(), "decision_id", String::new()),
        },
        What::DeadLetters => match serde_json::from_slice::<LetterHead>(bytes) {
            Ok(head) => (format!("{}/{}/{}", head.source, head.partition, head.position), "reason", head.reason),
            Err(_not_a_letter) => (String::new(), "reason", String::new()),
        },
    };
    let headers = vec![(name, value), ("log_position", position.to_string())];
    Produced { key, value: bytes, headers, partition: None }
}

#[cfg(test)]
mod tests;
