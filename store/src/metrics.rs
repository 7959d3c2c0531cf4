//! What calls of the online store take and how they fail, for Prometheus.

use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::error::{Class, StoreError};

/// Metrics of one store; clones share them.
#[derive(Clone, Debug)]
pub struct StoreMetrics {
    commits: Histogram,
    fetches: Histogram,
    failures: Family<Failure, Counter>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Failure {
    call: &'static str,
    class: &'static str,
}

/// The calls that are measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Call {
    Commit,
    Fetch,
}

/// 50 microseconds to 26 seconds: a read from memory, and a commit that waits for a server to come back.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_05, 2.0, 20))
}

impl Default for StoreMetrics {
    fn default() -> Self {
        Self { commits: seconds(), fetches: seconds(), failures: Family::default() }
    }
}

impl StoreMetrics {
    /// Metrics that `registry` shows.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let own = registry.sub_registry_with_prefix("interdict_store");
        let help = "Time a commit took, its waiting for a server that is away too";
        own.register_with_unit("commit", help, Unit::Seconds, metrics.commits.clone());
        let help = "Time a batched read took, whatever it found";
        own.register_with_unit("fetch", help, Unit::Seconds, metrics.fetches.clone());
        let help = "Calls that failed, by class: transient ones are made again, after fatal ones the process ends";
        own.register("failures", help, metrics.failures.clone());
        // A series that is there from the beginning shows its first failure as a rise.
        for call in [Call::Commit, Call::Fetch] {
            for class in [Class::Transient, Class::Rejected, Class::Fatal] {
                drop(metrics.failures.get_or_create(&Failure::of(call, class)));
            }
        }
        metrics
    }

    /// Measures a call from its beginning to its answer; one that is dropped before is not counted.
    pub(crate) async fn measure<T>(
        &self,
        call: Call,
        asked: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let start = now();
        let answer = asked.await;
        // Processes that meet on one key do so by design, and count it themselves.
        let failed = answer.as_ref().err().filter(|error| !matches!(error, StoreError::Conflict));
        self.note(call, now() - start, failed.map(StoreError::class));
        answer
    }

    fn note(&self, call: Call, took: Duration, failed: Option<Class>) {
        let seconds = match call {
            Call::Commit => &self.commits,
            Call::Fetch => &self.fetches,
        };
        seconds.observe(took.as_secs_f64());
        if let Some(class) = failed {
            self.failures.get_or_create(&Failure::of(call, class)).inc();
        }
    }
}

impl Failure {
    fn of(call: Call, class: Class) -> Self {
        let call = match call {
            Call::Commit => "commit",
            Call::Fetch => "fetch",
        };
        let class = match class {
            Class::Transient => "transient",
            Class::Rejected => "rejected",
            Class::Fatal => "fatal",
        };
        Self { call, class }
    }
}

#[expect(clippy::disallowed_methods, reason = "how long a call took is shown and decides nothing")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_that_is_made_again_is_no_failure() {
        let mut registry = Registry::default();
        let metrics = StoreMetrics::register(&mut registry);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let full = StoreError::OutboxFull { capacity: 1 };
        for error in [StoreError::Conflict, full] {
            runtime.block_on(metrics.measure(Call::Commit, async { Err::<(), _>(error) })).unwrap_err();
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "interdict_store_commit_seconds_count 2",
            "interdict_store_failures_total{call=\"commit\",class=\"rejected\"} 0",
            "interdict_store_failures_total{call=\"commit\",class=\"transient\"} 1",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }

    #[test]
    fn calls_are_counted_by_what_became_of_them() {
        let mut registry = Registry::default();
        let metrics = StoreMetrics::register(&mut registry);
        metrics.note(Call::Commit, Duration::from_millis(3), None);
        metrics.note(Call::Commit, Duration::from_secs(5), Some(Class::Transient));
        metrics.note(Call::Fetch, Duration::from_micros(40), None);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "interdict_store_commit_seconds_count 2",
            "interdict_store_commit_seconds_bucket{le=\"0.0032\"} 1",
            "interdict_store_fetch_seconds_bucket{le=\"0.00005\"} 1",
            "interdict_store_failures_total{call=\"commit\",class=\"transient\"} 1",
            "interdict_store_failures_total{call=\"fetch\",class=\"fatal\"} 0",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
