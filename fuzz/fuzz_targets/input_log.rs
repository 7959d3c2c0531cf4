//! Entries of the input log.
#![no_main]

#[allow(dead_code, reason = "the program uses the rest")]
#[path = "../../src/run/input_log.rs"]
mod input_log;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(entry) = serde_json::from_slice::<input_log::Entry>(bytes) {
        let _batch = entry.to_batch(&interdict_features::fuzz::plan().definitions, 7);
    }
});
