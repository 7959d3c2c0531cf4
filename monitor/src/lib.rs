//! Decision log to Parquet, drift statistics and alerts.
//!
//! [`log`] writes every decision to Parquet exactly once, [`drift`] compares the features and the score with the
//! bundle's reference sample, [`alert`] tells the world once per episode, and [`monitor`] ties them together.
//!
//! Invariants:
//! - Nothing here reads a clock: time is an argument, and the time of a decision is the one in its record.
//! - The monitor never changes a decision, and a decision never waits for the monitor.

pub mod alert;
pub mod config;
pub mod drift;
pub mod error;
pub mod log;
pub mod metrics;
pub mod monitor;
#[cfg(test)]
mod records;
