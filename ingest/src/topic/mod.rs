//! Topics of a broker: the port that sources of Kafka and Fluvio fill.
//!
//! A reader asks for the identity, has partitions assigned (by a consumer group, or told by [`TopicSource::assign`]), resumes each
//! after the position that the store holds, and takes deliveries. The broker's own offsets are never read to find the place: they
//! only show other tools how far we are.
//!
//! Invariants:
//! - A partition delivers nothing before it was resumed, and nothing after its revocation was reported.
//! - The records of a partition come in order and each once, from the one after the resumed position on, whatever the client loses,
//!   repeats or reconnects. Offsets that a broker skips (compaction, transactions) are no loss.
//! - A partition is given back only after [`TopicSource::released`]: what was taken of it is in the store before another reads on.
//! - rows + dead letters + skipped = records of a delivery. A tombstone is skipped.
//!
//! Row versions: those of Debezium as in files; of plain rows offset + 1, since 0 is that of requests.

pub mod broker;
pub mod error;
#[cfg(feature = "fluvio")]
mod fluvio;
#[cfg(feature = "kafka")]
pub(crate) mod kafka;
pub mod metrics;
pub mod records;
pub mod sink;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
#[cfg(any(feature = "kafka", feature = "fluvio"))]
use std::time::Instant;

use interdict_features::definition::Stream;
#[cfg(any(feature = "kafka", feature = "fluvio"))]
use interdict_features::time::{Span, Timestamp};

#[cfg(any(feature = "kafka", feature = "fluvio"))]
use interdict_store::error::Class;

use crate::source::Delivery;
#[cfg(any(feature = "kafka", feature = "fluvio"))]
use crate::source::config::topic::Bursts;
use crate::source::config::topic::TopicConfig;
use crate::source::error::SourceError;
use crate::source::stop::Stop;

use broker::Broker;
use error::TopicError;
use metrics::SourceMetrics;

/// Reads a topic. Pulled from a thread of its own: every call may block.
pub trait TopicSource: Send {
    /// Connects; identity of the cluster and the topic: a topic that was deleted and made again has another one. `None` once
    /// stopped. A broker that cannot be reached is tried for half a minute.
    ///
    /// # Errors
    /// As [`error::TopicError`] says.
    fn incarnation(&mut self) -> Result<Option<String>, SourceError>;

    /// How many partitions the topic has, as far as is known; 0 before [`Self::incarnation`].
    fn partitions(&self) -> u32;

    /// Who says which partitions are read here.
    fn sharing(&self) -> Sharing;

    /// Reads exactly these partitions from now on: [`TopicEvent::Assigned`] follows for those that are new, [`TopicEvent::Revoked`]
    /// for those that are gone. Without effect where a consumer group assigns.
    ///
    /// # Errors
    /// A partition that the topic does not have.
    fn assign(&mut self, partitions: &[u32]) -> Result<(), SourceError>;

    /// What happened next, waiting for it at most `wait`; a delivery holds at most `records_max` records of one partition, what is
    /// there. `None` when nothing happened, and at once when stopped. Connections that are lost are taken up again.
    ///
    /// # Errors
    /// Everything before the failing place was delivered.
    fn next(&mut self, records_max: usize, wait: Duration) -> Result<Option<TopicEvent>, SourceError>;

    /// Begins to deliver an assigned partition with the record after the position `after`; `None`: with the first there is.
    ///
    /// # Errors
    /// Fatal: the topic no longer holds that record, or ends before it.
    fn resume(&mut self, partition: u32, after: Option<u64>) -> Result<(), SourceError>;

    /// Gives revoked partitions back: everything taken of them is stored.
    ///
    /// # Errors
    /// The broker fails.
    fn released(&mut self, partitions: &[u32]) -> Result<(), SourceError>;

    /// Shows how far behind the reader is while what it delivered is not taken and nothing else is asked of it. Call it again and
    /// again meanwhile; it waits for the broker a second per partition at most, and not for a third
    /// one that does not answer.
    fn held_up(&mut self);

    /// What positions are confirmed to, from any thread.
    fn handle(&self) -> TopicHandle;

    /// How far the reader is behind the end of each partition that it reads.
    fn lag(&self) -> Vec<PartitionLag>;
}

/// What a source is opened with.
pub struct Opening<'a> {
    /// Its name.
    pub name: &'a str,
    /// The namespace: two systems beside each other share no consumer group.
    pub namespace: &'a str,
    /// Its configuration, paths located.
    pub config: &'a TopicConfig,
    /// All streams of the definitions.
    pub streams: &'a [Arc<Stream>],
    /// Gives the values of variables.
    pub environment: &'a dyn Fn(&str) -> Option<String>,
    /// What it counts.
    pub metrics: SourceMetrics,
    /// Ends every call that waits.
    pub stop: Stop,
}

/// Makes a source ready; nothing is connected before [`TopicSource::incarnation`].
///
/// # Errors
/// Fatal: the password cannot be read, a stream is unknown, or the program was built without the broker.
pub fn open(opening: &Opening<'_>) -> Result<Box<dyn TopicSource>, SourceError> {
    match &opening.config.broker {
        #[cfg(feature = "kafka")]
        Broker::Kafka(broker) => Ok(Box::new(kafka::KafkaSource::open(opening, broker)?)),
        #[cfg(not(feature = "kafka"))]
        Broker::Kafka(_) => Err(not_built("kafka")),
        #[cfg(feature = "fluvio")]
        Broker::Fluvio(broker) => Ok(Box::new(fluvio::FluvioSource::open(opening, broker)?)),
        #[cfg(not(feature = "fluvio"))]
        Broker::Fluvio(_) => Err(not_built("fluvio")),
    }
}

#[cfg(not(all(feature = "kafka", feature = "fluvio")))]
fn not_built(feature: &'static str) -> SourceError {
    Box::new(TopicError::NotBuilt { feature }).into()
}

/// What happens to a reader.
#[derive(Debug)]
pub enum TopicEvent {
    /// Partitions are read here from now on, once they are resumed.
    Assigned(Vec<u32>),
    /// Partitions are read here no more; they are held until they are released.
    Revoked(Vec<u32>),
    /// Records of one partition.
    Delivery(Delivery),
}

/// Who says which partitions are read here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sharing {
    /// The broker, among all members of a consumer group.
    Group,
    /// The caller, by [`TopicSource::assign`].
    Told,
}

/// How far a reader is behind.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct PartitionLag {
    /// The partition.
    pub partition: u32,
    /// Records between the last one delivered and the end.
    pub records: u64,
    /// Age of the last one delivered; 0 when there is nothing behind it.
    pub seconds: f64,
}

impl PartitionLag {
    /// That of a partition with `records` behind the last one delivered, which the broker took at `newest`.
    #[cfg(any(feature = "kafka", feature = "fluvio"))]
    fn of(partition: u32, records: u64, newest: Option<Timestamp>, now: Timestamp) -> Self {
        let age = newest.filter(|_| records > 0).map_or(Span::ZERO, |newest| now.since(newest).max(Span::ZERO));
        let seconds = Duration::from_micros(age.micros().unsigned_abs()).as_secs_f64();
        Self { partition, records, seconds }
    }
}

/// The stream of `config` whose decisions may miss nothing before their event, and that names no column to partition by.
#[cfg(any(feature = "kafka", feature = "fluvio"))]
fn judged_in_bursts(config: &TopicConfig, streams: &[Arc<Stream>]) -> Option<String> {
    let is_fed = |stream: &&Arc<Stream>| match &config.stream {
        Some(name) => *name == stream.name,
        None => config.tables.is_empty() || config.tables.iter().any(|table| table.stream == stream.name),
    };
    let mut judged = streams.iter().filter(is_fed).filter(|stream| stream.judge.is_some());
    let loose = judged.find(|stream| stream.partition_by.is_none())?;
    (config.bursts == Bursts::Seen).then(|| loose.name.clone())
}

/// How long a broker that cannot be reached is tried.
#[cfg(any(feature = "kafka", feature = "fluvio"))]
const REACH: Duration = Duration::from_secs(30);
/// How long to wait between two attempts.
#[cfg(any(feature = "kafka", feature = "fluvio"))]
const RETRY: Duration = Duration::from_millis(500);

/// Does something again while it fails for a while, for half a minute. `None` once stopped.
#[cfg(any(feature = "kafka", feature = "fluvio"))]
fn patiently<T>(stop: &Stop, mut attempt: impl FnMut() -> Result<T, TopicError>) -> Result<Option<T>, SourceError> {
    let began = now();
    loop {
        match attempt() {
            Ok(done) => return Ok(Some(done)),
            Err(error) if error.class() == Class::Transient && began.elapsed() < REACH => {
                tracing::warn!(%error, "the broker is tried again");
                if stop.wait(RETRY) {
                    return Ok(None);
                }
            }
            Err(error) => return Err(Box::new(error).into()),
        }
    }
}

#[cfg(any(feature = "kafka", feature = "fluvio"))]
#[expect(clippy::disallowed_methods, reason = "a source waits for its broker in real time")]
fn now() -> Instant {
    Instant::now()
}

/// Tells a source up to which position each partition is stored. Clones speak to the same source.
#[derive(Clone, Debug, Default)]
pub struct TopicHandle {
    confirmed: Arc<Mutex<BTreeMap<u32, u64>>>,
}

impl TopicHandle {
    /// Everything of `partition` up to `position` is stored. Does not block; the broker hears of it with one of the next calls of
    /// [`TopicSource::next`], so that its own tools show the lag.
    pub fn confirm(&self, partition: u32, position: u64) {
        let mut confirmed = self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        let known = confirmed.entry(partition).or_insert(position);
        *known = position.max(*known);
    }

    /// What was confirmed since the last call.
    pub fn take(&self) -> BTreeMap<u32, u64> {
        std::mem::take(&mut *self.confirmed.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests;
