//! The HTTP edge: authenticates, bounds, parses and types requests, asks a [`backend::Backend`], and shapes answers.
//!
//! Invariants:
//! - The edge decides nothing and stores nothing: every answer comes from the backend.
//! - Every error has one shape and one place that makes it (`error`); no value of a request stands in an error or a log.
//! - Everything a client can send is bounded: connections, headers, bodies, requests at once, time.

pub mod backend;
