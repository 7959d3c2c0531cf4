//! Every error the edge answers with: its status, its stable code and its text are made here and nowhere else.
//!
//! Body: `{"error": {"code", "message", "request_id", "details"?: [{"field", "problem"}]}}`.
//!
//! Invariants:
//! - A code, once released, keeps its meaning and its status.
//! - A message names columns, headers and limits, never a value of the request and never an inside cause.

use std::borrow::Cow;
use std::time::Duration;

use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::backend::{BackendError, FieldProblem};
use super::keys::Role;

/// At most so many wrong fields are told at once.
const DETAILS_MAX: usize = 64;
/// When a client that met the limit of requests at once should try again.
const SHED_RETRY: Duration = Duration::from_secs(1);

/// Why a request is not answered as asked.
#[derive(Debug)]
pub(super) enum ApiError {
    /// The backend said no.
    Backend(BackendError),
    /// Keys are required and none was sent, or one that is not known.
    Unauthenticated,
    /// The key does not have the role.
    Forbidden(Role),
    /// On a loopback edge without keys: the request names another host, as a rebound name in a browser would.
    ForeignHost,
    /// No such route.
    NoRoute,
    /// The route does not know the method.
    Method,
    /// The path's id is not of the right form.
    PathId,
    /// A header is not of the right form.
    Header { name: &'static str, expected: &'static str },
    /// The query is not of the right form.
    Query(Vec<FieldProblem>),
    /// The body is not announced as JSON.
    MediaType,
    /// The body is over the limit.
    BodyTooLarge { bytes_max: usize },
    /// The body did not arrive by the deadline.
    BodyTimeout,
    /// The body broke off.
    BodyBroken,
    /// The body is not UTF-8.
    NotUtf8,
    /// The body is not a JSON object.
    NotJson { line: usize, column: usize },
    /// Fields are wrong, missing or unknown.
    Fields(Vec<FieldProblem>),
    /// The event has no id; other fields may be wrong too.
    UnstableId(Vec<FieldProblem>),
    /// The backend did not answer by the deadline, nor shortly after.
    Deadline,
    /// As many requests as allowed are being answered.
    Shed,
    /// The handler panicked.
    Panicked,
}

/// The body of an error.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorContent,
}

/// What went wrong.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ErrorContent {
    /// Stable: what a program reacts to.
    pub code: String,
    /// For a person.
    pub message: String,
    /// The request's id, as in the header `x-request-id`.
    pub request_id: String,
    /// Every wrong field, where fields were wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<ErrorDetail>,
}

/// A wrong field.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    /// Its name.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

/// An error on its way out: stands in the response's extensions until [`render`] gives it a body.
#[derive(Clone, Debug)]
struct Pending {
    code: &'static str,
    message: Cow<'static, str>,
    details: Vec<FieldProblem>,
}

struct Shape {
    status: StatusCode,
    code: &'static str,
    message: Cow<'static, str>,
    details: Vec<FieldProblem>,
    retry_after: Option<Duration>,
}

impl Shape {
    fn new(status: StatusCode, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code, message: message.into(), details: Vec::new(), retry_after: None }
    }

    fn with_details(mut self, mut details: Vec<FieldProblem>) -> Self {
        details.sort();
        details.dedup();
        if details.len() > DETAILS_MAX {
            let left = details.len() - DETAILS_MAX;
            details.truncate(DETAILS_MAX);
            details.push(FieldProblem { field: "...".to_owned(), problem: format!("{left} more fields are wrong") });
        }
        self.details = details;
        self
    }

    fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }
}

impl ApiError {
    fn shape(self) -> Shape {
        const WRONG_FIELDS: &str = "fields of the request are wrong; see details";
        match self {
            Self::Backend(error) => backend_shape(error),
            Self::Unauthenticated => Shape::new(
                StatusCode::UNAUTHORIZED,
                "unauthenticated",
                "send a known key as 'Authorization: Bearer KEY'",
            ),
            Self::Forbidden(role) => Shape::new(
                StatusCode::FORBIDDEN,
                "forbidden",
                format!("this key does not have the role '{}'", role.name()),
            ),
            Self::ForeignHost => Shape::new(
                StatusCode::FORBIDDEN,
                "host_not_allowed",
                "without keys only requests to localhost are answered; configure keys to use another name",
            ),
            Self::NoRoute => Shape::new(StatusCode::NOT_FOUND, "no_such_route", "no such route; see /openapi.json"),
            Self::Method => Shape::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "this route does not know the method; see the header 'Allow'",
            ),
            Self::PathId => Shape::new(StatusCode::BAD_REQUEST, "invalid_id", "the id in the path is not a UUID"),
            Self::Header { name, expected } => {
                Shape::new(StatusCode::BAD_REQUEST, "invalid_header", format!("the header '{name}' must be {expected}"))
            }
            Self::Query(details) => {
                Shape::new(StatusCode::BAD_REQUEST, "invalid_query", WRONG_FIELDS).with_details(details)
            }
            Self::Fields(details) => {
                Shape::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_request", WRONG_FIELDS).with_details(details)
            }
            Self::UnstableId(details) => unstable_id().with_details(details),
            Self::Deadline => deadline(),
            Self::Shed => Shape::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "overloaded",
                "as many requests as allowed are being answered; try again",
            )
            .retry_after(SHED_RETRY),
            Self::Panicked => internal(),
            body => body_shape(&body),
        }
    }
}

fn body_shape(error: &ApiError) -> Shape {
    match error {
        ApiError::MediaType => Shape::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "send JSON with 'Content-Type: application/json'",
        ),
        ApiError::BodyTooLarge { bytes_max } => Shape::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            format!("the body may hold {bytes_max} bytes at most"),
        ),
        ApiError::BodyTimeout => {
            Shape::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", "the body did not arrive by the deadline")
        }
        ApiError::NotUtf8 => Shape::new(StatusCode::BAD_REQUEST, "not_utf8", "the body is not valid UTF-8"),
        ApiError::NotJson { line, column } => Shape::new(
            StatusCode::BAD_REQUEST,
            "invalid_json",
            format!("the body is not a JSON object (line {line}, column {column})"),
        ),
        _ => Shape::new(StatusCode::BAD_REQUEST, "body_incomplete", "the body broke off before its end"),
    }
}

fn backend_shape(error: BackendError) -> Shape {
    match error {
        BackendError::Overloaded { what, retry_after } => {
            Shape::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", format!("{what} is full; try again"))
                .retry_after(retry_after)
        }
        BackendError::NotFound { what } => {
            Shape::new(StatusCode::NOT_FOUND, "not_found", format!("there is no such {what}"))
        }
        BackendError::Invalid(details) => ApiError::Fields(details).shape(),
        BackendError::Unavailable { what, source } => {
            tracing::warn!(what, error = source.as_deref().map(tracing::field::display), "backend part not available");
            Shape::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", format!("{what} is not available; try again"))
                .retry_after(SHED_RETRY)
        }
        BackendError::DeadlineBeforeDeciding => deadline(),
        BackendError::UnstableId => unstable_id(),
        BackendError::IdempotencyKeyReused => Shape::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency_key_reused",
            "this idempotency key was used with another request",
        ),
        BackendError::Internal(source) => {
            tracing::error!(error = %source, "request failed inside");
            internal()
        }
    }
}

fn unstable_id() -> Shape {
    Shape::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "unstable_event_id",
        "the event has no id by which a repeated request could be known; send its id column",
    )
}

fn deadline() -> Shape {
    Shape::new(StatusCode::SERVICE_UNAVAILABLE, "deadline", "no answer by the deadline; repeating the request is safe")
}

fn internal() -> Shape {
    Shape::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "a mistake of ours; tell us the request_id")
}

impl From<BackendError> for ApiError {
    fn from(error: BackendError) -> Self {
        Self::Backend(error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let shape = self.shape();
        let mut response = shape.status.into_response();
        if let Some(after) = shape.retry_after {
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if shape.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(Pending { code: shape.code, message: shape.message, details: shape.details });
        response
    }
}

/// Gives an error its body, now that the request's id is at hand. Any other response passes unchanged.
pub(super) fn render(response: Response, request_id: &str) -> Response {
    let (mut parts, body) = response.into_parts();
    let Some(pending) = parts.extensions.remove::<Pending>() else {
        return Response::from_parts(parts, body);
    };
    let body = ErrorBody {
        error: ErrorContent {
            code: pending.code.to_owned(),
            message: pending.message.into_owned(),
            request_id: request_id.to_owned(),
            details: pending
                .details
                .into_iter()
                .map(|detail| ErrorDetail { field: detail.field, problem: detail.problem })
                .collect(),
        },
    };
    let bytes = serde_json::to_vec(&body).expect("strings always become JSON");
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Response::from_parts(parts, axum::body::Body::from(bytes))
}
