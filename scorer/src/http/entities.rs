//! `POST /v1/entities/{entity}`: everything known of one key. The key stands in the body, because paths are logged.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use interdict_features::time::Timestamp;
use jiff::tz::TimeZone;

use super::backend::{AsOf, Backend, BackendError, EntityRead};
use super::body::Fields;
use super::decisions::raw_bytes;
use super::edge::{Edge, json};
use super::error::{ApiError, ErrorBody};
use super::keys::Role;
use super::typed;
use super::wire::{BlockState, EntityAnswerBody, EntityBody};

/// Recent decisions unless asked otherwise.
const DECISIONS_DEFAULT: usize = 10;
/// Recent decisions at most: about 100 KB of records.
const DECISIONS_MAX: usize = 100;

/// Live features, block state and recent decisions of one key. An unknown key is answered with `known: false`.
#[utoipa::path(
    post, path = "/v1/entities/{entity}", operation_id = "entity", tag = "entities",
    params(("entity" = String, Path, description = "The entity's name, such as `customer`")),
    request_body = EntityBody,
    responses(
        (status = 200, description = "What is known of the key", body = EntityAnswerBody),
        (status = 400, description = "Not JSON, or a wrong header", body = ErrorBody),
        (status = 401, description = "No known key", body = ErrorBody),
        (status = 403, description = "The key lacks the role `read`", body = ErrorBody),
        (status = 404, description = "No such entity", body = ErrorBody),
        (status = 413, description = "The body is too large", body = ErrorBody),
        (status = 415, description = "Not announced as JSON", body = ErrorBody),
        (status = 422, description = "Wrong fields", body = ErrorBody),
        (status = 503, description = "Overloaded or not available", body = ErrorBody),
    ),
    security(("key" = ["read"])),
)]
pub(super) async fn read<B: Backend>(
    State(edge): State<Arc<Edge<B>>>,
    path: Result<Path<String>, axum::extract::rejection::PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let (admitted, bytes) = edge.admit_json(request, Role::Read).await?;
    let definitions = &edge.parts.definitions;
    let entity = path.ok().and_then(|Path(name)| definitions.entity(&name));
    let entity = entity.ok_or(BackendError::NotFound { what: "entity" })?;
    let mut fields = Fields::parse(&bytes)?;
    let key = typed::key(definitions, entity, &mut fields);
    let as_of = as_of(&mut fields);
    let decisions_max = fields.integer("decisions", 0..=DECISIONS_MAX).unwrap_or(DECISIONS_DEFAULT);
    fields.finish()?;
    let key = key.expect("a key that is not typed is a problem");
    let read = EntityRead {
        entity,
        key: key.values,
        reference: key.reference.clone(),
        as_of,
        decisions_max,
        budget: admitted.budget,
        caller: admitted.caller,
    };
    let answer = edge.parts.backend.read(read).await?;
    let decisions = answer.decisions.iter().take(decisions_max).map(raw_bytes).collect::<Result<_, _>>()?;
    let body = EntityAnswerBody {
        entity: key.reference.entity,
        key: key.reference.key,
        known: answer.is_known,
        as_of: answer.as_of,
        features: answer.features,
        state: BlockState::of(&answer.lists),
        lists: answer.lists,
        decisions,
    };
    json(StatusCode::OK, &body)
}

fn as_of(fields: &mut Fields<'_>) -> AsOf {
    match fields.text("as_of").as_deref() {
        None | Some("now") => AsOf::Now,
        Some(text) => match Timestamp::parse(text, &TimeZone::UTC) {
            Some(instant) => AsOf::At(instant),
            None => {
                fields.problem("as_of", "must be an RFC 3339 time or 'now'");
                AsOf::Now
            }
        },
    }
}
