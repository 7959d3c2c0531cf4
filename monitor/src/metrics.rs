//! What the monitor tells Prometheus: `interdict_monitor_...`. Labels are the reference's columns and fixed outcomes.

use std::sync::atomic::AtomicU64;

use interdict_features::time::Timestamp;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::alert::outbox::DeliveryCounts;
use crate::drift::detector::DriftCounts;
use crate::drift::verdict::Batch;
use crate::log::LogCounts;

type Number = Gauge<f64, AtomicU64>;
type PerFeature = Family<[(&'static str, String); 1], Number>;

/// The monitor's metrics; clones share the values.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    log_rows: Counter,
    log_files: Counter,
    log_failures: Counter,
    log_unflushed: Gauge,
    log_last_flush: Number,
    drift_batches: Counter,
    drift_rows: Counter,
    drift_skipped: Counter,
    drift_last: Number,
    drift_firing: Gauge,
    psi: PerFeature,
    ks: PerFeature,
    null_ratio: PerFeature,
    deliveries: Family<[(&'static str, &'static str); 1], Counter>,
    pending: Gauge,
}

impl Metrics {
    /// Registers the metrics.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let own = registry.sub_registry_with_prefix("interdict_monitor");
        own.register("log_rows", "Decisions written to Parquet", metrics.log_rows.clone());
        own.register("log_files", "Parquet files published", metrics.log_files.clone());
        own.register("log_failures", "Failed attempts to write the decision log", metrics.log_failures.clone());
        own.register("log_unflushed_rows", "Decisions taken and not yet durable", metrics.log_unflushed.clone());
        let help = "When the decision log was last durable up to what was taken";
        own.register("log_last_flush_timestamp_seconds", help, metrics.log_last_flush.clone());
        own.register("drift_batches", "Batches compared with the reference", metrics.drift_batches.clone());
        own.register("drift_rows", "Decisions that drift was judged on", metrics.drift_rows.clone());
        let help = "Decisions left out of drift: without features, or of another champion";
        own.register("drift_skipped_rows", help, metrics.drift_skipped.clone());
        let help = "When a batch was last compared with the reference, or watching for one began";
        own.register("drift_last_batch_timestamp_seconds", help, metrics.drift_last.clone());
        own.register("drift_firing", "1 while drift is confirmed", metrics.drift_firing.clone());
        own.register("drift_psi", "Population stability index of the last batch", metrics.psi.clone());
        own.register("drift_ks_distance", "Kolmogorov-Smirnov distance of the last batch", metrics.ks.clone());
        own.register("feature_null_ratio", "Share of null in the last batch", metrics.null_ratio.clone());
        own.register(
            "alert_deliveries",
            "Attempts to deliver alerts, by what became of them",
            metrics.deliveries.clone(),
        );
        own.register("alert_outbox_pending", "Alert deliveries that wait", metrics.pending.clone());
        metrics
    }

    pub(crate) fn log_failed(&self) {
        self.log_failures.inc();
    }

    pub(crate) fn log(&self, counts: LogCounts, unflushed: usize, flushed: Option<Timestamp>) {
        raise(&self.log_rows, counts.rows);
        raise(&self.log_files, counts.files);
        self.log_unflushed.set(i64::try_from(unflushed).unwrap_or(i64::MAX));
        if let Some(time) = flushed {
            self.log_last_flush.set(seconds(time));
        }
    }

    pub(crate) fn drift(&self, counts: DriftCounts) {
        raise(&self.drift_batches, counts.batches);
        raise(&self.drift_rows, counts.rows);
        raise(&self.drift_skipped, counts.skipped);
    }

    pub(crate) fn firing(&self, is_firing: bool) {
        self.drift_firing.set(i64::from(is_firing));
    }

    /// Drift is watched at `now`: the time that a first batch is measured from.
    pub(crate) fn watching(&self, now: Timestamp) {
        if self.drift_last.get() == 0.0 {
            self.drift_last.set(seconds(now));
        }
    }

    pub(crate) fn batch(&self, batch: &Batch, now: Timestamp) {
        self.drift_last.set(seconds(now));
        for column in &batch.columns {
            let label = [("feature", column.name.clone())];
            self.psi.get_or_create(&label).set(column.psi.value);
            self.ks.get_or_create(&label).set(column.ks.distance);
            self.null_ratio.get_or_create(&label).set(column.null_ratio);
        }
    }

    pub(crate) fn alerts(&self, counts: DeliveryCounts, pending: usize) {
        let outcomes = [
            ("taken", counts.taken),
            ("retried", counts.retried),
            ("given_up", counts.given_up),
            ("disabled", counts.disabled),
            ("displaced", counts.displaced),
        ];
        for (outcome, count) in outcomes {
            raise(&self.deliveries.get_or_create(&[("outcome", outcome)]), count);
        }
        self.pending.set(i64::try_from(pending).unwrap_or(i64::MAX));
    }
}

/// Brings a counter up to `total`.
fn raise(counter: &Counter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

#[expect(clippy::cast_precision_loss, reason = "a time in microseconds fits 2^53 until the year 2255")]
fn seconds(time: Timestamp) -> f64 {
    time.micros() as f64 / 1e6
}
