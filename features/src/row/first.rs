//! The record of a row that one insert is all that is known of, without a [`RowRecord`] in between.
//!
//! Invariant: the bytes are those of the record that the insert leaves when it is applied to an empty one.

use super::encode::Image;
use super::{Presence, Report};
use crate::change::{Change, Op, Row, Version};
use crate::state::LabelWord;
use crate::time::Timestamp;
use crate::value::UNCHANGED;

/// A row at its first sight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FirstSight<'a> {
    row: Row<'a>,
    version: Version,
    report: Option<Report>,
}

impl<'a> FirstSight<'a> {
    /// The row that `change` brings; `None` unless it is an insert of a row with its time and all its columns.
    pub(crate) fn of(change: &Change, row: Row<'a>) -> Option<Self> {
        let is_whole = change.op == Op::Insert && row.time().is_some() && !row.cells.contains(&UNCHANGED);
        is_whole.then(|| Self { row, version: change.version, report: Report::of_row(change, row) })
    }

    /// The label that comes with it.
    pub(crate) fn label(&self) -> Option<LabelWord> {
        self.report.map(|report| Report::word(report.value, report.reported))
    }

    /// The latest time it knows: of the event, or of the report.
    pub(crate) fn newest(&self) -> Option<Timestamp> {
        self.row.time().max(self.report.and_then(|report| report.reported))
    }

    /// Appends the bytes of its record, which has seen the truncation `cleared`.
    pub(crate) fn encode(&self, needed: &[usize], judgements: u32, cleared: Version, out: &mut Vec<u8>) {
        let image = Image {
            presence: Presence::Live,
            version: self.version,
            base: self.version,
            snapshot: Version::REQUEST,
            first: self.version,
            cleared,
            judgements,
            is_reopened: false,
            cells: self.row.cells,
            text: self.row.text,
            carried: &[],
            reports: self.report.as_slice(),
        };
        image.encode(self.row.stream, needed, out);
    }
}

#[cfg(test)]
mod tests;
