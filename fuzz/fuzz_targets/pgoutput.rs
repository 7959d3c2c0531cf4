//! Messages of logical replication.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| interdict_ingest::fuzz::pgoutput(bytes));
