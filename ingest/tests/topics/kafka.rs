//! Kafka by the mock cluster of its client: brokers in this process, reached over TCP.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use interdict_ingest::source::stop::Stop;
use interdict_ingest::topic::broker::{Broker, KafkaBroker, Tls};
use rdkafka::config::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};

use crate::contract;
use crate::rig::{Rig, config, payments, source};

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
