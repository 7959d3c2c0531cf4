//! What republishing counts for Prometheus.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Metrics of all sources that a process republishes; each has its source's name as label.
#[derive(Clone, Debug, Default)]
pub struct RepublishMetrics {
    records: Family<SourceLabel, Counter>,
    failures: Family<SourceLabel, Counter>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct SourceLabel {
    source: String,
}

/// Metrics of one source.
#[derive(Clone, Debug)]
pub struct OneSource {
    /// Records that the broker acknowledged.
    pub records: Counter,
    /// Attempts that failed.
    pub failures: Counter,
}

impl RepublishMetrics {
    /// Metrics that `registry` shows.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let name = |name: &str| format!("interdict_ingest_republish_{name}");
        registry.register(
            name("records"),
            "Records that the broker acknowledged; one that goes to several partitions counts in each",
            metrics.records.clone(),
        );
        registry.register(
            name("failures"),
            "Attempts to republish that failed: they are made again",
            metrics.failures.clone(),
        );
        metrics
    }

    /// Those of one source, 0 from now on.
    #[must_use]
    pub fn of(&self, source: &str) -> OneSource {
        let label = SourceLabel { source: source.to_owned() };
        OneSource {
            records: self.records.get_or_create(&label).clone(),
            failures: self.failures.get_or_create(&label).clone(),
        }
    }
}
