//! Running sums at the newest read: what makes the next read of a key cost a few words instead of a walk through its events.
//!
//! They stand behind the lanes in a state's block: the instant they hold for, where the windows begin and end there, and per window the sums
//! that can be carried on. [`State::settle`] moves them to a later instant by what enters and leaves the windows on the way; a read at that very instant
//! takes them as they are, any other read looks for itself. They are not part of the encoding.
//!
//! Invariant: where the cursor is valid, its places and sums are those that a walk through the events would give; whatever changes an
//! event before its upper end makes it invalid.
//!
//! Layout, in words: [`TIME`] as-of (`i64::MIN`: invalid), [`VERSION`] major and minor, [`UNSEEN`] labels counted that were not reported by the as-of,
//! [`HIGH`] end of all windows, then per window ([`WINDOWS`]) its beginning and its running sums. Places count from the beginning of a lane.

mod course;

use crate::change::Version;

use super::label::LabelWord;
use super::program::Program;
use super::read::{AsOf, Readout};
use super::{ID, LABEL, Slot, State};
use crate::definition::WINDOWS_MAX;

pub(crate) use course::{Course, Running};
use course::{Move, Step};

const TIME: usize = 0;
const VERSION: usize = 1;
const UNSEEN: usize = 3;
const HIGH: usize = 4;
const WINDOWS: usize = 5;

impl State {
    fn cursor(&self, program: &Program) -> &[i64] {
        self.lanes.get(self.lanes.len().wrapping_sub(program.course.words)..).unwrap_or(&[])
    }

    /// Moves the running sums to `as_of`, so that a read there is cheap. Changes nothing that a read returns.
    pub fn settle(&mut self, program: &Program, as_of: AsOf) {
        if self.prepare(program, as_of) {
            self.carry_on(program, as_of);
        }
    }

    /// Moves the running sums to `as_of` and reads every feature from them, where they are all that the program needs; says whether it
    /// did.
    #[inline]
    pub(super) fn follow(&mut self, program: &Program, as_of: AsOf, out: &mut [Readout]) -> bool {
        self.settle(program, as_of);
        self.read_settled(program, as_of, out)
    }

    /// Sees to it that the sums can be carried on to `as_of`; where there are none, or none that help, they begin anew. Says whether
    /// they can be carried on at all.
    fn prepare(&mut self, program: &Program, as_of: AsOf) -> bool {
        let has_earlier_labels = self.rare.as_ref().is_some_and(|rare| !rare.earlier.is_empty());
        if program.is_table || self.len == 0 || self.is_tiled() || has_earlier_labels {
            self.unsettle(program);
            return false;
        }
        let cursor = self.cursor(program);
        let before = (cursor[TIME], version(cursor));
        if cursor[TIME] == i64::MIN || cursor[UNSEEN] != 0 || before > (as_of.time, as_of.version) {
            self.begin(program, as_of);
        }
        true
    }

    /// Whether the running sums hold for `as_of`.
    pub(super) fn is_settled(&self, program: &Program, as_of: AsOf) -> bool {
        let cursor = self.cursor(program);
        cursor.first() == Some(&as_of.time) && version(cursor) == as_of.version
    }

    /// Where window `window` begins and ends; only where the sums are settled.
    pub(super) fn settled_range(&self, program: &Program, window: usize) -> (usize, usize) {
        let cursor = self.cursor(program);
        let place = |word: i64| place(word).saturating_sub(self.start as usize);
        (place(cursor[WINDOWS + window * program.course.stride]), place(cursor[HIGH]))
    }

    /// The words of a running sum for a window; only where the sums are settled.
    pub(super) fn settled_sum(&self, program: &Program, running: Running, window: usize) -> Option<&[i64]> {
        self.cursor(program).get(program.course.place(running, window)?)
    }

    /// Makes the running sums invalid.
    pub(super) fn unsettle(&mut self, program: &Program) {
        let (words, len) = (program.course.words, self.lanes.len());
        if words > 0 && len >= words {
            self.lanes[len - words + TIME] = i64::MIN;
        }
    }

    /// Notes that the event at `at` (counted from the oldest) comes, goes or changes.
    pub(super) fn disturb(&mut self, program: &Program, at: usize) {
        let cursor = self.cursor(program);
        if cursor.len() > HIGH && i64::try_from(at + self.start as usize).is_ok_and(|place| place < cursor[HIGH]) {
            self.unsettle(program);
        }
    }

    /// Notes that `slot` enters at `at` (counted from the oldest). One that the windows' end would have passed had it been there is not in
    /// the sums, even where it comes to stand behind their upper end.
    pub(super) fn enter(&mut self, program: &Program, at: usize, slot: &Slot<'_>) {
        let cursor = self.cursor(program);
        if cursor.first().is_some_and(|time| *time != i64::MIN) {
            let upper = cursor[TIME] - program.delay;
            let is_seen =
                slot.time < upper || (slot.time == upper && (program.delay != 0 || slot.first <= version(cursor)));
            if is_seen {
                return self.unsettle(program);
            }
        }
        self.disturb(program, at);
    }

    /// Notes that everything in the block moved `by` places towards its beginning.
    pub(super) fn shift_cursor(&mut self, program: &Program, by: usize) {
        let (words, len) = (program.course.words, self.lanes.len());
        if by == 0 || words == 0 || len < words {
            return;
        }
        let by = i64::try_from(by).expect("a block holds a few thousand places");
        let cursor = &mut self.lanes[len - words..];
        if cursor[TIME] == i64::MIN {
            return;
        }
        cursor[HIGH] -= by;
        cursor[WINDOWS..].chunks_exact_mut(program.course.stride).for_each(|window| window[0] -= by);
    }

    /// Notes that the events before `start` are gone: they leave the windows that still held them. Their words still stand in the lanes.
    pub(super) fn forget_before(&mut self, program: &Program, start: u32) {
        let course = &program.course;
        let Some(from) = self.lanes.len().checked_sub(course.words).filter(|_| course.words > 0) else { return };
        let (block, cursor) = self.lanes.split_at_mut(from);
        let (head, windows) = cursor.split_at_mut(WINDOWS);
        let (start, high) = (start as usize, place(head[HIGH]));
        // The widest window comes last, and begins first.
        let widest = windows.len().wrapping_sub(course.stride);
        if head[TIME] == i64::MIN || windows.get(widest).is_none_or(|low| place(*low) >= start) {
            return;
        }
        let mut moves = [Move::default(); WINDOWS_MAX];
        let moves = &mut moves[..program.windows.len()];
        for (moved, window) in moves.iter_mut().zip(windows.chunks_exact_mut(course.stride)) {
            let from = place(window[0]);
            *moved = Move { from, to: from.max(start) };
            window[0] = word(moved.to);
        }
        let step = Step { moves, high, as_of: head[TIME] };
        for carry in &course.carries {
            // What comes after the windows' end is neither in them nor enters them.
            let lane = &block[carry.lane * self.capacity as usize..][..high];
            carry.carry(windows, course.stride, lane, step);
        }
        head[HIGH] = word(high.max(start));
    }

    /// Touches the memory at the windows' ends, where the next settling begins.
    pub(crate) fn warm_edges(&self, program: &Program) -> i64 {
        let cursor = self.cursor(program);
        if cursor.first().is_none_or(|time| *time == i64::MIN) {
            return 0;
        }
        let capacity = self.capacity as usize;
        let touch = |at: usize| self.lanes.get(at).copied().unwrap_or(0);
        let edge = |at: usize| {
            program.course.carries.iter().fold(touch(at), |sum, carry| sum ^ touch(carry.lane * capacity + at))
        };
        let windows = cursor[WINDOWS..].chunks_exact(program.course.stride);
        // Without a delay the upper end is that of the lanes, where the event itself was just written.
        let upper = if program.delay == 0 { 0 } else { edge(place(cursor[HIGH])) };
        windows.fold(upper, |sum, window| sum ^ edge(place(window[0])))
    }

    /// Puts the windows where the widest begins, empty.
    fn begin(&mut self, program: &Program, as_of: AsOf) {
        let from = self.lanes.len() - program.course.words;
        let upper = as_of.time - program.delay;
        let oldest = program.windows.last().map_or(upper, |window| upper.saturating_sub(*window));
        let low = word(self.start as usize + self.times().partition_point(|time| *time <= oldest));
        let cursor = &mut self.lanes[from..];
        cursor.fill(0);
        cursor[HIGH] = low;
        cursor[WINDOWS..].chunks_exact_mut(program.course.stride).for_each(|window| window[0] = low);
    }

    /// Moves the windows to `as_of`.
    fn carry_on(&mut self, program: &Program, as_of: AsOf) {
        let course = &program.course;
        let from = self.lanes.len() - course.words;
        let (capacity, start) = (self.capacity as usize, self.start as usize);
        let old_high = place(self.lanes[from + HIGH]).max(start);
        let high = self.high_from(program, old_high, as_of);
        let (block, cursor) = self.lanes.split_at_mut(from);
        let (head, windows) = cursor.split_at_mut(WINDOWS);
        if program.has_label {
            let mut unseen = 0;
            for place in old_high..high {
                let label = LabelWord::from_word(block[LABEL * capacity + place]);
                unseen += i64::from(!label.is_reported_by(as_of.time));
            }
            head[UNSEEN] += unseen;
        }
        let times = &block[..high];
        let upper = as_of.time - program.delay;
        let mut moves = [Move::default(); WINDOWS_MAX];
        let moves = &mut moves[..program.windows.len()];
        let mut at = 0;
        for (moved, span) in moves.iter_mut().zip(&program.windows) {
            let lower = upper.saturating_sub(*span);
            let from = place(windows[at]).max(start);
            let mut to = from;
            while to < times.len() && times[to] <= lower {
                to += 1;
            }
            windows[at] = word(to);
            at += course.stride;
            *moved = Move { from, to };
        }
        let step = Step { moves, high: old_high, as_of: as_of.time };
        for carry in &course.carries {
            let lane = &block[carry.lane * capacity..][..high];
            carry.carry(windows, course.stride, lane, step);
        }
        head[TIME] = as_of.time;
        head[VERSION] = as_of.version.major.cast_signed();
        head[VERSION + 1] = i64::from(as_of.version.minor);
        head[HIGH] = word(high);
    }

    /// Reads every feature from the running sums, where they hold for `as_of` and are all that the program needs; says whether it did.
    pub(super) fn read_settled(&self, program: &Program, as_of: AsOf, out: &mut [Readout]) -> bool {
        let Some(draws) = program.course.draws.as_deref().filter(|_| self.is_settled(program, as_of)) else {
            return false;
        };
        let (head, windows) = self.cursor(program).split_at(WINDOWS);
        let mut rest = out;
        for draw in draws {
            let out;
            (out, rest) = rest.split_at_mut(program.windows.len());
            draw.read(windows, program.course.stride, head[HIGH], out);
        }
        true
    }

    /// The first place from `from` on whose event comes after the windows' end, by the version of the as-of among equal times.
    fn high_from(&self, program: &Program, from: usize, as_of: AsOf) -> usize {
        let upper = as_of.time - program.delay;
        let (start, end) = (self.start as usize, (self.start + self.len) as usize);
        let times = &self.lanes[..end];
        let is_last = times.last() == Some(&upper)
            && as_of.subject.is_some_and(|id| self.lanes[ID * self.capacity as usize + end - 1] == id.cast_signed());
        if is_last && program.delay == 0 {
            // The judged event itself is the last one, so that nothing comes after it.
            return end;
        }
        let mut high = from + times[from..].iter().take_while(|time| **time < upper).count();
        let is_open = program.delay != 0 || as_of.version == Version::MAX;
        while high < end && times[high] == upper && (is_open || !self.comes_after(high - start, as_of)) {
            high += 1;
        }
        high
    }
}

/// The place that a word of the cursor names.
fn place(word: i64) -> usize {
    usize::try_from(word).unwrap_or(0)
}

/// A place or a count as a word of the cursor.
fn word(place: usize) -> i64 {
    i64::try_from(place).unwrap_or(i64::MAX)
}

fn version(cursor: &[i64]) -> Version {
    let minor = u32::try_from(cursor[VERSION + 1]).unwrap_or(0);
    Version { major: cursor[VERSION].cast_unsigned(), minor }
}
