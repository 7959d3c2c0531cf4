//! The whole system: the real binary, real files, a real store, real HTTP.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod archive;
mod audit;
mod away;
mod backfill;
mod bank;
mod broken;
mod captured;
mod check;
mod clustered;
mod compose;
mod crash;
mod dashboards;
mod deadline;
mod demo;
mod disk;
mod fleet;
#[cfg(feature = "fluvio-server")]
mod fluvio;
mod full;
mod handbook;
mod kafka;
mod keys;
mod ledger;
mod parity;
mod place;
#[allow(dead_code, reason = "the tests of the capture use the rest")]
mod postgres_server;
mod program;
mod redis_cluster;
mod redis_server;
mod reference;
mod requests;
mod resume;
mod round_trips;
mod route;
mod stack;
mod structure;
mod telling;
mod topics;
mod truncate;
mod unread;
mod unsent;
mod webhook;
