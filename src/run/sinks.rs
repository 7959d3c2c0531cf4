//! Sinks on threads of their own: what the store's logs hold is produced to topics, in order, from where each sink stands. Among roles one
//! process at a time works a sink.
//!
//! Invariants:
//! - A sink's stored position moves only once the broker has everything up to it: what a crash cuts short is produced again.
//! - A log forgets an entry only once every sink of its kind has it.
//! - Nothing is produced that a power failure or, with `[store] replicas`, a fail-over would take from the store: its place would be given to
//!   another entry.
//! - A broker that takes nothing stops no decision: the log grows on disk, and the lag is a metric.

mod feeding;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use interdict_ingest::topic::sink::{self, OneSink, SinkConfig, SinkMetrics, What};
use interdict_store::error::StoreError;
use interdict_store::online::OnlineStore;
#[cfg(feature = "redis")]
use interdict_store::port::Query;
use interdict_store::port::{LogName, Store};
use prometheus_client::registry::Registry;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::setup::Setup;

use super::core::position_of;
use super::sources::environment;
use feeding::Feeding;

/// What the names of sinks' positions begin with.
pub(crate) const POSITIONS: &str = "sink/";

/// Up to where sinks have produced the logs: what lies behind may be forgotten.
#[derive(Clone, Debug, Default)]
pub(crate) struct Produce(Arc<Vec<Place>>);

/// Where a sink stands.
#[derive(Debug)]
struct Place {
    what: What,
    /// The name under which its position is kept.
    offset: String,
    /// The first entry that it still needs.
    next: AtomicU64,
}

impl Produce {
    /// Where the sinks of `setup` stand.
    pub(crate) async fn read(setup: &Setup, store: &impl Store) -> Result<Self, StoreError> {
        let place = |config: &SinkConfig| Place {
            what: config.what,
            offset: offset_name(&config.name),
            next: AtomicU64::new(0),
        };
        let produce = Self(Arc::new(setup.sinks.iter().map(place).collect()));
        produce.refresh(store).await?;
        Ok(produce)
    }

    /// Looks again where they stand: other processes produce too.
    pub(crate) async fn refresh(&self, store: &impl Store) -> Result<(), StoreError> {
        for place in self.0.iter() {
            let stored = position_of(&store.positions(&place.offset).await?, 0);
            place.next.store(stored.map_or(0, |stored| stored + 1), Ordering::Release);
        }
        Ok(())
    }

    /// The first entry of the log of `what` that a sink still needs; the end of all positions where none does.
    pub(crate) fn needed(&self, what: What) -> u64 {
        let of_kind = self.0.iter().filter(|place| place.what == what);
        of_kind.map(|place| place.next.load(Ordering::Acquire)).min().unwrap_or(u64::MAX)
    }

    /// Whether there are none.
    #[cfg(feature = "redis")]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Whether a sink produces `what`.
pub(crate) fn produces(setup: &Setup, what: What) -> bool {
    setup.sinks.iter().any(|sink| sink.what == what)
}

/// Whether a sink that `setup` does not have has produced from this store: it may be gone for a while only.
#[cfg_attr(
    not(feature = "redis"),
    expect(unused_variables, clippy::unused_async, reason = "a folder has no other readers")
)]
pub(crate) async fn has_another(setup: &Setup, store: &OnlineStore) -> Result<bool, StoreError> {
    #[cfg(feature = "redis")]
    if let Some(redis) = store.shared() {
        let known = redis.snapshot(&Query::default()).await?.positions;
        let is_another = |name: &str| !setup.sinks.iter().any(|sink| sink.name == name);
        return Ok(known.iter().filter_map(|place| place.source.strip_prefix(POSITIONS)).any(is_another));
    }
    Ok(false)
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
    format!("{POSITIONS}{sink}")
}

/// One sink, not at work.
pub(crate) struct Feeder<S = OnlineStore> {
    config: SinkConfig,
    produce: Produce,
    store: Arc<S>,
    metrics: OneSink,
    trims: Trims,
    met: Met,
}

impl<S> Clone for Feeder<S> {
    fn clone(&self) -> Self {
        Self {
            config: self.config.clone(),
            produce: self.produce.clone(),
            store: Arc::clone(&self.store),
            metrics: self.metrics.clone(),
            ..*self
        }
    }
}

/// What a sink does that finds that another process has produced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Met {
    /// Ends; a lease says when it works again.
    Ends,
    /// Lets it, and goes on where that one ceases.
    GoesOn,
}

/// Whether a sink trims its log, or another part does that keeps it longer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trims {
    Itself,
    Monitor,
}

/// How long a sink works, or the monitor.
#[derive(Clone, Debug)]
pub(crate) struct Until {
    /// What is in the log by then is worked off first, as long as it can be.
    pub(crate) stop: CancellationToken,
    /// Another process goes on.
    pub(crate) lost: CancellationToken,
}

impl Until {
    /// Where no other process could go on.
    pub(crate) fn stopped(stop: &CancellationToken) -> Self {
        Self { stop: stop.clone(), lost: CancellationToken::new() }
    }
}

/// Why a sink works no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// It was stopped.
    Stopped,
    /// Another process produces.
    Elsewhere,
}

/// Starts every configured sink, each on a thread of its own; how far they are, and the threads.
pub(crate) async fn start(
    setup: &Setup,
    store: &Arc<OnlineStore>,
    registry: &mut Registry,
    stop: &CancellationToken,
) -> anyhow::Result<(Produce, Vec<JoinHandle<anyhow::Result<End>>>)> {
    let produce = Produce::read(setup, &**store).await?;
    let metrics = SinkMetrics::register(registry);
    let until = Until::stopped(stop);
    let mut threads = Vec::new();
    for config in &setup.sinks {
        let feeder = Feeder { met: Met::GoesOn, ..Feeder::open(setup, config, store, &produce, &metrics)? };
        threads.push(feeder.start(until.clone()).await?);
    }
    Ok((produce, threads))
}

impl Feeder {
    /// A sink that connects when it works.
    ///
    /// # Errors
    /// It cannot work as it is configured.
    pub(crate) fn open(
        setup: &Setup,
        config: &SinkConfig,
        store: &Arc<OnlineStore>,
        produce: &Produce,
        metrics: &SinkMetrics,
    ) -> anyhow::Result<Self> {
        drop(sink::open(&config.broker, &config.topic, &environment)?);
        let is_monitored = config.what == What::Decisions && setup.monitor.is_some();
        Ok(Self {
            config: config.clone(),
            produce: produce.clone(),
            store: Arc::clone(store),
            metrics: metrics.of(&config.name),
            trims: if is_monitored { Trims::Monitor } else { Trims::Itself },
            met: Met::Ends,
        })
    }

    /// Works on a thread of its own, from where the sink was left, by this process or another one.
    pub(crate) async fn start(self, until: Until) -> anyhow::Result<JoinHandle<anyhow::Result<End>>> {
        let stored = self.store.offsets(&offset_name(&self.config.name), self.config.what.name()).await?;
        let sink = sink::open(&self.config.broker, &self.config.topic, &environment)?;
        let thread = std::thread::Builder::new().name(format!("sink-{}", self.config.name));
        let (runtime, stored) = (Handle::current(), position_of(&stored, 0));
        let feeding = Feeding::new(self, sink, stored);
        Ok(thread.spawn(move || feeding.work(&runtime, &until))?)
    }
}
