//! What the roles of a fleet count beside what every engine does.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Counters of one process of a fleet.
#[derive(Debug)]
pub(crate) struct FleetStats {
    conflicts: Counter,
    work_left: Counter,
    work_waiting: Gauge,
    apply: Histogram,
}

impl FleetStats {
    /// Counters that `registry` shows.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let stats = Self {
            conflicts: Counter::default(),
            work_left: Counter::default(),
            work_waiting: Gauge::default(),
            apply: Histogram::new(exponential_buckets(0.000_5, 2.0, 16)),
        };
        let Self { conflicts, work_left, work_waiting, apply } = &stats;
        registry.register(
            "interdict_ingest_conflicts",
            "Micro-batches applied again because another process had written what they rest on",
            conflicts.clone(),
        );
        registry.register("interdict_ingest_work", "Events left to scorers", work_left.clone());
        registry.register("interdict_scorer_work_waiting", "Events that wait for a scorer", work_waiting.clone());
        registry.register_with_unit(
            "interdict_ingest_apply",
            "Time from a delivery's arrival in the process to its stored states",
            Unit::Seconds,
            apply.clone(),
        );
        stats
    }

    pub(super) fn count_conflict(&self) {
        self.conflicts.inc();
    }

    pub(super) fn left_work(&self, pieces: usize) {
        self.work_left.inc_by(u64::try_from(pieces).unwrap_or(u64::MAX));
    }

    pub(super) fn work_waiting(&self, pieces: u64) {
        self.work_waiting.set(i64::try_from(pieces).unwrap_or(i64::MAX));
    }

    pub(super) fn applied(&self, took: Duration) {
        self.apply.observe(took.as_secs_f64());
    }
}
