//! TOML definitions.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| interdict_features::fuzz::definitions(bytes));
