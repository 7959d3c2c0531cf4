//! What resolving comes to: per change its outcome, and the versions of its row that leave states and enter them.

use crate::change::{ChangeBatch, Row, TextArena, Version};
use crate::definition::Stream;
use crate::row::RowRecord;
use crate::state::LabelWord;
use crate::value::UNCHANGED;

use super::Evaluate;
use super::output::Outcome;
use super::plan::event_key;
use super::resolve::RowShard;

/// Where the cells of a version stand.
#[derive(Clone, Copy, Debug)]
enum CellsPlace {
    /// In the batch, at this row.
    Batch(u32),
    /// In the shard's [`Resolved`], as this row.
    Resolved(u32),
}

/// One version of a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct VersionRef {
    cells: CellsPlace,
    /// In the shard's [`Resolved`].
    labels: (u32, u32),
    pub(super) time: i64,
    pub(super) id: u64,
    pub(super) first: Version,
}

/// What became of one change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resolution {
    pub(super) change: u32,
    pub(super) outcome: Outcome,
    /// Which judgement of the row this is, if it is to be judged.
    pub(super) judgement: Option<u32>,
    /// Places among the versions of its [`Resolved`].
    pub(super) old: Option<u32>,
    pub(super) new: Option<u32>,
    /// The new version is looked at and not kept.
    pub(super) is_transient: bool,
    /// Some entity's features are read for it.
    pub(super) is_read: bool,
}

impl Resolution {
    pub(super) const fn of(outcome: Outcome) -> Self {
        Self { change: 0, outcome, judgement: None, old: None, new: None, is_transient: false, is_read: false }
    }
}

/// Where the resolution of a change stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowPlace {
    pub(super) shard: u32,
    at: u32,
}

/// A batch, and the stream whose rows it changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Incoming<'a> {
    pub(super) batch: &'a ChangeBatch,
    pub(super) stream: &'a Stream,
    pub(super) evaluate: Evaluate,
}

/// The versions of a batch that one shard resolved.
#[derive(Clone, Debug, Default)]
pub(super) struct Resolved {
    cells: Vec<i64>,
    text: TextArena,
    labels: Vec<LabelWord>,
    versions: Vec<VersionRef>,
    pub(super) resolutions: Vec<Resolution>,
}

impl Resolved {
    pub(super) fn clear(&mut self) {
        self.cells.clear();
        self.text.clear();
        self.labels.clear();
        self.versions.clear();
        self.resolutions.clear();
    }

    pub(super) fn version(&self, place: Option<u32>) -> Option<&VersionRef> {
        place.map(|place| &self.versions[place as usize])
    }

    fn push(&mut self, version: VersionRef) -> Option<u32> {
        self.versions.push(version);
        Some(narrow(self.versions.len() - 1))
    }

    pub(super) fn row<'a>(&'a self, incoming: Incoming<'a>, version: &VersionRef) -> Row<'a> {
        match version.cells {
            CellsPlace::Batch(row) => incoming.batch.row(row as usize),
            CellsPlace::Resolved(row) => {
                let (stream, width) = (incoming.stream, incoming.stream.columns.len());
                let from = row as usize * width;
                Row { stream, cells: &self.cells[from..from + width], text: &self.text }
            }
        }
    }

    pub(super) fn labels(&self, version: &VersionRef) -> &[LabelWord] {
        &self.labels[version.labels.0 as usize..version.labels.1 as usize]
    }

    /// Copies a version that a row record holds.
    pub(super) fn copy(&mut self, record: &RowRecord, stream: &Stream) -> Option<u32> {
        let row = record.row(stream)?;
        let time = row.time()?.micros();
        let place = narrow(self.cells.len() / stream.columns.len());
        for (column, &cell) in stream.columns.iter().zip(row.cells) {
            let is_text = column.kind.is_text() && cell > UNCHANGED;
            self.cells.push(if is_text { self.text.push(row.text.get(cell)) } else { cell });
        }
        let from = narrow(self.labels.len());
        record.labels(&mut self.labels);
        let labels = (from, narrow(self.labels.len()));
        let cells = CellsPlace::Resolved(place);
        self.push(VersionRef { cells, labels, time, id: event_key(row), first: record.first })
    }

    /// Refers to a version that is a row of the batch.
    pub(super) fn refer(&mut self, row: Row<'_>, at: u32, first: Version, label: Option<LabelWord>) -> Option<u32> {
        let time = row.time()?.micros();
        let from = narrow(self.labels.len());
        self.labels.extend(label);
        let labels = (from, narrow(self.labels.len()));
        self.push(VersionRef { cells: CellsPlace::Batch(at), labels, time, id: event_key(row), first })
    }
}

pub(super) fn narrow(place: usize) -> u32 {
    u32::try_from(place).expect("batches hold fewer than 2^32 rows and labels")
}

/// Notes where the resolution of each change stands.
pub(super) fn note_places(shards: &[RowShard], changes: usize, places: &mut Vec<RowPlace>) {
    places.clear();
    places.resize(changes, RowPlace { shard: 0, at: u32::MAX });
    for (shard, rows) in (0_u32..).zip(shards) {
        for (at, resolution) in (0_u32..).zip(&rows.resolved.resolutions) {
            places[resolution.change as usize] = RowPlace { shard, at };
        }
    }
}

impl RowPlace {
    /// The resolution that stands here, with the versions it refers to.
    pub(super) fn find(self, shards: &[RowShard]) -> Option<(&Resolved, &Resolution)> {
        let resolved = &shards[self.shard as usize].resolved;
        Some((resolved, resolved.resolutions.get(self.at as usize)?))
    }
}
