//! What the handlers share: the backend, the definitions, the keys; and how a request is admitted.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use interdict_features::definition::Definitions;
use prometheus_client::registry::Registry;
use serde::Serialize;

use super::backend::{Budget, Caller};
use super::body;
use super::clock::Receipt;
use super::config::{HttpSettings, MetricsAccess};
use super::error::ApiError;
use super::keys::{Keyring, Role};
use super::metrics::HttpMetrics;

/// The caller's name on an edge without keys.
const LOCAL: &str = "local";

/// Everything the edge is built from.
#[derive(Debug)]
pub struct EdgeParts<B> {
    /// Where it listens and what it bounds.
    pub settings: HttpSettings,
    /// Who may use it; empty: everybody on this machine.
    pub keys: Keyring,
    /// The engine behind it.
    pub backend: B,
    /// Streams and entities.
    pub definitions: Arc<Definitions>,
    /// The edge's own counters, registered in `registry`.
    pub metrics: HttpMetrics,
    /// What `/metrics` shows.
    pub registry: Arc<Registry>,
}

/// The edge while it serves.
#[derive(Debug)]
pub(super) struct Edge<B> {
    pub(super) parts: EdgeParts<B>,
    pub(super) openapi: Bytes,
}

/// What the outermost layer knows of a request.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub(super) receipt: Receipt,
    pub(super) request_id: Arc<str>,
}

/// A request that was let in.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) caller: Caller,
    pub(super) budget: Budget,
    pub(super) head: Parts,
    pub(super) body: axum::body::Body,
}

impl<B> Edge<B> {
    /// Lets a request in whose key has the role.
    pub(super) fn admit(&self, request: Request, role: Role) -> Result<Admitted, ApiError> {
        let (head, body) = request.into_parts();
        let arrival = head.extensions.get::<Arrival>().cloned();
        let arrival = arrival.expect("the outermost layer stamps every request");
        let name = self.authenticate(&head.headers, role)?;
        let budget = head.extensions.get::<Budget>().copied().unwrap_or_else(|| Budget {
            received: arrival.receipt.at,
            start: arrival.receipt.instant,
            deadline: arrival.receipt.instant + self.parts.settings.request_time,
        });
        Ok(Admitted { caller: Caller { name, request_id: arrival.request_id }, budget, head, body })
    }

    /// Lets a request with a JSON body in, and reads the body.
    pub(super) async fn admit_json(&self, request: Request, role: Role) -> Result<(Admitted, Bytes), ApiError> {
        let mut admitted = self.admit(request, role)?;
        if !is_json(&admitted.head.headers) {
            return Err(ApiError::MediaType);
        }
        let body = std::mem::take(&mut admitted.body);
        let bytes = body::read(body, self.parts.settings.body_bytes_max, admitted.budget.deadline).await?;
        Ok((admitted, bytes))
    }

    /// Lets a request for the metrics in.
    pub(super) fn admit_scrape(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        match self.parts.settings.metrics {
            MetricsAccess::Open => Ok(()),
            MetricsAccess::Keyed => self.authenticate(headers, Role::Read).map(drop),
        }
    }

    fn authenticate(&self, headers: &HeaderMap, role: Role) -> Result<Arc<str>, ApiError> {
        if self.parts.keys.is_empty() {
            return if is_local_host(headers) { Ok(LOCAL.into()) } else { Err(ApiError::ForeignHost) };
        }
        let holder = bearer(headers).and_then(|presented| self.parts.keys.holder(presented));
        let Some(holder) = holder else {
            self.parts.metrics.count_unauthenticated();
            return Err(ApiError::Unauthenticated);
        };
        if holder.has(role) { Ok(holder.name) } else { Err(ApiError::Forbidden(role)) }
    }
}

/// The presented key; `None` when there is none, or more than one.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = only(headers, AUTHORIZATION.as_str())?.as_bytes();
    let (scheme, key) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
}

/// A header that may be sent once.
fn only<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then_some(value)
}

/// Whether the request was meant for this machine by name: a page in a browser whose name was rebound to loopback
/// sends its own name.
fn is_local_host(headers: &HeaderMap) -> bool {
    let Some(host) = only(headers, HOST.as_str()).and_then(|host| host.to_str().ok()) else {
        return false;
    };
    let Ok(authority) = host.parse::<axum::http::uri::Authority>() else {
        return false;
    };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether the body is announced as JSON. A browser asks before it sends that to a foreign origin.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(kind) = only(headers, CONTENT_TYPE.as_str()).and_then(|kind| kind.to_str().ok()) else {
        return false;
    };
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// A header of visible ASCII, sent once, of at most `bytes_max` bytes.
pub(super) fn sane_header<'h>(
    headers: &'h HeaderMap,
    name: &'static str,
    bytes_max: usize,
) -> Result<Option<&'h str>, ()> {
    if !headers.contains_key(name) {
        return Ok(None);
    }
    let text = only(headers, name).and_then(|value| value.to_str().ok()).ok_or(())?;
    let is_sane = !text.is_empty() && text.len() <= bytes_max && text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_sane { Ok(Some(text)) } else { Err(()) }
}

/// A JSON answer in one piece.
pub(super) fn json<T: Serialize>(status: axum::http::StatusCode, value: &T) -> Result<Response, ApiError> {
    let bytes = serde_json::to_vec(value).map_err(|error| super::backend::BackendError::Internal(Box::new(error)))?;
    Ok((status, [(CONTENT_TYPE, HeaderValue::from_static("application/json"))], bytes).into_response())
}
