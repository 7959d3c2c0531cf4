//! Step one: each change meets its row record and becomes an old and a new version of the row.

use crate::bytes::Damaged;
use crate::change::{Change, Op, Row, Version};
use crate::definition::{Judge, OnDelete, OnTruncate, OnUnmatched, Stream};
use crate::expression::{Operand, Slots};
use crate::row::{Cleared, FirstSight, Ignored, Presence, RowRecord};
use crate::time::Timestamp;
use crate::value::UNCHANGED;

use super::output::{Outcome, Refused};
use super::plan::{Key, Plan, key_of};
use super::resolution::{Incoming, Resolution, Resolved, narrow};
use super::rows::RowTable;
use super::touch::{TouchPlace, Touches, Versions};
use super::{Evaluate, RowImage, Unwritten, can_be_judged};

/// The row records whose ids fall to one shard.
#[derive(Debug)]
pub(super) struct RowShard {
    shard: usize,
    shards: usize,
    tables: Vec<RowTable>,
    pub(super) resolved: Resolved,
    pub(super) touches: Touches,
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
            touches: Touches::new(shards),
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
        match self.tables[stream].find(id) {
            Some(place) => self.tables[stream].read(declared, &plan.streams[stream].needed, place, record),
            None => {
                record.reset(declared);
                Ok(())
            }
        }
    }

    /// Takes a truncation or loss of a stream, or the end of one.
    pub(super) fn clear_older(&mut self, stream: usize, cleared: Cleared) {
        self.tables[stream].cleared = cleared;
    }

    pub(super) fn unwritten(&self) -> Unwritten {
        self.tables.iter().map(RowTable::unwritten).sum()
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

    /// Resolves the changes of a batch whose ids are this shard's, and notes the keys they touch.
    pub(super) fn resolve(&mut self, plan: &Plan, incoming: Incoming<'_>) -> Result<(), Damaged> {
        self.resolved.clear();
        self.touches.clear();
        let source = &**incoming.batch.stream();
        let mut buffer = std::mem::take(&mut self.buffer);
        for (at, (change, row)) in (0_u32..).zip(incoming.batch.iter()) {
            let id = key_of(row, &[source.id], &mut buffer);
            if id.as_ref().map_or(0, |id| id.shard(self.shards)) != self.shard {
                continue;
            }
            let resolution = match &id {
                Some(id) if !change.op.is_mark() => self.resolve_one(plan, incoming.stream, (at, change, row), id)?,
                _ => unidentified(change, source),
            };
            self.note(plan, incoming, Resolution { change: at, ..resolution });
        }
        self.buffer = buffer;
        Ok(())
    }

    fn note(&mut self, plan: &Plan, incoming: Incoming<'_>, resolution: Resolution) {
        let is_read = match incoming.evaluate {
            Evaluate::Nothing => false,
            Evaluate::Judged => resolution.judgement.is_some(),
            Evaluate::Everything => resolution.new.is_some(),
        };
        let row = |place| self.resolved.version(place).map(|version| self.resolved.row(incoming, version));
        let (old, new) = (row(resolution.old), row(resolution.new));
        let versions = Versions { old, new, is_transient: resolution.is_transient, is_read };
        let at = TouchPlace { change: resolution.change, resolution: narrow(self.resolved.resolutions.len()) };
        let is_read = self.touches.note(&plan.streams[incoming.stream.index].routes, at, versions);
        self.resolved.resolutions.push(Resolution { is_read, ..resolution });
    }

    fn resolve_one(
        &mut self,
        plan: &Plan,
        stream: &Stream,
        (at, change, row): (u32, &Change, Row<'_>),
        id: &Key<'_>,
    ) -> Result<Resolution, Damaged> {
        let is_label = row.stream.labels.is_some();
        if !is_label && change.op != Op::Request && change.version < self.tables[stream.index].cleared.at {
            return Ok(Resolution::of(Outcome::Ignored(Ignored::Outdated)));
        }
        if let Some(refused) = refusal(plan, change, row) {
            let is_judged = !is_label && is_judged_by_itself(stream, change.op);
            let judgement = if is_judged { self.judge_refused(plan, stream, change, id)? } else { None };
            // A row of a snapshot of which nothing could be read but its id.
            let is_unread = matches!(change.op, Op::Recovered | Op::Snapshot) && change.version == Version::MAX;
            let is_there = is_unread && !is_label && plan.streams[stream.index].keeps_records;
            let new = if is_there && judgement.is_none() { self.keep_lost(plan, stream, id)? } else { None };
            return Ok(Resolution { judgement, new, ..Resolution::of(Outcome::Refused(refused)) });
        }
        if !plan.streams[stream.index].keeps_records {
            return Ok(self.resolve_append(stream, at, change, row));
        }
        let place = self.tables[stream.index].place(id);
        if !is_label
            && self.tables[stream.index].is_blank(place)
            && let Some(first) = FirstSight::of(change, row)
        {
            return Ok(self.resolve_first(plan, stream, (at, change, row), id, place, &first));
        }
        let needed = &plan.streams[stream.index].needed;
        self.tables[stream.index].read(stream, needed, place, &mut self.before)?;
        self.record.clone_from(&self.before);
        let applied = if is_label { self.record.apply_report(change, row) } else { self.record.apply(change, row) };
        let mut outcome = applied.map_or_else(Outcome::Ignored, |()| Outcome::Applied);
        if !is_label && self.is_overtaken(stream, change, row) {
            return Ok(self.resolve_overtaken(plan, stream, (at, change, row), (id, place), outcome));
        }
        let judgement = if is_label { None } else { self.judge(stream, change, needed) };
        let is_transient = change.op == Op::Request && stream.on_unmatched == OnUnmatched::Drop;
        let is_changed = self.record != self.before;
        let (mut old, mut new) = (None, None);
        if is_changed || judgement.is_some() {
            let is_same = change.op == Op::Recovered && self.is_same_event(stream, needed);
            if judgement.is_some() || !is_same {
                // An unchanged row that is judged all the same is replaced by itself, which leaves its states alone.
                old = if is_transient { None } else { self.resolved.copy(&self.before, stream) };
                new = self.resolved.copy(&self.record, stream);
            }
            if self.record.presence == Presence::Live && new.is_none() && !is_same {
                outcome = Outcome::Refused(Refused::NoTime);
            }
            if judgement.is_some() {
                self.record.judgements += 1;
                self.record.is_reopened = false;
            }
            if !is_transient {
                let seen =
                    if self.record.presence == Presence::Deleted { self.last_seen(stream, change, row) } else { None };
                self.tables[stream.index].write(stream, needed, (id, place), &self.record, seen);
            }
        }
        Ok(Resolution { judgement, old, new, is_transient, ..Resolution::of(outcome) })
    }

    /// Which judgement the default for a refused row is. One that was judged is not judged again while it is refused, however often and in
    /// whatever version it comes; the version that is taken is, as one that was inserted again.
    fn judge_refused(
        &mut self,
        plan: &Plan,
        stream: &Stream,
        change: &Change,
        id: &Key<'_>,
    ) -> Result<Option<u32>, Damaged> {
        if !plan.streams[stream.index].keeps_records || change.op == Op::Request {
            return Ok(Some(0));
        }
        let needed = &plan.streams[stream.index].needed;
        let place = self.tables[stream.index].place(id);
        self.tables[stream.index].read(stream, needed, place, &mut self.record)?;
        if self.record.judgements > 0 || (change.op == Op::Recovered && self.record.is_known()) {
            return Ok(None);
        }
        (self.record.judgements, self.record.is_reopened) = (1, true);
        let seen = change.arrival.max(self.record.newest(stream));
        self.tables[stream.index].write(stream, needed, (id, place), &self.record, seen);
        Ok(Some(0))
    }

    /// A lost row that a snapshot brought in a version that cannot be taken is there all the same, as it was: its place among the resolved rows.
    fn keep_lost(&mut self, plan: &Plan, stream: &Stream, id: &Key<'_>) -> Result<Option<u32>, Damaged> {
        let needed = &plan.streams[stream.index].needed;
        let place = self.tables[stream.index].place(id);
        self.tables[stream.index].read(stream, needed, place, &mut self.record)?;
        if self.record.presence != Presence::Lost {
            return Ok(None);
        }
        self.record.presence = Presence::Live;
        let new = self.resolved.copy(&self.record, stream);
        self.tables[stream.index].write(stream, needed, (id, place), &self.record, None);
        Ok(new)
    }

    /// A row of which nothing was known, brought whole: what nearly every change is. It becomes its record without a detour.
    fn resolve_first(
        &mut self,
        plan: &Plan,
        stream: &Stream,
        (at, change, row): (u32, &Change, Row<'_>),
        id: &Key<'_>,
        place: u32,
        first: &FirstSight<'_>,
    ) -> Resolution {
        let new = self.resolved.refer(row, at, change.version, first.label());
        let judgement = is_judged_at_first_sight(stream, change.op, row).then_some(0);
        let judgements = u32::from(judgement.is_some());
        let needed = &plan.streams[stream.index].needed;
        let cleared = self.tables[stream.index].cleared.at;
        let write = |out: &mut Vec<u8>| first.encode(needed, judgements, cleared, out);
        self.tables[stream.index].write_first((id, place), first.newest(), write);
        Resolution { judgement, new, ..Resolution::of(Outcome::Applied) }
    }

    /// The latest time known of a row that is deleted: without one its tombstone would be kept for ever.
    fn last_seen(&self, stream: &Stream, change: &Change, row: Row<'_>) -> Option<Timestamp> {
        let deleted = if change.op == Op::Delete { row.time().max(change.arrival) } else { change.arrival };
        deleted.max(self.before.newest(stream))
    }

    /// Whether a change that is to be judged comes behind the delete of its row, as it may where the two stand in different partitions.
    fn is_overtaken(&self, stream: &Stream, change: &Change, row: Row<'_>) -> bool {
        let is_late = self.before.presence == Presence::Deleted && change.version < self.before.version;
        let is_new = self.before.judgements == 0 && !self.record.is_in_snapshot(change.version);
        let is_live = !matches!(change.op, Op::Request | Op::Recovered);
        is_late && is_new && is_live && is_judged_at_first_sight(stream, change.op, row)
    }

    /// Judges a row that is gone by now as it came; it leaves nothing in the states.
    fn resolve_overtaken(
        &mut self,
        plan: &Plan,
        stream: &Stream,
        (at, change, row): (u32, &Change, Row<'_>),
        (id, place): (&Key<'_>, u32),
        outcome: Outcome,
    ) -> Resolution {
        let label = FirstSight::of(change, row).and_then(|first| first.label());
        let new = self.resolved.refer(row, at, change.version, label);
        // As the delete leaves it where it comes second.
        (self.record.judgements, self.record.is_reopened) = (1, true);
        let seen = self.last_seen(stream, change, row);
        let needed = &plan.streams[stream.index].needed;
        self.tables[stream.index].write(stream, needed, (id, place), &self.record, seen);
        Resolution { judgement: Some(0), new, is_transient: true, ..Resolution::of(outcome) }
    }

    /// A stream without row records takes each row as it comes; its states know a repeated one by time and id. A request is looked at and
    /// not kept, as nothing could replace it by the row that follows.
    fn resolve_append(&mut self, stream: &Stream, at: u32, change: &Change, row: Row<'_>) -> Resolution {
        match change.op {
            Op::Delete if stream.on_delete == OnDelete::Ignore => {
                return Resolution::of(Outcome::Ignored(Ignored::DeleteIgnored));
            }
            Op::Delete | Op::Update => return Resolution::of(Outcome::Refused(Refused::AppendOnly)),
            _ => {}
        }
        let is_transient = change.op == Op::Request;
        let first = if is_transient { Version::MAX } else { change.version };
        let new = self.resolved.refer(row, at, first, None);
        let is_judged = new.is_some() && is_judged_at_first_sight(stream, change.op, row);
        let outcome = if new.is_some() { Outcome::Applied } else { Outcome::Refused(Refused::NoTime) };
        Resolution { judgement: is_judged.then_some(0), new, is_transient, ..Resolution::of(outcome) }
    }

    /// Whether the row is in its states already as a snapshot brought it again: to take it out and put it back would blur tiles.
    fn is_same_event(&self, stream: &Stream, needed: &[usize]) -> bool {
        let (mut before, mut after) = (Vec::new(), Vec::new());
        self.before.labels(&mut before);
        self.record.labels(&mut after);
        self.before.presence == Presence::Live
            && self.before.first == self.record.first
            && before == after
            && self.before.holds_the_same(&self.record, stream, needed)
    }

    /// Whether this change makes its row one to be judged, and which judgement of it that is (DESIGN 3.15, 3.16).
    fn judge(&self, stream: &Stream, change: &Change, needed: &[usize]) -> Option<u32> {
        let after = self.record.row(stream)?;
        if change.op == Op::Recovered {
            return self.judge_recovered(stream, change, (after, needed));
        }
        match stream.judge.as_ref()? {
            Judge::Insert => {
                let is_new = matches!(change.op, Op::Insert | Op::Request);
                let is_again = self.before.row(stream).is_none()
                    && self.before.is_reopened
                    && change.version == self.record.version;
                let is_history = self.record.is_covered(change.version);
                (is_new && !is_history && (self.before.judgements == 0 || is_again)).then_some(self.before.judgements)
            }
            Judge::When(condition) => {
                let is_again = self.before.is_reopened && change.version == self.record.version;
                if !can_be_judged(change.op) || (self.before.judgements > 0 && !is_again) {
                    return None;
                }
                let input = BeforeAfter { before: self.before.row(stream), after, width: stream.columns.len() };
                (condition.evaluate(&input) == Operand::Bool(true)).then_some(self.before.judgements)
            }
        }
    }

    /// Whether a row that a snapshot brought again is to be judged: one of which nothing was known came while nothing was captured, as did
    /// one that was known to be gone. One that was there is judged where it changed meanwhile, was never judged, and its stream's condition
    /// holds now.
    fn judge_recovered(&self, stream: &Stream, change: &Change, (after, needed): (Row<'_>, &[usize])) -> Option<u32> {
        if change.version != self.record.version {
            return None;
        }
        let is_known = self.before.is_known();
        let is_open = self.before.judgements == 0 || self.before.is_reopened;
        let is_due = match stream.judge.as_ref()? {
            Judge::Insert => !is_known && is_open,
            Judge::When(condition) => {
                let is_changed = !is_known || !self.before.holds_the_same(&self.record, stream, needed);
                let input = BeforeAfter { before: self.before.last_row(stream), after, width: stream.columns.len() };
                is_open && is_changed && condition.evaluate(&input) == Operand::Bool(true)
            }
        };
        is_due.then_some(self.before.judgements)
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

/// Whether a change of this kind is to be judged whatever is known of its row: what cannot be read, or is refused.
#[must_use]
pub fn is_judged_by_itself(stream: &Stream, op: Op) -> bool {
    match stream.judge {
        Some(Judge::Insert) => matches!(op, Op::Insert | Op::Request | Op::Recovered),
        Some(Judge::When(_)) => can_be_judged(op),
        None => false,
    }
}

/// Whether a change that is all that is known of its row makes it one to be judged.
fn is_judged_at_first_sight(stream: &Stream, op: Op, row: Row<'_>) -> bool {
    match &stream.judge {
        Some(Judge::When(condition)) => {
            let input = BeforeAfter { before: None, after: row, width: stream.columns.len() };
            can_be_judged(op) && condition.evaluate(&input) == Operand::Bool(true)
        }
        _ => is_judged_by_itself(stream, op),
    }
}

/// A change without an id: a mark, or one that its source should have refused. What a mark does to its stream, the engine does.
fn unidentified(change: &Change, stream: &Stream) -> Resolution {
    let outcome = match (change.op, stream.on_truncate) {
        (Op::Truncate, OnTruncate::Ignore) => Outcome::Ignored(Ignored::TruncateIgnored),
        (Op::Truncate, _) => Outcome::Truncated,
        (Op::Lost | Op::Settled, _) if stream.follows_removals() => Outcome::Truncated,
        (Op::Lost | Op::Settled, _) => Outcome::Ignored(Ignored::DeleteIgnored),
        _ => Outcome::Refused(Refused::NoId),
    };
    Resolution::of(outcome)
}

/// Why state refuses a change before it is looked at: an event without a time or far beyond its arrival, a report far beyond it.
pub(crate) fn refusal(plan: &Plan, change: &Change, row: Row<'_>) -> Option<Refused> {
    if change.op == Op::Delete {
        return None;
    }
    let cell = row.cells[row.stream.time?];
    if cell == UNCHANGED {
        return None;
    }
    let Some(time) = row.time() else { return row.stream.labels.is_none().then_some(Refused::NoTime) };
    let arrival = change.arrival?;
    (time > arrival.plus(plan.definitions.future_max)).then_some(Refused::Future)
}
