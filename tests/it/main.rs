//! Tests of the whole program, through its command line.

mod backfill;
mod check;
mod program;
mod structure;
