//! What captures count for Prometheus.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// Metrics of all captures of a process; each has its source's name as label.
#[derive(Clone, Debug, Default)]
pub struct PostgresMetrics {
    owner: Family<SourceLabel, Gauge>,
    lag_bytes: Family<SourceLabel, Gauge>,
    lag_seconds: Family<SourceLabel, Gauge<f64, AtomicU64>>,
    reconnects: Family<SourceLabel, Counter>,
    lost_slots: Family<SourceLabel, Counter>,
    lost: Family<SourceLabel, Gauge<f64, AtomicU64>>,
    rows: Family<SourceLabel, Counter>,
    transactions: Family<SourceLabel, Counter>,
    dead: Family<SourceLabel, Counter>,
    lacking: Family<SourceLabel, Counter>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct SourceLabel {
    source: String,
}

impl PostgresMetrics {
    /// Metrics that `registry` shows.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let name = |name: &str| format!("interdict_ingest_postgres_{name}");
        registry.register(
            name("slot_owner"),
            "Whether this process reads from the slot (1) or stands by for it (0)",
            metrics.owner.clone(),
        );
        registry.register_with_unit(
            name("slot_lag"),
            "Log that the server keeps for the slot, from what was confirmed to its end",
            Unit::Bytes,
            metrics.lag_bytes.clone(),
        );
        registry.register_with_unit(
            name("slot_lag"),
            "Age of the oldest delivered transaction that is not confirmed as durable",
            Unit::Seconds,
            metrics.lag_seconds.clone(),
        );
        registry.register(
            name("reconnects"),
            "Replication sessions begun after the first one was lost",
            metrics.reconnects.clone(),
        );
        registry.register(
            name("lost_slots"),
            "Snapshots begun in the place of changes that a lost slot held",
            metrics.lost_slots.clone(),
        );
        registry.register_with_unit(
            name("lost_slot_timestamp"),
            "When this process began the last of them, after 1970; 0: none",
            Unit::Seconds,
            metrics.lost.clone(),
        );
        registry.register(name("rows"), "Rows delivered, those of the snapshot too", metrics.rows.clone());
        registry.register(name("transactions"), "Transactions delivered that held rows", metrics.transactions.clone());
        registry.register(name("dead_letters"), "Rows that became no change", metrics.dead.clone());
        let help = "Rows from before their table had a column that the stream declares: it is null in them";
        registry.register(name("lacking_rows"), help, metrics.lacking.clone());
        metrics
    }

    /// Those of one source.
    pub(super) fn of(&self, source: &str) -> SourceMetrics {
        let label = SourceLabel { source: source.to_owned() };
        SourceMetrics {
            owner: self.owner.get_or_create(&label).clone(),
            lag_bytes: self.lag_bytes.get_or_create(&label).clone(),
            lag_seconds: self.lag_seconds.get_or_create(&label).clone(),
            reconnects: self.reconnects.get_or_create(&label).clone(),
            lost_slots: self.lost_slots.get_or_create(&label).clone(),
            lost: self.lost.get_or_create(&label).clone(),
            rows: self.rows.get_or_create(&label).clone(),
            transactions: self.transactions.get_or_create(&label).clone(),
            dead: self.dead.get_or_create(&label).clone(),
            lacking: self.lacking.get_or_create(&label).clone(),
        }
    }
}

/// Metrics of one source.
#[derive(Clone, Debug)]
pub(super) struct SourceMetrics {
    pub(super) owner: Gauge,
    pub(super) lag_bytes: Gauge,
    pub(super) lag_seconds: Gauge<f64, AtomicU64>,
    pub(super) reconnects: Counter,
    pub(super) lost_slots: Counter,
    pub(super) lost: Gauge<f64, AtomicU64>,
    pub(super) rows: Counter,
    pub(super) transactions: Counter,
    pub(super) dead: Counter,
    pub(super) lacking: Counter,
}
