//! What a running engine counts, for the terminal and for Prometheus.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use interdict_features::decision::{DecidedBy, DecisionRecord, Outcome};
use interdict_features::engine::Outcome as Change;
use interdict_features::row::Ignored;
use interdict_features::time::Timestamp;
use interdict_ingest::dead_letter::DeadReason;
use interdict_scorer::lists::{Lists, ListsFull};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// Counters of one engine.
#[derive(Debug)]
pub(crate) struct Stats {
    events: Counter,
    decisions: Family<OutcomeLabel, Counter>,
    dead: Family<ReasonLabel, Counter>,
    ignored: Family<ReasonLabel, Counter>,
    checkpoints: Histogram,
    decide: Histogram,
    keys: Gauge,
    memory: Gauge,
    arrival_to_decision: Histogram,
    late: Counter,
    lag: Family<SourceLabel, Gauge<f64, AtomicU64>>,
    unlogged: Counter,
    lists: Gauge,
    lists_full: Gauge,
    outcomes: [AtomicU64; 3],
    watcher: OnceLock<Watcher>,
}

/// Is called with every decision that is newly stored.
struct Watcher(Box<dyn Fn(&DecisionRecord) + Send + Sync>);

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watcher")
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: String,
    decided_by: String,
}

impl OutcomeLabel {
    fn of(outcome: Outcome, decided_by: DecidedBy) -> Self {
        let name = |value: &dyn std::fmt::Debug| snake_case(&format!("{value:?}"));
        Self { outcome: name(&outcome), decided_by: name(&decided_by) }
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct SourceLabel {
    source: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ReasonLabel {
    reason: String,
}

impl ReasonLabel {
    fn of(reason: &dyn std::fmt::Debug) -> Self {
        Self { reason: snake_case(&format!("{reason:?}")) }
    }
}

impl Stats {
    /// Counters that `registry` shows.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        registry.register(
            "interdict_build",
            "The program that runs",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        let stats = Self {
            events: Counter::default(),
            decisions: Family::default(),
            dead: Family::default(),
            ignored: Family::default(),
            checkpoints: Histogram::new(exponential_buckets(0.000_5, 2.0, 14)),
            decide: Histogram::new(exponential_buckets(0.000_05, 2.0, 16)),
            keys: Gauge::default(),
            memory: Gauge::default(),
            arrival_to_decision: Histogram::new(exponential_buckets(0.000_5, 2.0, 20)),
            late: Counter::default(),
            lag: Family::default(),
            unlogged: Counter::default(),
            lists: Gauge::default(),
            lists_full: Gauge::default(),
            outcomes: [const { AtomicU64::new(0) }; 3],
            watcher: OnceLock::new(),
        };
        registry.register("interdict_ingest_events", "Changes applied or ignored", stats.events.clone());
        registry.register(
            "interdict_scorer_decisions",
            "Decisions by outcome and what settled it",
            stats.decisions.clone(),
        );
        registry.register(
            "interdict_ingest_dead_letters",
            "Records that became no change, by reason",
            stats.dead.clone(),
        );
        registry.register("interdict_ingest_ignored", "Changes that altered nothing, by reason", stats.ignored.clone());
        registry.register_with_unit(
            "interdict_ingest_checkpoint",
            "Time a checkpoint took",
            Unit::Seconds,
            stats.checkpoints.clone(),
        );
        registry.register_with_unit(
            "interdict_scorer_decide",
            "Time from a change's arrival in the process to its stored decision",
            Unit::Seconds,
            stats.decide.clone(),
        );
        stats.register_lag(registry);
        stats.begin();
        registry.register("interdict_ingest_keys", "Entity keys in memory", stats.keys.clone());
        registry.register_with_unit(
            "interdict_ingest_memory",
            "Row records and states in memory",
            Unit::Bytes,
            stats.memory.clone(),
        );
        registry.register(
            "interdict_scorer_unlogged_answers",
            "Answers given before their record was stored",
            stats.unlogged.clone(),
        );
        registry.register("interdict_scorer_list_entries", "Entries of the block and allow lists", stats.lists.clone());
        registry.register(
            "interdict_scorer_lists_full",
            "1 while the lists are full and nothing that might block is taken",
            stats.lists_full.clone(),
        );
        stats
    }

    /// Shows what has not happened yet as 0: a series that begins with its first failure shows no rise.
    fn begin(&self) {
        for reason in DeadReason::ALL {
            self.count_dead(reason.code(), 0);
        }
        for reason in Ignored::ALL {
            drop(self.ignored.get_or_create(&ReasonLabel::of(&reason)));
        }
        for outcome in Outcome::ALL {
            for decided_by in DecidedBy::ALL {
                drop(self.decisions.get_or_create(&OutcomeLabel::of(outcome, decided_by)));
            }
        }
    }

    fn register_lag(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "interdict_scorer_arrival_to_decision",
            "Time from an event's arrival (its commit in the source, the receipt of a request) to its stored decision",
            Unit::Seconds,
            self.arrival_to_decision.clone(),
        );
        registry.register(
            "interdict_ingest_late_events",
            "New rows whose time lay before the stream clock by more than `disorder`",
            self.late.clone(),
        );
        registry.register_with_unit(
            "interdict_ingest_lag",
            "How long after its commit in the source the newest change was applied",
            Unit::Seconds,
            self.lag.clone(),
        );
    }

    /// Has `watcher` called with every newly stored decision, on the engine's thread: it must be quick. The first watcher stays.
    pub(crate) fn watch(&self, watcher: impl Fn(&DecisionRecord) + Send + Sync + 'static) {
        let _the_first_stays = self.watcher.set(Watcher(Box::new(watcher)));
    }

    pub(crate) fn count_events(&self, count: u64) {
        self.events.inc_by(count);
    }

    /// Counts a decision that was stored at `now`.
    pub(crate) fn count_decision(&self, record: &DecisionRecord, now: Timestamp) {
        if let Some(arrival) = record.arrived_at() {
            self.arrival_to_decision.observe(now.since(arrival).seconds().max(0.0));
        }
        self.decisions.get_or_create(&OutcomeLabel::of(record.outcome, record.decided_by)).inc();
        let slot = match record.outcome {
            Outcome::Approve => 0,
            Outcome::Review => 1,
            Outcome::Block => 2,
        };
        self.outcomes[slot].fetch_add(1, Ordering::Relaxed);
        if let Some(Watcher(watcher)) = self.watcher.get() {
            watcher(record);
        }
    }

    pub(crate) fn count_dead(&self, reason: &str, count: u64) {
        self.dead.get_or_create(&ReasonLabel { reason: reason.to_owned() }).inc_by(count);
    }

    /// Counts what altered nothing.
    pub(crate) fn count_outcomes(&self, outcomes: &[Change]) {
        for outcome in outcomes {
            if let Change::Ignored(reason) = outcome {
                self.ignored.get_or_create(&ReasonLabel::of(reason)).inc();
            }
        }
    }

    pub(crate) fn count_late(&self, count: u64) {
        self.late.inc_by(count);
    }

    /// Notes how long after its arrival the newest change of a source was applied.
    pub(crate) fn lag(&self, source: &str, arrival: Timestamp, now: Timestamp) {
        let lag = now.since(arrival).seconds().max(0.0);
        self.lag.get_or_create(&SourceLabel { source: source.to_owned() }).set(lag);
    }

    pub(crate) fn count_unlogged(&self) {
        self.unlogged.inc();
    }

    /// Notes how many list entries there are.
    pub(crate) fn lists(&self, lists: &Lists) {
        self.list_entries(lists.len(), lists.full());
    }

    /// Notes how many list entries there are, and whether they are full.
    pub(crate) fn list_entries(&self, entries: usize, full: ListsFull) {
        self.lists.set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.lists_full.set(i64::from(entries >= full.capacity));
    }

    /// Whether the lists were full at the last look.
    pub(crate) fn has_full_lists(&self) -> bool {
        self.lists_full.get() != 0
    }

    pub(crate) fn checkpoint(&self, took: Duration, keys: usize, memory_bytes: usize) {
        self.checkpoints.observe(took.as_secs_f64());
        self.keys.set(i64::try_from(keys).unwrap_or(i64::MAX));
        self.memory.set(i64::try_from(memory_bytes).unwrap_or(i64::MAX));
    }

    /// Notes how long `count` decisions took, all of one micro-batch.
    pub(crate) fn decided(&self, took: Duration, count: usize) {
        for _ in 0..count {
            self.decide.observe(took.as_secs_f64());
        }
    }

    /// Changes seen so far.
    pub(crate) fn events(&self) -> u64 {
        self.events.get()
    }

    /// Approved, reviewed and blocked so far.
    pub(crate) fn outcomes(&self) -> [u64; 3] {
        [0, 1, 2].map(|slot| self.outcomes[slot].load(Ordering::Relaxed))
    }
}

/// `FastModel` as `fast_model`.
fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 2);
    for (at, c) in name.chars().enumerate() {
        if c.is_ascii_uppercase() && at > 0 {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}
