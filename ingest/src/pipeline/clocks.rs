//! How far event time has come in every partition, stored with the rows that say so: whoever sweeps the store asks there, since no
//! process reads every partition, and one that reads several has but the clock of the one that is ahead.
//!
//! A clock stands as a row record of the stream `@clocks` under `SOURCE/PARTITION`: the instant in microseconds, then the count of the
//! partition's rows, both 8 bytes, big-endian. The count tells a partition whose rows come late from one that gives none.
//!
//! Invariants:
//! - A clock leaves in the commit of its rows.
//! - It never says later than half of the partition's newest events do, and is the earliest of them while they are too few to say.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use interdict_features::time::Timestamp;
use interdict_store::port::{Query, RowKey, RowWrite};

use super::{Pipeline, PipelineError, Reader};
use crate::event_clock::{EVENTS, EventClock};

/// Where clocks stand among row records: no stream has this name, and what stands there never expires.
const CLOCKS: &str = "@clocks";

/// What is stored of a partition's clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartitionClock {
    /// How far event time has come.
    pub now: Timestamp,
    /// How many rows there were.
    pub rows: u64,
}

impl PartitionClock {
    /// Where the clock of a partition stands.
    #[must_use]
    pub fn key(source: &str, partition: u32) -> RowKey {
        RowKey { stream: Arc::from(CLOCKS), id: format!("{source}/{partition}").into_bytes().into() }
    }

    /// Reads what stands there; `None` for bytes that are no clock.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (now, rows) = bytes.split_first_chunk::<8>()?;
        let rows = u64::from_be_bytes(rows.try_into().ok()?);
        Some(Self { now: Timestamp::from_micros(i64::from_be_bytes(*now)), rows })
    }

    fn to_bytes(self) -> Bytes {
        Bytes::from([self.now.micros().to_be_bytes(), self.rows.to_be_bytes()].concat())
    }
}

/// Whether a clock stands under `key`: it is fenced by the offset that moves with it, and rests on nothing that was read.
#[must_use]
pub fn is_clock(key: &RowKey) -> bool {
    &*key.stream == CLOCKS
}

/// The clocks of the partitions that are read here.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    partitions: BTreeMap<(String, u32), Clock>,
    /// Times of rows that were applied and whose partition is not told yet: the newest of them.
    times: VecDeque<Timestamp>,
    rows: u64,
}

#[derive(Debug, Default)]
struct Clock {
    clock: EventClock,
    rows: u64,
    stored: Option<PartitionClock>,
    /// The clock and its rows as of the last commit, once more was taken in.
    before: Option<Box<(EventClock, u64)>>,
}

impl Clock {
    fn told(&self) -> Option<PartitionClock> {
        Some(PartitionClock { now: self.clock.floor()?, rows: self.rows })
    }
}

impl Clocks {
    /// Takes in `count` rows that were applied, by their times. Of more than are asked some are taken, spread evenly.
    pub(super) fn observe(&mut self, count: usize, time: impl Fn(usize) -> Option<Timestamp>) {
        let step = count.div_ceil(EVENTS).max(1);
        for time in (0..count).step_by(step).filter_map(time) {
            if self.times.len() == EVENTS {
                self.times.pop_front();
            }
            self.times.push_back(time);
        }
        self.rows += count as u64;
    }

    /// What was taken in since the last call was of this partition.
    pub(super) fn settle(&mut self, source: &str, partition: u32) {
        if self.rows == 0 {
            return;
        }
        let times: Vec<Timestamp> = self.times.drain(..).collect();
        let clock = self.partitions.entry((source.to_owned(), partition)).or_default();
        clock.before.get_or_insert_with(|| Box::new((clock.clock.clone(), clock.rows)));
        clock.clock.observe(times.len(), |row| times.get(row).copied());
        clock.rows += std::mem::take(&mut self.rows);
    }

    /// Forgets what was taken in since the last commit: it comes again.
    pub(super) fn rewind(&mut self) {
        self.times.clear();
        self.rows = 0;
        for clock in self.partitions.values_mut() {
            if let Some(before) = clock.before.take() {
                (clock.clock, clock.rows) = *before;
            }
        }
    }

    /// Goes on with the clock that is stored of a partition.
    pub(super) fn resume(&mut self, source: &str, partition: u32, stored: Option<PartitionClock>) {
        let Some(told) = stored else { return };
        let clock = Clock { clock: EventClock::not_before(told.now), rows: told.rows, stored, before: None };
        self.partitions.insert((source.to_owned(), partition), clock);
    }

    pub(super) fn let_go(&mut self, source: &str, partition: u32) {
        self.partitions.remove(&(source.to_owned(), partition));
    }

    /// The clocks that changed since they were stored.
    pub(super) fn writes(&self) -> impl Iterator<Item = RowWrite> {
        let changed = self.partitions.iter().filter(|(_, clock)| clock.told() != clock.stored);
        changed.filter_map(|((source, partition), clock)| {
            let key = PartitionClock::key(source, *partition);
            Some(RowWrite { key, bytes: Some(clock.told()?.to_bytes()), expires: None, expected: None })
        })
    }

    /// Notes that the commit with [`Self::writes`] went through.
    pub(super) fn stored(&mut self) {
        for clock in self.partitions.values_mut() {
            clock.stored = clock.told();
            clock.before = None;
        }
    }
}

impl<S: Reader> Pipeline<S> {
    /// Brings the clocks of partitions that are taken up.
    pub(super) async fn bring_clocks(&mut self, source: &str, partitions: &[u32]) -> Result<(), PipelineError> {
        if partitions.is_empty() {
            return Ok(());
        }
        let rows = partitions.iter().map(|partition| PartitionClock::key(source, *partition)).collect();
        let fetched = self.store.fetch(&Query { rows, ..Query::default() }).await?;
        for (partition, bytes) in partitions.iter().zip(fetched.rows) {
            self.clocks.resume(source, *partition, bytes.and_then(|bytes| PartitionClock::read(&bytes)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_micros(second * 1_000_000)
    }

    fn take(clocks: &mut Clocks, partition: u32, seconds: std::ops::Range<i64>) {
        let times: Vec<Timestamp> = seconds.map(second).collect();
        clocks.observe(times.len(), |row| times.get(row).copied());
        clocks.settle("orders", partition);
    }

    /// What the next commit writes, by partition.
    fn written(clocks: &mut Clocks) -> Vec<(String, PartitionClock)> {
        let written = clocks.writes().map(|write| {
            assert!(is_clock(&write.key) && write.expires.is_none());
            (String::from_utf8(write.key.id.to_vec()).unwrap(), PartitionClock::read(&write.bytes.unwrap()).unwrap())
        });
        let written = written.collect();
        clocks.stored();
        written
    }

    fn told(partition: u32, seconds: i64, rows: u64) -> (String, PartitionClock) {
        (format!("orders/{partition}"), PartitionClock { now: second(seconds), rows })
    }

    #[test]
    fn every_partition_has_a_clock_of_its_own() {
        let mut clocks = Clocks::default();
        take(&mut clocks, 0, 0..64);
        take(&mut clocks, 1, 10_000..10_064);
        assert_eq!(written(&mut clocks), [told(0, 32, 64), told(1, 10_032, 64)]);
        assert_eq!(written(&mut clocks), [], "nothing changed");
        take(&mut clocks, 1, 10_064..10_065);
        assert_eq!(written(&mut clocks), [told(1, 10_033, 65)]);
    }

    #[test]
    fn too_few_events_say_no_more_than_the_earliest_of_them() {
        let mut clocks = Clocks::default();
        take(&mut clocks, 0, 500..501);
        take(&mut clocks, 0, 400..402);
        assert_eq!(written(&mut clocks), [told(0, 400, 3)]);
    }

    #[test]
    fn a_partition_that_is_taken_up_goes_on_where_it_stood() {
        let mut clocks = Clocks::default();
        clocks.resume("orders", 0, Some(PartitionClock { now: second(100), rows: 64 }));
        assert_eq!(written(&mut clocks), []);
        take(&mut clocks, 0, 900..901);
        assert_eq!(written(&mut clocks), [told(0, 100, 65)], "one event moves nothing");
        take(&mut clocks, 0, 901..960);
        assert_eq!(written(&mut clocks), [told(0, 928, 124)]);
        clocks.let_go("orders", 0);
        take(&mut clocks, 0, 50..51);
        assert_eq!(written(&mut clocks), [told(0, 50, 1)]);
    }

    #[test]
    fn what_is_taken_back_counts_for_nobody() {
        let mut clocks = Clocks::default();
        clocks.observe(1, |_| Some(second(9)));
        clocks.rewind();
        take(&mut clocks, 3, 70..71);
        assert_eq!(written(&mut clocks), [told(3, 70, 1)]);
        take(&mut clocks, 4, 60..61);
        for _ in 0..64 {
            take(&mut clocks, 3, 9_000..9_001);
            clocks.rewind();
        }
        assert_eq!(written(&mut clocks), [], "however often it is applied in vain");
        take(&mut clocks, 3, 71..72);
        assert_eq!(written(&mut clocks), [told(3, 70, 2)]);
    }
}
