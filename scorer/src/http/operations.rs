//! `/health/live`, `/health/ready`, `/metrics` and `/openapi.json`: never shed, and without a deadline.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::text::encode;

use super::backend::{Backend, BackendError};
use super::edge::{Edge, json};
use super::error::{ApiError, ErrorBody};
use super::wire::{LiveAnswer, ReadyAnswer, ReasonBody};

/// Whether the process answers.
#[utoipa::path(
    get, path = "/health/live", operation_id = "live", tag = "operations",
    responses((status = 200, description = "It does", body = LiveAnswer)),
)]
pub(super) async fn live() -> Result<Response, ApiError> {
    std::future::ready(json(StatusCode::OK, &LiveAnswer { live: true })).await
}

/// Whether requests will be served, and if not, why.
#[utoipa::path(
    get, path = "/health/ready", operation_id = "ready", tag = "operations",
    responses(
        (status = 200, description = "Ready", body = ReadyAnswer),
        (status = 503, description = "Not ready, with the reasons", body = ReadyAnswer),
    ),
)]
pub(super) async fn ready<B: Backend>(State(edge): State<Arc<Edge<B>>>) -> Result<Response, ApiError> {
    let reasons = edge.parts.backend.ready().await;
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let reasons: Vec<ReasonBody> =
        reasons.into_iter().map(|reason| ReasonBody { code: reason.code.into(), message: reason.message }).collect();
    json(status, &ReadyAnswer { ready: reasons.is_empty(), reasons })
}

/// All metrics of the process in the OpenMetrics text format.
#[utoipa::path(
    get, path = "/metrics", operation_id = "metrics", tag = "operations",
    responses(
        (status = 200, description = "OpenMetrics text", body = String, content_type = "application/openmetrics-text"),
        (status = 401, description = "No known key", body = ErrorBody),
        (status = 403, description = "The key lacks the role `read`", body = ErrorBody),
    ),
    security(("key" = ["read"]), ()),
)]
pub(super) async fn metrics<B: Backend>(
    State(edge): State<Arc<Edge<B>>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    edge.admit_scrape(&headers)?;
    let mut text = String::with_capacity(16 * 1024);
    encode(&mut text, &edge.parts.registry).map_err(|error| BackendError::Internal(Box::new(error)))?;
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    std::future::ready(Ok((StatusCode::OK, [(CONTENT_TYPE, kind)], text).into_response())).await
}

/// This description.
#[utoipa::path(
    get, path = "/openapi.json", operation_id = "openapi", tag = "operations",
    responses((status = 200, description = "OpenAPI 3.1", body = Object)),
)]
pub(super) async fn openapi<B: Backend>(State(edge): State<Arc<Edge<B>>>) -> Response {
    let kind = HeaderValue::from_static("application/json");
    std::future::ready((StatusCode::OK, [(CONTENT_TYPE, kind)], edge.openapi.clone()).into_response()).await
}
