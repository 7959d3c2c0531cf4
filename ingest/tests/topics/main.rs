//! The port of topics, over Kafka's mock cluster and, built with `fluvio-server`, over a real Fluvio.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]
#![allow(clippy::disallowed_methods, reason = "a test waits for a broker in real time")]

mod contract;
#[cfg(feature = "fluvio-server")]
mod fluvio;
mod group;
mod kafka;
mod rig;
