//! Reads partitions through streams that lose records and stall, without losing any.
//!
//! Invariants: those of [`super::place`]; a partition that nothing comes of is asked about its end in bounded time; and one that cannot be
//! opened holds the others up by one attempt at a time, with more and more time between two.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::Stream;
use interdict_features::time::Timestamp;

use crate::source::stop::Stop;
use crate::topic::error::TopicError;
use crate::topic::metrics::SourceMetrics;
use crate::topic::now;
use crate::topic::records::{TopicDecoder, TopicRecord};

use super::place::{Place, Verdict};

/// A record as a stream yields it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Yielded {
    pub(super) offset: u64,
    pub(super) timestamp: Option<Timestamp>,
    pub(super) key: Option<Bytes>,
    pub(super) value: Bytes,
}

/// What partitions are read through: the Fluvio client, or a fake of its losses.
pub(super) trait Feed: Send {
    /// Records of one partition.
    type Records: Stream<Item = Result<Yielded, String>> + Unpin + Send;

    /// Opens a partition at an offset.
    fn open(
        &mut self,
        partition: u32,
        offset: u64,
        bytes: i32,
    ) -> impl Future<Output = Result<Self::Records, TopicError>> + Send;

    /// The offset of the first record that is there, and the one after the last.
    fn bounds(&mut self, partition: u32) -> impl Future<Output = Result<(u64, u64), TopicError>> + Send;

    /// Keeps the offset `position` for a partition where other tools look, if the stream can: `records` is what yielded it.
    fn keep(&mut self, records: &mut Self::Records, position: u64) -> impl Future<Output = ()> + Send;

    /// The error of records that are gone.
    fn deleted(&self, partition: u32, position: u64, first: u64) -> TopicError;

    /// What a stream that failed means.
    fn broken(&self, why: String) -> TopicError;
}

/// One partition.
pub(super) struct Partition<R> {
    pub(super) place: Place,
    pub(super) newest: Option<Timestamp>,
    records: Option<R>,
    /// When something last came, or was looked for.
    heard: Instant,
    /// When to open the stream again after it broke.
    again: Option<Instant>,
    /// Attempts to open it that failed since it was open.
    failures: u32,
    has_been_open: bool,
}

/// Between two attempts to open a partition lies at most the wait for the first one this often doubled: a minute for half a second.
const DOUBLINGS_MAX: u32 = 7;

/// How patient a reader is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// After how much silence a partition's end is asked for.
    pub(super) stall: Duration,
    /// How long to wait before a stream that broke is opened again, doubled with every attempt that fails.
    pub(super) retry: Duration,
}

/// Whether partitions can be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Opening {
    Goes,
    Fails,
}

/// Reads partitions.
pub(super) struct Reader<F: Feed> {
    pub(super) feed: F,
    pub(super) partitions: BTreeMap<u32, Partition<F::Records>>,
    metrics: SourceMetrics,
    patience: Patience,
    /// Told when nothing is to be read any more.
    stop: Stop,
    /// The partition that is looked at first the next time, so that none starves.
    turn: u32,
}

impl<F: Feed> Reader<F> {
    pub(super) fn new(feed: F, metrics: SourceMetrics, patience: Patience, stop: Stop) -> Self {
        Self { feed, partitions: BTreeMap::new(), metrics, patience, stop, turn: 0 }
    }

    /// Reads a partition from `place` on.
    pub(super) fn begin(&mut self, partition: u32, place: Place, now: Instant) {
        let (records, again) = (None, None);
        let begun = Partition { place, newest: None, records, heard: now, again, failures: 0, has_been_open: false };
        self.partitions.insert(partition, begun);
        self.metrics.partitions.set(i64::try_from(self.partitions.len()).unwrap_or(i64::MAX));
    }

    /// Reads a partition no more.
    pub(super) fn end(&mut self, partition: u32) {
        self.partitions.remove(&partition);
        self.metrics.forget(partition);
        self.metrics.partitions.set(i64::try_from(self.partitions.len()).unwrap_or(i64::MAX));
    }

    /// Fills `decoder` with records of one partition, at most `records_max`; waits for the first.
    pub(super) async fn fill(
        &mut self,
        decoder: &mut TopicDecoder,
        records_max: usize,
        wait: Duration,
    ) -> Result<(), TopicError> {
        let deadline = now() + wait;
        let mut opening = Opening::Goes;
        while decoder.is_empty() && !self.stop.is_stopped() {
            if opening == Opening::Goes {
                opening = self.open_streams().await?;
            }
            let left = deadline.saturating_duration_since(now());
            let Ok((partition, yielded)) = tokio::time::timeout(left, self.first()).await else { break };
            self.turn = partition + 1;
            if self.take(partition, yielded, decoder)? {
                self.drain(partition, decoder, records_max)?;
            }
        }
        self.look_for_stalls().await
    }

    /// Opens what is not open, up to the first that fails: an attempt may take long, and the others have something to give meanwhile.
    async fn open_streams(&mut self) -> Result<Opening, TopicError> {
        let begun = now();
        let mut opening = Opening::Goes;
        let mut is_back = false;
        for (number, partition) in &mut self.partitions {
            if partition.records.is_some() || partition.again.is_some_and(|again| again > begun) {
                continue;
            }
            if self.stop.is_stopped() {
                break;
            }
            match self.feed.open(*number, partition.place.expected(), partition.place.bytes()).await {
                Ok(records) => {
                    is_back |= partition.again.take().is_some() && partition.has_been_open;
                    partition.has_been_open = true;
                    partition.failures = 0;
                    partition.records = Some(records);
                    partition.heard = now();
                }
                Err(error) if error.class() == interdict_store::error::Class::Transient => {
                    tracing::warn!(partition = number, %error, "the partition is opened again later");
                    let wait = self.patience.retry * (1 << partition.failures.min(DOUBLINGS_MAX));
                    partition.failures = partition.failures.saturating_add(1);
                    partition.again = Some(now() + wait);
                    opening = Opening::Fails;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        if is_back {
            self.metrics.reconnects.inc();
        }
        Ok(opening)
    }

    /// The first record that any partition yields; `None` of a partition whose stream ended. Nothing is lost when dropped.
    async fn first(&mut self) -> (u32, Option<Result<Yielded, String>>) {
        let turn = self.turn;
        std::future::poll_fn(|context| {
            let (before, from): (Vec<_>, Vec<_>) = self.partitions.iter_mut().partition(|(number, _)| **number < turn);
            for (number, partition) in from.into_iter().chain(before) {
                let Some(records) = &mut partition.records else { continue };
                if let Poll::Ready(yielded) = Pin::new(records).poll_next(context) {
                    return Poll::Ready((*number, yielded));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// What else the partition has at hand.
    fn drain(&mut self, partition: u32, decoder: &mut TopicDecoder, records_max: usize) -> Result<(), TopicError> {
        while decoder.len() < records_max {
            let Some(Partition { records: Some(records), .. }) = self.partitions.get_mut(&partition) else { break };
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            let Poll::Ready(yielded) = Pin::new(records).poll_next(&mut context) else { break };
            self.take(partition, yielded, decoder)?;
        }
        Ok(())
    }

    /// Takes what a partition yielded; whether it became part of the delivery.
    fn take(
        &mut self,
        number: u32,
        yielded: Option<Result<Yielded, String>>,
        decoder: &mut TopicDecoder,
    ) -> Result<bool, TopicError> {
        let Some(partition) = self.partitions.get_mut(&number) else { return Ok(false) };
        let record = match yielded {
            Some(Ok(record)) => record,
            broken => {
                let why = broken.and_then(Result::err).unwrap_or_else(|| "the stream ended".to_owned());
                partition.records = None;
                partition.again = Some(now() + self.patience.retry);
                let error = self.feed.broken(why);
                if error.class() != interdict_store::error::Class::Transient {
                    return Err(error);
                }
                tracing::warn!(partition = number, %error, "the partition is opened again");
                return Ok(false);
            }
        };
        let verdict = partition.place.judge(record.offset);
        match verdict {
            Verdict::Take => {
                partition.heard = now();
                partition.newest = record.timestamp.or(partition.newest);
                let (offset, timestamp) = (record.offset, record.timestamp);
                // Fluvio has no null: an empty value is the tombstone that Debezium writes.
                let value = Some(&*record.value).filter(|value| !value.is_empty());
                decoder.push(number, &TopicRecord { offset, timestamp, key: record.key.as_deref(), value });
                Ok(true)
            }
            Verdict::Drop => Ok(false),
            Verdict::Reopen => {
                self.metrics.gaps.inc();
                let expected = partition.place.expected();
                tracing::debug!(
                    partition = number,
                    expected,
                    found = record.offset,
                    "records were left out; they are read again"
                );
                partition.records = None;
                Ok(false)
            }
            Verdict::Lost => {
                let expected = partition.place.expected();
                Err(self.feed.deleted(number, expected.saturating_sub(1), record.offset))
            }
        }
    }

    /// Opens streams again that stopped before their partition's end.
    async fn look_for_stalls(&mut self) -> Result<(), TopicError> {
        let now = now();
        for (number, partition) in &mut self.partitions {
            if partition.records.is_none() || now.duration_since(partition.heard) < self.patience.stall {
                continue;
            }
            partition.heard = now;
            let (first, end) = match self.feed.bounds(*number).await {
                Ok(bounds) => bounds,
                Err(error) if error.class() == interdict_store::error::Class::Transient => continue,
                Err(error) => return Err(error),
            };
            let expected = partition.place.expected();
            if end <= expected {
                continue;
            }
            if first > expected {
                return Err(self.feed.deleted(*number, expected.saturating_sub(1), first));
            }
            self.metrics.stalls.inc();
            tracing::warn!(partition = number, expected, end, "the stream stopped before the end; it is opened again");
            partition.records = None;
            if partition.place.stalled() == Verdict::Lost {
                return Err(self.feed.deleted(*number, expected.saturating_sub(1), end));
            }
        }
        Ok(())
    }

    /// Shows other tools that everything of `partition` up to `position` is stored.
    pub(super) async fn keep(&mut self, partition: u32, position: u64) {
        if let Some(Partition { records: Some(records), .. }) = self.partitions.get_mut(&partition) {
            self.feed.keep(records, position).await;
        }
    }
}

#[cfg(test)]
mod tests;
