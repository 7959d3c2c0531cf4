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
//! [`HIGH`] end of all windows, then the beginning of each window, then per running sum and window its words. Places count from the beginning of a lane.

use crate::change::Version;
use crate::value::NULL;

use super::label::LabelWord;
use super::program::{Program, Read, WordKind};
use super::read::{AsOf, Moments, Readout};
use super::tile::{set_wide, wide};
use super::{LABEL, Slot, State};

const TIME: usize = 0;
const VERSION: usize = 1;
const UNSEEN: usize = 3;
const HIGH: usize = 4;
const LOWS: usize = 5;

/// A sum that can be carried on from read to read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Running {
    /// Count and exact sum of a column of integers: three words.
    Sum(usize),
    /// Events that hold a condition: one word.
    True(usize),
    /// Events reported as fraud: one word.
    Fraud,
}

impl Running {
    const fn words(self) -> usize {
        match self {
            Self::Sum(_) => 3,
            Self::True(_) | Self::Fraud => 1,
        }
    }

    /// The running sum that `read` needs, if there is one.
    pub(super) fn of(read: Read, kind: impl Fn(usize) -> WordKind) -> Option<Self> {
        match read {
            Read::Sum(column) | Read::Mean(column) if matches!(kind(column), WordKind::Integer { .. }) => {
                Some(Self::Sum(column))
            }
            Read::Share(column) => Some(Self::True(column)),
            Read::ShareLabel => Some(Self::Fraud),
            _ => None,
        }
    }
}

/// Words of the cursor of a program.
pub(super) fn words(program: &Program) -> usize {
    if program.is_table {
        return 0;
    }
    let sums: usize = program.running.iter().map(|running| running.words()).sum();
    LOWS + program.windows.len() * (1 + sums)
}

/// Adds the event at `place` to the running sums of a window (`sign` 1), or takes it away (-1).
#[inline]
fn change(
    program: &Program,
    block: &[i64],
    capacity: usize,
    place: usize,
    sums: &mut [i64],
    window: usize,
    (as_of, sign): (i64, i64),
) {
    let mut offset = 0;
    for &running in &program.running {
        let lane = match running {
            Running::Sum(column) | Running::True(column) => program.first_column() + column,
            Running::Fraud => LABEL,
        };
        let word = block[lane * capacity + place];
        let into = &mut sums[offset + window * running.words()..][..running.words()];
        match running {
            Running::Sum(_) => {
                if word != NULL {
                    into[0] += sign;
                    let sum = wide(&into[1..3]) + i128::from(sign) * i128::from(word);
                    set_wide(&mut into[1..3], sum);
                }
            }
            Running::True(_) => into[0] += sign * i64::from(word == 1),
            Running::Fraud => into[0] += sign * i64::from(LabelWord::from_word(word).is_fraud_by(as_of)),
        }
        offset += running.words() * program.windows.len();
    }
}

impl State {
    fn cursor(&self, program: &Program) -> &[i64] {
        let words = words(program);
        self.lanes.get(self.lanes.len().wrapping_sub(words)..).unwrap_or(&[])
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
        let place = |word: i64| usize::try_from(word).unwrap_or(0).saturating_sub(self.start as usize);
        (place(cursor[LOWS + window]), place(cursor[HIGH]))
    }

    /// The words of a running sum for a window; only where the sums are settled.
    pub(super) fn settled_sum(&self, program: &Program, running: Running, window: usize) -> Option<&[i64]> {
        let mut offset = LOWS + program.windows.len();
        for known in &program.running {
            if *known == running {
                let from = offset + window * known.words();
                return self.cursor(program).get(from..from + known.words());
            }
            offset += known.words() * program.windows.len();
        }
        None
    }

    /// Makes the running sums invalid.
    pub(super) fn unsettle(&mut self, program: &Program) {
        let (words, len) = (words(program), self.lanes.len());
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
        let (words, len) = (words(program), self.lanes.len());
        if words == 0 || len < words {
            return;
        }
        let by = i64::try_from(by).expect("a block holds a few thousand places");
        let cursor = &mut self.lanes[len - words..];
        if cursor[TIME] == i64::MIN {
            return;
        }
        for place in &mut cursor[HIGH..LOWS + program.windows.len()] {
            *place -= by;
        }
    }

    /// Notes that events before `start` are gone: a window that still held one of them is not carried on.
    pub(super) fn forget_before(&mut self, program: &Program, start: u32) {
        let cursor = self.cursor(program);
        let widest = LOWS + program.windows.len().saturating_sub(1);
        if cursor.get(widest).is_some_and(|low| *low < i64::from(start)) {
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
        let places =
            cursor[HIGH..LOWS + program.windows.len()].iter().map(|place| usize::try_from(*place).unwrap_or(0));
        places.fold(0, |sum, place| {
            let values = (program.first_column() - 1..program.lane_count()).map(|lane| lane * capacity + place);
            let touched = values.chain([place]).map(|at| self.lanes.get(at).copied().unwrap_or(0));
            sum ^ touched.fold(0, |sum, word| sum ^ word)
        })
    }

    fn begin(&mut self, program: &Program, as_of: AsOf) {
        let (words, len) = (words(program), self.lanes.len());
        let start = i64::from(self.start);
        let upper = as_of.time - program.delay;
        let oldest = program.windows.last().map_or(upper, |window| upper.saturating_sub(*window));
        let low = i64::try_from(self.times().partition_point(|time| *time <= oldest)).unwrap_or(0);
        let cursor = &mut self.lanes[len - words..];
        cursor.fill(0);
        cursor[HIGH..LOWS + program.windows.len()].fill(start + low);
        self.carry_on(program, as_of);
    }

    fn carry_on(&mut self, program: &Program, as_of: AsOf) {
        let (count, lanes) = (words(program), self.lanes.len());
        let (capacity, start, end) = (self.capacity as usize, self.start as usize, (self.start + self.len) as usize);
        let upper = as_of.time - program.delay;
        let place = |word: i64| usize::try_from(word).unwrap_or(0);
        let old_high = place(self.lanes[lanes - count + HIGH]).max(start);
        let high = self.high_from(program, old_high, end, as_of);
        let (block, cursor) = self.lanes.split_at_mut(lanes - count);
        let times = &block[..capacity];
        let windows = program.windows.len();
        if program.has_label {
            let labels = &block[LABEL * capacity + old_high..LABEL * capacity + high];
            let unseen = labels.iter().filter(|word| !LabelWord::from_word(**word).is_reported_by(as_of.time)).count();
            cursor[UNSEEN] += i64::try_from(unseen).unwrap_or(i64::MAX);
        }
        let (places, sums) = cursor.split_at_mut(LOWS + windows);
        for (window, (low_word, span)) in places[LOWS..].iter_mut().zip(&program.windows).enumerate() {
            let lower = upper.saturating_sub(*span);
            let mut low = place(*low_word).max(start);
            while low < high && times[low] <= lower {
                // What lies beyond the old end never entered.
                if low < old_high {
                    change(program, block, capacity, low, sums, window, (as_of.time, -1));
                }
                low += 1;
            }
            *low_word = i64::try_from(low).unwrap_or(0);
            for entering in old_high.max(low)..high {
                change(program, block, capacity, entering, sums, window, (as_of.time, 1));
            }
        }
        places[TIME] = as_of.time;
        places[VERSION] = as_of.version.major.cast_signed();
        places[VERSION + 1] = i64::from(as_of.version.minor);
        places[HIGH] = i64::try_from(high).unwrap_or(0);
    }

    /// Reads every feature from the running sums, where they hold for `as_of` and are all that the program needs; says whether it did.
    #[expect(clippy::cast_precision_loss, reason = "counts and sums are rounded once, when they leave the integers")]
    pub(super) fn read_settled(&self, program: &Program, as_of: AsOf, out: &mut [Readout]) -> bool {
        if !program.is_running || !self.is_settled(program, as_of) {
            return false;
        }
        let cursor = self.cursor(program);
        let windows = program.windows.len();
        let (places, sums) = cursor.split_at(LOWS + windows);
        let (high, lows) = (places[HIGH], &places[LOWS..]);
        for (output, out) in program.outputs.iter().zip(out.chunks_exact_mut(windows)) {
            let sum = match output.read {
                Read::Count => {
                    out.iter_mut().zip(lows).for_each(|(out, low)| *out = Readout::int(high - low));
                    continue;
                }
                Read::Sum(column) | Read::Mean(column) => Running::Sum(column),
                Read::Share(column) => Running::True(column),
                _ => Running::Fraud,
            };
            let mut offset = 0;
            for known in program.running.iter().take_while(|known| **known != sum) {
                offset += known.words() * windows;
            }
            let sums = &sums[offset..offset + sum.words() * windows];
            for (window, (out, low)) in out.iter_mut().zip(lows).enumerate() {
                *out = match sum {
                    Running::Sum(column) => {
                        let kind = program.columns[column].kind;
                        Moments::of_running(&sums[window * 3..window * 3 + 3]).readout(output.read, kind)
                    }
                    Running::True(_) | Running::Fraud if high > *low => {
                        Readout::double(sums[window] as f64 / (high - low) as f64)
                    }
                    Running::True(_) | Running::Fraud => Readout::default(),
                };
            }
        }
        true
    }

    /// The first place from `from` on whose event comes after the windows' end, by the version of the as-of among equal times.
    fn high_from(&self, program: &Program, from: usize, end: usize, as_of: AsOf) -> usize {
        let upper = as_of.time - program.delay;
        let start = self.start as usize;
        let mut high = from;
        while high < end {
            let at = high - start;
            let time = self.times()[at];
            let is_tie = time == upper && program.delay == 0 && as_of.version != Version::MAX;
            if time > upper || (is_tie && self.comes_after(at, as_of)) {
                break;
            }
            high += 1;
        }
        high
    }
}

fn version(cursor: &[i64]) -> Version {
    let minor = u32::try_from(cursor[VERSION + 1]).unwrap_or(0);
    Version { major: cursor[VERSION].cast_unsigned(), minor }
}
