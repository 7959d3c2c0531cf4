//! A real Fluvio: `INTERDICT_FLUVIO` names its stream controller (`make fluvio` starts one).

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use fluvio::metadata::topic::TopicSpec;
use fluvio::{Fluvio, FluvioClusterConfig, TopicProducerConfigBuilder};
use interdict_ingest::source::stop::Stop;
use interdict_ingest::topic::broker::{Broker, FluvioBroker, Tls};
use interdict_ingest::topic::sink::{self, Produced, SinkConfig, What};
use tokio::runtime::Runtime;

use crate::contract;
use crate::rig::{Member, Rig, Stored, config, expected, payments, row, source, values};

struct Real {
    endpoint: String,
    client: Fluvio,
    runtime: Runtime,
}

/// Topics made so far: every test has a client of its own, and all share the cluster.
static TOPICS: AtomicU32 = AtomicU32::new(0);

impl Real {
    /// The cluster that the environment names.
    fn named() -> Self {
        let endpoint = std::env::var("INTERDICT_FLUVIO").expect("INTERDICT_FLUVIO names a stream controller");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let settings = FluvioClusterConfig::new(endpoint.clone());
        let client = runtime.block_on(Fluvio::connect_with_config(&settings)).unwrap();
        Self { endpoint, client, runtime }
    }

    fn delete(&self, topic: &str) {
        self.runtime.block_on(async { self.client.admin().await.delete::<TopicSpec>(topic.to_owned()).await.unwrap() });
    }

    fn create_called(&self, topic: &str, partitions: u32) {
        let spec = TopicSpec::new_computed(partitions, 1, None);
        self.runtime.block_on(async {
            let admin = self.client.admin().await;
            let began = Instant::now();
            loop {
                // A controller may not answer, and have made it.
                let attempt = admin.create(topic.to_owned(), false, spec.clone());
                let error = match tokio::time::timeout(Duration::from_secs(5), attempt).await {
                    Ok(Ok(())) => break,
                    Ok(Err(error)) => format!("{error:#}"),
                    Err(elapsed) => elapsed.to_string(),
                };
                if error.contains("already exists") {
                    break;
                }
                assert!(began.elapsed() < Duration::from_secs(30), "{error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }
}

impl Rig for Real {
    fn broker(&self) -> Broker {
        Broker::Fluvio(FluvioBroker { endpoint: self.endpoint.clone(), tls: Tls::default() })
    }

    fn create(&self, partitions: u32) -> String {
        let number = TOPICS.fetch_add(1, Ordering::Relaxed);
        let topic = format!("topic-{}-{number}", std::process::id());
        self.create_called(&topic, partitions);
        topic
    }

    fn produce(&self, topic: &str, partition: u32, values: &[String]) {
        self.runtime.block_on(async {
            let mut config = TopicProducerConfigBuilder::default();
            let config = config.set_specific_partitioner(partition).build().unwrap();
            let began = Instant::now();
            let producer = loop {
                match self.client.topic_producer_with_config(topic, config.clone()).await {
                    Ok(producer) => break producer,
                    Err(error) => assert!(began.elapsed() < Duration::from_secs(30), "{error:#}"),
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            };
            for value in values {
                producer.send(fluvio::RecordKey::NULL, value.as_str()).await.unwrap();
            }
            producer.flush().await.unwrap();
        });
    }
}

#[test]
fn fluvio_keeps_the_contract() {
    let real = Real::named();
    contract::holds(&real);
}

#[test]
fn a_catch_up_of_100_000_records_is_complete() {
    let real = Real::named();
    let topic = real.create(1);
    real.produce(&topic, 0, &values(0, 0..100_000));
    let mut stored = Stored::default();
    let mut member = Member::join(source(&config(real.broker(), &topic), &payments(), &Stop::default()));
    member.batch = 4_096;
    member.work_until(&mut stored, |_, stored| stored.records() >= 100_000);
    assert_eq!(stored.ids[&0], expected(0, 0..100_000));
}

#[test]
fn a_topic_that_was_made_anew_is_another_incarnation() {
    let real = Real::named();
    let topic = real.create(1);
    let incarnation = || {
        real.produce(&topic, 0, &values(0, 0..10));
        Member::join(source(&config(real.broker(), &topic), &payments(), &Stop::default())).incarnation
    };
    let first = incarnation();
    assert_eq!(incarnation(), first);
    real.delete(&topic);
    real.create_called(&topic, 1);
    assert_ne!(incarnation(), first);
}

#[test]
fn partitions_are_given_and_taken_away() {
    let real = Real::named();
    let topic = real.create(2);
    (0..2).for_each(|partition| real.produce(&topic, partition, &values(partition, 0..100)));
    let mut stored = Stored::default();
    let mut member = Member::join(source(&config(real.broker(), &topic), &payments(), &Stop::default()));
    member.source.assign(&[1]).unwrap();
    member.work_until(&mut stored, |member, stored| member.owned == [1] && stored.ids.contains_key(&1));
    member.source.assign(&[0, 1]).unwrap();
    member.work_until(&mut stored, |_, stored| stored.records() == 200);
    assert!(member.source.assign(&[2]).is_err());
}

#[test]
fn what_a_sink_produces_is_there_in_order() {
    let real = Real::named();
    let topic = real.create(1);
    let (name, what) = ("decisions".to_owned(), What::Decisions);
    let config_of_sink = SinkConfig { name, what, broker: real.broker(), topic: topic.clone() };
    let open = || sink::open(&config_of_sink.broker, &config_of_sink.topic, &|_variable| None).unwrap();
    // As a start does that only looks whether a sink can be had.
    real.runtime.block_on(async { drop(open()) });
    let mut sink = open();
    for first in (0..5_000).step_by(1_000) {
        let rows: Vec<(String, String)> = (first..first + 1_000).map(|id| (id.to_string(), row(id))).collect();
        let records = rows.iter().map(|(key, row)| Produced {
            key: key.clone(),
            value: row.as_bytes(),
            headers: Vec::new(),
            partition: None,
        });
        sink.produce(&records.collect::<Vec<_>>()).unwrap();
    }
    let mut stored = Stored::default();
    let mut member = Member::join(source(&config(real.broker(), &topic), &payments(), &Stop::default()));
    member.work_until(&mut stored, |_, stored| stored.records() >= 5_000);
    assert_eq!(stored.ids[&0], expected(0, 0..5_000));
}
