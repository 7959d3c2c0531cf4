//! What a set of delivered changes leaves, recomputed from scratch: rows, and the events they are to the windows.

use std::collections::BTreeMap;

use crate::change::{Op, Row, TextArena, Version};
use crate::definition::{OnDelete, Stream};
use crate::engine::Plan;
use crate::value::{NULL, UNCHANGED};

use super::world::{Cell, Delivery, word};

/// One event of a stream as windows see it.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) stream: usize,
    pub(super) id: i64,
    pub(super) time: i64,
    pub(super) first: Version,
    /// Report time (`None`: known at once) and label, in order of report time.
    pub(super) labels: Vec<(Option<i64>, Option<bool>)>,
    cells: Vec<i64>,
    text: TextArena,
}

impl Event {
    pub(super) fn row<'a>(&'a self, stream: &'a Stream) -> Row<'a> {
        Row { stream, cells: &self.cells, text: &self.text }
    }

    /// The label known at `instant`.
    pub(super) fn label(&self, instant: i64) -> Option<bool> {
        let known = self.labels.iter().rfind(|(reported, _)| reported.is_none_or(|reported| reported <= instant));
        known.and_then(|(_, label)| *label)
    }
}

/// The events that `delivered` leaves, in no matter what order and however often it was delivered.
pub(super) fn events(plan: &Plan, delivered: &[Delivery]) -> Vec<Event> {
    let streams = &plan.definitions.streams;
    let mut rows: BTreeMap<(usize, i64), Vec<&Delivery>> = BTreeMap::new();
    for delivery in delivered {
        let stream = &streams[delivery.stream];
        let target = stream.labels.map_or(delivery.stream, |labels| labels.stream);
        let changes = rows.entry((target, word(&delivery.cells[stream.id]))).or_default();
        if !changes.contains(&delivery) {
            changes.push(delivery);
        }
    }
    rows.into_iter().filter_map(|((stream, id), changes)| event(plan, stream, id, changes)).collect()
}

fn event(plan: &Plan, index: usize, id: i64, mut changes: Vec<&Delivery>) -> Option<Event> {
    let stream = &plan.definitions.streams[index];
    changes.sort_by_key(|change| change.version);
    let mut cells: Option<Vec<Cell>> = None;
    let mut own: Vec<(Option<i64>, Option<bool>)> = Vec::new();
    let mut reported: Vec<(i64, Version, Option<bool>)> = Vec::new();
    let mut first = Version::MAX;
    for change in changes {
        if change.stream != index {
            let source = &plan.definitions.streams[change.stream];
            let value = bool_of(&change.cells[source.labels.unwrap().value]);
            reported.push((word(&change.cells[source.time.unwrap()]), change.version, value));
            continue;
        }
        if change.op == Op::Delete {
            if stream.on_delete == OnDelete::Retract {
                cells = None;
                own.clear();
            }
            continue;
        }
        if change.op != Op::Request {
            first = first.min(change.version);
        }
        if change.op == Op::Insert {
            own.clear();
        }
        let before = cells.take().unwrap_or_else(|| vec![Cell::Null; change.cells.len()]);
        let merged: Vec<Cell> = before
            .into_iter()
            .zip(&change.cells)
            .map(|(before, new)| if *new == Cell::Unchanged { before } else { new.clone() })
            .collect();
        if let Some(label) = stream.label
            && change.op != Op::Request
            && change.cells[label] != Cell::Unchanged
            && !(change.op == Op::Insert && change.cells[label] == Cell::Null)
        {
            let at = if change.op == Op::Update { change.arrival } else { None };
            let floor = own.last().and_then(|(at, _)| *at);
            own.push((at.max(floor), bool_of(&change.cells[label])));
        }
        cells = Some(merged);
    }
    let cells = cells?;
    let time = word(&cells[stream.time?]);
    if time <= UNCHANGED {
        return None;
    }
    reported.sort();
    // A version that repeats the label of the one before reports nothing.
    let repeats = |at: usize| own[at].1 == at.checked_sub(1).and_then(|before| own[before].1);
    let mut labels: Vec<_> = (0..own.len()).filter(|&at| !repeats(at)).map(|at| own[at]).collect();
    labels.extend(reported.into_iter().map(|(at, _, value)| (Some(at), value)));
    labels.sort_by_key(|(at, _)| *at);
    let mut text = TextArena::default();
    let cell = |cell: &Cell| match cell {
        Cell::Text(value) => text.push(value),
        Cell::Word(word) => *word,
        Cell::Null | Cell::Unchanged => NULL,
    };
    let cells = cells.iter().map(cell).collect();
    Some(Event { stream: index, id, time, first, labels, cells, text })
}

fn bool_of(cell: &Cell) -> Option<bool> {
    match cell {
        Cell::Word(word) => Some(*word != 0),
        _ => None,
    }
}
