//! `POST /v1/decisions` and `GET /v1/decisions/{id}`.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::backend::{Answer, Backend, BackendError, DecideRequest, Decided};
use super::body::Fields;
use super::edge::{Edge, json, sane_header};
use super::error::{ApiError, ErrorBody};
use super::keys::Role;
use super::typed;
use super::wire::{DecisionAnswer, DecisionBody, StoredDecisionAnswer};

/// Where events are decided.
pub(super) const PATH: &str = "/v1/decisions";
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Decides on one event, or hands out the decision that exists for it. Repeating a request is safe: the event's id
/// identifies the decision.
#[utoipa::path(
    post, path = "/v1/decisions", operation_id = "decide", tag = "decisions",
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters; used again with another event: 422"),
        ("X-Deadline-Ms" = Option<u32>, Header, description = "1 to 60000 milliseconds from receipt"),
    ),
    request_body = DecisionBody,
    responses(
        (status = 200, description = "The decision, or that the event is not one to be judged", body = DecisionAnswer),
        (status = 400, description = "Not JSON, or a wrong header", body = ErrorBody),
        (status = 401, description = "No known key", body = ErrorBody),
        (status = 403, description = "The key lacks the role `decide`", body = ErrorBody),
        (status = 408, description = "The body did not arrive in time", body = ErrorBody),
        (status = 413, description = "The body is too large", body = ErrorBody),
        (status = 415, description = "Not announced as JSON", body = ErrorBody),
        (status = 422, description = "Wrong fields, no stable event id, or a reused idempotency key", body = ErrorBody),
        (status = 503, description = "Overloaded, not available, or no answer by the deadline", body = ErrorBody),
    ),
    security(("key" = ["decide"])),
)]
pub(super) async fn decide<B: Backend>(
    State(edge): State<Arc<Edge<B>>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (admitted, bytes) = edge.admit_json(request, Role::Decide).await?;
    let idempotency_key = idempotency_key(&admitted.head.headers)?;
    let mut fields = Fields::parse(&bytes)?;
    let name = fields.text("stream");
    let stream = typed::judged_stream(&edge.parts.definitions, name.as_deref());
    let object = fields.required_object("event");
    let stream = match stream {
        Ok(stream) => Some(stream),
        Err(problem) => {
            fields.problem("stream", problem);
            None
        }
    };
    let event = stream.zip(object).map(|(stream, object)| typed::event(&stream, &object, admitted.budget.received));
    let event = match event {
        Some(Ok(event)) => {
            fields.finish()?;
            event
        }
        Some(Err(ApiError::UnstableId(problems))) => {
            fields.extend(problems);
            return Err(ApiError::UnstableId(fields.into_problems()));
        }
        Some(Err(ApiError::Fields(problems))) => {
            fields.extend(problems);
            return Err(ApiError::Fields(fields.into_problems()));
        }
        Some(Err(other)) => return Err(other),
        None => return Err(ApiError::Fields(fields.into_problems())),
    };
    let request = DecideRequest {
        batch: event.batch,
        event_id: event.event_id,
        idempotency_key,
        body_hash: event.hash,
        budget: admitted.budget,
        caller: admitted.caller,
    };
    let answer = match edge.parts.backend.decide(request).await? {
        Decided::Judged(answer) => {
            let Answer { record, unlogged, replayed } = *answer;
            DecisionAnswer { judged: true, decision: Some(record), unlogged, replayed }
        }
        Decided::NotJudged => DecisionAnswer { judged: false, decision: None, unlogged: false, replayed: false },
    };
    json(StatusCode::OK, &answer)
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    sane_header(headers, IDEMPOTENCY_KEY, 255).map(|key| key.map(str::to_owned)).map_err(|()| ApiError::Header {
        name: IDEMPOTENCY_KEY,
        expected: "1 to 255 visible ASCII characters, sent once",
    })
}

/// A stored decision with the results of its actions, its labels and late scores.
#[utoipa::path(
    get, path = "/v1/decisions/{id}", operation_id = "decision", tag = "decisions",
    params(("id" = Uuid, Path, description = "The decision's id")),
    responses(
        (status = 200, description = "The decision", body = StoredDecisionAnswer),
        (status = 400, description = "The id is not a UUID", body = ErrorBody),
        (status = 401, description = "No known key", body = ErrorBody),
        (status = 403, description = "The key lacks the role `read`", body = ErrorBody),
        (status = 404, description = "No such decision", body = ErrorBody),
        (status = 503, description = "Overloaded or not available", body = ErrorBody),
    ),
    security(("key" = ["read"])),
)]
pub(super) async fn stored<B: Backend>(
    State(edge): State<Arc<Edge<B>>>,
    path: Result<Path<Uuid>, axum::extract::rejection::PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let admitted = edge.admit(request, Role::Read)?;
    let Ok(Path(id)) = path else {
        return Err(ApiError::PathId);
    };
    let stored = edge.parts.backend.decision(id, admitted.budget).await?;
    let appended = stored.appended.into_iter().map(raw).collect::<Result<_, _>>()?;
    json(StatusCode::OK, &StoredDecisionAnswer { decision: raw_bytes(&stored.record)?, appended })
}

/// Stored JSON as it stands.
pub(super) fn raw_bytes(bytes: &Bytes) -> Result<Box<RawValue>, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| BackendError::Internal(Box::new(error)).into())
}

fn raw(text: String) -> Result<Box<RawValue>, ApiError> {
    RawValue::from_string(text).map_err(|error| BackendError::Internal(Box::new(error)).into())
}
