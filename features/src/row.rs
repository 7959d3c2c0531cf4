//! Row records: what is remembered of each row, so that every change is applied as old row to new row (DESIGN 3.7, 3.8).
//!
//! Invariants:
//! - The outcome of a set of changes to one row depends neither on their order nor on their repetition: each column has the value of the
//!   newest version that sent it, the lowest version ever seen gives the place among equal times, reports of labels are kept by version.
//! - A request's row is provisional: every version from the source replaces it, and it has no place of its own among equal times.
//!
//! Layout of the bytes, format 1: `u8` format, `u8` flags (2 bits of presence, then 4 base, 8 first, 16 snapshot and 32 carried columns
//! follow), varint version, base, first, snapshot (each major and minor, plus one), varint judgements; of a live row a bitmap of nulls over
//! the needed columns, each present one (integers zigzag, doubles as eight bytes, texts as length and bytes) and the carried columns
//! (varint count, then column and version plus one, 0 where none sent it); then varint number of reports and each as origin and value
//! (`u8`), version, report time. A base or first that does not follow equals the version.

use crate::bytes::{Damaged, Reader, put_signed, put_varint};
use crate::change::{Change, Op, Row, TextArena, Version};
use crate::definition::{OnDelete, Stream};
use crate::state::{LabelValue, LabelWord};
use crate::time::Timestamp;
use crate::value::{ColumnType, NULL, UNCHANGED};

const FORMAT: u8 = 1;
/// Reports kept of one row; beyond it one that repeats its neighbours gives way, or else the second oldest. Labels flip once or twice in
/// practice, but every UPDATE of a row repeats its label.
const REPORTS_MAX: usize = 8;
const HAS_BASE: u8 = 4;
const HAS_FIRST: u8 = 8;
const HAS_SNAPSHOT: u8 = 16;
const HAS_CARRIED: u8 = 32;

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
    /// How often the row was judged.
    pub judgements: u32,
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
        (self.presence, self.judgements) = (other.presence, other.judgements);
        (self.version, self.base, self.snapshot, self.first) = (other.version, other.base, other.snapshot, other.first);
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
        self.judgements = 0;
        self.cells.clear();
        self.cells.resize(stream.columns.len(), NULL);
        self.text.clear();
        self.carried.clear();
        self.reports.clear();
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
        let Some(column) = row.stream.label else { return };
        let cell = row.cells[column];
        if cell == UNCHANGED || change.version < self.base || (cell == NULL && change.op == Op::Insert) {
            return;
        }
        let own_time = row.stream.label_time.map(|column| row.cells[column]).filter(|cell| *cell > UNCHANGED);
        let reported = match own_time {
            Some(micros) => Some(Timestamp::from_micros(micros)),
            None if change.op == Op::Update => change.arrival,
            None => None,
        };
        let value = (cell != NULL).then_some(cell != 0);
        self.report(Report { origin: Origin::Row, version: change.version, value, reported });
    }

    /// Applies a report from a label stream.
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
    pub fn labels(&self, out: &mut Vec<LabelWord>) {
        let mut order = [(None, None); REPORTS_MAX];
        // A version of the row never counts as reported before the versions it follows.
        let mut floor = None;
        for (report, place) in self.reports.iter().zip(&mut order) {
            floor = floor.max(report.reported);
            let at = if report.origin == Origin::Row { floor } else { report.reported };
            *place = (at, report.value);
        }
        let order = &mut order[..self.reports.len().min(REPORTS_MAX)];
        order.sort_by_key(|(at, _)| *at);
        let mut current = None;
        for (at, value) in order.iter().copied().filter(|(_, value)| {
            let is_new = *value != current;
            current = *value;
            is_new
        }) {
            let value = match value {
                Some(true) => LabelValue::Fraud,
                Some(false) => LabelValue::Genuine,
                None => LabelValue::Withdrawn,
            };
            out.push(LabelWord::new(value, at));
        }
    }

    /// Appends the record's bytes; of the columns only `needed` are kept.
    pub fn encode(&self, stream: &Stream, needed: &[usize], out: &mut Vec<u8>) {
        let presence = match self.presence {
            Presence::Unseen => 0,
            Presence::Live => 1,
            Presence::Deleted => 2,
        };
        let carried = || self.carried.iter().filter(|carried| needed.contains(&carried.column));
        let mut flags = presence;
        flags |= if self.base == self.version { 0 } else { HAS_BASE };
        flags |= if self.first == self.version { 0 } else { HAS_FIRST };
        flags |= if self.snapshot == Version::REQUEST { 0 } else { HAS_SNAPSHOT };
        flags |= if carried().next().is_none() { 0 } else { HAS_CARRIED };
        out.extend([FORMAT, flags]);
        put_version(out, self.version);
        for (flag, version) in [(HAS_BASE, self.base), (HAS_FIRST, self.first), (HAS_SNAPSHOT, self.snapshot)] {
            if flags & flag != 0 {
                put_version(out, version);
            }
        }
        put_varint(out, u64::from(self.judgements));
        if self.presence == Presence::Live {
            for eight in needed.chunks(8) {
                let is_null = |column: &usize| self.cells[*column] <= UNCHANGED;
                out.push(
                    eight.iter().enumerate().fold(0, |byte, (bit, column)| byte | u8::from(is_null(column)) << bit),
                );
            }
            for &column in needed {
                let cell = self.cells[column];
                if cell <= UNCHANGED {
                    continue;
                }
                match stream.columns[column].kind {
                    ColumnType::Double => out.extend(cell.to_le_bytes()),
                    ColumnType::Text | ColumnType::Uuid => {
                        let text = self.text.get(cell);
                        put_varint(out, text.len() as u64);
                        out.extend(text.as_bytes());
                    }
                    _ => put_signed(out, cell),
                }
            }
        }
        if flags & HAS_CARRIED != 0 {
            put_varint(out, carried().count() as u64);
            for carried in carried() {
                put_varint(out, carried.column as u64);
                out.push(u8::from(carried.from.is_some()));
                put_version(out, carried.from.unwrap_or_default());
            }
        }
        put_varint(out, self.reports.len() as u64);
        for report in &self.reports {
            let value = report.value.map_or(0, |value| 1 + u8::from(value));
            let dated = u8::from(report.reported.is_some());
            out.push(u8::from(report.origin == Origin::Stream) | value << 1 | dated << 3);
            put_version(out, report.version);
            if let Some(reported) = report.reported {
                put_signed(out, reported.micros());
            }
        }
    }

    /// Reads a record's bytes into `self`.
    ///
    /// # Errors
    /// [`Damaged`] when they are no record of this stream and these columns.
    pub fn decode(&mut self, stream: &Stream, needed: &[usize], bytes: &[u8]) -> Result<(), Damaged> {
        self.reset(stream);
        let mut from = Reader::new(bytes);
        if from.byte()? != FORMAT {
            return Err(Damaged);
        }
        let flags = from.byte()?;
        self.presence = match flags & 3 {
            0 => Presence::Unseen,
            1 => Presence::Live,
            2 => Presence::Deleted,
            _ => return Err(Damaged),
        };
        self.version = version(&mut from)?;
        self.base = if flags & HAS_BASE == 0 { self.version } else { version(&mut from)? };
        self.first = if flags & HAS_FIRST == 0 { self.version } else { version(&mut from)? };
        if flags & HAS_SNAPSHOT != 0 {
            self.snapshot = version(&mut from)?;
        }
        self.judgements = u32::try_from(from.varint()?).map_err(|_wide| Damaged)?;
        if self.presence == Presence::Live {
            let nulls = from.take(needed.len().div_ceil(8))?;
            for (at, &column) in needed.iter().enumerate() {
                if nulls[at / 8] >> (at % 8) & 1 == 1 {
                    continue;
                }
                self.cells[column] = match stream.columns[column].kind {
                    ColumnType::Double => from.word()?,
                    ColumnType::Text | ColumnType::Uuid => {
                        let length = from.length(usize::MAX)?;
                        let text = std::str::from_utf8(from.take(length)?).map_err(|_not_utf8| Damaged)?;
                        self.text.push(text)
                    }
                    _ => from.signed()?,
                };
            }
        }
        if flags & HAS_CARRIED != 0 {
            for _ in 0..from.length(stream.columns.len())? {
                let column = usize::try_from(from.varint()?).map_err(|_wide| Damaged)?;
                let is_known = from.byte()? != 0;
                let known = version(&mut from)?;
                if column >= stream.columns.len() {
                    return Err(Damaged);
                }
                self.carried.push(Carried { column, from: is_known.then_some(known) });
            }
        }
        for _ in 0..from.length(REPORTS_MAX)? {
            let head = from.byte()?;
            let origin = if head & 1 == 1 { Origin::Stream } else { Origin::Row };
            let value = match head >> 1 & 3 {
                0 => None,
                value => Some(value == 2),
            };
            let version = version(&mut from)?;
            let reported = if head >> 3 & 1 == 1 { Some(Timestamp::from_micros(from.signed()?)) } else { None };
            self.reports.push(Report { origin, version, value, reported });
        }
        if from.is_empty() { Ok(()) } else { Err(Damaged) }
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
}

/// Both parts plus one, so that [`Version::MAX`] takes two bytes.
fn put_version(out: &mut Vec<u8>, version: Version) {
    put_varint(out, version.major.wrapping_add(1));
    put_varint(out, u64::from(version.minor.wrapping_add(1)));
}

fn version(from: &mut Reader<'_>) -> Result<Version, Damaged> {
    let major = from.varint()?.wrapping_sub(1);
    let minor = u32::try_from(from.varint()?).map_err(|_wide| Damaged)?.wrapping_sub(1);
    Ok(Version { major, minor })
}
