//! What the edge counts.

use std::sync::atomic::AtomicI64;

use axum::http::{Method, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::decisions;

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    method: &'static str,
    status: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct RouteLabels {
    route: String,
}

/// The edge's counters. Routes are templates (`/v1/decisions/{id}`), so that their number is fixed.
#[derive(Clone, Debug)]
pub struct HttpMetrics {
    requests: Family<RequestLabels, Counter>,
    duration: Family<RouteLabels, Histogram, fn() -> Histogram>,
    in_flight: Gauge<i64, AtomicI64>,
    shed: Counter,
    panics: Counter,
    late: Counter,
    connections: Gauge<i64, AtomicI64>,
    unauthenticated: Counter,
}

/// 100 microseconds to 6.5 seconds, a factor of 2 apart: around the budgets of 2 and 10 ms and the longest deadlines.
fn duration_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 17))
}

impl HttpMetrics {
    /// Registers the families in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            duration: Family::new_with_constructor(duration_buckets),
            in_flight: Gauge::default(),
            shed: Counter::default(),
            panics: Counter::default(),
            late: Counter::default(),
            connections: Gauge::default(),
            unauthenticated: Counter::default(),
        };
        let registry = registry.sub_registry_with_prefix("interdict_scorer_http");
        let m = metrics.clone();
        registry.register(
            "requests",
            "Requests by route, method and class of status; 'dropped': the client left",
            m.requests,
        );
        registry.register("request_duration_seconds", "From receipt to answer", m.duration);
        registry.register("in_flight_requests", "Requests being answered", m.in_flight);
        registry.register("shed", "Requests refused because as many as allowed were being answered", m.shed);
        registry.register("panics", "Requests whose handler panicked", m.panics);
        registry.register(
            "late",
            "Requests cut off because the backend answered neither by the deadline nor shortly after",
            m.late,
        );
        registry.register("connections", "Open connections", m.connections);
        registry.register(
            "unauthenticated",
            "Requests with no key or an unknown one where keys are required",
            m.unauthenticated,
        );
        // A series that begins with its first failure shows no rise.
        let failed = RequestLabels { route: decisions::PATH.to_owned(), method: "POST", status: "5xx" };
        drop(metrics.requests.get_or_create(&failed));
        metrics
    }

    pub(super) fn count_shed(&self) {
        self.shed.inc();
    }

    pub(super) fn count_panic(&self) {
        self.panics.inc();
    }

    pub(super) fn count_late(&self) {
        self.late.inc();
    }

    pub(super) fn count_unauthenticated(&self) {
        self.unauthenticated.inc();
    }

    /// Counts a connection as open until the guard is dropped.
    pub(super) fn connection(&self) -> GaugeGuard {
        GaugeGuard::new(&self.connections)
    }

    /// Counts a request as in flight until the observation is finished or dropped.
    pub(super) fn request(&self, route: &str, method: &Method, start: tokio::time::Instant) -> Observation {
        Observation {
            metrics: self.clone(),
            route: route.to_owned(),
            method: known_method(method),
            start,
            status: "dropped",
            _in_flight: GaugeGuard::new(&self.in_flight),
        }
    }
}

/// Holds a gauge one higher.
#[derive(Debug)]
pub(super) struct GaugeGuard(Gauge<i64, AtomicI64>);

impl GaugeGuard {
    fn new(gauge: &Gauge<i64, AtomicI64>) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// One request while it is being answered; counted once it is dropped.
#[derive(Debug)]
pub(super) struct Observation {
    metrics: HttpMetrics,
    route: String,
    method: &'static str,
    start: tokio::time::Instant,
    status: &'static str,
    _in_flight: GaugeGuard,
}

impl Observation {
    /// The request was answered.
    pub(super) fn finish(mut self, status: StatusCode) {
        self.status = match status.as_u16() {
            100..=199 => "1xx",
            200..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            _ => "5xx",
        };
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        let labels = RequestLabels { route: self.route.clone(), method: self.method, status: self.status };
        self.metrics.requests.get_or_create(&labels).inc();
        let route = RouteLabels { route: std::mem::take(&mut self.route) };
        self.metrics.duration.get_or_create(&route).observe(self.start.elapsed().as_secs_f64());
    }
}

/// The method as a label; what a client invents does not become one.
fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}
