//! What every request passes on its way in and out, outermost first: [`observe`] (receipt, request id, span, counts,
//! the shape of errors), panic catching, and under `/v1` [`keep_deadline`] and the limit of requests at once.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::time::timeout_at;
use tracing::Instrument;
use uuid::Uuid;

use super::backend::Budget;
use super::clock::Receipt;
use super::edge::{Arrival, sane_header};
use super::error::{ApiError, render};
use super::metrics::HttpMetrics;

/// The header with the request's id.
pub(super) const REQUEST_ID: &str = "x-request-id";
/// The header with the deadline in milliseconds.
pub(super) const DEADLINE_MS: &str = "x-deadline-ms";
/// Longer request ids are replaced by ours.
const REQUEST_ID_BYTES_MAX: usize = 128;
/// The longest deadline a caller may name.
const DEADLINE_MS_MAX: u64 = 60_000;

/// Stamps a request, follows it, and gives an error its body and every answer the request's id.
pub(super) async fn observe(State(metrics): State<HttpMetrics>, mut request: Request, next: Next) -> Response {
    let receipt = Receipt::now();
    let request_id = request_id(request.headers());
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or("unmatched", MatchedPath::as_str);
    let observation = metrics.request(route, request.method(), receipt.instant);
    let span = tracing::info_span!("request", id = &*request_id, route, method = %request.method());
    request.extensions_mut().insert(Arrival { receipt, request_id: Arc::clone(&request_id) });
    let response = next.run(request).instrument(span).await;
    let mut response = render(response, &request_id);
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    observation.finish(response.status());
    response
}

/// The caller's id where it is sane, otherwise one of ours.
fn request_id(headers: &HeaderMap) -> Arc<str> {
    match sane_header(headers, REQUEST_ID, REQUEST_ID_BYTES_MAX) {
        Ok(Some(id)) => id.into(),
        _ => Uuid::new_v4().to_string().into(),
    }
}

/// The answer to a request whose handler panicked. The panic itself went to standard error with its place.
pub(super) fn panicked(metrics: &HttpMetrics, _payload: Box<dyn Any + Send>) -> Response {
    metrics.count_panic();
    tracing::error!("a request handler panicked");
    ApiError::Panicked.into_response()
}

/// How deadlines are kept on some routes.
#[derive(Clone, Debug)]
pub(super) struct Deadlines {
    /// Where the caller names none.
    pub(super) default: Duration,
    /// So long after the deadline the edge answers by itself.
    pub(super) grace: Duration,
    /// Counts answers of that kind.
    pub(super) metrics: HttpMetrics,
}

/// Stamps a request with its deadline, and answers by itself shortly after it.
pub(super) async fn keep_deadline(
    State(deadlines): State<Deadlines>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let arrival = request.extensions().get::<Arrival>().cloned();
    let Arrival { receipt, .. } = arrival.expect("the outermost layer stamps every request");
    let time = named_deadline(request.headers())?.unwrap_or(deadlines.default);
    let deadline = receipt.instant + time;
    request.extensions_mut().insert(Budget { received: receipt.at, start: receipt.instant, deadline });
    timeout_at(deadline + deadlines.grace, next.run(request)).await.map_err(|_elapsed| {
        deadlines.metrics.count_late();
        ApiError::Deadline
    })
}

fn named_deadline(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let wrong = || ApiError::Header {
        name: DEADLINE_MS,
        expected: "a whole number of milliseconds from 1 to 60000, sent once",
    };
    let Some(text) = sane_header(headers, DEADLINE_MS, 5).map_err(|()| wrong())? else {
        return Ok(None);
    };
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    match text.parse::<u64>() {
        Ok(millis @ 1..=DEADLINE_MS_MAX) => Ok(Some(Duration::from_millis(millis))),
        _ => Err(wrong()),
    }
}
