//! Row records: what is remembered of each row, so that every change is applied as old row to new row (DESIGN 3.7, 3.8).
//!
//! Invariants:
//! - The outcome of a set of changes to one row depends neither on their order nor on their repetition: each column has the value of the
//!   newest version that sent it, the lowest version ever seen gives the place among equal times, reports of labels are kept by version.
//! - A request's row is provisional: every version from the source replaces it, and it has no place of its own among equal times.

mod encode;
mod first;

pub(crate) use first::FirstSight;

use crate::change::{Change, Op, Row, TextArena, Version};
use crate::definition::{OnDelete, Stream};
use crate::state::{LabelValue, LabelWord};
use crate::time::Timestamp;
use crate::value::{NULL, UNCHANGED};

/// Reports kept of one row; beyond it one that repeats its neighbours gives way, or else the second oldest. Labels flip once or twice in
/// practice, but every UPDATE of a row repeats its label.
const REPORTS_MAX: usize = 8;

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
}

/// Where a report came from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Origin {
    /// The row's own label column.
    Row,
    /// A label stream.
    Stream,
}

/// One observation of a label.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Report {
    origin: Origin,
    version: Version,
    value: Option<bool>,
    reported: Option<Timestamp>,
}

impl Report {
    /// What a version of the row says in its own label column.
    fn of_row(change: &Change, row: Row<'_>) -> Option<Self> {
        let cell = row.cells[row.stream.label?];
        if cell == UNCHANGED || (cell == NULL && change.op == Op::Insert) {
            return None;
        }
        let own_time = row.stream.label_time.map(|column| row.cells[column]).filter(|cell| *cell > UNCHANGED);
        let reported = match own_time {
            Some(micros) => Some(Timestamp::from_micros(micros)),
            None if change.op == Op::Update => change.arrival,
            None => None,
        };
        Some(Self {
            origin: Origin::Row,
            version: change.version,
            value: (cell != NULL).then_some(cell != 0),
            reported,
        })
    }

    /// What it says, as a word of a state.
    fn word(value: Option<bool>, reported: Option<Timestamp>) -> LabelWord {
        let value = match value {
            Some(true) => LabelValue::Fraud,
            Some(false) => LabelValue::Genuine,
            None => LabelValue::Withdrawn,
        };
        LabelWord::new(value, reported)
    }
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
    /// The newest truncation of its table that it has seen; everything else in it is newer.
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

    /// Makes this the record of a row whose table was truncated at version `cleared`. What its own versions said is gone; what a stream of
    /// labels said stays, as it would after a delete, and so does how often it was judged: a row that comes under its id is another one.
    /// Nothing happens when it has seen that truncation.
    pub fn clear(&mut self, stream: &Stream, cleared: Version) {
        if self.cleared >= cleared {
            return;
        }
        let judgements = self.judgements;
        let mut reports = std::mem::take(&mut self.reports);
        reports.retain(|report| report.origin == Origin::Stream);
        self.reset(stream);
        (self.judgements, self.reports, self.cleared) = (judgements, reports, cleared);
        self.is_reopened = judgements > 0;
    }

    /// The newest version's row; `None` when there is none.
    #[must_use]
    pub fn row<'a>(&'a self, stream: &'a Stream) -> Option<Row<'a>> {
        (self.presence == Presence::Live).then_some(Row { stream, cells: &self.cells, text: &self.text })
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
            Op::Snapshot => self.snapshot = self.snapshot.max(change.version),
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

    /// Notes the label that a version of the row carries.
    fn report_own_label(&mut self, change: &Change, row: Row<'_>) {
        if change.version >= self.base
            && let Some(report) = Report::of_row(change, row)
        {
            self.report(report);
        }
    }

    /// Applies a change of a label stream that names the row.
    ///
    /// # Errors
    /// Why it altered nothing.
    pub fn apply_report(&mut self, change: &Change, row: Row<'_>) -> Result<(), Ignored> {
        if change.op == Op::Delete && row.stream.on_delete == OnDelete::Ignore {
            return Err(Ignored::DeleteIgnored);
        }
        let column = row.stream.labels.map_or(0, |labels| labels.value);
        let value = match row.cells[column] {
            _ if change.op == Op::Delete => None,
            UNCHANGED => return Err(Ignored::Duplicate),
            NULL => None,
            cell => Some(cell != 0),
        };
        // A report that is taken back names the time at which it was made; it counted until it was taken back.
        let time = if change.op == Op::Delete { change.arrival.or(row.time()) } else { row.time().or(change.arrival) };
        self.apply_label(change.version, value, time)
    }

    /// Applies a report of a label.
    ///
    /// # Errors
    /// [`Ignored::Duplicate`] when it is known.
    pub fn apply_label(
        &mut self,
        version: Version,
        value: Option<bool>,
        reported: Option<Timestamp>,
    ) -> Result<(), Ignored> {
        let report = Report { origin: Origin::Stream, version, value, reported };
        if self.report(report) { Ok(()) } else { Err(Ignored::Duplicate) }
    }

    fn report(&mut self, report: Report) -> bool {
        let Err(at) = self.reports.binary_search(&report) else { return false };
        self.reports.insert(at, report);
        if self.reports.len() > REPORTS_MAX {
            let is_same = |a: usize, b: usize| {
                let (a, b) = (&self.reports[a], &self.reports[b]);
                (a.origin, a.value) == (b.origin, b.value)
            };
            let within = (1..REPORTS_MAX).find(|&at| is_same(at - 1, at) && is_same(at, at + 1));
            let after = || (1..=REPORTS_MAX).find(|&at| is_same(at - 1, at));
            let spare = within.or_else(after).unwrap_or(1);
            self.reports.remove(spare);
        }
        true
    }

    /// The labels in order of report time, each the first report of its value: what a slot takes.
    ///
    /// A version of the row reports a label only where it differs from the version's before: a correction of the amount neither withdraws nor
    /// confirms what a label stream said in between.
    pub fn labels(&self, out: &mut Vec<LabelWord>) {
        let mut order = [(None, None); REPORTS_MAX];
        let (mut len, mut own) = (0, None);
        // A version of the row never counts as reported before the versions it follows.
        let mut floor = None;
        for report in &self.reports {
            let mut at = report.reported;
            if report.origin == Origin::Row {
                floor = floor.max(at);
                at = floor;
                if report.value == own {
                    continue;
                }
                own = report.value;
            }
            order[len] = (at, report.value);
            len += 1;
        }
        let order = &mut order[..len];
        order.sort_by_key(|(at, _)| *at);
        let mut current = None;
        for (at, value) in order.iter().copied().filter(|(_, value)| {
            let is_new = *value != current;
            current = *value;
            is_new
        }) {
            out.push(Report::word(value, at));
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
