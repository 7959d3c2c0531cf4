//! The program on a real Fluvio, built with `fluvio-server`: `INTERDICT_FLUVIO` names its stream controller (`make fluvio` starts one).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use fluvio::consumer::ConsumerConfigExtBuilder;
use fluvio::metadata::topic::TopicSpec;
use fluvio::{Fluvio, FluvioClusterConfig, Offset, TopicProducerConfigBuilder, TopicProducerPool};
use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::place::{Caller, DEFINITIONS, Place, debezium, row};
use crate::topics::wait_for;

const PARTITIONS: i64 = 2;
const PAYMENTS: i64 = 20_000;

/// How long the cluster may take for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// A client of the cluster, with topics of its own.
pub(crate) struct Cluster {
    endpoint: String,
    /// What its topics end with.
    suffix: String,
    client: Fluvio,
    producers: RefCell<BTreeMap<(String, u32), TopicProducerPool>>,
    /// Dropped last.
    runtime: Runtime,
}

impl Cluster {
    /// The one that the environment names.
    #[expect(clippy::disallowed_methods, reason = "the cluster is named by the environment")]
    pub(crate) fn named() -> Self {
        static CLIENTS: AtomicU32 = AtomicU32::new(0);
        let endpoint = std::env::var("INTERDICT_FLUVIO").expect("INTERDICT_FLUVIO names a stream controller");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let settings = FluvioClusterConfig::new(endpoint.clone());
        let client = runtime.block_on(Fluvio::connect_with_config(&settings)).unwrap();
        let suffix = format!("{}-{}", std::process::id(), CLIENTS.fetch_add(1, Ordering::Relaxed));
        Self { endpoint, suffix, client, producers: RefCell::default(), runtime }
    }

    /// What a topic is called in the cluster.
    fn topic(&self, topic: &str) -> String {
        format!("{topic}-{}", self.suffix)
    }

    /// The keys that a source or a sink is configured with.
    pub(crate) fn keys(&self, topic: &str) -> String {
        format!("type = \"fluvio\"\nendpoint = \"{}\"\ntopic = \"{}\"\n", self.endpoint, self.topic(topic))
    }

    pub(crate) fn create(&self, topic: &str, partitions: u32) {
        let spec = TopicSpec::new_computed(partitions, 1, None);
        let made = async { self.client.admin().await.create(self.topic(topic), false, spec).await };
        self.runtime.block_on(made).unwrap();
    }

    /// Produces one record; `None` is the tombstone that Debezium writes.
    pub(crate) fn send(&self, topic: &str, partition: u32, key: &str, value: Option<&str>) {
        let mut producers = self.producers.borrow_mut();
        let producer = producers.entry((self.topic(topic), partition));
        let producer = producer.or_insert_with_key(|(topic, partition)| self.producer(topic, *partition));
        self.runtime.block_on(producer.send(key, value.unwrap_or_default())).unwrap();
    }

    #[expect(clippy::disallowed_methods, reason = "a test ends in real time")]
    fn producer(&self, topic: &str, partition: u32) -> TopicProducerPool {
        let began = Instant::now();
        self.runtime.block_on(async {
            loop {
                let mut config = TopicProducerConfigBuilder::default();
                let config = config.set_specific_partitioner(partition).build().unwrap();
                match self.client.topic_producer_with_config(topic, config).await {
                    Ok(producer) => return producer,
                    // Its leader has not heard of it yet.
                    Err(error) => assert!(began.elapsed() < PATIENCE, "{error:#}"),
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
    }

    /// Waits until the cluster has what was sent.
    pub(crate) fn flush(&self) {
        for producer in self.producers.borrow().values() {
            self.runtime.block_on(producer.flush()).unwrap();
        }
    }

    /// Keys and values of a topic of one partition, from its beginning until `is_all` says that it was the last one; what the client
    /// leaves out is read again.
    pub(crate) fn read(&self, topic: &str, mut is_all: impl FnMut(&[(String, Value)]) -> bool) -> Vec<(String, Value)> {
        let mut records = Vec::new();
        self.runtime.block_on(async {
            while !is_all(&records) {
                let next = i64::try_from(records.len()).unwrap();
                let config = ConsumerConfigExtBuilder::default()
                    .topic(self.topic(topic))
                    .partition(0)
                    .offset_start(Offset::absolute(next).unwrap())
                    .max_bytes(16 << 20)
                    .build()
                    .unwrap();
                let mut stream = self.client.consumer_with_config(config).await.unwrap();
                while !is_all(&records) {
                    let record = tokio::time::timeout(PATIENCE, stream.next()).await;
                    let record = record.expect("a record").expect("no end").unwrap();
                    if record.offset() != i64::try_from(records.len()).unwrap() {
                        break;
                    }
                    let key = String::from_utf8(record.key().unwrap().to_vec()).unwrap();
                    records.push((key, serde_json::from_slice(record.value()).unwrap()));
                }
            }
        });
        records
    }
}

#[test]
fn fluvio_is_read_whole_by_a_process_that_is_killed() {
    let fluvio = Cluster::named();
    fluvio.create("payments", u32::try_from(PARTITIONS).unwrap());
    for id in 1..=PAYMENTS {
        let line = debezium("c", id.unsigned_abs(), &row(id, id, id % 50, "10.00"));
        let partition = u32::try_from(id % 50 % PARTITIONS).unwrap();
        fluvio.send("payments", partition, &format!("{{\"transaction_id\":{id}}}"), Some(line.trim_end()));
    }
    fluvio.flush();
    let place = Place::new(&format!(
        "{DEFINITIONS}\n[source]\nname = \"payments\"\n{}\
         format = \"debezium\"\nstream = \"transactions\"\ntime_unit = \"us\"\n[http]\nbind = \"127.0.0.1:0\"\n",
        fluvio.keys("payments")
    ));
    for _ in 0..3 {
        let mut process = place.start("run");
        process.wait_for("serving");
        process.work(Duration::from_millis(1_500));
        process.kill();
    }
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    for partition in 0..PARTITIONS {
        wait_for(&caller, PAYMENTS - partition..PAYMENTS - partition + 1);
    }
    process.stop();
    let remains = place.remains();
    assert_eq!(i64::try_from(remains.decisions.len()).unwrap(), PAYMENTS);
    assert_eq!(i64::try_from(remains.rows.len()).unwrap(), PAYMENTS);
}
