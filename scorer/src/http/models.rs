//! `GET /v1/models`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;

use super::backend::Backend;
use super::edge::{Edge, json};
use super::error::{ApiError, ErrorBody};
use super::keys::Role;
use super::wire::{ModelBody, ModelsAnswer};

/// The registered models and what each does in this process.
#[utoipa::path(
    get, path = "/v1/models", operation_id = "models", tag = "models",
    responses(
        (status = 200, description = "The models", body = ModelsAnswer),
        (status = 401, description = "No known key", body = ErrorBody),
        (status = 403, description = "The key lacks the role `read`", body = ErrorBody),
        (status = 503, description = "Overloaded or not available", body = ErrorBody),
    ),
    security(("key" = ["read"])),
)]
pub(super) async fn list<B: Backend>(State(edge): State<Arc<Edge<B>>>, request: Request) -> Result<Response, ApiError> {
    let admitted = edge.admit(request, Role::Read)?;
    let models = edge.parts.backend.models(admitted.budget).await?;
    let models = models
        .into_iter()
        .map(|model| ModelBody {
            name: model.name,
            version: model.version,
            bundle_hash: model.bundle_hash,
            registered: model.registered,
            aliases: model.aliases,
            role: model.role,
            refused: model.refused,
        })
        .collect();
    json(StatusCode::OK, &ModelsAnswer { models })
}
