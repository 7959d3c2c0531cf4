//! Bundles, sessions, policy, decisions, actions and the HTTP edge.

pub mod http;
