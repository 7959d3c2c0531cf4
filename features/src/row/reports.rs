//! What is remembered of a row's label: reports of its own versions and of streams of labels, kept by version.
//!
//! Invariant: the labels depend on the set of reports alone, not on the order in which they came.

use super::{Ignored, RowRecord};
use crate::change::{Change, Op, Row, Version};
use crate::definition::OnDelete;
use crate::state::{LabelValue, LabelWord};
use crate::time::Timestamp;
use crate::value::{NULL, UNCHANGED};

/// Reports kept of one row; beyond it one that repeats its neighbours gives way, or else the second oldest. Labels flip once or twice in
/// practice, but every UPDATE of a row repeats its label.
pub(super) const REPORTS_MAX: usize = 8;

/// Where a report came from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Origin {
    /// The row's own label column.
    Row,
    /// A label stream.
    Stream,
}

/// One observation of a label.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Report {
    pub(super) origin: Origin,
    pub(super) version: Version,
    pub(super) value: Option<bool>,
    pub(super) reported: Option<Timestamp>,
}

impl Report {
    /// What a version of the row says in its own label column.
    pub(super) fn of_row(change: &Change, row: Row<'_>) -> Option<Self> {
        let cell = row.cells[row.stream.label?];
        if cell == UNCHANGED || (cell == NULL && change.op == Op::Insert) {
            return None;
        }
        let own_time = row.stream.label_time.map(|column| row.cells[column]).filter(|cell| *cell > UNCHANGED);
        let reported = match own_time {
            Some(micros) => Some(Timestamp::from_micros(micros)),
            None if matches!(change.op, Op::Update | Op::Recovered) => change.arrival,
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
    pub(super) fn word(value: Option<bool>, reported: Option<Timestamp>) -> LabelWord {
        let value = match value {
            Some(true) => LabelValue::Fraud,
            Some(false) => LabelValue::Genuine,
            None => LabelValue::Withdrawn,
        };
        LabelWord::new(value, reported)
    }
}

impl RowRecord {
    /// Notes the label that a version of the row carries.
    pub(super) fn report_own_label(&mut self, change: &Change, row: Row<'_>) {
        if change.version >= self.base
            && let Some(report) = Report::of_row(change, row)
            && (change.op != Op::Recovered || self.own_label() != report.value)
        {
            self.report(report);
        }
    }

    /// What the newest version of the row said that said anything of its label.
    fn own_label(&self) -> Option<bool> {
        self.reports.iter().rfind(|report| report.origin == Origin::Row)?.value
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
        if change.op == Op::Recovered && self.has_reported(change.version, value, row.time()) {
            return Err(Ignored::Duplicate);
        }
        self.apply_label(change.version, value, time)
    }

    /// Whether a row of a label stream that a snapshot at `version` brought again says what was known: as the newest report does, of those of
    /// its time where its table tells when it was made. What stands behind the snapshot was told by others (over HTTP).
    fn has_reported(&self, version: Version, value: Option<bool>, made: Option<Timestamp>) -> bool {
        let is_of_it = |report: &&Report| {
            report.origin == Origin::Stream && report.version < version && (made.is_none() || report.reported == made)
        };
        let newest = self.reports.iter().rfind(is_of_it);
        newest.map_or(made.is_none() && value.is_none(), |newest| newest.value == value)
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
}
