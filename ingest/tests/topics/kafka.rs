//! Kafka by the mock cluster of its client: brokers in this process, reached over TCP.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use interdict_ingest::source::stop::Stop;
use interdict_ingest::topic::broker::{Broker, KafkaBroker, Tls};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::contract;
use crate::rig::{Member, Rig, Stored, config, payments, source, values};

pub(crate) struct Kafka {
    cluster: MockCluster<'static, DefaultProducerContext>,
    producer: BaseProducer,
    topics: AtomicU32,
}

impl Kafka {
    pub(crate) fn start() -> Self {
        let cluster = MockCluster::new(1).unwrap();
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.bootstrap_servers());
        let producer = config.create().unwrap();
        Self { cluster, producer, topics: AtomicU32::new(0) }
    }

    /// What the broker keeps for a group, as another client reads it: by partition the first offset that is left.
    fn committed(&self, group: &str, topic: &str, partitions: u32) -> BTreeMap<u32, u64> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.cluster.bootstrap_servers()).set("group.id", group);
        let reader: BaseConsumer = config.create().unwrap();
        let mut wanted = TopicPartitionList::new();
        for partition in 0..partitions {
            wanted.add_partition(topic, i32::try_from(partition).unwrap());
        }
        let kept = reader.committed_offsets(wanted, Duration::from_secs(30)).unwrap();
        let offset = |element: rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match element.offset() {
            Offset::Offset(offset) => {
                Some((u32::try_from(element.partition()).unwrap(), u64::try_from(offset).unwrap()))
            }
            _ => None,
        };
        kept.elements().into_iter().filter_map(offset).collect()
    }
}

impl Rig for Kafka {
    fn broker(&self) -> Broker {
        let brokers = self.cluster.bootstrap_servers();
        Broker::Kafka(KafkaBroker { brokers, tls: Tls::default(), login: None })
    }

    fn create(&self, partitions: u32) -> String {
        let topic = format!("topic-{}", self.topics.fetch_add(1, Ordering::Relaxed));
        self.cluster.create_topic(&topic, i32::try_from(partitions).unwrap(), 1).unwrap();
        topic
    }

    fn produce(&self, topic: &str, partition: u32, values: &[String]) {
        for value in values {
            let record = BaseRecord::<[u8], str>::to(topic).partition(i32::try_from(partition).unwrap());
            self.producer.send(record.payload(value.as_str())).map_err(|(error, _)| error).unwrap();
            self.producer.poll(Duration::ZERO);
        }
        self.producer.flush(Duration::from_secs(30)).unwrap();
    }
}

#[test]
fn kafka_keeps_the_contract() {
    contract::holds(&Kafka::start());
}

#[test]
fn another_cluster_is_another_incarnation() {
    let (one, other) = (Kafka::start(), Kafka::start());
    let incarnation = |kafka: &Kafka| {
        let topic = kafka.create(1);
        source(&config(kafka.broker(), &topic), &payments(), &Stop::default()).incarnation().unwrap().unwrap()
    };
    let (first, second) = (incarnation(&one), incarnation(&other));
    assert_ne!(first, second);
    assert!(first.starts_with("kafka/") && first.contains("/topic-0/"), "{first}");
}

#[test]
fn the_broker_keeps_for_the_group_what_was_stored() {
    let kafka = Kafka::start();
    let topic = kafka.create(3);
    (0..3).for_each(|partition| kafka.produce(&topic, partition, &values(partition, 0..700)));
    let config = config(kafka.broker(), &topic);
    let mut stored = Stored::default();
    let mut member = Member::join(source(&config, &payments(), &Stop::default()));
    let committed = || kafka.committed("interdict.test.payments", &topic, 3);
    assert_eq!(committed(), BTreeMap::new());
    member.work_until(&mut stored, |_, stored| stored.records() >= 1_000);
    let behind = |kept: &BTreeMap<u32, u64>, stored: &Stored| {
        kept.iter().all(|(partition, next)| stored.positions.get(partition).is_some_and(|stored| *next <= stored + 1))
    };
    assert!(behind(&committed(), &stored), "nothing is kept that was not stored");
    member.work_until(&mut stored, |_, stored| stored.records() == 2_100);
    let all = BTreeMap::from([(0, 700), (1, 700), (2, 700)]);
    member.work_until(&mut stored, |_, _| committed() == all);
    assert_eq!(stored.positions, BTreeMap::from([(0, 699), (1, 699), (2, 699)]));
}
