//! The history of one key in one group: raw events in time order and, for hot keys, tiles.
//!
//! Layout in memory: one block of words, lane by lane (times, ids, versions, labels, then one lane per slot column), of
//! which a moving part is live. An event is appended, the oldest ones fall off the front; nothing is allocated per event.
//! What few states need (minor versions, earlier labels, texts, tiles) stands behind one pointer.
//!
//! Invariants:
//! - Raw events are ordered by (time, version of the row's first change, id) and no two share (time, id).
//! - Every raw event is later in that order than the tiles' boundary, and no raw event is older than the retention before the newest.
//! - Raw events cost at most [`RAW_BYTES_MAX`]; above it the oldest half moves into tiles.
//! - As long as nothing was tiled or fell behind the retention, the encoded bytes depend on the set of events alone.

mod cursor;
mod encode;
mod insert;
mod label;
mod program;
mod read;
mod roll;
mod sketch;
mod texts;
mod tile;

#[cfg(test)]
mod tests;

pub use encode::StateError;
pub use label::{LabelValue, LabelWord, label_at};
pub use program::{Program, RAW_BYTES_MAX, TILED_BYTES_MAX};
pub use read::{AsOf, Readout, ReadoutKind, Scratch};
pub(crate) use sketch::{hash_bytes, mix};

use crate::change::{TextArena, Version};
use program::WordKind;
use texts::Texts;
use tile::Tiles;

const TIME: usize = 0;
const ID: usize = 1;
const MAJOR: usize = 2;
const LABEL: usize = 3;
/// Bytes of an earlier label: time 8, id 10, label 10.
const EARLIER_BYTES: usize = 28;

/// An event as a group's state takes it.
#[derive(Clone, Copy, Debug)]
pub struct Slot<'a> {
    /// Event time, microseconds.
    pub time: i64,
    /// The event id: an integer itself, otherwise a 64-bit hash. Two events are the same when time and id are.
    pub id: u64,
    /// The row's first version: orders events of one time.
    pub first: Version,
    /// Reports in order of report time.
    pub labels: &'a [LabelWord],
    /// One word per slot column.
    pub words: &'a [i64],
    /// Where words of text columns point.
    pub texts: &'a TextArena,
}

/// What became of an event that was to be added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Inserted {
    /// It is in its slot.
    Raw,
    /// It is in tiles.
    Tiled,
    /// It was there already.
    Duplicate,
    /// It is older than the retention before the key's newest event.
    TooLate,
}

/// What became of an event that was to be taken out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Removed {
    /// It is gone.
    Raw,
    /// It was subtracted from tiles, as far as that is possible.
    Tiled,
    /// It was not there.
    Absent,
}

/// The history of one key in one group.
#[derive(Clone, Debug, Default)]
pub struct State {
    lanes: Vec<i64>,
    capacity: u32,
    start: u32,
    len: u32,
    dropped: Dropped,
    rare: Option<Box<Rare>>,
}

/// Time of the latest event that fell behind the retention. An event that pushed others out may be removed again: then the newest one
/// left does not say any more how far back the state is complete. (Tiles remember their newest event.)
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Dropped(i64);

impl Default for Dropped {
    fn default() -> Self {
        Self(i64::MIN)
    }
}

impl Dropped {
    fn note(&mut self, time: i64) {
        self.0 = self.0.max(time);
    }
}

#[derive(Clone, Debug, Default)]
struct Rare {
    /// Minor versions of the live events; empty when all are zero.
    minors: Vec<u32>,
    /// Labels before the newest one, per event, in order of (time, id, report time).
    earlier: Vec<EarlierLabel>,
    texts: Texts,
    /// Bytes of text the live events refer to, each reference counted.
    text_bytes: usize,
    tiles: Option<Tiles>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct EarlierLabel {
    time: i64,
    id: u64,
    label: LabelWord,
}

impl State {
    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0 && self.tiles().is_none() && self.dropped == Dropped::default()
    }

    /// How many events are held raw.
    #[must_use]
    pub fn raw_events(&self) -> usize {
        self.len as usize
    }

    /// Whether older events are held in tiles.
    #[must_use]
    pub fn is_tiled(&self) -> bool {
        self.tiles().is_some()
    }

    /// Time of the newest event, microseconds.
    #[must_use]
    pub fn newest(&self) -> Option<i64> {
        self.times().last().copied().or_else(|| self.tiles().map(|tiles| tiles.newest))
    }

    /// The latest time it knows of, microseconds: that of its newest event, or else of the last one that fell behind the retention.
    pub(crate) fn last_seen(&self) -> Option<i64> {
        self.newest().or((self.dropped != Dropped::default()).then_some(self.dropped.0))
    }

    /// The time from which on, that instant left out, every event is held.
    fn horizon(&self, program: &Program) -> i64 {
        self.newest().map_or(i64::MIN, |newest| newest - program.retention).max(self.dropped.0)
    }

    /// Bytes of memory behind this state, roughly.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let rare = self.rare.as_ref().map_or(0, |rare| {
            size_of::<Rare>()
                + rare.minors.capacity() * 4
                + rare.texts.memory_bytes()
                + rare.tiles.as_ref().map_or(0, Tiles::memory_bytes)
        });
        size_of::<Self>() + self.lanes.capacity() * 8 + rare
    }

    /// Touches the memory that the next event will need first and returns something that depends on it. Called for many states in a row
    /// before they are used, so that the machine waits for all of them at once. Where the event's words go is left to the machine: it
    /// does not wait for what is only written.
    #[inline]
    pub(crate) fn warm(&self) -> i64 {
        /// Words of a cache line.
        const LINE: usize = 8;
        let touch = |at: usize| self.lanes.get(at).copied().unwrap_or(0);
        let last = (self.start + self.len).wrapping_sub(1) as usize;
        // The running sums stand at the end.
        let end = self.lanes.len().wrapping_sub(1);
        touch(last)
            ^ touch(self.start as usize)
            ^ touch(end)
            ^ touch(end.wrapping_sub(LINE))
            ^ touch(end.wrapping_sub(2 * LINE))
    }

    fn tiles(&self) -> Option<&Tiles> {
        self.rare.as_ref().and_then(|rare| rare.tiles.as_ref())
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    fn lane(&self, lane: usize) -> &[i64] {
        let from = lane * self.capacity as usize + self.start as usize;
        self.lanes.get(from..from + self.len as usize).unwrap_or(&[])
    }

    fn lane_mut(&mut self, lane: usize) -> &mut [i64] {
        let from = lane * self.capacity as usize + self.start as usize;
        self.lanes.get_mut(from..from + self.len as usize).unwrap_or(&mut [])
    }

    fn times(&self) -> &[i64] {
        self.lane(TIME)
    }

    fn version(&self, at: usize) -> Version {
        let minor = self.rare.as_ref().and_then(|rare| rare.minors.get(at)).copied().unwrap_or(0);
        Version { major: self.lane(MAJOR)[at].cast_unsigned(), minor }
    }

    fn order(&self, at: usize) -> (i64, Version, u64) {
        (self.times()[at], self.version(at), self.lane(ID)[at].cast_unsigned())
    }

    /// Takes an event out; `slot` is the event as it was added.
    pub fn remove(&mut self, program: &Program, slot: &Slot<'_>) -> Removed {
        if let Some(at) = self.find(slot.time, slot.id) {
            self.close(program, at);
            return Removed::Raw;
        }
        self.tile_retract(program, slot)
    }

    /// Replaces the labels of an event: `old` as it was added, `new` with other labels only. Returns whether it was found.
    pub fn relabel(&mut self, program: &Program, old: &Slot<'_>, new: &Slot<'_>) -> bool {
        if !program.has_label {
            return true;
        }
        if let Some(at) = self.find(new.time, new.id) {
            self.disturb(program, at);
            self.set_labels(at, new);
            if self.raw_cost(program) > RAW_BYTES_MAX {
                self.roll(program);
            }
            return true;
        }
        let Some(tiles) = self.rare.as_mut().and_then(|rare| rare.tiles.as_mut()) else { return false };
        if (old.time, old.first, old.id) > tiles.boundary {
            return false;
        }
        tiles.relabel(program, old, new);
        true
    }

    fn find(&self, time: i64, id: u64) -> Option<usize> {
        let times = self.times();
        let from = times.partition_point(|other| *other < time);
        let ids = self.lane(ID);
        (from..times.len()).take_while(|&at| times[at] == time).find(|&at| ids[at] == id.cast_signed())
    }

    /// Whether an event with this id is held raw, at whatever time.
    pub(crate) fn holds(&self, id: u64) -> bool {
        self.lane(ID).contains(&id.cast_signed())
    }

    fn close(&mut self, program: &Program, at: usize) {
        self.disturb(program, at);
        self.forget_rare(program, at..at + 1);
        let len = self.len as usize;
        for lane in 0..program.lane_count() {
            self.lane_mut(lane).copy_within(at + 1..len, at);
        }
        self.len -= 1;
    }

    fn drop_front(&mut self, program: &Program, count: usize) {
        self.forget_rare(program, 0..count);
        let count = u32::try_from(count).expect("bounded by the number of raw events");
        self.start += count;
        self.len -= count;
        self.forget_before(program, self.start);
    }

    /// Takes what stands outside the lanes of the events in `range`.
    fn forget_rare(&mut self, program: &Program, range: std::ops::Range<usize>) {
        let Some(mut rare) = self.rare.take() else { return };
        for at in range.clone() {
            if !rare.earlier.is_empty() {
                let key = (self.times()[at], self.lane(ID)[at].cast_unsigned());
                rare.earlier.retain(|label| (label.time, label.id) != key);
            }
            for (column, spec) in program.columns.iter().enumerate() {
                let word = self.lane(program.first_column() + column)[at];
                if spec.kind == WordKind::Text && word != crate::value::NULL {
                    rare.text_bytes -= rare.texts.get(word).len();
                }
            }
        }
        if !rare.minors.is_empty() {
            rare.minors.drain(range);
        }
        self.rare = Some(rare);
    }

    /// Drops what lies behind the retention before the newest event.
    fn prune(&mut self, program: &Program) {
        let Some(newest) = self.newest() else { return };
        let horizon = newest - program.retention;
        let gone = self.times().iter().take_while(|time| **time <= horizon).count();
        if gone > 0 {
            self.dropped.note(self.times()[gone - 1]);
            self.drop_front(program, gone);
        }
        if let Some(rare) = &mut self.rare {
            if let Some(tiles) = &mut rare.tiles {
                tiles.newest = newest;
                tiles.prune(program);
                if tiles.is_empty() {
                    self.dropped.note(tiles.boundary.0.min(horizon));
                    rare.tiles = None;
                }
            }
            if rare.texts.is_crowded() {
                self.sweep_texts(program);
            }
        }
    }

    fn raw_cost(&self, program: &Program) -> usize {
        let rare = self.rare.as_ref().map_or(0, |rare| rare.text_bytes + rare.earlier.len() * EARLIER_BYTES);
        self.len as usize * program.slot_bytes + rare
    }
}
