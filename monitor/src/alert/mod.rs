//! Drift alerts: one episode, one `firing` and one `resolved` event, delivered to every webhook until it is taken.
//!
//! The [`outbox::Outbox`] holds what is to be delivered, in a file, and belongs to the monitor's thread; the
//! [`courier::Courier`] is an async task that sends what it is given and reports back. Two bounded channels join them.
//!
//! Invariants:
//! - An event is on disk before its first delivery, so that a crash repeats a delivery at most; the receiver knows a
//!   repetition by `webhook-id`.
//! - An episode keeps its alert id from firing to resolved, over restarts too.

pub mod courier;
pub mod event;
pub mod outbox;
pub mod signature;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use self::signature::Secret;

/// Where alerts go.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// `http` or `https`.
    pub url: reqwest::Url,
    /// Keys that sign, the current one first: during a rotation the old one signs too.
    pub secrets: Arc<[Secret]>,
}

impl Webhook {
    /// Names the webhook in the outbox and in the log: its URL may hold a token, which neither may.
    #[must_use]
    pub fn name(&self) -> String {
        let hash = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, self.url.as_str().as_bytes());
        format!("{}/{hash}", self.url.host_str().unwrap_or("?"))
    }
}
