//! Tests of the whole program, through its command line.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod backfill;
mod check;
mod program;
mod structure;
