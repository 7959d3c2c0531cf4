//! What archives count for Prometheus.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// Metrics of all archived sources of a process; each has its source's name as label.
#[derive(Clone, Debug, Default)]
pub struct ArchiveMetrics {
    rows: Family<SourceLabel, Counter>,
    files: Family<SourceLabel, Counter>,
    bytes: Family<SourceLabel, Counter>,
    failures: Family<SourceLabel, Counter>,
    waiting: Family<SourceLabel, Gauge>,
    published: Family<SourceLabel, Gauge<f64, AtomicU64>>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct SourceLabel {
    source: String,
}

impl ArchiveMetrics {
    /// Metrics that `registry` shows.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let name = |name: &str| format!("interdict_ingest_archive_{name}");
        registry.register(name("rows"), "Changes in published files of the archive", metrics.rows.clone());
        registry.register(name("files"), "Published files of the archive", metrics.files.clone());
        registry.register_with_unit(
            name("written"),
            "Size of published files of the archive",
            Unit::Bytes,
            metrics.bytes.clone(),
        );
        registry.register(
            name("failures"),
            "Attempts of the archive to write to its folder that failed",
            metrics.failures.clone(),
        );
        registry.register(
            name("waiting_rows"),
            "Changes that wait for the archive's next files",
            metrics.waiting.clone(),
        );
        registry.register_with_unit(
            name("published_timestamp"),
            "When everything that waited for the archive was last published",
            Unit::Seconds,
            metrics.published.clone(),
        );
        metrics
    }

    /// Those of one source.
    #[must_use]
    pub fn of(&self, source: &str) -> SourceMetrics {
        let label = SourceLabel { source: source.to_owned() };
        SourceMetrics {
            rows: self.rows.get_or_create(&label).clone(),
            files: self.files.get_or_create(&label).clone(),
            bytes: self.bytes.get_or_create(&label).clone(),
            failures: self.failures.get_or_create(&label).clone(),
            waiting: self.waiting.get_or_create(&label).clone(),
            published: self.published.get_or_create(&label).clone(),
        }
    }
}

/// Metrics of one source.
#[derive(Clone, Debug, Default)]
pub struct SourceMetrics {
    /// Rows published.
    pub rows: Counter,
    /// Files published.
    pub files: Counter,
    /// Bytes of them.
    pub bytes: Counter,
    /// Attempts that failed.
    pub failures: Counter,
    /// Rows taken and not published.
    pub waiting: Gauge,
    /// When files were last published.
    pub published: Gauge<f64, AtomicU64>,
}
