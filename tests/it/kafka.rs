//! Kafka by the mock cluster of its client: brokers in this process, which other processes reach over TCP.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::Message as _;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Headers as _;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::Value;

/// How long the cluster may take for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// A record as it was produced: key, headers and value.
pub(crate) type Record = (String, BTreeMap<String, String>, Value);

/// A cluster of one broker and somebody who produces to it.
pub(crate) struct Kafka {
    cluster: MockCluster<'static, DefaultProducerContext>,
    producer: BaseProducer,
}

impl Kafka {
    pub(crate) fn start() -> Self {
        let cluster = MockCluster::new(1).unwrap();
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers());
        let producer = config.create().unwrap();
        Self { cluster, producer }
    }

    pub(crate) fn create(&self, topic: &str, partitions: i64) {
        self.cluster.create_topic(topic, i32::try_from(partitions).unwrap(), 1).unwrap();
    }

    pub(crate) fn brokers(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// Produces one record; `None` is a tombstone.
    pub(crate) fn send(&self, topic: &str, partition: i32, key: &str, value: Option<&str>) {
        let mut record = BaseRecord::<str, str>::to(topic).partition(partition).key(key);
        if let Some(value) = value {
            record = record.payload(value);
        }
        self.producer.send(record).map_err(|(error, _)| error).unwrap();
        self.producer.poll(Duration::ZERO);
    }

    /// Waits until the cluster has what was sent.
    pub(crate) fn flush(&self) {
        self.producer.flush(PATIENCE).unwrap();
    }

    /// Partition, offset and value of every record of a topic of so many partitions.
    pub(crate) fn values(&self, topic: &str, partitions: i32) -> Vec<(u32, u64, Value)> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.brokers()).set("group.id", "reader");
        let consumer: BaseConsumer = config.create().unwrap();
        let (mut assignment, mut left) = (TopicPartitionList::new(), 0);
        for partition in 0..partitions {
            let (_, end) = consumer.fetch_watermarks(topic, partition, PATIENCE).unwrap();
            assignment.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
            left += end;
        }
        consumer.assign(&assignment).unwrap();
        let value = |_| {
            let message = consumer.poll(PATIENCE).expect("a record").unwrap();
            let (partition, offset) = (message.partition(), message.offset());
            let value = serde_json::from_slice(message.payload().unwrap()).unwrap();
            (u32::try_from(partition).unwrap(), u64::try_from(offset).unwrap(), value)
        };
        (0..left).map(value).collect()
    }

    /// The ends of a topic's partitions.
    pub(crate) fn ends(&self, topic: &str, partitions: i32) -> BTreeMap<u32, u64> {
        let client = self.producer.client();
        let end = |partition: i32| {
            let (_, end) = client.fetch_watermarks(topic, partition, PATIENCE).unwrap();
            (u32::try_from(partition).unwrap(), u64::try_from(end).unwrap())
        };
        (0..partitions).map(end).collect()
    }

    /// What the brokers keep for a group: by partition the first offset that is left.
    pub(crate) fn committed(&self, group: &str, topic: &str, partitions: i32) -> BTreeMap<u32, u64> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.brokers()).set("group.id", group);
        let reader: BaseConsumer = config.create().unwrap();
        let mut wanted = TopicPartitionList::new();
        for partition in 0..partitions {
            wanted.add_partition(topic, partition);
        }
        let kept = reader.committed_offsets(wanted, PATIENCE).unwrap();
        let mut offsets = BTreeMap::new();
        for element in kept.elements() {
            if let Offset::Offset(offset) = element.offset() {
                offsets.insert(u32::try_from(element.partition()).unwrap(), u64::try_from(offset).unwrap());
            }
        }
        offsets
    }

    /// All records of a topic of one partition.
    pub(crate) fn read(&self, topic: &str) -> Vec<Record> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.brokers()).set("group.id", "reader");
        let consumer: BaseConsumer = config.create().unwrap();
        let (_, end) = consumer.fetch_watermarks(topic, 0, PATIENCE).unwrap();
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
        consumer.assign(&assignment).unwrap();
        let mut records = Vec::new();
        while i64::try_from(records.len()).unwrap() < end {
            let message = consumer.poll(PATIENCE).expect("a record").unwrap();
            let key = String::from_utf8(message.key().unwrap().to_vec()).unwrap();
            let headers = message
                .headers()
                .unwrap()
                .iter()
                .map(|header| (header.key.to_owned(), String::from_utf8(header.value.unwrap().to_vec()).unwrap()));
            records.push((key, headers.collect(), serde_json::from_slice(message.payload().unwrap()).unwrap()));
        }
        records
    }
}
