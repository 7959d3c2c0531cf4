//! Tests of the scorer with the real ONNX Runtime, real HTTP and real files.
#![allow(missing_docs, reason = "tests")]
#![allow(
    clippy::unwrap_used,
    clippy::float_cmp,
    clippy::cast_possible_truncation,
    clippy::too_many_lines,
    reason = "tests compare exact values and tables"
)]

mod activation;
mod bundle;
mod delivery;
mod judge;
mod lists;
mod policy;
#[cfg(feature = "postgres")]
mod postgres;
mod precedence;
mod scoring;
mod support;
