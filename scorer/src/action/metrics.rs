//! Counters of actions.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// The ends of an action as they are counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    Done,
    Superseded,
    /// Refused by its receiver.
    Rejected,
    /// Failed for too long.
    GivenUp,
}

impl End {
    fn status(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Superseded => "superseded",
            Self::Rejected => "rejected",
            Self::GivenUp => "given_up",
        }
    }
}

/// Labels of an action that ended.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Ended {
    action: String,
    status: &'static str,
}

/// Labels of an action.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Named {
    action: String,
}

/// What is counted about actions. Clones share the counters.
#[derive(Clone, Debug)]
pub struct Metrics {
    ends: Family<Ended, Counter>,
    retries: Family<Named, Counter>,
    seconds: Family<Named, Histogram, fn() -> Histogram>,
    commit_to_block: Family<Named, Histogram, fn() -> Histogram>,
    pub(super) outbox_intents: Gauge,
    pub(super) outbox_oldest_seconds: Gauge<f64, AtomicU64>,
    pub(super) receiver_mistakes: Gauge,
}

/// From half a millisecond to some nine hours.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_5, 2.0, 27))
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            ends: Family::default(),
            retries: Family::default(),
            seconds: Family::new_with_constructor(seconds),
            commit_to_block: Family::new_with_constructor(seconds),
            outbox_intents: Gauge::default(),
            outbox_oldest_seconds: Gauge::default(),
            receiver_mistakes: Gauge::default(),
        }
    }
}

impl Metrics {
    /// Counters that are shown by `registry`.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "interdict_scorer_actions",
            "Actions that ended, by status: done, superseded, rejected or given_up; a person must see to the last two",
            metrics.ends.clone(),
        );
        registry.register(
            "interdict_scorer_action_retries",
            "Tries of actions that failed and were scheduled again",
            metrics.retries.clone(),
        );
        registry.register(
            "interdict_scorer_outbox_intents",
            "Actions that wait in the outbox or are under way",
            metrics.outbox_intents.clone(),
        );
        registry.register(
            "interdict_scorer_outbox_oldest_seconds",
            "Age of the oldest action that waits in the outbox or is under way; 0 when there is none",
            metrics.outbox_oldest_seconds.clone(),
        );
        registry.register(
            "interdict_scorer_receiver_mistakes",
            "What receivers of actions refuse, as far as asked: rights, tables, columns; the log names it, and acts that need it become dead letters",
            metrics.receiver_mistakes.clone(),
        );
        registry.register(
            "interdict_scorer_action_seconds",
            "Time from the decision to the end of its action, superseded and rejected ones left out",
            metrics.seconds.clone(),
        );
        registry.register(
            "interdict_scorer_commit_to_block_seconds",
            "Time from the commit of an event in its source to the commit of its block in the target database, by their and our clocks",
            metrics.commit_to_block.clone(),
        );
        metrics
    }

    /// Shows that nothing waits here: another process may carry on.
    pub(super) fn rest(&self) {
        self.outbox_intents.set(0);
        self.outbox_oldest_seconds.set(0.0);
        self.receiver_mistakes.set(0);
    }

    /// Shows an action of which nothing has ended yet: a series that begins with its first failure shows no rise.
    pub(super) fn begin(&self, action: &str) {
        for end in [End::Done, End::Superseded, End::Rejected, End::GivenUp] {
            drop(self.ends.get_or_create(&Ended { action: action.to_owned(), status: end.status() }));
        }
        drop(self.retries.get_or_create(&Named { action: action.to_owned() }));
    }

    pub(super) fn count_end(&self, action: &str, end: End, age: Duration) {
        self.ends.get_or_create(&Ended { action: action.to_owned(), status: end.status() }).inc();
        if end == End::Done {
            self.seconds.get_or_create(&Named { action: action.to_owned() }).observe(age.as_secs_f64());
        }
    }

    /// Notes how long after its event's commit a block was committed.
    pub(super) fn blocked(&self, action: &str, since_commit: Duration) {
        self.commit_to_block.get_or_create(&Named { action: action.to_owned() }).observe(since_commit.as_secs_f64());
    }

    pub(super) fn count_retry(&self, action: &str) {
        self.retries.get_or_create(&Named { action: action.to_owned() }).inc();
    }
}
