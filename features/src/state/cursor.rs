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
use super::program::{Program, Read};
use super::read::{AsOf, Moments, Readout};
use super::{LABEL, Slot, State};
use crate::definition::WINDOWS_MAX;

use course::{Draw, Move};
pub(crate) use course::{Course, Running};

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
        let has_earlier_labels = self.rare.as_ref().is_some_and(|rare| !rare.earlier.is_empty());
        if program.is_table || self.len == 0 || self.is_tiled() || has_earlier_labels {
            return self.unsettle(program);
        }
        let cursor = self.cursor(program);
        let before = (cursor[TIME], version(cursor));
        let is_valid = cursor[TIME] != i64::MIN && cursor[UNSEEN] == 0 && before <= (as_of.time, as_of.version);
        if is_valid { self.carry_on(program, as_of) } else { self.begin(program, as_of) }
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

    /// Notes that events before `start` are gone: a window that still held one of them is not carried on.
    pub(super) fn forget_before(&mut self, program: &Program, start: u32) {
        let cursor = self.cursor(program);
        // The widest window comes last.
        if cursor.get(cursor.len().wrapping_sub(program.course.stride)).is_some_and(|low| *low < i64::from(start)) {
            self.unsettle(program);
        }
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

    fn begin(&mut self, program: &Program, as_of: AsOf) {
        let from = self.lanes.len() - program.course.words;
        let upper = as_of.time - program.delay;
        let oldest = program.windows.last().map_or(upper, |window| upper.saturating_sub(*window));
        let low = self.start as usize + self.times().partition_point(|time| *time <= oldest);
        let low = word(low);
        let cursor = &mut self.lanes[from..];
        cursor.fill(0);
        cursor[HIGH] = low;
        cursor[WINDOWS..].chunks_exact_mut(program.course.stride).for_each(|window| window[0] = low);
        self.carry_on(program, as_of);
    }

    fn carry_on(&mut self, program: &Program, as_of: AsOf) {
        let course = &program.course;
        let from = self.lanes.len() - course.words;
        let (capacity, start) = (self.capacity as usize, self.start as usize);
        let old_high = place(self.lanes[from + HIGH]).max(start);
        let high = self.high_from(program, old_high, as_of);
        let (block, cursor) = self.lanes.split_at_mut(from);
        let (head, windows) = cursor.split_at_mut(WINDOWS);
        if program.has_label && high > old_high {
            let labels = &block[LABEL * capacity + old_high..LABEL * capacity + high];
            let unseen = labels.iter().filter(|word| !LabelWord::from_word(**word).is_reported_by(as_of.time)).count();
            head[UNSEEN] += word(unseen);
        }
        let times = &block[..high];
        let upper = as_of.time - program.delay;
        let mut moves = [Move::default(); WINDOWS_MAX];
        let ends = windows.chunks_exact_mut(course.stride).zip(&program.windows);
        for ((window, span), moved) in ends.zip(&mut moves) {
            let lower = upper.saturating_sub(*span);
            let from = place(window[0]).max(start);
            let mut to = from;
            while times.get(to).is_some_and(|time| *time <= lower) {
                to += 1;
            }
            window[0] = word(to);
            *moved = Move { from, to };
        }
        for carry in &course.carries {
            let lane = &block[carry.lane * capacity..][..high];
            carry.carry(windows.chunks_exact_mut(course.stride), lane, old_high, &moves, as_of.time);
        }
        head[TIME] = as_of.time;
        head[VERSION] = as_of.version.major.cast_signed();
        head[VERSION + 1] = i64::from(as_of.version.minor);
        head[HIGH] = word(high);
    }

    /// Reads every feature from the running sums, where they hold for `as_of` and are all that the program needs; says whether it did.
    #[expect(clippy::cast_precision_loss, reason = "counts and sums are rounded once, when they leave the integers")]
    pub(super) fn read_settled(&self, program: &Program, as_of: AsOf, out: &mut [Readout]) -> bool {
        let Some(draws) = program.course.draws.as_deref().filter(|_| self.is_settled(program, as_of)) else {
            return false;
        };
        let (head, windows) = self.cursor(program).split_at(WINDOWS);
        let high = head[HIGH];
        for (draw, out) in draws.iter().zip(out.chunks_exact_mut(program.windows.len())) {
            let each = out.iter_mut().zip(windows.chunks_exact(program.course.stride));
            match *draw {
                Draw::Count => each.for_each(|(out, window)| *out = Readout::int(high - window[0])),
                Draw::Sum(at, kind) => each.for_each(|(out, window)| {
                    *out = Moments::of_running(&window[at..at + 3]).readout(Read::Sum(0), kind);
                }),
                Draw::Mean(at, kind) => each.for_each(|(out, window)| {
                    *out = Moments::of_running(&window[at..at + 3]).readout(Read::Mean(0), kind);
                }),
                Draw::Share(at) => each.for_each(|(out, window)| {
                    let count = high - window[0];
                    let share = window[at] as f64 / count as f64;
                    *out = if count > 0 { Readout::double(share) } else { Readout::default() };
                }),
            }
        }
        true
    }

    /// The first place from `from` on whose event comes after the windows' end, by the version of the as-of among equal times.
    fn high_from(&self, program: &Program, from: usize, as_of: AsOf) -> usize {
        let upper = as_of.time - program.delay;
        let (start, end) = (self.start as usize, (self.start + self.len) as usize);
        let times = &self.lanes[..end];
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
