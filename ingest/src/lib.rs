//! Sources, change decoding, micro-batches and dead letters.
//!
//! Invariants:
//! - Every record of a source is delivered as a change, is a dead letter with reason and position, or is counted as
//!   carrying no row: rows + dead letters + skipped = records.
//! - The same bytes at the same place of a source always give the same rows, versions and positions.
//! - No value of a stream with sensitive columns reaches a log, an error or a dead letter.

pub mod archive;
#[cfg(any(feature = "postgres", feature = "kafka", feature = "fluvio"))]
mod clock;
pub mod dead_letter;
mod decoder;
mod event_clock;
pub mod history;
pub mod pipeline;
pub mod republish;
pub mod source;
pub mod topic;

#[cfg(any(test, feature = "fuzzing"))]
mod fixture;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
#[cfg(test)]
#[path = "../../fuzz/corpus.rs"]
mod fuzz_corpus;
