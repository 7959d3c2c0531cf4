//! `POST /v1/labels`: what a transaction turned out to be.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use interdict_features::definition::Stream;
use interdict_features::time::Timestamp;
use jiff::tz::TimeZone;
use serde_json::value::RawValue;

use super::backend::{Backend, Label, LabelRequest};
use super::body::Fields;
use super::edge::{Edge, json};
use super::error::{ApiError, ErrorBody};
use super::keys::Role;
use super::typed;
use super::wire::{AcceptedAnswer, LabelBody};

/// Reports a label. It may come late, again, changed, and before its event.
#[utoipa::path(
    post, path = "/v1/labels", operation_id = "label", tag = "labels",
    request_body = LabelBody,
    responses(
        (status = 202, description = "Durable; will be applied in its turn", body = AcceptedAnswer),
        (status = 400, description = "Not JSON, or a wrong header", body = ErrorBody),
        (status = 401, description = "No known key", body = ErrorBody),
        (status = 403, description = "The key lacks the role `label`", body = ErrorBody),
        (status = 413, description = "The body is too large", body = ErrorBody),
        (status = 415, description = "Not announced as JSON", body = ErrorBody),
        (status = 422, description = "Wrong fields", body = ErrorBody),
        (status = 503, description = "Overloaded or not available", body = ErrorBody),
    ),
    security(("key" = ["label"])),
)]
pub(super) async fn report<B: Backend>(
    State(edge): State<Arc<Edge<B>>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (admitted, bytes) = edge.admit_json(request, Role::Label).await?;
    let definitions = &edge.parts.definitions;
    let mut fields = Fields::parse(&bytes)?;
    let name = fields.text("stream");
    let stream = match typed::labelled_stream(definitions, name.as_deref()) {
        Ok(stream) => Some(stream),
        Err(problem) => {
            fields.problem("stream", problem);
            None
        }
    };
    let raw_id = fields.required("id");
    let id = stream.as_ref().zip(raw_id).and_then(|(stream, raw)| id(stream, raw, &mut fields));
    let label = fields.required("value").and_then(|raw| label(raw, &mut fields));
    let latest = admitted.budget.received.plus(definitions.future_max);
    let reported_at = reported_at(&mut fields, latest);
    fields.finish()?;
    let (stream, (id, event_id)) = stream.zip(id).expect("a stream or id that is not typed is a problem");
    let request = LabelRequest {
        stream: stream.index,
        id,
        event_id,
        label: label.expect("a label that is not typed is a problem"),
        reported_at: reported_at.unwrap_or(admitted.budget.received),
        budget: admitted.budget,
        caller: admitted.caller,
    };
    let accepted = edge.parts.backend.label(request).await?;
    json(StatusCode::ACCEPTED, &AcceptedAnswer { position: accepted.position })
}

fn id(
    stream: &Arc<Stream>,
    raw: &RawValue,
    fields: &mut Fields<'_>,
) -> Option<(interdict_features::value::Value, String)> {
    typed::event_id(stream, raw).map_err(|problem| fields.problem("id", problem)).ok()
}

fn label(raw: &RawValue, fields: &mut Fields<'_>) -> Option<Label> {
    match serde_json::from_str::<Option<&str>>(raw.get()) {
        Ok(Some("fraud")) => Some(Label::Fraud),
        Ok(Some("genuine")) => Some(Label::Genuine),
        Ok(None) => Some(Label::Unknown),
        _ => {
            fields.problem("value", "must be \"fraud\", \"genuine\" or null");
            None
        }
    }
}

fn reported_at(fields: &mut Fields<'_>, latest: Timestamp) -> Option<Timestamp> {
    let text = fields.text("reported_at")?;
    match Timestamp::parse(&text, &TimeZone::UTC) {
        Some(instant) if instant <= latest => Some(instant),
        Some(_) => {
            fields.problem("reported_at", "lies in the future");
            None
        }
        None => {
            fields.problem("reported_at", "must be an RFC 3339 time");
            None
        }
    }
}
