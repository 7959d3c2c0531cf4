//! The Fluvio client as a feed.
//!
//! The mark of a topic is part of the name under which offsets are kept in the cluster, `GROUP.MARK`: a cluster that deletes a topic
//! deletes the offsets kept for it, so that one made anew has no mark, and gets another.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use fluvio::config::{TlsConfig, TlsPaths, TlsPolicy};
use fluvio::consumer::{ConsumerConfigExtBuilder, ConsumerStream, OffsetManagementStrategy, RetryMode};
use fluvio::metadata::partition::PartitionSpec;
use fluvio::metadata::topic::TopicSpec;
use fluvio::{Fluvio, FluvioClusterConfig, FluvioError, Offset};
use futures_util::{Stream, StreamExt as _};
use interdict_features::time::Timestamp;
use interdict_store::error::Class;
use uuid::Uuid;

use crate::topic::broker::{FluvioBroker, Tls, TlsMode};
use crate::topic::error::TopicError;

use super::ATTEMPT;
use super::place::BYTES;
use super::reader::{Feed, Yielded};

/// How long to wait for an offset to be kept.
const KEEP: Duration = Duration::from_secs(1);

/// A connected cluster.
pub(super) struct Cluster {
    client: Fluvio,
    address: String,
    topic: String,
    /// The name of the offsets, mark included.
    consumer: String,
}

/// The first offset that is there and the one after the last, by partition.
pub(super) type Bounds = Vec<(u32, u64, u64)>;

/// How to reach a cluster.
pub(super) fn settings(broker: &FluvioBroker) -> FluvioClusterConfig {
    FluvioClusterConfig::new(broker.endpoint.clone()).with_tls(policy(&broker.tls))
}

fn policy(tls: &Tls) -> TlsPolicy {
    let (certificate, key) = tls.identity.clone().unwrap_or_default();
    match tls.mode {
        TlsMode::Disable => TlsPolicy::Disabled,
        TlsMode::Require => TlsPolicy::Anonymous,
        TlsMode::VerifyFull => TlsPolicy::Verified(TlsConfig::Files(TlsPaths {
            domain: tls.domain.clone().unwrap_or_default(),
            key,
            cert: certificate,
            ca_cert: tls.ca.clone().unwrap_or_default(),
        })),
    }
}

impl Cluster {
    /// Connects; nothing is asked of the topic yet.
    pub(super) async fn connect(broker: &FluvioBroker, topic: &str, group: &str) -> Result<Self, TopicError> {
        let address = broker.endpoint.clone();
        let connected = Fluvio::connect_with_config(&settings(broker)).await;
        let client = connected.map_err(|error| meaning(&address, topic, &error))?;
        Ok(Self { client, address, topic: topic.to_owned(), consumer: group.to_owned() })
    }

    fn meaning(&self, error: &anyhow::Error) -> TopicError {
        meaning(&self.address, &self.topic, error)
    }

    /// How many partitions the topic has.
    pub(super) async fn partitions(&self) -> Result<u32, TopicError> {
        let admin = self.client.admin().await;
        let found = admin.list::<TopicSpec, _>(vec![self.topic.clone()]).await.map_err(|error| self.meaning(&error))?;
        let topic = found.into_iter().find(|found| found.name == self.topic);
        topic
            .map(|topic| topic.spec.partitions())
            .ok_or_else(|| TopicError::NoTopic { address: self.address.clone(), topic: self.topic.clone() })
    }

    /// Where the topic's partitions begin and end, as the cluster's controller last heard.
    pub(super) async fn ends(&self) -> Result<Bounds, TopicError> {
        let admin = self.client.admin().await;
        let found =
            admin.list::<PartitionSpec, _>(vec![self.topic.clone()]).await.map_err(|error| self.meaning(&error))?;
        let place = |offset: i64| u64::try_from(offset).unwrap_or(0);
        let bounds = found.into_iter().filter_map(|found| {
            // Partitions are called TOPIC-NUMBER.
            let number = found.name.strip_prefix(&self.topic)?.strip_prefix('-')?.parse().ok()?;
            Some((number, place(found.status.base_offset), place(found.status.leader.hw)))
        });
        Ok(bounds.collect())
    }

    /// The topic's mark, if it has one.
    pub(super) async fn mark(&mut self, group: &str) -> Result<Option<String>, TopicError> {
        let kept = self.client.consumer_offsets().await.map_err(|error| self.meaning(&error))?;
        let mut marks = kept.iter().filter(|kept| kept.topic == self.topic).filter_map(|kept| {
            let mark = kept.consumer_id.strip_prefix(group)?.strip_prefix('.')?;
            Uuid::parse_str(mark).is_ok().then(|| mark.to_owned())
        });
        let mark = marks.by_ref().min();
        if let Some(mark) = &mark {
            self.consumer = format!("{group}.{mark}");
        }
        Ok(mark)
    }

    /// Gives the topic a mark; `partition` holds a record.
    pub(super) async fn give_mark(&mut self, group: &str, partition: u32) -> Result<(), TopicError> {
        self.consumer = format!("{group}.{}", Uuid::new_v4());
        let offset = Offset::beginning();
        let mut records = self.stream(partition, offset, BYTES).await?;
        let first = records.0.next().await;
        if let Some(Err(error)) = first {
            return Err(self.broken(error.to_string()));
        }
        let kept = async {
            records.0.offset_commit().await?;
            records.0.offset_flush().await
        };
        kept.await.map_err(|error| self.broken(error.to_string()))
    }

    /// What the cluster is asked, bounded in time: the client would wait for ever.
    async fn bounded<T>(&self, asked: impl Future<Output = Result<T, TopicError>>) -> Result<T, TopicError> {
        let answered = tokio::time::timeout(ATTEMPT, asked).await;
        answered.unwrap_or_else(|_elapsed| Err(self.broken(format!("no answer within {} seconds", ATTEMPT.as_secs()))))
    }

    async fn stream(&self, partition: u32, offset: Offset, bytes: i32) -> Result<Records, TopicError> {
        let config = ConsumerConfigExtBuilder::default()
            .topic(self.topic.clone())
            .partition(partition)
            .offset_start(offset)
            .offset_consumer(self.consumer.clone())
            .offset_strategy(OffsetManagementStrategy::Manual)
            .max_bytes(bytes)
            .retry_mode(RetryMode::Disabled)
            .build()
            .map_err(|error| self.meaning(&error))?;
        let stream = self.client.consumer_with_config(config).await.map_err(|error| self.meaning(&error))?;
        Ok(Records(Box::new(stream), Kept::default()))
    }
}

/// Records of one partition.
pub(super) struct Records(Box<dyn ConsumerStream + Send>, Kept);

/// Which offset is to be kept next: the client keeps the last one that it yielded when it was told to.
#[derive(Clone, Copy, Default)]
struct Kept {
    yielded: u64,
    noted: Option<u64>,
    /// The cluster did not answer when it was told; this stream tells it no more.
    is_unheard: bool,
}

impl Stream for Records {
    type Item = Result<Yielded, String>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Poll::Ready(item) = Pin::new(&mut self.0).poll_next(context) else { return Poll::Pending };
        Poll::Ready(item.map(|item| {
            let record = item.map_err(|error| error.to_string())?;
            let offset = u64::try_from(record.offset()).unwrap_or(0);
            self.1.yielded = offset;
            let millis = Some(record.timestamp()).filter(|millis| *millis > 0);
            Ok(Yielded {
                offset,
                timestamp: millis.and_then(|millis| Timestamp::checked_from_micros(millis.checked_mul(1_000)?)),
                key: record.key().map(Bytes::copy_from_slice),
                value: Bytes::copy_from_slice(record.value()),
            })
        }))
    }
}

impl Feed for Cluster {
    type Records = Records;

    async fn open(&mut self, partition: u32, offset: u64, bytes: i32) -> Result<Records, TopicError> {
        let place = i64::try_from(offset).ok().and_then(|offset| Offset::absolute(offset).ok());
        let topic = self.topic.clone();
        let place = place.ok_or(TopicError::Partition { topic, partition, why: "no such offset" })?;
        self.bounded(self.stream(partition, place, bytes)).await
    }

    async fn bounds(&mut self, partition: u32) -> Result<(u64, u64), TopicError> {
        let ends = self.bounded(self.ends()).await?;
        let found = ends.into_iter().find(|(number, _, _)| *number == partition);
        Ok(found.map_or((0, 0), |(_, first, end)| (first, end)))
    }

    async fn keep(&mut self, records: &mut Records, position: u64) {
        if records.1.is_unheard {
            return;
        }
        match records.1.noted {
            Some(noted) if position >= noted => {
                records.1.noted = None;
                // The place stands in the store; the cluster's own is for its tools.
                match tokio::time::timeout(KEEP, records.0.offset_flush()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        tracing::debug!(topic = self.topic, %error, "an offset was not kept in the cluster");
                    }
                    Err(_elapsed) => {
                        records.1.is_unheard = true;
                        tracing::warn!(
                            topic = self.topic,
                            "the cluster does not answer when it is to keep an offset; reading goes on, and its tools show an older place"
                        );
                    }
                }
            }
            Some(_) => {}
            None => {
                records.1.noted = Some(records.1.yielded);
                drop(tokio::time::timeout(KEEP, records.0.offset_commit()).await);
            }
        }
    }

    fn deleted(&self, partition: u32, position: u64, first: u64) -> TopicError {
        TopicError::Deleted { topic: self.topic.clone(), partition, position, first }
    }

    fn broken(&self, why: String) -> TopicError {
        TopicError::Broker { address: self.address.clone(), why, class: Class::Transient }
    }
}

/// What an error of the client means.
pub(super) fn meaning(address: &str, topic: &str, error: &anyhow::Error) -> TopicError {
    let (address, topic) = (address.to_owned(), topic.to_owned());
    match error.downcast_ref::<FluvioError>() {
        Some(FluvioError::TopicNotFound(_)) => TopicError::NoTopic { address, topic },
        Some(error @ (FluvioError::MinimumPlatformVersion { .. } | FluvioError::MaximumPlatformVersion { .. })) => {
            TopicError::Client { address, why: error.to_string() }
        }
        Some(FluvioError::Io(_) | FluvioError::Socket(_)) | None => {
            TopicError::Unreachable { address, why: format!("{error:#}") }
        }
        Some(other) => TopicError::Broker { address, why: other.to_string(), class: Class::Transient },
    }
}
