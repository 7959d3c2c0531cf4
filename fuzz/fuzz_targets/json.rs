//! Rows as JSON lines.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| interdict_ingest::fuzz::json(bytes));
