//! A topic of Kafka, read as a member of a consumer group with cooperative rebalancing.
//!
//! Invariants:
//! - A partition is fetched only from the place it was resumed at, never from where the group's offsets stand.
//! - Records below the expected offset are dropped, whatever the client delivers.

mod behind;
mod client;
mod identity;
mod leaving;
mod membership;
pub(crate) mod producer;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use interdict_features::time::Timestamp;
use interdict_store::error::Class;
use rdkafka::Message as _;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::OwnedMessage;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::source::error::SourceError;
use crate::source::stop::Stop;

use super::broker::KafkaBroker;
use super::error::TopicError;
use super::metrics::{Answer, SourceMetrics};
use super::records::{TopicDecoder, TopicRecord};
use super::{Opening, PartitionLag, Sharing, TopicEvent, TopicHandle, TopicSource, judged_in_bursts, now, patiently};

use client::{ANSWER, meaning, settings};
use membership::{Membership, Wish, held};

/// How often a topic's mark is committed again: well below any retention of offsets.
const REMARK: Duration = Duration::from_secs(6 * 60 * 60);
/// Signs of life per session: two may be lost.
const BEATS: u32 = 3;
/// The longest time between two of them: by it a member hears that partitions move.
const BEAT_MAX: Duration = Duration::from_secs(3);
/// What the client fetches ahead at most, in kilobytes.
const AHEAD_KILOBYTES: &str = "16384";
/// How often the client tells the ends of partitions, in milliseconds.
const STATISTICS_MS: &str = "1000";

/// A topic of Kafka.
pub(super) struct KafkaSource {
    settings: ClientConfig,
    address: String,
    topic: String,
    group: String,
    session: Duration,
    /// The judged stream that may not miss bursts.
    bursts: Option<String>,
    decoder: TopicDecoder,
    metrics: SourceMetrics,
    stop: Stop,
    handle: TopicHandle,
    partitions: u32,
    consumer: Option<BaseConsumer<Membership>>,
    /// What is read, by partition.
    reading: BTreeMap<u32, Reading>,
    /// A record of another partition than the delivery before.
    kept: Option<OwnedMessage>,
    marked: Option<Instant>,
    shown: Option<Instant>,
}

impl std::fmt::Debug for KafkaSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaSource").field("topic", &self.topic).field("group", &self.group).finish_non_exhaustive()
    }
}

/// How far a partition was read.
#[derive(Clone, Copy, Debug)]
struct Reading {
    /// The offset that is expected next.
    next: u64,
    /// Timestamp of the last record.
    newest: Option<Timestamp>,
}

impl KafkaSource {
    /// Makes a source ready; nothing is connected yet.
    ///
    /// # Errors
    /// Fatal: the password cannot be read or a stream is unknown.
    pub(super) fn open(opening: &Opening<'_>, broker: &KafkaBroker) -> Result<Self, SourceError> {
        let config = opening.config;
        let settings = settings(broker, opening.environment).map_err(Box::new)?;
        Ok(Self {
            settings,
            address: broker.brokers.clone(),
            topic: config.topic.clone(),
            group: config.group(opening.namespace, opening.name),
            session: config.session,
            bursts: judged_in_bursts(config, opening.streams),
            decoder: TopicDecoder::new(opening.name, config, opening.streams)?,
            metrics: opening.metrics.clone(),
            stop: opening.stop.clone(),
            handle: TopicHandle::default(),
            partitions: 0,
            consumer: None,
            reading: BTreeMap::new(),
            kept: None,
            marked: None,
            shown: None,
        })
    }

    fn consumer(&self) -> Result<&BaseConsumer<Membership>, TopicError> {
        self.consumer.as_ref().ok_or_else(|| TopicError::Broker {
            address: self.address.clone(),
            why: "not connected yet".to_owned(),
            class: Class::Fatal,
        })
    }

    fn meaning(&self, error: &KafkaError) -> TopicError {
        meaning(&self.address, &self.topic, error)
    }

    /// A consumer that belongs to no group yet.
    fn connect(&self) -> Result<BaseConsumer<Membership>, TopicError> {
        let mut settings = self.settings.clone();
        settings
            .set("group.id", &self.group)
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true")
            .set("allow.auto.create.topics", "false")
            .set("session.timeout.ms", self.session.as_millis().to_string())
            .set("heartbeat.interval.ms", (self.session / BEATS).min(BEAT_MAX).as_millis().to_string())
            .set("queued.max.messages.kbytes", AHEAD_KILOBYTES)
            .set("statistics.interval.ms", STATISTICS_MS);
        let context = Membership::new(&self.topic, self.metrics.clone());
        settings.create_with_context(context).map_err(|error| self.meaning(&error))
    }

    /// As [`Self::look`]; a broker that does not answer is counted.
    fn reach(&mut self, consumer: &BaseConsumer<Membership>) -> Result<String, TopicError> {
        let looked = self.look(consumer);
        if let Err(TopicError::Unreachable { .. }) = looked {
            self.metrics.reconnects.inc();
            self.metrics.answered(Answer::Missing);
        } else {
            self.metrics.answered(Answer::Came);
        }
        looked
    }

    /// Asks for the cluster, the topic and its mark.
    fn look(&mut self, consumer: &BaseConsumer<Membership>) -> Result<String, TopicError> {
        let found = consumer.fetch_metadata(Some(&self.topic), ANSWER);
        // A refused login looks like a broker that does not answer.
        let unpolled = consumer.poll(Duration::ZERO);
        if let Some(refusal) = consumer.context().take_refusal() {
            return Err(self.meaning(&refusal));
        }
        if let Some(Err(error)) = unpolled
            && !matches!(error, KafkaError::MessageConsumption(Code::BrokerTransportFailure | Code::AllBrokersDown))
        {
            return Err(self.meaning(&error));
        }
        let found = found.map_err(|error| self.meaning(&error))?;
        let topic = found.topics().iter().find(|topic| topic.name() == self.topic);
        if let Some(error) = topic.and_then(rdkafka::metadata::MetadataTopic::error) {
            return Err(self.meaning(&KafkaError::MetadataFetch(error.into())));
        }
        let partitions = topic.map_or(0, |topic| topic.partitions().len());
        if partitions == 0 {
            return Err(TopicError::NoTopic { address: self.address.clone(), topic: self.topic.clone() });
        }
        self.partitions = u32::try_from(partitions).unwrap_or(u32::MAX);
        self.shows_bursts(self.partitions)?;
        let cluster = consumer.client().fetch_cluster_id(ANSWER).unwrap_or_else(|| "kafka".to_owned());
        let mark = identity::mark(&self.settings, &self.group, &self.topic).map_err(|error| self.meaning(&error))?;
        self.marked = Some(now());
        Ok(format!("kafka/{cluster}/{}/{mark}", self.topic))
    }

    /// Whether bursts are seen in a topic of so many partitions, or need not be.
    fn shows_bursts(&self, partitions: u32) -> Result<(), TopicError> {
        match self.bursts.clone().filter(|_| partitions > 1) {
            Some(stream) => Err(TopicError::Bursts { topic: self.topic.clone(), partitions, stream }),
            None => Ok(()),
        }
    }

    /// Says that there is nothing to read yet: a mistake in a name looks the same.
    fn tell_if_empty(&self, consumer: &BaseConsumer<Membership>) {
        let is_empty = |partition: u32| {
            let partition = i32::try_from(partition).unwrap_or(i32::MAX);
            consumer.fetch_watermarks(&self.topic, partition, ANSWER).is_ok_and(|(_, end)| end == 0)
        };
        if (0..self.partitions).all(is_empty) {
            tracing::warn!(
                topic = self.topic,
                "the topic holds no record yet; the first one is waited for. Should there be some, see that they are produced to this topic of these brokers"
            );
        }
    }

    /// Tells the broker what is stored, and keeps the topic's mark alive.
    fn commit(&mut self) -> Result<(), TopicError> {
        let confirmed = self.handle.take();
        let mut list = TopicPartitionList::new();
        for (partition, position) in confirmed.iter().filter(|(partition, _)| self.reading.contains_key(partition)) {
            let (partition, offset) = self.place(*partition, position + 1)?;
            list.add_partition_offset(&self.topic, partition, offset).map_err(|error| self.meaning(&error))?;
        }
        if list.count() > 0
            && let Err(error) = self.consumer()?.commit(&list, CommitMode::Async)
        {
            tracing::debug!(topic = self.topic, %error, "offsets were not committed to the broker");
        }
        if self.marked.is_some_and(|marked| marked.elapsed() > REMARK) {
            self.marked = Some(now());
            if let Err(error) = identity::mark(&self.settings, &self.group, &self.topic) {
                tracing::warn!(topic = self.topic, %error, "the topic's mark was not renewed; it is tried again later");
            }
        }
        Ok(())
    }

    fn place(&self, partition: u32, offset: u64) -> Result<(i32, Offset), TopicError> {
        match (i32::try_from(partition), i64::try_from(offset)) {
            (Ok(partition), Ok(offset)) => Ok((partition, Offset::Offset(offset))),
            _ => Err(TopicError::Partition { topic: self.topic.clone(), partition, why: "no such place" }),
        }
    }

    /// What the group wants next, as the reader hears of it.
    fn next_wish(&mut self) -> Option<TopicEvent> {
        let wish = self.consumer.as_ref()?.context().next_wish()?;
        Some(match wish {
            Wish::Assign(partitions) => TopicEvent::Assigned(partitions),
            Wish::Revoke(partitions) => {
                let is_revoked =
                    |kept: &OwnedMessage| u32::try_from(kept.partition()).is_ok_and(|kept| partitions.contains(&kept));
                self.kept = self.kept.take().filter(|kept| !is_revoked(kept));
                for partition in &partitions {
                    self.reading.remove(partition);
                    self.metrics.forget(*partition);
                }
                self.metrics.partitions.set(i64::try_from(self.reading.len()).unwrap_or(i64::MAX));
                TopicEvent::Revoked(partitions)
            }
        })
    }

    /// Takes records of one partition for as long as there are any.
    fn gather(&mut self, records_max: usize, wait: Duration) -> Result<Option<TopicEvent>, SourceError> {
        let mut wait = wait;
        let mut open: Option<u32> = None;
        if let Some(kept) = self.kept.take() {
            open = push(&mut self.decoder, &mut self.reading, &kept);
            wait = Duration::ZERO;
        }
        let Some(consumer) = &self.consumer else { return Ok(None) };
        while self.decoder.len() < records_max {
            let message = match consumer.poll(wait) {
                None => break,
                Some(Ok(message)) => message,
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    if let Ok(partition) = u32::try_from(partition) {
                        consumer.context().note_end(partition);
                    }
                    continue;
                }
                Some(Err(error)) => {
                    self.poll_failed(&error)?;
                    break;
                }
            };
            let partition = u32::try_from(message.partition()).ok();
            if open.is_some() && partition != open {
                self.kept = Some(message.detach());
                break;
            }
            open = push(&mut self.decoder, &mut self.reading, &message).or(open);
            wait = Duration::ZERO;
        }
        if self.decoder.is_empty() {
            return Ok(None);
        }
        let delivery = self.decoder.take();
        self.metrics.delivered(&delivery);
        Ok(Some(TopicEvent::Delivery(delivery)))
    }

    /// What passes is left to the client, which tries again.
    fn poll_failed(&self, error: &KafkaError) -> Result<(), SourceError> {
        let told = match error {
            KafkaError::MessageConsumption(Code::AutoOffsetReset | Code::OffsetOutOfRange) => {
                self.out_of_range().unwrap_or_else(|| self.meaning(error))
            }
            KafkaError::MessageConsumptionFatal(_) => {
                TopicError::Broker { address: self.address.clone(), why: error.to_string(), class: Class::Fatal }
            }
            _ => self.meaning(error),
        };
        if told.class() == Class::Transient {
            tracing::warn!(topic = self.topic, error = %told, "reading goes on once the broker does");
            return Ok(());
        }
        Err(Box::new(told).into())
    }

    /// Which partition no longer holds what comes next.
    fn out_of_range(&self) -> Option<TopicError> {
        self.reading.iter().find_map(|(partition, reading)| self.check_place(*partition, reading.next).err())
    }

    /// Whether the topic holds the place `next` of a partition; its first offset.
    fn check_place(&self, partition: u32, next: u64) -> Result<u64, TopicError> {
        let number = i32::try_from(partition).unwrap_or(i32::MAX);
        let ends = self.consumer()?.fetch_watermarks(&self.topic, number, ANSWER);
        let (low, high) = ends.map_err(|error| self.meaning(&error))?;
        let (first, end) = (u64::try_from(low).unwrap_or(0), u64::try_from(high).unwrap_or(0));
        self.consumer()?.context().set_end(partition, end);
        let topic = self.topic.clone();
        if next > end {
            return Err(TopicError::Beyond { topic, partition, position: next - 1, end });
        }
        if next > 0 && next < first {
            return Err(TopicError::Deleted { topic, partition, position: next - 1, first });
        }
        Ok(first)
    }

    fn try_resume(&mut self, partition: u32, after: Option<u64>) -> Result<(), TopicError> {
        // The topic may have grown since it was looked at.
        self.shows_bursts(partition.saturating_add(1))?;
        let first = self.check_place(partition, after.map_or(0, |after| after + 1))?;
        let next = after.map_or(first, |after| after + 1);
        let (number, offset) = self.place(partition, next)?;
        let consumer = self.consumer()?;
        consumer.context().begins(partition);
        let mut list = TopicPartitionList::new();
        let added = list.add_partition_offset(&self.topic, number, offset);
        let assigned = added.and_then(|()| consumer.incremental_assign(&list));
        assigned.map_err(|error| self.meaning(&error))?;
        self.reading.insert(partition, Reading { next, newest: None });
        self.metrics.partitions.set(i64::try_from(self.reading.len()).unwrap_or(i64::MAX));
        Ok(())
    }
}

impl TopicSource for KafkaSource {
    fn incarnation(&mut self) -> Result<Option<String>, SourceError> {
        let consumer = self.connect().map_err(Box::new)?;
        let stop = self.stop.clone();
        let Some(incarnation) = patiently(&stop, || self.reach(&consumer))? else { return Ok(None) };
        self.tell_if_empty(&consumer);
        consumer.subscribe(&[self.topic.as_str()]).map_err(|error| Box::new(self.meaning(&error)))?;
        self.consumer = Some(consumer);
        Ok(Some(incarnation))
    }

    fn partitions(&self) -> u32 {
        self.partitions
    }

    fn sharing(&self) -> Sharing {
        Sharing::Group
    }

    fn assign(&mut self, _partitions: &[u32]) -> Result<(), SourceError> {
        Ok(())
    }

    fn next(&mut self, records_max: usize, wait: Duration) -> Result<Option<TopicEvent>, SourceError> {
        if self.stop.is_stopped() {
            return Ok(None);
        }
        self.commit().map_err(Box::new)?;
        self.show();
        if let Some(event) = self.next_wish() {
            return Ok(Some(event));
        }
        let event = self.gather(records_max.max(1), wait)?;
        Ok(event.or_else(|| self.next_wish()))
    }

    fn resume(&mut self, partition: u32, after: Option<u64>) -> Result<(), SourceError> {
        let stop = self.stop.clone();
        patiently(&stop, || self.try_resume(partition, after)).map(Option::unwrap_or_default)
    }

    fn released(&mut self, partitions: &[u32]) -> Result<(), SourceError> {
        self.commit().map_err(Box::new)?;
        let consumer = self.consumer().map_err(Box::new)?;
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            let (partition, _) = self.place(*partition, 0).map_err(Box::new)?;
            list.add_partition(&self.topic, partition);
        }
        let given_back = consumer.incremental_unassign(&held(consumer, &list));
        given_back.map_err(|error| Box::new(self.meaning(&error)).into())
    }

    fn held_up(&mut self) {
        self.look_on();
    }

    fn handle(&self) -> TopicHandle {
        self.handle.clone()
    }

    fn lag(&self) -> Vec<PartitionLag> {
        self.behind()
    }
}

/// Hands a record to the decoder, unless it is one that nobody reads; its partition.
fn push(
    decoder: &mut TopicDecoder,
    reading: &mut BTreeMap<u32, Reading>,
    message: &impl rdkafka::Message,
) -> Option<u32> {
    let partition = u32::try_from(message.partition()).ok()?;
    let offset = u64::try_from(message.offset()).ok()?;
    let place = reading.get_mut(&partition).filter(|reading| offset >= reading.next)?;
    let timestamp = message.timestamp().to_millis().filter(|millis| *millis > 0);
    let timestamp = timestamp.and_then(|millis| Timestamp::checked_from_micros(millis.checked_mul(1_000)?));
    *place = Reading { next: offset + 1, newest: timestamp.or(place.newest) };
    decoder.push(partition, &TopicRecord { offset, timestamp, key: message.key(), value: message.payload() });
    Some(partition)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::transactions;
    use crate::source::config::topic::{Bursts, SESSION, TopicConfig};
    use crate::source::config::{Format, Reading as Read};
    use crate::topic::broker::{Broker, Tls};
    use crate::topic::metrics::TopicMetrics;

    #[test]
    fn a_topic_that_has_grown_is_not_read_on_where_bursts_would_be_missed() {
        let broker = KafkaBroker { brokers: "none:1".to_owned(), tls: Tls::default(), login: None };
        let config = TopicConfig {
            broker: Broker::Kafka(broker.clone()),
            topic: "payments".to_owned(),
            group: None,
            format: Format::Debezium,
            stream: None,
            tables: Vec::new(),
            reading: Read::default(),
            bursts: Bursts::Seen,
            session: SESSION,
        };
        let opening = Opening {
            name: "payments",
            namespace: "bank",
            config: &config,
            streams: &[transactions()],
            environment: &|_| None,
            metrics: TopicMetrics::default().of("payments"),
            stop: Stop::default(),
        };
        let mut source = KafkaSource::open(&opening, &broker).unwrap();
        source.bursts = Some("payments".to_owned());
        let refused = source.try_resume(1, None).unwrap_err();
        assert!(matches!(refused, TopicError::Bursts { partitions: 2, .. }), "{refused}");
        assert_ne!(refused.class(), Class::Transient, "it is not tried again");
        // Nothing is wrong with the first partition, nor with any where bursts need not be seen: only that no broker is there.
        assert!(matches!(source.try_resume(0, None), Err(TopicError::Broker { .. })));
        source.bursts = None;
        assert!(matches!(source.try_resume(1, None), Err(TopicError::Broker { .. })));
    }
}
