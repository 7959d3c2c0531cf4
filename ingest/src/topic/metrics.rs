//! What readers of topics count for Prometheus.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::source::Delivery;

use super::PartitionLag;

/// Metrics of all topics that a process reads; each has its source's name as label.
#[derive(Clone, Debug, Default)]
pub struct TopicMetrics {
    records: Family<SourceLabel, Counter>,
    dead: Family<SourceLabel, Counter>,
    skipped: Family<SourceLabel, Counter>,
    lag_records: Family<PartitionLabel, Gauge>,
    lag_seconds: Family<PartitionLabel, Gauge<f64, AtomicU64>>,
    partitions: Family<SourceLabel, Gauge>,
    connected: Family<SourceLabel, Gauge>,
    reconnects: Family<SourceLabel, Counter>,
    rebalances: Family<SourceLabel, Counter>,
    gaps: Family<SourceLabel, Counter>,
    stalls: Family<SourceLabel, Counter>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct SourceLabel {
    source: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct PartitionLabel {
    source: String,
    partition: u32,
}

impl TopicMetrics {
    /// Metrics that `registry` shows.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let name = |name: &str| format!("interdict_ingest_topic_{name}");
        registry.register(name("records"), "Records delivered", metrics.records.clone());
        registry.register(name("dead_letters"), "Records that became no change", metrics.dead.clone());
        registry.register(name("skipped"), "Records that carry no row, tombstones among them", metrics.skipped.clone());
        registry.register(
            name("lag_records"),
            "Records between the last one delivered and the partition's end",
            metrics.lag_records.clone(),
        );
        registry.register_with_unit(
            name("lag"),
            "Age of the last record delivered, 0 at the partition's end",
            Unit::Seconds,
            metrics.lag_seconds.clone(),
        );
        registry.register(name("partitions"), "Partitions that this process reads", metrics.partitions.clone());
        registry.register(
            name("connected"),
            "Whether the broker answers this process (1) or not (0)",
            metrics.connected.clone(),
        );
        registry.register(
            name("reconnects"),
            "Connections taken up again after they were lost",
            metrics.reconnects.clone(),
        );
        registry.register(
            name("rebalances"),
            "Changes of the partitions that this process reads",
            metrics.rebalances.clone(),
        );
        registry.register(
            name("gaps"),
            "Streams opened again because the Fluvio client had left records out",
            metrics.gaps.clone(),
        );
        registry.register(
            name("stalls"),
            "Streams opened again because the Fluvio client had stopped before the partition's end",
            metrics.stalls.clone(),
        );
        metrics
    }

    /// Those of one source.
    #[must_use]
    pub fn of(&self, source: &str) -> SourceMetrics {
        let label = SourceLabel { source: source.to_owned() };
        SourceMetrics {
            records: self.records.get_or_create(&label).clone(),
            dead: self.dead.get_or_create(&label).clone(),
            skipped: self.skipped.get_or_create(&label).clone(),
            lag_records: self.lag_records.clone(),
            lag_seconds: self.lag_seconds.clone(),
            partitions: self.partitions.get_or_create(&label).clone(),
            connected: self.connected.get_or_create(&label).clone(),
            reconnects: self.reconnects.get_or_create(&label).clone(),
            rebalances: self.rebalances.get_or_create(&label).clone(),
            gaps: self.gaps.get_or_create(&label).clone(),
            stalls: self.stalls.get_or_create(&label).clone(),
            label,
        }
    }
}

/// Whether a broker answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It does.
    Came,
    /// It does not.
    Missing,
}

/// Metrics of one source.
#[derive(Clone, Debug)]
pub struct SourceMetrics {
    records: Counter,
    dead: Counter,
    skipped: Counter,
    lag_records: Family<PartitionLabel, Gauge>,
    lag_seconds: Family<PartitionLabel, Gauge<f64, AtomicU64>>,
    /// Partitions that are read here.
    pub partitions: Gauge,
    /// Whether the broker answers.
    connected: Gauge,
    /// Connections taken up again.
    pub reconnects: Counter,
    /// Changes of the assignment.
    pub rebalances: Counter,
    /// Gaps that were read again.
    pub gaps: Counter,
    /// Streams that had stopped.
    pub stalls: Counter,
    label: SourceLabel,
}

impl SourceMetrics {
    /// Counts a delivery.
    pub fn delivered(&self, delivery: &Delivery) {
        self.records.inc_by(delivery.records);
        self.dead.inc_by(delivery.dead.len() as u64);
        self.skipped.inc_by(delivery.skipped);
    }

    /// Shows whether the broker answers.
    pub fn answered(&self, answer: Answer) {
        self.connected.set(i64::from(answer == Answer::Came));
    }

    /// Shows how far a partition is behind.
    pub fn lag(&self, lag: &PartitionLag) {
        let label = self.label_of(lag.partition);
        let records = i64::try_from(lag.records).unwrap_or(i64::MAX);
        self.lag_records.get_or_create(&label).set(records);
        self.lag_seconds.get_or_create(&label).set(lag.seconds);
    }

    /// A partition is read here no more: another process shows its lag.
    pub fn forget(&self, partition: u32) {
        let label = self.label_of(partition);
        self.lag_records.remove(&label);
        self.lag_seconds.remove(&label);
    }

    fn label_of(&self, partition: u32) -> PartitionLabel {
        PartitionLabel { source: self.label.source.clone(), partition }
    }
}
