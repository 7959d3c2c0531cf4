//! Which sums a program's cursor carries, where they stand in it, and how they are carried on.

use crate::value::NULL;

use super::super::LABEL;
use super::super::label::LabelWord;
use super::super::program::{Output, Read, SlotColumn, WordKind};
use super::super::read::{Moments, Readout};
use super::super::tile::{set_wide, wide};
use super::WINDOWS;

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
    /// The running sum that `read` needs, if there is one.
    fn of(read: Read, columns: &[SlotColumn]) -> Option<Self> {
        match read {
            Read::Sum(column) | Read::Mean(column) if matches!(columns[column].kind, WordKind::Integer { .. }) => {
                Some(Self::Sum(column))
            }
            Read::Share(column) => Some(Self::True(column)),
            Read::ShareLabel => Some(Self::Fraud),
            _ => None,
        }
    }

    const fn words(self) -> usize {
        match self {
            Self::Sum(_) => 3,
            Self::True(_) | Self::Fraud => 1,
        }
    }
}

/// A running sum in its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Carry {
    running: Running,
    /// The lane it is taken from.
    pub(super) lane: usize,
    /// Its first word among a window's.
    offset: usize,
}

/// Where a window began at the instant before, and where it begins now.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Move {
    pub(super) from: usize,
    pub(super) to: usize,
}

/// The windows of a cursor between two instants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step<'a> {
    pub(super) moves: &'a [Move],
    /// Where all windows ended before.
    pub(super) high: usize,
    /// The instant that labels are read as of.
    pub(super) as_of: i64,
}

/// Adds up what `value` gives for the words at `from..to`.
#[inline]
#[expect(
    clippy::needless_range_loop,
    reason = "hardly ever are there more than two: loops that take four at a time cost more"
)]
fn total<T: Default + std::ops::AddAssign>(lane: &[i64], from: usize, to: usize, value: impl Fn(i64) -> T) -> T {
    let mut total = T::default();
    for at in from..to {
        total += value(lane[at]);
    }
    total
}

impl Step<'_> {
    /// Goes through the windows with what entered each and what left it; `lane` ends where the windows do now.
    #[inline]
    fn each<T: Copy>(&self, lane: &[i64], total: impl Fn(usize, usize) -> T, mut show: impl FnMut(T, T)) {
        let entered = total(self.high, lane.len());
        for moved in self.moves {
            // What lies beyond the old end never entered.
            let entered = if moved.to > self.high { total(moved.to.min(lane.len()), lane.len()) } else { entered };
            show(entered, total(moved.from, moved.to.min(self.high)));
        }
    }
}

impl Carry {
    /// Carries the sums of all windows on; `lane` ends where the windows do now.
    #[inline]
    pub(super) fn carry(&self, windows: &mut [i64], stride: usize, lane: &[i64], step: Step<'_>) {
        let mut at = self.offset;
        match self.running {
            Running::Sum(_) => {
                let count = |word| i64::from(word != NULL);
                let sum = |word| if word == NULL { 0 } else { i128::from(word) };
                let both = |from, to| (total(lane, from, to, count), total(lane, from, to, sum));
                step.each(lane, both, |entered, left| {
                    let into = &mut windows[at..at + 3];
                    into[0] += entered.0 - left.0;
                    let sum = wide(&into[1..]) + entered.1 - left.1;
                    set_wide(&mut into[1..], sum);
                    at += stride;
                });
            }
            Running::True(_) => {
                let held = |from, to| total(lane, from, to, |word| i64::from(word == 1));
                step.each(lane, held, |entered, left| {
                    windows[at] += entered - left;
                    at += stride;
                });
            }
            Running::Fraud => {
                let is_fraud = |word| i64::from(LabelWord::from_word(word).is_fraud_by(step.as_of));
                let frauds = |from, to| total(lane, from, to, is_fraud);
                step.each(lane, frauds, |entered, left| {
                    windows[at] += entered - left;
                    at += stride;
                });
            }
        }
    }
}

impl Draw {
    /// Reads an output for every window that ends at `high`.
    #[inline]
    #[expect(clippy::cast_precision_loss, reason = "counts are rounded once, when they leave the integers")]
    pub(super) fn read(self, windows: &[i64], stride: usize, high: i64, out: &mut [Readout]) {
        let mut from = 0;
        match self {
            Self::Count => {
                for out in out {
                    *out = Readout::int(high - windows[from]);
                    from += stride;
                }
            }
            Self::Sum(at, kind) => {
                for out in out {
                    let sums = &windows[from + at..from + at + 3];
                    *out = Moments::of_running(sums).readout(Read::Sum(0), kind);
                    from += stride;
                }
            }
            Self::Mean(at, kind) => {
                for out in out {
                    let sums = &windows[from + at..from + at + 3];
                    *out = Moments::of_running(sums).readout(Read::Mean(0), kind);
                    from += stride;
                }
            }
            Self::Share(at) => {
                for out in out {
                    let events = high - windows[from];
                    let share = windows[from + at] as f64 / events as f64;
                    *out = if events > 0 { Readout::double(share) } else { Readout::default() };
                    from += stride;
                }
            }
        }
    }
}

/// How an output is read from the words of a window.
#[derive(Clone, Copy, Debug)]
pub(super) enum Draw {
    /// From the window's ends.
    Count,
    /// The sum, of which this is the first word of count and sum.
    Sum(usize, WordKind),
    /// Their mean, likewise.
    Mean(usize, WordKind),
    /// From a count that is this word.
    Share(usize),
}

/// The running sums of a program.
#[derive(Clone, Debug, Default)]
pub(crate) struct Course {
    /// Words of the cursor; none where nothing is carried on.
    pub(crate) words: usize,
    /// Words of one window: its beginning, then its sums.
    pub(super) stride: usize,
    pub(super) carries: Vec<Carry>,
    /// Per output, how it is read from the sums; `None` where some output needs more than them.
    pub(super) draws: Option<Vec<Draw>>,
}

impl Course {
    pub(crate) fn of(outputs: &[Output], columns: &[SlotColumn], has_label: bool, windows: usize) -> Self {
        let first_column = LABEL + usize::from(has_label);
        let mut course = Self { stride: 1, ..Self::default() };
        for running in outputs.iter().filter_map(|output| Running::of(output.read, columns)) {
            if course.offset(running).is_none() {
                let lane = match running {
                    Running::Sum(column) | Running::True(column) => first_column + column,
                    Running::Fraud => LABEL,
                };
                course.carries.push(Carry { running, lane, offset: course.stride });
                course.stride += running.words();
            }
        }
        course.words = WINDOWS + windows * course.stride;
        course.draws = outputs.iter().map(|output| course.draw(output.read, columns)).collect();
        course
    }

    /// The first word of a running sum among a window's.
    fn offset(&self, running: Running) -> Option<usize> {
        self.carries.iter().find(|carry| carry.running == running).map(|carry| carry.offset)
    }

    fn draw(&self, read: Read, columns: &[SlotColumn]) -> Option<Draw> {
        if read == Read::Count {
            return Some(Draw::Count);
        }
        let running = Running::of(read, columns)?;
        let offset = self.offset(running)?;
        Some(match running {
            Running::Sum(column) if matches!(read, Read::Mean(_)) => Draw::Mean(offset, columns[column].kind),
            Running::Sum(column) => Draw::Sum(offset, columns[column].kind),
            Running::True(_) | Running::Fraud => Draw::Share(offset),
        })
    }

    /// Where in the cursor the words of a running sum stand for window `window`.
    pub(super) fn place(&self, running: Running, window: usize) -> Option<std::ops::Range<usize>> {
        let from = WINDOWS + window * self.stride + self.offset(running)?;
        Some(from..from + running.words())
    }
}
