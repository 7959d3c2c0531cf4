//! Bundles, sessions, policy, decisions, actions and the HTTP edge.
//!
//! Invariants:
//! - A bundle scores only after its golden vectors came out as its author saw them ([`activation`]).
//! - [`judge::Judge::decide`] is pure: list hits and scores are arguments, time has gone into them already.
//! - An effect belongs to one (decision, action): what the store does enters with the claim, what goes out carries its id.

pub mod action;
pub mod activation;
pub mod bundle;
pub mod decide;
pub mod http;
pub mod input;
pub mod judge;
pub mod lists;
pub mod policy;
pub mod retry;
pub mod runtime;
pub mod scorer;
pub mod session;
pub mod subject;
