//! The keys under which rows were before a change deleted them or gave them others: whoever hands changes on by key sends them there too.
//!
//! A table tells only what its replica identity holds: with `REPLICA IDENTITY FULL` every key.

use std::sync::Arc;

use interdict_features::change::{Change, ChangeBatch, Op, Version};
use interdict_features::definition::Stream;

use crate::republish::key_of;
use crate::source::LeftKey;

use super::message::{Cell, Old};
use super::table::Places;
use super::value::set;

/// Whether anybody asks for the keys that rows left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Keys {
    /// Somebody does.
    Noted,
    /// Nobody does.
    Unasked,
}

/// The key of a row as it was; `None` where the table does not tell.
pub(super) fn key_before(stream: &Arc<Stream>, places: &Places, old: Old<'_>) -> Option<String> {
    let partition_by = stream.partition_by?;
    let mut scratch = ChangeBatch::new(Arc::clone(stream), 0);
    let mut writer = scratch.begin();
    for column in [stream.id, partition_by] {
        match places.columns[column].and_then(|place| old.tuple().cell(place)) {
            Some(Cell::Text(text)) => set(&mut writer, column, text).ok()?,
            Some(Cell::Null) if column == partition_by && matches!(old, Old::Row(_)) => {}
            _ => return None,
        }
    }
    writer.finish(Change { op: Op::Update, version: Version::REQUEST, arrival: None, position: 0 });
    Some(key_of(scratch.row(0)))
}

/// Adds the key that the row of the change at `place` of `batch` left, unless it still has it.
pub(super) fn note(left: &mut Vec<LeftKey>, key: Option<String>, batch: &ChangeBatch, place: (usize, usize)) {
    let (change, row) = batch.get(place.1);
    if let Some(key) = key.filter(|key| change.op == Op::Delete || key_of(row) != *key) {
        left.push(LeftKey { change: place, key });
    }
}
