//! `GET|POST|DELETE /v1/blocks`: the lists that people keep. Every change carries its author to the audit log.

use std::sync::Arc;

use axum::extract::{RawQuery, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use interdict_features::decision::{EntityRef, ListKind};
use interdict_features::definition::Definitions;
use interdict_features::time::Timestamp;
use interdict_store::port::ListEntry;
use jiff::tz::TimeZone;

use super::backend::{Backend, BackendError, BlockRemove, BlockSet, FieldProblem, ListsRead, Removal};
use super::body::{Fields, shown};
use super::edge::{Admitted, Edge, json};
use super::error::{ApiError, ErrorBody};
use super::keys::Role;
use super::typed;
use super::wire::{BlockAnswer, BlockBody, BlocksAnswer, UnblockAnswer, UnblockBody};

/// Bound on a reason's length: it stands in every decision that meets the entry.
const REASON_BYTES_MAX: usize = 512;
/// Entries of a page unless asked otherwise.
const LIMIT_DEFAULT: usize = 1000;
/// Entries of a page at most.
const LIMIT_MAX: usize = 10_000;

const LISTS: [(&str, ListKind); 3] = [
    ("manual_block", ListKind::ManualBlock),
    ("allow", ListKind::Allow),
    ("automatic_block", ListKind::AutomaticBlock),
];

/// Entries of the block and allow lists, page by page.
#[utoipa::path(
    get, path = "/v1/blocks", operation_id = "blocks", tag = "blocks",
    params(
        ("list" = Option<String>, Query, description = "Only this list: `manual_block`, `allow` or `automatic_block`"),
        ("entity" = Option<String>, Query, description = "Only this entity"),
        ("after" = Option<String>, Query, description = "`next` of the page before"),
        ("limit" = Option<u32>, Query, description = "1 to 10000 entries; 1000 by default"),
    ),
    responses(
        (status = 200, description = "The entries", body = BlocksAnswer),
        (status = 400, description = "A wrong query", body = ErrorBody),
        (status = 401, description = "No known key", body = ErrorBody),
        (status = 403, description = "The key lacks the role `read`", body = ErrorBody),
        (status = 503, description = "Overloaded or not available", body = ErrorBody),
    ),
    security(("key" = ["read"])),
)]
pub(super) async fn list<B: Backend>(
    State(edge): State<Arc<Edge<B>>>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response, ApiError> {
    let admitted = edge.admit(request, Role::Read)?;
    let mut read = ListsRead {
        list: None,
        entity: None,
        after: None,
        limit: LIMIT_DEFAULT,
        budget: admitted.budget,
        caller: admitted.caller,
    };
    read_query(query.as_deref().unwrap_or_default(), &edge.parts.definitions, &mut read)?;
    let mut page = edge.parts.backend.blocks(read).await?;
    let next = page.entries.last().filter(|_| page.has_more).map(cursor).transpose()?;
    json(StatusCode::OK, &BlocksAnswer { entries: std::mem::take(&mut page.entries), next })
}

fn read_query(query: &str, definitions: &Definitions, read: &mut ListsRead) -> Result<(), ApiError> {
    let mut problems = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let problem = match name {
            "list" => {
                read.list = list_kind(value);
                read.list.is_none().then_some("must be manual_block, allow or automatic_block")
            }
            "entity" => {
                read.entity = Some(value.to_owned());
                definitions.entity(value).is_none().then_some("no such entity")
            }
            "after" => {
                read.after = position(value);
                read.after.is_none().then_some("must be 'next' of the page before")
            }
            "limit" => match value.parse() {
                Ok(limit @ 1..=LIMIT_MAX) => {
                    read.limit = limit;
                    None
                }
                _ => Some("must be an integer from 1 to 10000"),
            },
            _ => Some("unknown; known here: list, entity, after, limit"),
        };
        problems.extend(problem.map(|text| FieldProblem { field: shown(name), problem: text.to_owned() }));
    }
    if problems.is_empty() { Ok(()) } else { Err(ApiError::Query(problems)) }
}

fn list_kind(name: &str) -> Option<ListKind> {
    LISTS.iter().find(|(known, _)| *known == name).map(|(_, list)| *list)
}

/// Where the next page begins: base64 of the JSON of the last entry's place.
fn cursor(entry: &ListEntry) -> Result<String, ApiError> {
    let place =
        serde_json::to_vec(&(entry.list, &entry.entity)).map_err(|error| BackendError::Internal(Box::new(error)))?;
    Ok(URL_SAFE_NO_PAD.encode(place))
}

fn position(cursor: &str) -> Option<(ListKind, EntityRef)> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()
}

/// Puts a key on the list of manual blocks or the allow list, or replaces its entry there.
#[utoipa::path(
    post, path = "/v1/blocks", operation_id = "block", tag = "blocks",
    request_body = BlockBody,
    responses(
        (status = 200, description = "The entry", body = BlockAnswer),
        (status = 400, description = "Not JSON, or a wrong header", body = ErrorBody),
        (status = 401, description = "No known key", body = ErrorBody),
        (status = 403, description = "The key lacks the role `admin`", body = ErrorBody),
        (status = 413, description = "The body is too large", body = ErrorBody),
        (status = 415, description = "Not announced as JSON", body = ErrorBody),
        (status = 422, description = "Wrong fields", body = ErrorBody),
        (status = 503, description = "Overloaded or not available", body = ErrorBody),
    ),
    security(("key" = ["admin"])),
)]
pub(super) async fn set<B: Backend>(State(edge): State<Arc<Edge<B>>>, request: Request) -> Result<Response, ApiError> {
    let (admitted, act, expires) = admit_act(&edge, request, |fields, act, received| {
        if act.is_some_and(|act| act.list == ListKind::AutomaticBlock) {
            fields.problem("list", "automatic blocks come from decisions; set manual_block");
        }
        if let Some(problem) = act.and_then(|act| reaches_nobody(&edge.parts.definitions, &act.entity)) {
            fields.problem("entity", problem);
        }
        expires(fields, received)
    })
    .await?;
    let entry = ListEntry {
        list: act.list,
        entity: act.entity,
        reason: act.reason,
        decision: None,
        author: admitted.caller.name.to_string(),
        created: admitted.budget.received,
        expires,
    };
    let set = BlockSet { entry: entry.clone(), budget: admitted.budget, caller: admitted.caller };
    edge.parts.backend.set_block(set).await?;
    json(StatusCode::OK, &BlockAnswer { entry })
}

/// Takes a key off a list. Taking it off a list it is not on changes nothing.
#[utoipa::path(
    delete, path = "/v1/blocks", operation_id = "unblock", tag = "blocks",
    request_body = UnblockBody,
    responses(
        (status = 200, description = "Whether there was an entry", body = UnblockAnswer),
        (status = 400, description = "Not JSON, or a wrong header", body = ErrorBody),
        (status = 401, description = "No known key", body = ErrorBody),
        (status = 403, description = "The key lacks the role `admin`", body = ErrorBody),
        (status = 413, description = "The body is too large", body = ErrorBody),
        (status = 415, description = "Not announced as JSON", body = ErrorBody),
        (status = 422, description = "Wrong fields", body = ErrorBody),
        (status = 503, description = "Overloaded or not available", body = ErrorBody),
    ),
    security(("key" = ["admin"])),
)]
pub(super) async fn remove<B: Backend>(
    State(edge): State<Arc<Edge<B>>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (admitted, act, ()) = admit_act(&edge, request, |_fields, _act, _received| ()).await?;
    let remove = BlockRemove {
        list: act.list,
        entity: act.entity,
        reason: act.reason,
        budget: admitted.budget,
        caller: admitted.caller,
    };
    let removal = edge.parts.backend.remove_block(remove).await?;
    json(StatusCode::OK, &UnblockAnswer { removed: removal == Removal::Removed })
}

/// Lets an act on the lists in and reads it; `more` reads the fields that it has beside those of every act.
async fn admit_act<B: Backend, T>(
    edge: &Edge<B>,
    request: Request,
    more: impl FnOnce(&mut Fields<'_>, Option<&Act>, Timestamp) -> T,
) -> Result<(Admitted, Act, T), ApiError> {
    let (admitted, bytes) = edge.admit_json(request, Role::Admin).await?;
    let mut fields = Fields::parse(&bytes)?;
    let act = Act::read(&edge.parts.definitions, &mut fields);
    let more = more(&mut fields, act.as_ref(), admitted.budget.received);
    fields.finish()?;
    Ok((admitted, act.expect("an act that is not read is a problem"), more))
}

/// What setting and removing have in common.
struct Act {
    list: ListKind,
    entity: EntityRef,
    reason: String,
}

impl Act {
    /// Reads the common fields; whatever is missing is a problem of `fields`.
    fn read(definitions: &Definitions, fields: &mut Fields<'_>) -> Option<Self> {
        let list = fields.required_text("list", 64).and_then(|name| {
            let list = list_kind(&name);
            if list.is_none() {
                fields.problem("list", "must be manual_block, allow or automatic_block");
            }
            list
        });
        let entity = fields.required_text("entity", 1024).and_then(|name| {
            let entity = definitions.entity(&name);
            if entity.is_none() {
                fields.problem("entity", "no such entity");
            }
            entity
        });
        let key = match entity {
            Some(entity) => typed::key(definitions, entity, fields),
            None => {
                let _known_fields = (fields.raw("key"), fields.raw("shown_key"));
                None
            }
        };
        let reason = fields.required_text("reason", REASON_BYTES_MAX);
        Some(Self { list: list?, entity: key?.reference, reason: reason? })
    }
}

/// Why an entry for `entity` would bind no event, if it would not. It can be taken off a list all the same.
fn reaches_nobody(definitions: &Definitions, entity: &EntityRef) -> Option<String> {
    let declared = definitions.entities.iter().find(|declared| declared.name == entity.entity)?;
    (!definitions.is_reached(declared)).then(|| {
        let key = declared.key.join(", ");
        format!("no judged event has its key ({key}), so that the entry would bind nobody; name the entity of the one who is meant")
    })
}

fn expires(fields: &mut Fields<'_>, now: Timestamp) -> Option<Timestamp> {
    let text = fields.text("expires")?;
    match Timestamp::parse(&text, &TimeZone::UTC) {
        Some(expires) if expires > now => Some(expires),
        Some(_) => {
            fields.problem("expires", "lies in the past");
            None
        }
        None => {
            fields.problem("expires", "must be an RFC 3339 time");
            None
        }
    }
}
