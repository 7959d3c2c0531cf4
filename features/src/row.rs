//! Row records: what is remembered of each row, so that every change is applied as old row to new row (DESIGN 3.7, 3.8).
//!
//! Invariants:
//! - The outcome of a set of changes to one row depends neither on their order nor on their repetition: each column has the value of the
//!   newest version that sent it, the lowest version ever seen gives the place among equal times, reports of labels are kept by version.
//! - A request's row is provisional: every version from the source replaces it, and it has no place of its own among equal times.

mod encode;
mod first;
mod reports;

pub(crate) use first::FirstSight;

use reports::{Origin, REPORTS_MAX, Report};

use crate::change::{Change, Op, Row, TextArena, Version};
use crate::definition::{OnDelete, Stream};
use crate::time::Timestamp;
use crate::value::{NULL, UNCHANGED};

/// Whether there is a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Presence {
    /// Only labels are known so far.
    #[default]
    Unseen,
    /// There is a row.
    Live,
    /// It was deleted.
    Deleted,
    /// There was a row when changes were lost, and the snapshot that follows has not brought it yet. It is in no state.
    Lost,
}

impl Presence {
    /// Whether the record holds the cells of a row.
    const fn has_cells(self) -> bool {
        matches!(self, Self::Live | Self::Lost)
    }
}

/// What became of all rows of a table at once: by it records that were written before are settled when they are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cleared {
    /// Version of the newest truncation, or of the newest loss of changes.
    pub at: Version,
    /// Of the newest one whose outcome is known: rows that have not been seen since are gone. Older than `at` while a snapshot is read.
    pub gone: Version,
}

/// Why a change altered nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ignored {
    /// This version was applied before.
    Duplicate,
    /// A newer version was applied before.
    Outdated,
    /// The stream ignores deletes.
    DeleteIgnored,
    /// The stream ignores truncation.
    TruncateIgnored,
}

impl Ignored {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Duplicate, Self::Outdated, Self::DeleteIgnored, Self::TruncateIgnored];
}

/// A column that the newest version did not send, and which version its value is from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Carried {
    column: usize,
    from: Option<Version>,
}

/// What is remembered of one row.
#[derive(PartialEq, Debug, Default)]
pub struct RowRecord {
    /// Whether there is a row.
    pub presence: Presence,
    /// The newest version applied.
    pub version: Version,
    /// The newest insert or delete: the row's own labels from before it no longer count.
    base: Version,
    /// The newest snapshot.
    snapshot: Version,
    /// The lowest version seen; [`Version::MAX`] while only a request is known.
    pub first: Version,
    /// The newest truncation or loss of its table that it has seen; everything else in it is newer, unless the row is lost.
    cleared: Version,
    /// How often the row was judged.
    pub judgements: u32,
    /// It was judged as another row: one that was deleted, truncated or refused since.
    pub is_reopened: bool,
    /// Cells of the newest version; columns that nothing needs are null after a round trip through bytes.
    pub cells: Vec<i64>,
    /// Their texts.
    pub text: TextArena,
    carried: Vec<Carried>,
    reports: Vec<Report>,
}

impl Clone for RowRecord {
    fn clone(&self) -> Self {
        let mut copy = Self::default();
        copy.clone_from(self);
        copy
    }

    /// Reuses the memory of `self`: a record is copied for every change.
    fn clone_from(&mut self, other: &Self) {
        (self.presence, self.judgements, self.is_reopened) = (other.presence, other.judgements, other.is_reopened);
        (self.version, self.base, self.snapshot, self.first) = (other.version, other.base, other.snapshot, other.first);
        self.cleared = other.cleared;
        self.cells.clone_from(&other.cells);
        self.text.clone_from(&other.text);
        self.carried.clone_from(&other.carried);
        self.reports.clone_from(&other.reports);
    }
}

impl RowRecord {
    /// Makes this the record of a row of which nothing is known.
    pub fn reset(&mut self, stream: &Stream) {
        self.presence = Presence::Unseen;
        self.version = Version::REQUEST;
        self.base = Version::REQUEST;
        self.snapshot = Version::REQUEST;
        self.first = Version::MAX;
        self.cleared = Version::REQUEST;
        self.judgements = 0;
        self.is_reopened = false;
        self.cells.clear();
        self.cells.resize(stream.columns.len(), NULL);
        self.text.clear();
        self.carried.clear();
        self.reports.clear();
    }

    /// Makes this the record of a row whose table went through `cleared`. Nothing happens when it has seen that.
    ///
    /// Of a row that is gone with it, what its own versions said is gone too; what a stream of labels said stays, as it would after a delete,
    /// and so does how often it was judged: a row that comes under its id is another one, unless only a request is known, whose row may be on
    /// its way. One whose fate is open is lost, and all is kept that was known of it: it may come back as the same one.
    pub fn settle(&mut self, stream: &Stream, cleared: Cleared) {
        let is_overdue = self.presence == Presence::Lost && self.cleared <= cleared.gone;
        if self.cleared < cleared.gone || is_overdue {
            self.clear(stream, cleared.gone);
        }
        if self.cleared < cleared.at {
            self.cleared = cleared.at;
            if self.presence == Presence::Live {
                self.presence = Presence::Lost;
            }
        }
    }

    fn clear(&mut self, stream: &Stream, cleared: Version) {
        let judgements = self.judgements;
        let has_come = self.first != Version::MAX || self.is_reopened;
        let mut reports = std::mem::take(&mut self.reports);
        reports.retain(|report| report.origin == Origin::Stream);
        self.reset(stream);
        (self.judgements, self.reports, self.cleared) = (judgements, reports, cleared);
        self.is_reopened = judgements > 0 && has_come;
    }

    /// The newest version's row; `None` when there is none.
    #[must_use]
    pub fn row<'a>(&'a self, stream: &'a Stream) -> Option<Row<'a>> {
        (self.presence == Presence::Live).then_some(Row { stream, cells: &self.cells, text: &self.text })
    }

    /// The newest version's row as it was last seen, also where it is lost.
    pub(crate) fn last_row<'a>(&'a self, stream: &'a Stream) -> Option<Row<'a>> {
        self.is_known().then_some(Row { stream, cells: &self.cells, text: &self.text })
    }

    /// Whether there is a row, or was one when changes were lost.
    pub(crate) const fn is_known(&self) -> bool {
        self.presence.has_cells()
    }

    /// Whether two records hold the same row in the columns `needed`.
    pub(crate) fn holds_the_same(&self, other: &Self, stream: &Stream, needed: &[usize]) -> bool {
        let [one, other] = [self, other].map(|record| Row { stream, cells: &record.cells, text: &record.text });
        needed.iter().all(|&column| {
            let is_text = stream.columns[column].kind.is_text();
            if is_text { one.text(column) == other.text(column) } else { one.cells[column] == other.cells[column] }
        })
    }

    /// Applies a change of the row itself.
    ///
    /// # Errors
    /// Why it altered nothing; the place among equal times and the labels may have been corrected all the same.
    pub fn apply(&mut self, change: &Change, row: Row<'_>) -> Result<(), Ignored> {
        let stream = row.stream;
        if change.op == Op::Delete && stream.on_delete == OnDelete::Ignore {
            return Err(Ignored::DeleteIgnored);
        }
        self.raise_base(change);
        if !matches!(change.op, Op::Request | Op::Delete) {
            self.first = self.first.min(change.version);
            self.report_own_label(change, row);
        }
        if self.presence != Presence::Unseen && change.version <= self.version {
            if change.version == self.version {
                return Err(Ignored::Duplicate);
            }
            self.fill_carried(change, row);
            return Err(Ignored::Outdated);
        }
        if change.op == Op::Delete {
            self.presence = Presence::Deleted;
            self.is_reopened = self.judgements > 0;
            self.cells.fill(NULL);
            self.text.clear();
            self.carried.clear();
        } else {
            self.take_cells(row);
            self.presence = Presence::Live;
        }
        self.version = change.version;
        Ok(())
    }

    fn raise_base(&mut self, change: &Change) {
        match change.op {
            Op::Insert | Op::Delete if change.version > self.base => {
                let base = change.version;
                self.base = base;
                self.reports.retain(|report| report.origin == Origin::Stream || report.version >= base);
                for carried in self.carried.iter_mut().filter(|carried| carried.from < Some(base)) {
                    carried.from = None;
                    self.cells[carried.column] = NULL;
                }
            }
            Op::Snapshot | Op::Recovered => self.snapshot = self.snapshot.max(change.version),
            _ => {}
        }
    }

    /// Takes the cells of a newer version; where it sent none, the value stays and is carried.
    fn take_cells(&mut self, row: Row<'_>) {
        let is_live = self.presence == Presence::Live;
        for (column, &new) in row.cells.iter().enumerate() {
            let carried = self.carried.iter().position(|carried| carried.column == column);
            if new == UNCHANGED {
                if carried.is_none() {
                    self.carried.push(Carried { column, from: is_live.then_some(self.version) });
                }
                continue;
            }
            if let Some(carried) = carried {
                self.carried.remove(carried);
            }
            self.take_cell(row, column);
        }
        self.carried.sort_unstable_by_key(|carried| carried.column);
    }

    fn take_cell(&mut self, row: Row<'_>, column: usize) {
        let new = row.cells[column];
        let is_text = new > UNCHANGED && row.stream.columns[column].kind.is_text();
        self.cells[column] = if is_text { self.text.push(row.text.get(new)) } else { new };
    }

    /// Takes from an outdated version what newer ones did not send.
    fn fill_carried(&mut self, change: &Change, row: Row<'_>) {
        if change.op == Op::Delete || change.version < self.base {
            return;
        }
        for at in 0..self.carried.len() {
            let Carried { column, from } = self.carried[at];
            if row.cells[column] != UNCHANGED && from < Some(change.version) {
                self.carried[at].from = Some(change.version);
                self.take_cell(row, column);
            }
        }
    }

    /// The latest time the record knows: of the event, or of a report.
    #[must_use]
    pub fn newest(&self, stream: &Stream) -> Option<Timestamp> {
        let time =
            stream.time.map(|column| self.cells[column]).filter(|cell| *cell > UNCHANGED).map(Timestamp::from_micros);
        time.max(self.reports.iter().filter_map(|report| report.reported).max())
    }

    /// Whether a column's value is from an older version than the newest.
    pub(crate) fn has_carried(&self) -> bool {
        !self.carried.is_empty()
    }

    /// Whether a snapshot or a later insert already covers version `version`.
    #[must_use]
    pub fn is_covered(&self, version: Version) -> bool {
        self.base.max(self.snapshot) > version
    }

    /// Whether a snapshot covers version `version`.
    #[must_use]
    pub fn is_in_snapshot(&self, version: Version) -> bool {
        self.snapshot > version
    }
}
