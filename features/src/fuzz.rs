//! What the fuzz targets drive: the decoders of this crate, with any bytes. Compiled for tests and for `fuzz/` only.
//!
//! Invariant: no bytes make a decoder panic, and what it takes it writes and reads again as the same.

use std::sync::{Arc, LazyLock};

use crate::bytes::checksum;
use crate::change::{Change, ChangeBatch, Op, Version};
use crate::config::ConfigFile;
use crate::definition::Definitions;
use crate::engine::{Engine, Evaluate, Output, Plan};
use crate::row::RowRecord;
use crate::state::{AsOf, Readout, Scratch, State};
use crate::time::Timestamp;
use crate::value::{NULL, UNCHANGED, double_cell};

/// A stream with a column of every type, labels, and a group that keeps them.
const WORLD: &str = include_str!("../../fuzz/world.toml");

/// A point in 2023.
const NOON: i64 = 1_700_000_000_000_000;

/// The compiled definitions that states, row records and entries of the input log are read under.
pub fn plan() -> &'static Plan {
    static PLAN: LazyLock<Plan> = LazyLock::new(|| compiled(WORLD).expect("they are checked by a test"));
    &PLAN
}

fn compiled(toml: &str) -> Option<Plan> {
    let file = ConfigFile::parse("fuzz.toml", toml).ok()?;
    let definitions = Definitions::read(&file, Some(b"secret"));
    let finished = file.finish();
    if let Err(problems) = &finished {
        let _shown = problems.to_string();
    }
    finished.ok().and(definitions).map(|definitions| Plan::compile(Arc::new(definitions)))
}

/// Definitions in TOML.
pub fn definitions(bytes: &[u8]) {
    if let Ok(toml) = std::str::from_utf8(bytes) {
        let _plan = compiled(toml);
    }
}

/// A CEL expression: as a filter, as a feature and as a judge condition, over rows with and without values.
pub fn expression(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(quoted) = serde_json::to_string(text) else { return };
    let worlds = [
        WORLD.replace("entity = \"customer\"\n", &format!("entity = \"customer\"\nwhere = {quoted}\n")),
        format!("{WORLD}\n[[derived]]\nstream = \"payments\"\nfeatures = {{ any = {quoted} }}\n"),
        WORLD.replace("judge = \"insert\"", &format!("judge = {quoted}")),
    ];
    for plan in worlds.iter().filter_map(|world| compiled(world)) {
        let mut engine = Engine::new(Arc::new(plan.clone()), 1);
        let (batch, mut output) = (rows(&plan), Output::default());
        let processed = engine.process(&batch, Evaluate::Everything, &mut output);
        assert!(processed.is_ok(), "nothing is loaded that could be damaged");
    }
}

fn rows(plan: &Plan) -> ChangeBatch {
    let mut batch = ChangeBatch::new(Arc::clone(&plan.definitions.streams[0]), 0);
    let values = [(1_000, 0.5), (NULL, f64::MAX), (i64::MAX, -1e300), (0, 0.0)];
    for (id, (amount, weight)) in (0_i64..).zip(values) {
        let mut row = batch.begin();
        row.set_cell(0, id);
        row.set_cell(1, NOON);
        let _fits = row.set_text(2, if id == 1 { "" } else { "é" });
        row.set_cell(3, amount);
        row.set_cell(4, double_cell(weight).unwrap_or(NULL));
        row.set_cell(5, if id == 2 { NULL } else { 1 });
        let position = id.unsigned_abs();
        row.finish(Change { op: Op::Insert, version: Version::new(position + 1), arrival: None, position });
    }
    batch
}

/// A state: the bytes as they are, and with their checksum put right, without which few would be looked at.
pub fn state(bytes: &[u8]) {
    let program = &plan().programs[0];
    let sealed = [bytes, &checksum(bytes).to_le_bytes()].concat();
    for bytes in [bytes, &sealed] {
        let Ok(state) = State::decode(program, bytes) else { continue };
        let mut written = Vec::new();
        state.encode(program, &mut written);
        let again = State::decode(program, &written).expect("what was written is read");
        let mut twice = Vec::new();
        again.encode(program, &mut twice);
        assert_eq!(twice, written, "the same state has the same bytes");
        let mut scratch = Scratch::default();
        for time in [NOON, NOON + 3_600_000_000] {
            let mut out = vec![Readout::default(); program.width()];
            again.read(program, AsOf::instant(time), &mut scratch, &mut out);
        }
    }
}

/// A row record, and a change that meets it.
pub fn row_record(bytes: &[u8]) {
    let stream = &*plan().definitions.streams[0];
    let columns: Vec<usize> = (0..stream.columns.len()).collect();
    let mut record = RowRecord::default();
    if record.decode(stream, &columns, bytes).is_err() {
        return;
    }
    let (mut written, mut again) = (Vec::new(), RowRecord::default());
    record.encode(stream, &columns, &mut written);
    again.decode(stream, &columns, &written).expect("what was written is read");
    let mut twice = Vec::new();
    again.encode(stream, &columns, &mut twice);
    assert_eq!(twice, written, "the same record has the same bytes");
    let mut batch = ChangeBatch::new(Arc::clone(&plan().definitions.streams[0]), 0);
    let mut row = batch.begin();
    row.set_cell(0, 1);
    row.set_cell(1, NOON);
    row.set_cell(3, UNCHANGED);
    row.finish(Change {
        op: Op::Update,
        version: Version::new(5),
        arrival: Some(Timestamp::from_micros(NOON)),
        position: 0,
    });
    let (change, row) = batch.get(0);
    let _outcome = record.apply(change, row);
    let _outcome = record.apply_label(Version::new(3), Some(true), None);
    let mut labels = Vec::new();
    record.labels(&mut labels);
    let _newest = record.newest(stream);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz_corpus::replay;

    #[test]
    fn corpus_of_definitions() {
        replay("definitions", definitions);
    }

    #[test]
    fn corpus_of_expressions() {
        replay("expression", expression);
    }

    #[test]
    fn corpus_of_states() {
        replay("state", state);
    }

    #[test]
    fn corpus_of_row_records() {
        replay("row_record", row_record);
    }
}
