//! Rows of the stream of changes: from the table's columns to those of its stream.

use interdict_features::change::RowWriter;

use crate::dead_letter::{DeadReason, Fault};

use super::message::{Cell, Old, Tuple};
use super::table::Places;
use super::value::set;

/// Whether an update gave the row another id.
pub(super) fn is_moved(places: &Places, id: usize, old: Tuple<'_>, new: Tuple<'_>) -> bool {
    let Some(place) = places.columns[id] else { return false };
    match (old.cell(place), new.cell(place)) {
        (Some(Cell::Text(before)), Some(Cell::Text(after))) => before != after,
        (Some(Cell::Text(_)), Some(Cell::Null)) => true,
        _ => false,
    }
}

/// Sets every column of the stream from a row; what was not sent is taken from the whole row before where there is one.
pub(super) fn read_row(
    writer: &mut RowWriter<'_>,
    places: &Places,
    new: Tuple<'_>,
    old: Option<Old<'_>>,
) -> Result<(), Fault> {
    if new.columns() != places.width {
        let detail = format!("a row of {} cells in a table of {} columns", new.columns(), places.width);
        return Err(Fault::new(DeadReason::FieldCount, detail));
    }
    let mut cells = new.cells();
    let mut next = 0;
    for (column, place) in places.columns.iter().enumerate() {
        let Some(place) = *place else { continue };
        if place < next {
            (cells, next) = (new.cells(), 0);
        }
        let cell = cells.nth(place - next);
        next = place + 1;
        match cell {
            Some(Cell::Text(text)) => set(writer, column, text)?,
            Some(Cell::Unchanged) => match old {
                Some(Old::Row(old)) => match old.cell(place) {
                    Some(Cell::Text(text)) => set(writer, column, text)?,
                    Some(Cell::Null) => {}
                    Some(Cell::Unchanged) | None => writer.set_unchanged(column),
                },
                _ => writer.set_unchanged(column),
            },
            Some(Cell::Null) | None => {}
        }
    }
    Ok(())
}
