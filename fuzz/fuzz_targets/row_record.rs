//! Bytes of row records.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| interdict_features::fuzz::row_record(bytes));
