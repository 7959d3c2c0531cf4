//! What the consumer group and the broker tell a consumer, kept for the reader to act on.
//!
//! Invariants:
//! - Partitions are held, neither read nor given back, from the moment the group speaks until the reader has answered.
//! - Once the consumer closes, what the group says is agreed to at once: nobody will answer any more.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;

use crate::topic::metrics::{Answer, SourceMetrics};

/// What the group wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Wish {
    Assign(Vec<u32>),
    Revoke(Vec<u32>),
}

/// The context of a consumer.
pub(super) struct Membership {
    topic: String,
    metrics: SourceMetrics,
    wishes: Mutex<VecDeque<Wish>>,
    /// Ends of partitions as the broker last told.
    ends: Mutex<BTreeMap<u32, u64>>,
    /// Those of them up to which there was nothing more to read: behind a transaction's last record comes its mark, which is no record.
    reached: Mutex<BTreeMap<u32, u64>>,
    /// Why the broker does not let us in, until somebody asks.
    refusal: Mutex<Option<KafkaError>>,
    is_closing: AtomicBool,
}

impl Membership {
    pub(super) fn new(topic: &str, metrics: SourceMetrics) -> Self {
        Self {
            topic: topic.to_owned(),
            metrics,
            wishes: Mutex::default(),
            ends: Mutex::default(),
            reached: Mutex::default(),
            refusal: Mutex::default(),
            is_closing: AtomicBool::new(false),
        }
    }

    pub(super) fn next_wish(&self) -> Option<Wish> {
        lock(&self.wishes).pop_front()
    }

    pub(super) fn end(&self, partition: u32) -> Option<u64> {
        lock(&self.ends).get(&partition).copied()
    }

    pub(super) fn set_end(&self, partition: u32, end: u64) {
        lock(&self.ends).insert(partition, end);
    }

    /// Notes that a partition was read to its end.
    pub(super) fn note_end(&self, partition: u32) {
        if let Some(end) = self.end(partition) {
            lock(&self.reached).insert(partition, end);
        }
    }

    /// Notes that a partition is read from some place on.
    pub(super) fn begins(&self, partition: u32) {
        lock(&self.reached).remove(&partition);
    }

    /// Up to where a partition was read to its end last; 0 where it was not.
    pub(super) fn reached(&self, partition: u32) -> u64 {
        lock(&self.reached).get(&partition).copied().unwrap_or(0)
    }

    pub(super) fn take_refusal(&self) -> Option<KafkaError> {
        lock(&self.refusal).take()
    }

    /// From now on the group is agreed with at once.
    pub(super) fn close(&self) {
        self.is_closing.store(true, Ordering::Release);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The partitions of a list.
fn numbers(list: &TopicPartitionList) -> Vec<u32> {
    list.elements().iter().filter_map(|element| u32::try_from(element.partition()).ok()).collect()
}

impl ClientContext for Membership {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(topic = self.topic, facility, message, "kafka client");
    }

    fn stats(&self, statistics: Statistics) {
        let is_connected = statistics.brokers.values().any(|broker| broker.state == "UP");
        self.metrics.answered(if is_connected { Answer::Came } else { Answer::Missing });
        let Some(topic) = statistics.topics.get(&self.topic) else { return };
        let mut ends = lock(&self.ends);
        for (partition, statistics) in &topic.partitions {
            if let (Ok(partition), Ok(end)) = (u32::try_from(*partition), u64::try_from(statistics.hi_offset)) {
                ends.insert(partition, end);
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            Some(Code::Authentication | Code::SaslAuthenticationFailed | Code::SSL) => {
                tracing::error!(topic = self.topic, reason, "the broker does not let us in");
                *lock(&self.refusal) = Some(error);
            }
            Some(Code::AllBrokersDown) => {
                self.metrics.reconnects.inc();
                tracing::warn!(topic = self.topic, reason, "no broker is connected; it is tried again");
            }
            _ => tracing::debug!(topic = self.topic, %error, reason, "kafka client"),
        }
    }
}

impl ConsumerContext for Membership {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, told: RDKafkaRespErr, list: &mut TopicPartitionList) {
        self.metrics.rebalances.inc();
        let is_assignment = told == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        let partitions = numbers(list);
        tracing::info!(topic = self.topic, ?partitions, is_assignment, "the group shares partitions out anew");
        let has_answer = self.is_closing.load(Ordering::Acquire) || partitions.is_empty();
        let answer = if !has_answer {
            let wish = if is_assignment { Wish::Assign(partitions) } else { Wish::Revoke(partitions) };
            lock(&self.wishes).push_back(wish);
            return;
        } else if is_assignment {
            // One that closes takes nothing any more, and says so by taking none of them.
            consumer.incremental_assign(&TopicPartitionList::new())
        } else {
            consumer.incremental_unassign(&held(consumer, list))
        };
        if let Err(error) = answer {
            tracing::warn!(topic = self.topic, %error, "the group's wish could not be answered");
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        if let Err(error) = result {
            // The place stands in the store; the broker's own is for its tools.
            tracing::debug!(topic = self.topic, %error, "offsets were not committed to the broker");
        }
    }
}

/// Those partitions of `list` that the consumer really reads.
pub(super) fn held(consumer: &BaseConsumer<Membership>, list: &TopicPartitionList) -> TopicPartitionList {
    let mut held = TopicPartitionList::new();
    let Ok(assigned) = consumer.assignment() else { return held };
    for element in list.elements() {
        if assigned.find_partition(element.topic(), element.partition()).is_some() {
            held.add_partition(element.topic(), element.partition());
        }
    }
    held
}
