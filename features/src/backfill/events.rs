//! The events of a history: of each id the newest version, with the place of the first one and the labels of all.
//!
//! Most histories name every id once; those rows are taken as they stand. Only rows whose id occurs again, has a label of its own or
//! is not a plain insert go through a row record, which is what decides in the stream as well.

use std::sync::Arc;

use hashbrown::HashMap;
use rayon::prelude::*;

use crate::change::{Change, ChangeBatch, Op, Row, Version};
use crate::definition::{OnTruncate, Stream};
use crate::engine::{Plan, Refused, event_key, key_of};
use crate::row::{Cleared, Presence, RowRecord};
use crate::state::{LabelValue, LabelWord};
use crate::time::Timestamp;
use crate::value::UNCHANGED;

use super::refused::{Part, Places, RefusedRow, at_sight};

/// Rows worked on at a time by one thread: a column of them stays within the second-level cache.
const CHUNK_ROWS: usize = 16_384;

/// Rows of one batch that are worked on together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chunk {
    /// Which batch.
    pub batch: usize,
    /// Its first row there.
    pub from: usize,
    /// The row after its last.
    pub to: usize,
    /// Ordinal of its first row over all batches.
    pub first_row: usize,
}

/// What settling came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Settled {
    /// Rows that were read.
    pub rows: usize,
    /// Rows that gave way to a newer or equal version of their id.
    pub superseded: usize,
    /// Rows whose id was deleted in the end, deletions included.
    pub deleted: usize,
    /// Labels that named an id of the history.
    pub labelled: usize,
    /// Labels that named none.
    pub unmatched_labels: usize,
    /// Rows that the stream refuses.
    pub refused: usize,
    /// Whether some label has no report time and counts as known at once.
    pub known_at_once: bool,
}

/// Why a history cannot be settled.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SettleError {
    /// A row says that all rows are gone.
    #[error(
        "at position {position} the history says that all rows were removed; leave the rows up to there out, or declare on_truncate = \"clear\" or \"ignore\""
    )]
    Truncated {
        /// Where it was delivered.
        position: u64,
    },
    /// Rows are numbered with 32 bits.
    #[error("the history has {rows} rows; at most 4294967294 are taken at once")]
    TooMany {
        /// How many there are.
        rows: usize,
    },
}

/// What a row record says of a row.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Place {
    pub(super) first: Version,
    pub(super) labels: Vec<LabelWord>,
}

/// The rows of a stream's history, settled.
#[derive(Debug)]
pub struct Events {
    stream: Arc<Stream>,
    /// Columns that row records keep.
    needed: Vec<usize>,
    batches: Vec<ChangeBatch>,
    starts: Vec<usize>,
    chunks: Vec<Chunk>,
    /// Per row, whether it gave way; empty when none did.
    gone: Vec<bool>,
    /// Versions of the losses that rows did not outlive unless they came again, ascending.
    losses: Vec<Version>,
    /// Rows that stand for several versions or have labels of their own.
    places: HashMap<u32, Place>,
    refused: Vec<RefusedRow>,
    settled: Settled,
}

impl Events {
    /// Settles the rows of `batches`, all of stream `stream` (index in the definitions), with the reports in `labels`, batches of
    /// streams that label it.
    ///
    /// # Errors
    /// [`SettleError`].
    pub fn settle(
        plan: &Plan,
        stream: usize,
        batches: Vec<ChangeBatch>,
        labels: &[ChangeBatch],
    ) -> Result<Self, SettleError> {
        let mut starts = vec![0];
        let mut chunks = Vec::new();
        for (batch, rows) in batches.iter().enumerate() {
            let start = starts[batch];
            for from in (0..rows.len()).step_by(CHUNK_ROWS) {
                let to = (from + CHUNK_ROWS).min(rows.len());
                chunks.push(Chunk { batch, from, to, first_row: start + from });
            }
            starts.push(start + rows.len());
        }
        let rows = starts[batches.len()];
        if rows >= u32::MAX as usize {
            return Err(SettleError::TooMany { rows });
        }
        let stream = Arc::clone(&plan.definitions.streams[stream]);
        let settled = Settled { rows, ..Settled::default() };
        let (gone, losses, places, refused) = (Vec::new(), Vec::new(), HashMap::new(), Vec::new());
        let needed = plan.streams[stream.index].needed.clone();
        let mut events = Self { stream, needed, batches, starts, chunks, gone, losses, places, refused, settled };
        events.take_marks()?;
        let refused = events.refuse(plan, labels);
        if plan.streams[events.stream.index].keeps_records {
            let special = events.special(labels, &refused);
            events.settle_special(&special, labels, &refused);
        }
        events.settled.known_at_once = events.is_known_at_once();
        Ok(events)
    }

    /// The stream, as an index into the definitions.
    #[must_use]
    pub fn stream(&self) -> usize {
        self.stream.index
    }

    pub(super) fn declared(&self) -> &Stream {
        &self.stream
    }

    /// The batches, in order.
    #[must_use]
    pub fn batches(&self) -> &[ChangeBatch] {
        &self.batches
    }

    /// The rows in parts of bounded size that do not cross batches, in order.
    #[must_use]
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// What settling came to.
    #[must_use]
    pub fn settled(&self) -> Settled {
        self.settled
    }

    /// Whether row `row` of batch `batch` is an event in the end.
    #[must_use]
    pub fn is_event(&self, batch: usize, row: usize) -> bool {
        !self.is_gone(self.starts[batch] + row)
    }

    /// Whether every row of a batch is an event.
    #[must_use]
    pub fn is_whole(&self, batch: usize) -> bool {
        self.gone.is_empty() || !self.gone[self.starts[batch]..self.starts[batch + 1]].contains(&true)
    }

    /// The version that orders row `row` of batch `batch` among events of its time.
    #[must_use]
    pub fn position(&self, batch: usize, row: usize) -> Version {
        let place = u32::try_from(self.starts[batch] + row).ok().and_then(|row| self.places.get(&row));
        place.map_or_else(|| self.batches[batch].get(row).0.version, |place| place.first)
    }

    /// Events in order of (time, first version): batch and row of each.
    #[must_use]
    pub fn in_order(&self) -> Vec<(u32, u32)> {
        let rows = self.chunks.par_iter().flat_map_iter(|chunk| {
            (chunk.from..chunk.to).filter(|&row| self.is_event(chunk.batch, row)).filter_map(|row| {
                let time = self.batches[chunk.batch].row(row).time()?;
                let place = (u32::try_from(chunk.batch).ok()?, u32::try_from(row).ok()?);
                Some((time, self.position(chunk.batch, row), place))
            })
        });
        let mut rows: Vec<_> = rows.collect();
        if !rows.is_sorted() {
            rows.par_sort_unstable();
        }
        rows.into_iter().map(|(_, _, place)| place).collect()
    }

    /// The rows that the stream refuses.
    #[must_use]
    pub fn refused(&self) -> &[RefusedRow] {
        &self.refused
    }

    pub(super) fn is_gone(&self, row: usize) -> bool {
        self.gone.get(row).copied().unwrap_or(false)
    }

    pub(super) fn place(&self, row: usize) -> Option<&Place> {
        if self.places.is_empty() {
            return None;
        }
        u32::try_from(row).ok().and_then(|row| self.places.get(&row))
    }

    pub(super) fn row_at(&self, row: usize) -> Row<'_> {
        let (batch, row) = self.spot(row);
        self.batches[batch].row(row)
    }

    fn row(&self, row: u32) -> (&Change, Row<'_>) {
        let (batch, row) = self.spot(row as usize);
        self.batches[batch].get(row)
    }

    /// Batch and row there of a row of the whole history.
    fn spot(&self, row: usize) -> (usize, usize) {
        let batch = self.starts.partition_point(|start| *start <= row) - 1;
        (batch, row - self.starts[batch])
    }

    /// The rows that need a row record, by their id's 64 bits: (id, row), in order of id and row.
    fn special(&self, labels: &[ChangeBatch], refused: &Places) -> Vec<(u64, u32)> {
        let mut labelled: Vec<u64> = Vec::new();
        for (batch, rows) in labels.iter().enumerate() {
            let taken = (0..rows.len()).filter(|&row| !refused.contains(&(batch, row)));
            let ids = taken.map(|row| rows.row(row)).filter(|row| row.cells[row.stream.id] > UNCHANGED);
            labelled.extend(ids.map(event_key));
        }
        let labelled: hashbrown::HashSet<u64> = labelled.into_iter().collect();
        let ids: Vec<Vec<(u64, u32, bool)>> = self.chunks.par_iter().map(|chunk| self.ids(chunk)).collect();
        let is_ascending = {
            let all = || ids.iter().flatten().map(|(id, _, _)| *id);
            all().zip(all().skip(1)).all(|(a, b)| a < b)
        };
        let mut ids: Vec<(u64, u32, bool)> = ids.into_iter().flatten().collect();
        if !is_ascending {
            ids.par_sort_unstable();
        }
        let is_again = |at: usize| {
            let own = ids[at].0;
            (at > 0 && ids[at - 1].0 == own) || ids.get(at + 1).is_some_and(|next| next.0 == own)
        };
        let special = |&at: &usize| {
            let (id, _, is_plain) = ids[at];
            !is_plain || is_again(at) || (!labelled.is_empty() && labelled.contains(&id))
        };
        (0..ids.len()).filter(special).map(|at| (ids[at].0, ids[at].1)).collect()
    }

    fn ids(&self, chunk: &Chunk) -> Vec<(u64, u32, bool)> {
        let batch = &self.batches[chunk.batch];
        let id = |row: usize| {
            let (change, cells) = batch.get(row);
            let is_old = self.losses.last().is_some_and(|loss| change.version < *loss);
            let is_plain = matches!(change.op, Op::Insert | Op::Snapshot) && !is_old;
            let ordinal = u32::try_from(chunk.first_row + row - chunk.from).expect("rows are counted first");
            (event_key(cells), ordinal, is_plain)
        };
        (chunk.from..chunk.to).filter(|row| !self.is_gone(chunk.first_row + row - chunk.from)).map(id).collect()
    }

    /// Brings the special rows together by id and lets a row record decide what stands.
    fn settle_special(&mut self, special: &[(u64, u32)], labels: &[ChangeBatch], refused: &Places) {
        let mut reports: HashMap<Box<[u8]>, Vec<(usize, usize)>> = HashMap::new();
        let mut buffer = Vec::new();
        for (batch, rows) in labels.iter().enumerate() {
            for row in (0..rows.len()).filter(|&row| !refused.contains(&(batch, row))) {
                if let Some(id) = key_of(rows.row(row), &[rows.stream().id], &mut buffer) {
                    reports.entry(id.to_bytes()).or_default().push((batch, row));
                }
            }
        }
        for same in special.chunk_by(|a, b| a.0 == b.0) {
            // Texts of one hash may be different ids.
            let mut by_id: Vec<(Box<[u8]>, Vec<u32>)> = Vec::new();
            for &(_, row) in same {
                let (_, cells) = self.row(row);
                let Some(id) = key_of(cells, &[self.stream.id], &mut buffer).map(|id| id.to_bytes()) else { continue };
                match by_id.iter_mut().find(|known| known.0 == id) {
                    Some(known) => known.1.push(row),
                    None => by_id.push((id, vec![row])),
                }
            }
            for (id, rows) in by_id {
                let reports = reports.remove(&id).unwrap_or_default();
                self.settle_one(&rows, &reports, labels);
            }
        }
        self.settled.unmatched_labels = reports.values().map(Vec::len).sum();
    }

    /// Drops truncations and losses, and the rows that the newest truncation took where it does. What losses took, row records tell.
    fn take_marks(&mut self) -> Result<(), SettleError> {
        let is_truncation = |change: &Change| change.op == Op::Truncate;
        let changes = || self.batches.iter().flat_map(ChangeBatch::iter).map(|(change, _)| change);
        if !changes().any(|change| change.op.is_mark()) {
            return Ok(());
        }
        if self.stream.on_truncate == OnTruncate::Stop
            && let Some(first) = changes().find(|change| is_truncation(change))
        {
            return Err(SettleError::Truncated { position: first.position });
        }
        let newest = changes().filter(|change| is_truncation(change)).map(|change| change.version).max();
        let cleared = newest.filter(|_| self.stream.on_truncate == OnTruncate::Clear);
        let is_taken = |change: &Change| change.op.is_mark() || cleared.is_some_and(|at| change.version < at);
        let taken: Vec<bool> = changes().map(is_taken).collect();
        self.settled.deleted = changes().filter(|change| is_taken(change) && !change.op.is_mark()).count();
        let losses = changes().filter(|change| change.op == Op::Lost && self.stream.follows_removals());
        let mut losses: Vec<Version> = losses.map(|change| change.version).collect();
        losses.sort_unstable();
        losses.dedup();
        (self.gone, self.losses) = (taken, losses);
        Ok(())
    }

    /// What a record met of losses when a change of version `version` came: the snapshot behind the newest of them was whole unless the change
    /// is of it.
    fn lost_by(&self, version: Version) -> Cleared {
        let before = |end: usize| end.checked_sub(1).map_or(Version::REQUEST, |at| self.losses[at]);
        let met = self.losses.partition_point(|loss| *loss <= version);
        let whole = self.losses.partition_point(|loss| *loss < version);
        Cleared { at: before(met), gone: before(whole) }
    }

    /// Takes out what the stream refuses at sight; the places of such reports.
    fn refuse(&mut self, plan: &Plan, labels: &[ChangeBatch]) -> Places {
        for refused in at_sight(plan, Part::Rows, &self.batches) {
            let row = self.starts[refused.batch] + refused.row;
            if !self.is_gone(row) {
                self.mark_gone(row);
                self.refused.push(refused);
            }
        }
        self.settled.refused = self.refused.len();
        let reports = at_sight(plan, Part::Labels, labels);
        let places = reports.iter().map(|refused| (refused.batch, refused.row)).collect();
        self.refused.extend(reports);
        places
    }

    fn settle_one(&mut self, rows: &[u32], reports: &[(usize, usize)], labels: &[ChangeBatch]) {
        let mut record = RowRecord::default();
        record.reset(&self.stream);
        for &row in rows {
            let (change, cells) = self.row(row);
            record.settle(&self.stream, self.lost_by(change.version));
            let _only_the_outcome_counts = record.apply(change, cells);
        }
        record.settle(&self.stream, self.lost_by(Version::MAX));
        for &(batch, row) in reports {
            let (change, cells) = labels[batch].get(row);
            let _known_before = record.apply_report(change, cells);
        }
        self.settled.labelled += reports.len();
        let is_live = record.presence == Presence::Live;
        let newest = rows.iter().copied().find(|&row| is_live && self.is_version_of(row, &record));
        for &row in rows.iter().filter(|row| Some(**row) != newest) {
            self.mark_gone(row as usize);
        }
        let gave_way = rows.len() - usize::from(newest.is_some());
        if is_live {
            self.settled.superseded += gave_way;
        } else {
            self.settled.deleted += gave_way;
        }
        if let Some(newest) = newest {
            let (batch, at) = self.spot(newest as usize);
            match record.row(&self.stream) {
                // No version brought the time that the newest did not send.
                Some(row) if row.time().is_none() => {
                    self.mark_gone(newest as usize);
                    self.refused.push(RefusedRow { part: Part::Rows, batch, row: at, why: Refused::NoTime });
                    self.settled.refused += 1;
                    return;
                }
                Some(row) if record.has_carried() => self.batches[batch].complete(at, &self.needed, row),
                _ => {}
            }
            let mut place = Place { first: record.first, labels: Vec::new() };
            record.labels(&mut place.labels);
            self.places.insert(newest, place);
        }
    }

    fn is_version_of(&self, row: u32, record: &RowRecord) -> bool {
        let change = self.row(row).0;
        change.version == record.version && change.op != Op::Delete
    }

    fn mark_gone(&mut self, row: usize) {
        if self.gone.is_empty() {
            self.gone.resize(self.settled.rows, false);
        }
        self.gone[row] = true;
    }

    fn is_known_at_once(&self) -> bool {
        let Some(label) = self.stream.label else { return false };
        let is_undated = |row: Row<'_>| {
            row.cells[label] > UNCHANGED && self.stream.label_time.is_none_or(|time| row.cells[time] <= UNCHANGED)
        };
        self.batches.iter().any(|batch| batch.iter().any(|(_, row)| is_undated(row)))
    }
}

/// The label that a row of its own brings: a word, or the zero word.
pub(super) fn own_label(row: Row<'_>) -> LabelWord {
    let Some(cell) = row.stream.label.map(|column| row.cells[column]).filter(|cell| *cell > UNCHANGED) else {
        return LabelWord::UNKNOWN;
    };
    let reported = row.stream.label_time.map(|column| row.cells[column]).filter(|cell| *cell > UNCHANGED);
    let value = if cell != 0 { LabelValue::Fraud } else { LabelValue::Genuine };
    LabelWord::new(value, reported.map(Timestamp::from_micros))
}
