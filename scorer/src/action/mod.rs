//! What goes out because of decisions and of people's acts: webhooks, records in topics and statements in databases, from the outbox.
//!
//! Invariants:
//! - An effect is one (decision, action). Its id is `DECISION:ACTION`, the same over every try and every restart.
//! - An intent leaves the outbox with a result under its decision's id: done, or a dead letter that says why.
//! - Webhooks arrive at least once: after a process dies between the receiver's answer and the result's commit, the same
//!   request goes out again under the same `webhook-id`, by which the receiver knows it.
//! - So do records in topics, by `decision_id` and `action`.
//! - Acts in databases happen exactly once: the ledger in the same database knows them.

pub mod act;
#[cfg(feature = "postgres")]
pub mod database;
pub mod delivery;
pub mod metrics;
pub mod payload;
mod queue;
pub mod receiver;
pub mod signature;
pub mod topic;
pub mod webhook;
