//! How far event time has come, over streams of rows: the clock by which states and row records expire.
//!
//! Invariant: fewer than half of the newest [`EVENTS`] events cannot move it, whatever their times and however they are spread over
//! batches. A batch may hold a single row, so a batch by itself says nothing.

use std::collections::VecDeque;

use interdict_features::time::Timestamp;

/// How many of the newest events are asked. Until half as many have come there is no clock, and nothing expires.
pub(crate) const EVENTS: usize = 64;

/// The clock of the streams.
#[derive(Clone, Debug, Default)]
pub(crate) struct EventClock {
    times: VecDeque<Timestamp>,
    now: Option<Timestamp>,
    /// What it said in an earlier life.
    before: Option<Timestamp>,
}

impl EventClock {
    /// A clock that said `before` in an earlier life. A few events do not move it on.
    pub(crate) fn not_before(before: Timestamp) -> Self {
        Self { before: Some(before), ..Self::default() }
    }

    /// An instant that it has come to for certain: what it says, or the earliest it has heard of while that is too little to say.
    pub(crate) fn floor(&self) -> Option<Timestamp> {
        self.now.or_else(|| self.times.iter().copied().chain(self.before).min())
    }

    /// The instant that half of the newest events had reached at some time; it never goes back.
    pub(crate) fn now(&self) -> Option<Timestamp> {
        self.now
    }

    /// Takes in `count` rows in order of arrival, by their times. Of more rows than are asked some are taken, spread evenly.
    pub(crate) fn observe(&mut self, count: usize, time: impl Fn(usize) -> Option<Timestamp>) {
        let step = count.div_ceil(EVENTS).max(1);
        for time in (0..count).step_by(step).filter_map(time) {
            if self.times.len() == EVENTS {
                self.times.pop_front();
            }
            self.times.push_back(time);
        }
        let half = EVENTS / 2;
        if self.times.len() < half {
            return;
        }
        let mut times: Vec<Timestamp> = self.times.iter().copied().collect();
        let at = times.len() - half;
        let (_, reached, _) = times.select_nth_unstable(at);
        self.now = self.now.max(Some(*reached));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_micros(second * 1_000_000)
    }

    fn one_by_one(clock: &mut EventClock, seconds: impl Iterator<Item = i64>) {
        seconds.for_each(|time| clock.observe(1, |_| Some(second(time))));
    }

    #[test]
    fn a_few_wrong_times_move_nothing() {
        let mut clock = EventClock::default();
        one_by_one(&mut clock, std::iter::once(9_000_000));
        assert_eq!(clock.now(), None, "one event is no clock");
        one_by_one(&mut clock, 0..100);
        let before = clock.now().unwrap();
        assert!(before >= second(60) && before < second(100), "{before}");
        for wrong in 0..31 {
            one_by_one(&mut clock, std::iter::once(9_000_000 + wrong));
        }
        assert!(clock.now().unwrap() < second(101), "{:?}", clock.now());
        one_by_one(&mut clock, 100..10_000);
        assert!(clock.now().unwrap() > second(9_900), "{:?}", clock.now());
        assert!(clock.now().unwrap() < second(10_000), "{:?}", clock.now());
    }

    #[test]
    fn a_batch_counts_as_its_rows_and_the_clock_never_goes_back() {
        let mut clock = EventClock::default();
        clock.observe(4_096, |row| i64::try_from(row).ok().map(second));
        let now = clock.now().unwrap();
        assert!(now > second(1_900) && now < second(2_200), "{now}");
        clock.observe(4_096, |_| Some(second(5)));
        clock.observe(4_096, |_| None);
        clock.observe(0, |_| None);
        assert_eq!(clock.now(), Some(now));
    }
}
