//! The pure core of Interdict: events, schema, feature definitions, row versions, window state, aggregations,
//! evaluation and encoding.
//!
//! Invariants:
//! - No clock, no IO, no async, no randomness: every function's answer depends on its arguments alone.
//! - Stream, request, backfill, batch scoring and audit call the same evaluation and give the same bits.

pub mod backfill;
pub mod bytes;
pub mod change;
pub mod config;
pub mod decision;
pub mod decode;
pub mod definition;
pub mod engine;
pub mod expression;
#[cfg(test)]
mod fixture;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
#[cfg(test)]
#[path = "../../fuzz/corpus.rs"]
mod fuzz_corpus;
pub mod hive;
pub mod key_text;
pub mod row;
pub mod state;
pub mod time;
pub mod value;
pub mod vector;
