//! Row records: what is remembered of each row, so that every change is applied as old row to new row (DESIGN 3.7, 3.8).
//!
//! Invariants:
//! - The outcome of a set of changes to one row depends neither on their order nor on their repetition: the newest version gives the
//!   columns, the lowest version ever seen gives the place among equal times, reports of labels are kept by version.
//! - A request's row is provisional: every version from the source replaces it, and it has no place of its own among equal times.
//!
//! Layout of the bytes, format 1: `u8` format, `u8` flags (2 bits of state, 4 base differs from version), varint version, base, first
//! (each major then minor), varint judgements, bitmap of nulls over the needed columns, then each present one (integers zigzag, doubles
//! as eight bytes, texts as length and bytes), then varint number of reports and each as origin and value (`u8`), version, report time.

use crate::bytes::{Damaged, Reader, put_signed, put_varint};
use crate::change::{Change, Op, Row, TextArena, Version};
use crate::definition::{OnDelete, Stream};
use crate::state::{LabelValue, LabelWord};
use crate::time::Timestamp;
use crate::value::{ColumnType, NULL, UNCHANGED};

const FORMAT: u8 = 1;
/// Reports kept of one row; beyond it the second oldest gives way. Labels flip once or twice in practice.
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

/// What is remembered of one row.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct RowRecord {
    /// Whether there is a row.
    pub presence: Presence,
    /// The newest version applied.
    pub version: Version,
    /// The newest insert, snapshot or delete: the row's own labels from before it no longer count.
    base: Version,
    /// The lowest version seen; [`Version::MAX`] while only a request is known.
    pub first: Version,
    /// How often the row was judged.
    pub judgements: u32,
    /// Cells of the newest version; columns that nothing needs are null after a round trip through bytes.
    pub cells: Vec<i64>,
    /// Their texts.
    pub text: TextArena,
    reports: Vec<Report>,
}

impl RowRecord {
    /// Makes this the record of a row of which nothing is known.
    pub fn reset(&mut self, stream: &Stream) {
        self.presence = Presence::Unseen;
        self.version = Version::REQUEST;
        self.base = Version::REQUEST;
        self.first = Version::MAX;
        self.judgements = 0;
        self.cells.clear();
        self.cells.resize(stream.columns.len(), NULL);
        self.text.clear();
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
        let is_request = change.op == Op::Request;
        if !is_request && change.op != Op::Delete {
            self.first = self.first.min(change.version);
            self.report_own_label(change, row);
        }
        let is_known = self.presence != Presence::Unseen;
        if is_known && change.version <= self.version {
            return Err(if change.version == self.version { Ignored::Duplicate } else { Ignored::Outdated });
        }
        self.version = change.version;
        if change.op == Op::Delete {
            self.presence = Presence::Deleted;
        } else {
            self.presence = Presence::Live;
            self.take_cells(row);
        }
        if matches!(change.op, Op::Insert | Op::Snapshot | Op::Delete) {
            self.base = change.version;
            let base = self.base;
            self.reports.retain(|report| report.origin == Origin::Stream || report.version >= base);
        }
        Ok(())
    }

    fn take_cells(&mut self, row: Row<'_>) {
        let mut text = TextArena::default();
        for (column, (cell, &new)) in self.cells.iter_mut().zip(row.cells).enumerate() {
            let is_text = row.stream.columns[column].kind.is_text();
            *cell = match new {
                UNCHANGED if is_text && *cell > UNCHANGED => text.push(self.text.get(*cell)),
                UNCHANGED => *cell,
                NULL => NULL,
                new if is_text => text.push(row.text.get(new)),
                new => new,
            };
        }
        self.text = text;
    }

    /// Notes the label that a version of the row carries.
    fn report_own_label(&mut self, change: &Change, row: Row<'_>) {
        let Some(column) = row.stream.label else { return };
        let cell = row.cells[column];
        if cell == UNCHANGED || change.version < self.base || (cell == NULL && change.op != Op::Update) {
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
        let key = |report: &Report| (report.origin, report.version);
        let at = self.reports.partition_point(|known| key(known) < key(&report));
        if self.reports.get(at).is_some_and(|known| key(known) == key(&report)) {
            return false;
        }
        self.reports.insert(at, report);
        if self.reports.len() > REPORTS_MAX {
            self.reports.remove(1);
        }
        true
    }

    /// The labels in order of report time, each the first report of its value: what a slot takes.
    pub fn labels(&self, out: &mut Vec<LabelWord>) {
        if self.reports.is_empty() {
            return;
        }
        let mut order: Vec<&Report> = self.reports.iter().collect();
        // Reports of the row follow its versions, so a later version is never ordered before an earlier one.
        order.sort_by_key(|report| (report.reported, report.origin, report.version));
        let mut current = None;
        for report in order {
            if report.value == current {
                continue;
            }
            current = report.value;
            let value = match report.value {
                Some(true) => LabelValue::Fraud,
                Some(false) => LabelValue::Genuine,
                None => LabelValue::Withdrawn,
            };
            out.push(LabelWord::new(value, report.reported));
        }
    }

    /// Appends the record's bytes; of the columns only `needed` are kept.
    pub fn encode(&self, stream: &Stream, needed: &[usize], out: &mut Vec<u8>) {
        let presence = match self.presence {
            Presence::Unseen => 0,
            Presence::Live => 1,
            Presence::Deleted => 2,
        };
        out.extend([FORMAT, presence]);
        for version in [self.version, self.base, self.first] {
            put_varint(out, version.major.wrapping_add(1));
            put_varint(out, u64::from(version.minor));
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
        put_varint(out, self.reports.len() as u64);
        for report in &self.reports {
            let value = report.value.map_or(0, |value| 1 + u8::from(value));
            let dated = u8::from(report.reported.is_some());
            out.push(u8::from(report.origin == Origin::Stream) | value << 1 | dated << 3);
            put_varint(out, report.version.major);
            put_varint(out, u64::from(report.version.minor));
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
        self.presence = match from.byte()? {
            0 => Presence::Unseen,
            1 => Presence::Live,
            2 => Presence::Deleted,
            _ => return Err(Damaged),
        };
        for version in [&mut self.version, &mut self.base, &mut self.first] {
            let major = from.varint()?.wrapping_sub(1);
            *version = Version { major, minor: u32::try_from(from.varint()?).map_err(|_wide| Damaged)? };
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
        for _ in 0..from.length(REPORTS_MAX)? {
            let head = from.byte()?;
            let origin = if head & 1 == 1 { Origin::Stream } else { Origin::Row };
            let value = match head >> 1 & 3 {
                0 => None,
                value => Some(value == 2),
            };
            let major = from.varint()?;
            let version = Version { major, minor: u32::try_from(from.varint()?).map_err(|_wide| Damaged)? };
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

    /// Whether a snapshot or a later insert already covers version `version`.
    #[must_use]
    pub fn is_covered(&self, version: Version) -> bool {
        self.base > version
    }
}
