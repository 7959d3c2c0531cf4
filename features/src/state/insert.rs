//! How events come into a state.
//!
//! Invariant: whatever way an event takes, the state is the same afterwards.

use super::label::LabelWord;
use super::program::{Program, RAW_BYTES_MAX, TABLE_ROWS_MAX, WordKind};
use super::{EarlierLabel, ID, Inserted, LABEL, MAJOR, Slot, State, TIME};

/// The least capacity of a state's block, in events.
const CAPACITY_MIN: usize = 8;

impl State {
    /// Adds an event.
    pub fn insert(&mut self, program: &Program, slot: &Slot<'_>) -> Inserted {
        if program.is_plain
            && self.rare.is_none()
            && slot.first.minor == 0
            && slot.labels.len() <= 1
            && self.times().last().is_none_or(|last| *last < slot.time)
        {
            return self.append(program, slot);
        }
        let newest = self.newest();
        if newest.is_some_and(|newest| slot.time <= newest - program.retention) {
            if !self.is_tiled() {
                self.dropped.note(slot.time);
            }
            return Inserted::TooLate;
        }
        if let Some(tiles) = self.rare.as_mut().and_then(|rare| rare.tiles.as_mut())
            && (slot.time, slot.first, slot.id) <= tiles.boundary
        {
            self.tile_add(program, slot);
            return Inserted::Tiled;
        }
        let Some(at) = self.place(slot) else { return Inserted::Duplicate };
        self.enter(program, at, slot);
        self.open(program, at);
        self.write(program, at, slot);
        if at + 1 == self.len as usize {
            self.prune(program);
        }
        if program.is_table {
            while self.len as usize > TABLE_ROWS_MAX {
                self.dropped.note(self.times()[0]);
                self.drop_front(program, 1);
            }
        } else if self.raw_cost(program) > RAW_BYTES_MAX {
            self.roll(program);
        }
        Inserted::Raw
    }

    /// Adds an event behind all others, where it leaves words in the lanes alone: what nearly every event does.
    fn append(&mut self, program: &Program, slot: &Slot<'_>) -> Inserted {
        self.enter(program, self.len as usize, slot);
        self.make_room(program);
        let (capacity, place) = (self.capacity as usize, (self.start + self.len) as usize);
        self.lanes[TIME * capacity + place] = slot.time;
        self.lanes[ID * capacity + place] = slot.id.cast_signed();
        self.lanes[MAJOR * capacity + place] = slot.first.major.cast_signed();
        if program.has_label {
            self.lanes[LABEL * capacity + place] = slot.labels.first().map_or(0, |label| label.word());
        }
        let mut at = program.first_column() * capacity + place;
        for &word in slot.words {
            self.lanes[at] = word;
            at += capacity;
        }
        self.len += 1;
        let horizon = slot.time - program.retention;
        let gone = self.times().iter().take_while(|time| **time <= horizon).count();
        if gone > 0 {
            self.dropped.note(self.times()[gone - 1]);
            self.drop_front(program, gone);
        }
        if self.len as usize * program.slot_bytes > RAW_BYTES_MAX {
            self.roll(program);
        }
        Inserted::Raw
    }

    /// Where `slot` belongs, `None` when it is there already.
    fn place(&self, slot: &Slot<'_>) -> Option<usize> {
        let times = self.times();
        if times.last().is_none_or(|last| *last < slot.time) {
            return Some(times.len());
        }
        let from = times.partition_point(|time| *time < slot.time);
        let ids = self.lane(ID);
        let mut at = from;
        let mut place = None;
        while at < times.len() && times[at] == slot.time {
            if ids[at] == slot.id.cast_signed() {
                return None;
            }
            if place.is_none() && self.order(at) > (slot.time, slot.first, slot.id) {
                place = Some(at);
            }
            at += 1;
        }
        Some(place.unwrap_or(at))
    }

    /// Sees to it that one more event fits behind the last.
    #[inline]
    fn make_room(&mut self, program: &Program) {
        if self.start + self.len == self.capacity {
            self.widen(program);
        }
    }

    /// Moves the live part to the beginning of its lanes, in a wider block where little of this one is free.
    fn widen(&mut self, program: &Program) {
        let (capacity, start, len) = (self.capacity as usize, self.start as usize, self.len as usize);
        let lanes = program.lane_count();
        if start > 0 && start >= capacity / 4 {
            for lane in 0..lanes {
                self.lanes.copy_within(lane * capacity + start..lane * capacity + capacity, lane * capacity);
            }
        } else {
            let wider = (capacity * 2).max(CAPACITY_MIN);
            let cursor = program.course.words;
            let mut block = vec![0; wider * lanes + cursor];
            for lane in 0..lanes {
                let from = lane * capacity + start;
                block[lane * wider..lane * wider + len].copy_from_slice(&self.lanes[from..from + len]);
            }
            match self.lanes.len().checked_sub(cursor) {
                Some(from) if capacity > 0 => block[wider * lanes..].copy_from_slice(&self.lanes[from..]),
                _ => block[wider * lanes..].fill(i64::MIN),
            }
            self.lanes = block;
            self.capacity = u32::try_from(wider).expect("the raw budget bounds a state's events");
        }
        self.shift_cursor(program, start);
        self.start = 0;
    }

    /// Makes room for one event at `at` in every lane.
    fn open(&mut self, program: &Program, at: usize) {
        self.make_room(program);
        let (lanes, len) = (program.lane_count(), self.len as usize);
        self.len += 1;
        if at < len {
            for lane in 0..lanes {
                self.lane_mut(lane).copy_within(at..len, at + 1);
            }
        }
        if let Some(rare) = &mut self.rare
            && !rare.minors.is_empty()
        {
            rare.minors.insert(at, 0);
        }
    }

    /// Fills the opened place at `at`.
    fn write(&mut self, program: &Program, at: usize, slot: &Slot<'_>) {
        self.lane_mut(TIME)[at] = slot.time;
        self.lane_mut(ID)[at] = slot.id.cast_signed();
        self.lane_mut(MAJOR)[at] = slot.first.major.cast_signed();
        if slot.first.minor != 0 {
            let len = self.len as usize;
            let minors = &mut self.rare().minors;
            minors.resize(len, 0);
            minors[at] = slot.first.minor;
        }
        if program.has_label {
            self.set_labels(at, slot);
        }
        let first = program.first_column();
        for (column, &word) in slot.words.iter().enumerate() {
            let word = if program.columns[column].kind == WordKind::Text && word != crate::value::NULL {
                let text = slot.texts.get(word);
                let rare = self.rare();
                rare.text_bytes += text.len();
                rare.texts.intern(text)
            } else {
                word
            };
            self.lane_mut(first + column)[at] = word;
        }
    }

    pub(super) fn set_labels(&mut self, at: usize, slot: &Slot<'_>) {
        let (newest, earlier) = match slot.labels.split_last() {
            Some((newest, earlier)) => (*newest, earlier),
            None => (LabelWord::UNKNOWN, slot.labels),
        };
        self.lane_mut(LABEL)[at] = newest.word();
        let key = (slot.time, slot.id);
        if let Some(rare) = &mut self.rare {
            rare.earlier.retain(|label| (label.time, label.id) != key);
        }
        if !earlier.is_empty() {
            let rare = self.rare();
            let from = rare.earlier.partition_point(|label| (label.time, label.id) < key);
            let labels = earlier.iter().map(|label| EarlierLabel { time: slot.time, id: slot.id, label: *label });
            rare.earlier.splice(from..from, labels);
        }
    }
}
