//! Capture from a real PostgreSQL server that the tests start.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

#[path = "../../../tests/it/postgres_server.rs"]
#[allow(dead_code, reason = "shared with the root package's tests")]
mod postgres_server;

mod faults;
mod lost;
mod measure;
mod model;
mod places;
mod publication;
mod rig;
mod rights;
mod rows;
mod schema;
mod secure;
mod standby;
mod types;
