//! Rows on their way to another partition: the server sends a delete and an insert.

use std::sync::Arc;

use interdict_features::change::Change;

use super::super::message::{Cell, Message, Old, Tuple, parse};
use super::super::table::Places;
use super::{Changes, Numbered};

/// A delete that may be the first half of a row's way to another partition.
pub(super) struct Held {
    relation: u32,
    places: Arc<Places>,
    change: Change,
    frame: Box<[u8]>,
}

impl Held {
    pub(super) fn new(relation: u32, (places, change): (Arc<Places>, Change), frame: &[u8]) -> Self {
        Self { relation, places, change, frame: frame.into() }
    }

    pub(super) fn old(&self) -> Option<Old<'_>> {
        match parse(&self.frame) {
            Ok(Message::Delete { old, .. }) => Some(old),
            _ => None,
        }
    }
}

impl Changes {
    /// Delivers the delete that is held back: what follows is no second half of it.
    pub(super) fn release(&mut self) {
        if let Some(held) = self.held.take()
            && let Some(old) = held.old()
        {
            let row = Numbered { places: Some(Arc::clone(&held.places)), change: held.change };
            self.take_row(row, |changes, places, change| changes.delete(places, change, old));
        }
    }

    /// The delete that is held back, if the row was inserted again in another partition; otherwise it is delivered.
    pub(super) fn take_moved(&mut self, relation: u32, new: Tuple<'_>) -> Option<Held> {
        let is_same = self.held.as_ref().is_some_and(|held| {
            let id = held.places.columns[self.stream(&held.places).id];
            let ids = id.zip(held.old()).map(|(id, old)| (old.tuple().cell(id), new.cell(id)));
            held.relation == relation
                && matches!(ids, Some((Some(Cell::Text(old)), Some(Cell::Text(new)))) if old == new)
        });
        if !is_same {
            self.release();
        }
        self.held.take()
    }
}
