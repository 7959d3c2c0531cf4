//! Counters of actions.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::delivery::ActionStatus;

/// Labels of an action that ended.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct End {
    action: String,
    status: &'static str,
}

/// Labels of an action.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Named {
    action: String,
}

/// What is counted about actions. Clones share the counters.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    ends: Family<End, Counter>,
    retries: Family<Named, Counter>,
    pub(super) outbox_intents: Gauge,
}

impl Metrics {
    /// Counters that are shown by `registry`.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "interdict_scorer_actions",
            "Actions that ended, by status: done or dead_letter",
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
        metrics
    }

    pub(super) fn count_end(&self, action: &str, status: ActionStatus) {
        let status = match status {
            ActionStatus::Done => "done",
            ActionStatus::DeadLetter => "dead_letter",
        };
        self.ends.get_or_create(&End { action: action.to_owned(), status }).inc();
    }

    pub(super) fn count_retry(&self, action: &str) {
        self.retries.get_or_create(&Named { action: action.to_owned() }).inc();
    }
}
