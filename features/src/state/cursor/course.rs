//! Which sums a program's cursor carries, where they stand in it, and how they are carried on.

use crate::value::NULL;

use super::super::LABEL;
use super::super::label::LabelWord;
use super::super::program::{Output, Read, SlotColumn, WordKind};
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

/// How far the beginning of a window moved.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Move {
    pub(super) from: usize,
    pub(super) to: usize,
}

/// Count and sum of the words that are not null.
#[inline]
fn total(words: &[i64]) -> (i64, i128) {
    let present = words.iter().filter(|word| **word != NULL);
    present.fold((0, 0), |(count, sum), word| (count + 1, sum + i128::from(*word)))
}

impl Carry {
    /// Carries the sums of all windows on: `lane` ends where the windows do now, `high` is where they ended before.
    #[inline]
    pub(super) fn carry<'a>(
        &self,
        windows: impl Iterator<Item = &'a mut [i64]>,
        lane: &[i64],
        high: usize,
        moves: &[Move],
        as_of: i64,
    ) {
        let from = self.offset;
        // What lies beyond the old end never entered.
        let left = |moved: &Move| &lane[moved.from..moved.to.min(high)];
        let late = |moved: &Move| &lane[moved.to..];
        match self.running {
            Running::Sum(_) => {
                let entered = total(&lane[high..]);
                for (window, moved) in windows.zip(moves) {
                    let into = &mut window[from..from + 3];
                    let left = total(left(moved));
                    let entered = if moved.to > high { total(late(moved)) } else { entered };
                    into[0] += entered.0 - left.0;
                    let sum = wide(&into[1..]) + entered.1 - left.1;
                    set_wide(&mut into[1..], sum);
                }
            }
            Running::True(_) => {
                let held = |words: &[i64]| words.iter().map(|word| i64::from(*word == 1)).sum::<i64>();
                let entered = held(&lane[high..]);
                for (window, moved) in windows.zip(moves) {
                    let entered = if moved.to > high { held(late(moved)) } else { entered };
                    window[from] += entered - held(left(moved));
                }
            }
            Running::Fraud => {
                let is_fraud = |word: &i64| i64::from(LabelWord::from_word(*word).is_fraud_by(as_of));
                let frauds = |words: &[i64]| words.iter().map(is_fraud).sum::<i64>();
                let entered = frauds(&lane[high..]);
                for (window, moved) in windows.zip(moves) {
                    let entered = if moved.to > high { frauds(late(moved)) } else { entered };
                    window[from] += entered - frauds(left(moved));
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
