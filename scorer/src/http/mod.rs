//! The HTTP edge: authenticates, bounds, parses and types requests, asks a [`backend::Backend`], and shapes answers.
//!
//! Start: [`config::HttpSettings::read`], [`config::HttpSettings::load_keys`], [`metrics::HttpMetrics::register`],
//! [`server::Server::bind`] with [`edge::EdgeParts`], [`server::Server::serve`].
//!
//! Invariants:
//! - The edge decides nothing and stores nothing: every answer comes from the backend.
//! - Every error has one shape and one place that makes it ([`error`]); no value of a request stands in an error or a log.
//! - Everything a client can send is bounded: connections, headers, bodies, requests at once, time.

pub mod backend;
mod blocks;
mod body;
mod clock;
pub mod config;
mod decisions;
pub mod edge;
mod entities;
pub mod error;
pub mod keys;
mod labels;
mod layers;
pub mod metrics;
mod models;
pub mod openapi;
mod operations;
mod record;
mod routes;
pub mod server;
mod tls;
mod typed;
mod wire;
