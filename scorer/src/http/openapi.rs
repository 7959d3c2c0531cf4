//! The API's description, generated from the handlers and wire shapes. `docs/openapi.json` is its checked-in copy.

use bytes::Bytes;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::{blocks, decisions, entities, labels, models, operations};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Interdict",
        description = "Real-time fraud feature store and scoring engine",
    ),
    paths(
        decisions::decide,
        decisions::stored,
        entities::read,
        labels::report,
        blocks::list,
        blocks::set,
        blocks::remove,
        models::list,
        operations::live,
        operations::ready,
        operations::metrics,
        operations::openapi,
    ),
    modifiers(&BearerKey),
)]
struct Description;

struct BearerKey;

impl Modify for BearerKey {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("key", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    }
}

/// The description as `/openapi.json` serves it.
#[must_use]
pub fn document() -> Bytes {
    let mut text = Description::openapi().to_pretty_json().expect("the description always becomes JSON");
    text.push('\n');
    text.into()
}
