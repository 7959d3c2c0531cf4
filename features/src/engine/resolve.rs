//! Step one: each change meets its row record and becomes an old and a new version of the row.

use crate::bytes::Damaged;
use crate::change::{Change, ChangeBatch, Op, Row, TextArena, Version};
use crate::definition::{Judge, OnDelete, OnTruncate, OnUnmatched, Stream};
use crate::expression::{Operand, Slots};
use crate::row::{Ignored, Presence, RowRecord};
use crate::state::LabelWord;
use crate::time::Timestamp;
use crate::value::{NULL, UNCHANGED};

use super::output::{Outcome, Refused};
use super::plan::{Key, Plan, event_key, key_of};
use super::rows::RowTable;
use super::{RowImage, can_be_judged};

/// One version of a row, held in its shard's [`Resolved`].
#[derive(Clone, Copy, Debug)]
pub(super) struct VersionRef {
    row: usize,
    pub(super) time: i64,
    pub(super) id: u64,
    pub(super) first: Version,
    labels: (usize, usize),
}

/// What became of one change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resolution {
    pub(super) change: usize,
    pub(super) outcome: Outcome,
    /// Which judgement of the row this is, if it is to be judged.
    pub(super) judgement: Option<u32>,
    pub(super) old: Option<VersionRef>,
    pub(super) new: Option<VersionRef>,
    /// The new version is looked at and not kept.
    pub(super) is_transient: bool,
}

/// The versions of a batch that one shard resolved.
#[derive(Clone, Debug, Default)]
pub(super) struct Resolved {
    width: usize,
    cells: Vec<i64>,
    text: TextArena,
    labels: Vec<LabelWord>,
    pub(super) resolutions: Vec<Resolution>,
}

impl Resolved {
    fn clear(&mut self, width: usize) {
        self.width = width;
        self.cells.clear();
        self.text.clear();
        self.labels.clear();
        self.resolutions.clear();
    }

    pub(super) fn row<'a>(&'a self, stream: &'a Stream, version: &VersionRef) -> Row<'a> {
        let from = version.row * self.width;
        Row { stream, cells: &self.cells[from..from + self.width], text: &self.text }
    }

    pub(super) fn labels(&self, version: &VersionRef) -> &[LabelWord] {
        &self.labels[version.labels.0..version.labels.1]
    }

    fn push(&mut self, row: Row<'_>, first: Version, labels: impl FnOnce(&mut Vec<LabelWord>)) -> Option<VersionRef> {
        let time = row.time()?.micros();
        let place = self.cells.len() / self.width;
        for (column, &cell) in row.stream.columns.iter().zip(row.cells) {
            let is_text = column.kind.is_text() && cell > UNCHANGED;
            self.cells.push(if is_text { self.text.push(row.text.get(cell)) } else { cell });
        }
        let from = self.labels.len();
        labels(&mut self.labels);
        Some(VersionRef { row: place, time, id: event_key(row), first, labels: (from, self.labels.len()) })
    }
}

/// The row records whose ids fall to one shard.
#[derive(Debug)]
pub(super) struct RowShard {
    shard: usize,
    shards: usize,
    tables: Vec<RowTable>,
    pub(super) resolved: Resolved,
    before: RowRecord,
    record: RowRecord,
    buffer: Vec<u8>,
}

impl RowShard {
    pub(super) fn new(plan: &Plan, shard: usize, shards: usize) -> Self {
        Self {
            shard,
            shards,
            tables: vec![RowTable::default(); plan.streams.len()],
            resolved: Resolved::default(),
            before: RowRecord::default(),
            record: RowRecord::default(),
            buffer: Vec::new(),
        }
    }

    pub(super) fn contains(&self, stream: usize, id: &Key<'_>) -> bool {
        self.tables[stream].contains(id)
    }

    pub(super) fn load(&mut self, stream: usize, id: &Key<'_>, bytes: Option<&[u8]>) {
        self.tables[stream].load(id, bytes);
    }

    pub(super) fn read(&self, plan: &Plan, stream: usize, id: &Key<'_>, record: &mut RowRecord) -> Result<(), Damaged> {
        let declared = &plan.definitions.streams[stream];
        self.tables[stream].read(declared, &plan.streams[stream].needed, id, record)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.tables.iter().map(RowTable::memory_bytes).sum()
    }

    pub(super) fn clear(&mut self) {
        self.tables.iter_mut().for_each(RowTable::clear);
    }

    pub(super) fn checkpoint(&mut self, visit: &mut impl FnMut(RowImage)) {
        for (stream, table) in self.tables.iter_mut().enumerate() {
            table.drain_dirty(|id, bytes, newest| {
                visit(RowImage { stream, id: Box::from(id), bytes: bytes.to_vec(), newest });
            });
        }
    }

    /// Resolves the changes of `batch` whose ids are this shard's.
    pub(super) fn resolve(&mut self, plan: &Plan, stream: usize, batch: &ChangeBatch) -> Result<(), Damaged> {
        let declared = &*plan.definitions.streams[stream];
        self.resolved.clear(declared.columns.len());
        let id_column = [batch.stream().id];
        for index in 0..batch.len() {
            let (change, row) = batch.get(index);
            let mut buffer = std::mem::take(&mut self.buffer);
            let id = key_of(row, &id_column, &mut buffer);
            let is_ours = id.as_ref().map_or(self.shard == 0, |id| id.hash() % self.shards as u64 == self.shard as u64);
            let done = match id {
                _ if !is_ours => None,
                None => Some(Ok(unidentified(change, declared))),
                Some(_) if change.op == Op::Truncate => Some(Ok(unidentified(change, declared))),
                Some(id) => Some(self.resolve_one(plan, declared, batch.stream(), change, row, &id)),
            };
            self.buffer = buffer;
            if let Some(resolution) = done.transpose()? {
                self.resolved.resolutions.push(Resolution { change: index, ..resolution });
            }
        }
        Ok(())
    }

    fn resolve_one(
        &mut self,
        plan: &Plan,
        stream: &Stream,
        source: &Stream,
        change: &Change,
        row: Row<'_>,
        id: &Key<'_>,
    ) -> Result<Resolution, Damaged> {
        let is_label = source.labels.is_some();
        if !is_label && let Some(refused) = refusal(plan, change, row) {
            return Ok(Resolution::refused(refused, is_judged_by_itself(stream, change.op)));
        }
        if !plan.streams[stream.index].keeps_records {
            return Ok(self.resolve_append(stream, change, row));
        }
        let needed = &plan.streams[stream.index].needed;
        self.tables[stream.index].read(stream, needed, id, &mut self.before)?;
        self.record.clone_from(&self.before);
        let applied = if is_label { self.apply_label(source, change, row) } else { self.record.apply(change, row) };
        let mut outcome = applied.map_or_else(Outcome::Ignored, |()| Outcome::Applied);
        let judgement = if is_label { None } else { self.judge(stream, change) };
        let is_transient = change.op == Op::Request && stream.on_unmatched == OnUnmatched::Drop;
        let is_changed = self.record != self.before;
        let version = |resolved: &mut Resolved, record: &RowRecord| {
            record.row(stream).and_then(|row| resolved.push(row, record.first, |labels| record.labels(labels)))
        };
        let (mut old, mut new) = (None, None);
        if is_changed || judgement.is_some() {
            // An unchanged row that is judged all the same is replaced by itself, which leaves its states alone.
            old = if is_transient { None } else { version(&mut self.resolved, &self.before) };
            new = version(&mut self.resolved, &self.record);
            if self.record.presence == Presence::Live && new.is_none() {
                outcome = Outcome::Refused(Refused::NoTime);
            }
            self.record.judgements += u32::from(judgement.is_some());
            if !is_transient {
                let seen =
                    if self.record.presence == Presence::Deleted { self.last_seen(stream, change, row) } else { None };
                self.tables[stream.index].write(stream, needed, id, &self.record, seen);
            }
        }
        Ok(Resolution { change: 0, outcome, judgement, old, new, is_transient })
    }

    /// The latest time known of a row that is deleted: without one its tombstone would be kept for ever.
    fn last_seen(&self, stream: &Stream, change: &Change, row: Row<'_>) -> Option<Timestamp> {
        let deleted = if change.op == Op::Delete { row.time().max(change.arrival) } else { change.arrival };
        deleted.max(self.before.newest(stream))
    }

    /// A stream without row records takes each row as it comes; its states know a repeated one by time and id. A request is looked at and
    /// not kept, as nothing could replace it by the row that follows.
    fn resolve_append(&mut self, stream: &Stream, change: &Change, row: Row<'_>) -> Resolution {
        match change.op {
            Op::Delete if stream.on_delete == OnDelete::Ignore => {
                return Resolution::of(Outcome::Ignored(Ignored::DeleteIgnored));
            }
            Op::Delete | Op::Update => return Resolution::of(Outcome::Refused(Refused::AppendOnly)),
            _ => {}
        }
        let is_transient = change.op == Op::Request;
        let first = if is_transient { Version::MAX } else { change.version };
        let new = self.resolved.push(row, first, |_no_labels| {});
        let is_judged = new.is_some()
            && match &stream.judge {
                Some(Judge::When(condition)) => {
                    let input = BeforeAfter { before: None, after: row, width: stream.columns.len() };
                    can_be_judged(change.op) && condition.evaluate(&input) == Operand::Bool(true)
                }
                _ => is_judged_by_itself(stream, change.op),
            };
        let outcome = if new.is_some() { Outcome::Applied } else { Outcome::Refused(Refused::NoTime) };
        Resolution { judgement: is_judged.then_some(0), new, is_transient, ..Resolution::of(outcome) }
    }

    fn apply_label(&mut self, source: &Stream, change: &Change, row: Row<'_>) -> Result<(), Ignored> {
        if change.op == Op::Delete && source.on_delete == OnDelete::Ignore {
            return Err(Ignored::DeleteIgnored);
        }
        let column = source.labels.map_or(0, |labels| labels.value);
        let value = match row.cells[column] {
            UNCHANGED => return Err(Ignored::Duplicate),
            NULL => None,
            cell => Some(cell != 0),
        };
        self.record.apply_label(change.version, value, row.time().or(change.arrival))
    }

    /// Whether this change makes its row one to be judged, and which judgement of it that is (DESIGN 3.15, 3.16).
    fn judge(&self, stream: &Stream, change: &Change) -> Option<u32> {
        let after = self.record.row(stream)?;
        match stream.judge.as_ref()? {
            Judge::Insert => {
                let is_new = matches!(change.op, Op::Insert | Op::Request);
                let is_again = self.before.row(stream).is_none()
                    && self.before.judgements > 0
                    && change.version == self.record.version;
                let is_history = self.record.is_covered(change.version);
                (is_new && !is_history && (self.before.judgements == 0 || is_again)).then_some(self.before.judgements)
            }
            Judge::When(condition) => {
                if !can_be_judged(change.op) || self.before.judgements > 0 {
                    return None;
                }
                let input = BeforeAfter { before: self.before.row(stream), after, width: stream.columns.len() };
                (condition.evaluate(&input) == Operand::Bool(true)).then_some(0)
            }
        }
    }
}

/// The slots of a judge condition: the columns before, then the columns after.
struct BeforeAfter<'a> {
    before: Option<Row<'a>>,
    after: Row<'a>,
    width: usize,
}

impl Slots for BeforeAfter<'_> {
    fn slot(&self, index: u32) -> Operand<'_> {
        let column = index as usize;
        if column >= self.width {
            return self.after.slot(u32::try_from(column - self.width).unwrap_or(u32::MAX));
        }
        self.before.as_ref().map_or(Operand::Null, |row| row.slot(index))
    }
}

impl Resolution {
    const fn of(outcome: Outcome) -> Self {
        Self { change: 0, outcome, judgement: None, old: None, new: None, is_transient: false }
    }

    const fn refused(refused: Refused, is_judged: bool) -> Self {
        let judgement = if is_judged { Some(0) } else { None };
        Self { judgement, ..Self::of(Outcome::Refused(refused)) }
    }
}

/// Whether a change of this kind is to be judged whatever is known of its row.
fn is_judged_by_itself(stream: &Stream, op: Op) -> bool {
    match stream.judge {
        Some(Judge::Insert) => matches!(op, Op::Insert | Op::Request),
        Some(Judge::When(_)) => can_be_judged(op),
        None => false,
    }
}

/// A change without an id: truncation, or one that its source should have refused.
const fn unidentified(change: &Change, stream: &Stream) -> Resolution {
    let outcome = match (change.op, stream.on_truncate) {
        (Op::Truncate, OnTruncate::Ignore) => Outcome::Ignored(Ignored::TruncateIgnored),
        (Op::Truncate, _) => Outcome::Truncated,
        _ => Outcome::Refused(Refused::NoId),
    };
    Resolution::of(outcome)
}

/// Why state refuses a change before it is looked at.
fn refusal(plan: &Plan, change: &Change, row: Row<'_>) -> Option<Refused> {
    if change.op == Op::Delete {
        return None;
    }
    let cell = row.cells[row.stream.time?];
    if cell == UNCHANGED {
        return None;
    }
    let Some(time) = row.time() else { return Some(Refused::NoTime) };
    let arrival = change.arrival?;
    (time > arrival.plus(plan.definitions.future_max)).then_some(Refused::Future)
}

/// Where the resolution of each change stands: shard and place in it.
pub(super) fn places(shards: &[RowShard], changes: usize) -> Vec<(u32, u32)> {
    let mut places = vec![(0, u32::MAX); changes];
    for (shard, rows) in (0_u32..).zip(shards) {
        for (place, resolution) in (0_u32..).zip(&rows.resolved.resolutions) {
            places[resolution.change] = (shard, place);
        }
    }
    places
}
