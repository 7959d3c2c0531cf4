//! What the store knows of a request: the decision that exists for its event, and what its idempotency key was used for.

use std::sync::Arc;

use bytes::Bytes;
use interdict_features::decision::DecisionRecord;
use interdict_features::time::Span;
use interdict_scorer::http::backend::DecideRequest;
use interdict_store::port::{Fetched, Query, RowKey, RowWrite};
use uuid::Uuid;

/// How long a key of an idempotent request is remembered.
const IDEMPOTENCY: Span = Span::DAY;
/// Row records of this name hold idempotency keys.
const IDEMPOTENCY_STREAM: &str = "http:idempotency";

/// What is known of a request.
#[derive(Debug)]
pub(super) struct Known {
    /// The record stored for its event.
    pub(super) record: Option<DecisionRecord>,
    /// Its key, if it has one.
    pub(super) key: KeyUse,
}

/// What an idempotency key was used for before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum KeyUse {
    /// There is none, or it was used for this very request.
    Fine,
    /// It was not used yet; this remembers it.
    New(RowWrite),
    /// Another request.
    Other,
}

impl Known {
    /// What to fetch for `request`, whose decision has the id `decision`.
    pub(super) fn query(request: &DecideRequest, decision: Uuid) -> Query {
        Query { rows: key_row(request).into_iter().collect(), decisions: vec![decision], ..Query::default() }
    }

    /// Reads the answer to [`Self::query`].
    ///
    /// # Errors
    /// The stored record is not one.
    pub(super) fn of(fetched: &Fetched, request: &DecideRequest) -> Result<Self, serde_json::Error> {
        let stored = fetched.decisions.first().and_then(Option::as_deref);
        let key = match (key_row(request), fetched.rows.first().and_then(Option::as_deref)) {
            (None, _) => KeyUse::Fine,
            (Some(_), Some(used)) => KeyUse::of(used, request),
            (Some(key), None) => KeyUse::New(RowWrite {
                key,
                bytes: Some(Bytes::copy_from_slice(&request.body_hash)),
                expires: Some(request.budget.received.plus(IDEMPOTENCY)),
                expected: None,
            }),
        };
        Ok(Self { record: stored.map(serde_json::from_slice).transpose()?, key })
    }

    /// Whether the answer follows from it.
    pub(super) fn is_settled(&self) -> bool {
        self.record.is_some() || self.key == KeyUse::Other
    }
}

impl KeyUse {
    /// Of a key that was used with a body of the hash `used`.
    pub(super) fn of(used: &[u8], request: &DecideRequest) -> Self {
        if used == request.body_hash { Self::Fine } else { Self::Other }
    }
}

/// Where the caller's key stands: keys of two callers never meet.
fn key_row(request: &DecideRequest) -> Option<RowKey> {
    let key = request.idempotency_key.as_ref()?;
    let id = format!("{}\n{key}", request.caller.name).into_bytes().into_boxed_slice();
    Some(RowKey { stream: Arc::from(IDEMPOTENCY_STREAM), id })
}
