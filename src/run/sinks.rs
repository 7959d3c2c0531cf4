//! Sinks on threads of their own: what the store's logs hold is produced to topics, in order, from where each sink stands.
//!
//! Invariants:
//! - A sink's stored position moves only once the broker has everything up to it: what a crash cuts short is produced again.
//! - A log forgets an entry only once every sink of its kind has it.
//! - A broker that takes nothing stops no decision: the log grows on disk, and the lag is a metric.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use interdict_ingest::topic::error::TopicError;
use interdict_ingest::topic::sink::{self, OneSink, Produced, SinkConfig, SinkMetrics, TopicSink, What};
use interdict_store::error::{Class, StoreError};
use interdict_store::online::OnlineStore;
use interdict_store::port::{Commit, LogName, OffsetMove, Store as _};
use serde::Deserialize;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::setup::Setup;

use super::core::position_of;

/// Records produced at once.
const STEP: usize = 1_000;
/// How often a log is looked at.
const TICK: Duration = Duration::from_millis(100);
/// The first wait after a failure, doubled up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_millis(500);
/// The longest wait: what a person must mend is tried again all the same, since nothing else tells that it was.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Up to where sinks have produced the logs: what lies behind may be forgotten.
#[derive(Clone, Debug, Default)]
pub(crate) struct Produce(Arc<Vec<(What, AtomicU64)>>);

impl Produce {
    /// The first entry of the log of `what` that a sink still needs; the end of all positions where none does.
    pub(crate) fn needed(&self, what: What) -> u64 {
        let of_kind = self.0.iter().filter(|(kind, _)| *kind == what);
        of_kind.map(|(_, next)| next.load(Ordering::Acquire)).min().unwrap_or(u64::MAX)
    }

    /// Whether any sink produces `what`.
    pub(crate) fn has(&self, what: What) -> bool {
        self.0.iter().any(|(kind, _)| *kind == what)
    }
}

/// The store's log of what a sink produces.
fn log_of(what: What) -> LogName {
    match what {
        What::Decisions => LogName::DECISIONS,
        What::DeadLetters => LogName::DEAD_LETTERS,
    }
}

/// The name under which the position of a sink is kept.
fn offset_name(sink: &str) -> String {
    format!("sink/{sink}")
}

/// Sinks that are ready to be started.
pub(crate) struct Sinks {
    feeders: Vec<Feeder>,
    pub(crate) produce: Produce,
}

/// One sink at work.
struct Feeder {
    config: SinkConfig,
    sink: Box<dyn TopicSink>,
    at: usize,
    produce: Produce,
    store: Arc<OnlineStore>,
    stored: Option<u64>,
    metrics: OneSink,
    trims: Trims,
}

/// Whether a sink trims its log, or another part does that keeps it longer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trims {
    Itself,
    Monitor,
}

impl Sinks {
    /// Opens every configured sink and finds where it stands.
    pub(crate) async fn open(setup: &Setup, store: &Arc<OnlineStore>, metrics: &SinkMetrics) -> anyhow::Result<Self> {
        #[expect(clippy::disallowed_methods, reason = "passwords are configuration")]
        let environment = |name: &str| std::env::var(name).ok();
        let mut positions = Vec::new();
        for config in &setup.sinks {
            let stored = store.offsets(&offset_name(&config.name), config.what.name()).await?;
            positions.push((config.what, position_of(&stored, 0)));
        }
        let next =
            |(what, stored): &(What, Option<u64>)| (*what, AtomicU64::new(stored.map_or(0, |stored| stored + 1)));
        let produce = Produce(Arc::new(positions.iter().map(next).collect()));
        let mut feeders = Vec::new();
        for (at, (config, (_, stored))) in setup.sinks.iter().zip(positions).enumerate() {
            let is_monitored = config.what == What::Decisions && setup.monitor.is_some();
            feeders.push(Feeder {
                config: config.clone(),
                sink: sink::open(config, &environment)?,
                at,
                produce: produce.clone(),
                store: Arc::clone(store),
                stored,
                metrics: metrics.of(&config.name),
                trims: if is_monitored { Trims::Monitor } else { Trims::Itself },
            });
        }
        Ok(Self { feeders, produce })
    }

    /// Starts a thread for each.
    pub(crate) fn start(
        self,
        stop: &CancellationToken,
    ) -> anyhow::Result<Vec<std::thread::JoinHandle<anyhow::Result<()>>>> {
        let mut threads = Vec::new();
        for mut feeder in self.feeders {
            let (runtime, stop) = (Handle::current(), stop.clone());
            let thread = std::thread::Builder::new().name(format!("sink-{}", feeder.config.name));
            threads.push(thread.spawn(move || feeder.run(&runtime, &stop))?);
        }
        Ok(threads)
    }
}

impl Feeder {
    /// Produces until `stop`, and then what is left, as long as the broker takes it.
    fn run(&mut self, runtime: &Handle, stop: &CancellationToken) -> anyhow::Result<()> {
        let mut wait = RETRY;
        loop {
            let is_last = stop.is_cancelled();
            let pause = match self.step(runtime) {
                Ok(0) if is_last => return Ok(()),
                Ok(0) => TICK,
                Ok(_) => {
                    wait = RETRY;
                    continue;
                }
                Err(StepError::Store(error)) if error.class() != Class::Transient => return Err(error.into()),
                Err(error) => {
                    self.metrics.failures.inc();
                    tracing::error!(sink = self.config.name, %error, "a sink takes nothing; its log waits in the store");
                    if is_last {
                        return Ok(());
                    }
                    let pause = wait;
                    wait = (wait * 2).min(RETRY_MAX);
                    pause
                }
            };
            runtime.block_on(async {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = stop.cancelled() => {}
                }
            });
        }
    }

    /// Produces the next entries; how many.
    fn step(&mut self, runtime: &Handle) -> Result<usize, StepError> {
        let log = log_of(self.config.what);
        let next = self.stored.map_or(0, |stored| stored + 1);
        let entries = runtime.block_on(self.store.read_log(log, next, STEP))?;
        let behind = runtime.block_on(self.store.log_next(log))?.saturating_sub(next);
        self.metrics.lag.set(i64::try_from(behind).unwrap_or(i64::MAX));
        let Some((last, _)) = entries.last() else { return Ok(0) };
        let records: Vec<Produced<'_>> =
            entries.iter().map(|(position, bytes)| produced(self.config.what, *position, bytes)).collect();
        self.sink.produce(&records)?;
        let source = offset_name(&self.config.name);
        let offsets = vec![OffsetMove { source, partition: 0, from: self.stored, to: *last }];
        runtime.block_on(self.store.commit(Commit { offsets, ..Commit::default() }))?;
        self.stored = Some(*last);
        self.produce.0[self.at].1.store(last + 1, Ordering::Release);
        if self.trims == Trims::Itself {
            runtime.block_on(self.store.trim_log(log, self.produce.needed(self.config.what)))?;
        }
        self.metrics.records.inc_by(records.len() as u64);
        self.metrics.lag.set(i64::try_from(behind.saturating_sub(records.len() as u64)).unwrap_or(i64::MAX));
        Ok(records.len())
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
    Produced { key, value: bytes, headers: [(name, value), ("log_position", position.to_string())] }
}
