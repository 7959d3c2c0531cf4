//! The routes and the layers around them.

use std::sync::Arc;

use axum::Router;
use axum::error_handling::HandleErrorLayer;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, get, post};
use tower::ServiceBuilder;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::load_shed::LoadShedLayer;
use tower_http::catch_panic::CatchPanicLayer;

use super::backend::Backend;
use super::edge::{Edge, EdgeParts};
use super::error::ApiError;
use super::layers::{Deadlines, keep_deadline, observe, panicked};
use super::{blocks, decisions, entities, labels, models, openapi, operations};

/// The whole edge as one service.
///
/// Order of the layers, outermost first: receipt, request id and counts; panics; under `/v1` the deadline, then the
/// limit of requests at once, which sheds what is over it. Health, metrics and the API description are never shed.
pub(super) fn router<B: Backend>(parts: EdgeParts<B>) -> Router {
    let settings = parts.settings.clone();
    let metrics = parts.metrics.clone();
    let edge = Arc::new(Edge { parts, openapi: openapi::document() });
    let deadlines = |default| Deadlines { default, grace: settings.grace, metrics: metrics.clone() };

    let shed_metrics = metrics.clone();
    let limit = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(move |_overloaded: tower::BoxError| {
            shed_metrics.count_shed();
            std::future::ready(ApiError::Shed)
        }))
        .layer(LoadShedLayer::new())
        .layer(GlobalConcurrencyLimitLayer::new(settings.requests_max));
    let deciding = Router::new()
        .route(decisions::PATH, post(decisions::decide::<B>))
        .layer(limit.clone())
        .layer(from_fn_with_state(deadlines(settings.deadline), keep_deadline));
    let others = Router::new()
        .route("/v1/decisions/{id}", get(decisions::stored::<B>))
        .route("/v1/entities/{entity}", post(entities::read::<B>))
        .route("/v1/labels", post(labels::report::<B>))
        .route("/v1/blocks", blocks_routes::<B>())
        .route("/v1/models", get(models::list::<B>))
        .layer(limit)
        .layer(from_fn_with_state(deadlines(settings.request_time), keep_deadline));
    let operations = Router::new()
        .route("/health/live", get(operations::live))
        .route("/health/ready", get(operations::ready::<B>))
        .route("/metrics", get(operations::metrics::<B>))
        .route("/openapi.json", get(operations::openapi::<B>));

    let panic_metrics = metrics.clone();
    Router::new()
        .merge(deciding)
        .merge(others)
        .merge(operations)
        .fallback(|| std::future::ready(ApiError::NoRoute))
        .method_not_allowed_fallback(|| std::future::ready(ApiError::Method))
        .with_state(edge)
        .layer(CatchPanicLayer::custom(move |payload| panicked(&panic_metrics, payload)))
        .layer(from_fn_with_state(metrics, observe))
}

fn blocks_routes<B: Backend>() -> MethodRouter<Arc<Edge<B>>> {
    get(blocks::list::<B>).post(blocks::set::<B>).delete(blocks::remove::<B>)
}
