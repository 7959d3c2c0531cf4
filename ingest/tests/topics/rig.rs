//! What the contract needs of a broker, and a reader that stores what it takes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use interdict_features::definition::{Column, Stream};
use interdict_features::value::ColumnType;
use interdict_ingest::source::config::topic::{Bursts, TopicConfig};
use interdict_ingest::source::config::{Format, Reading};
use interdict_ingest::source::stop::Stop;
use interdict_ingest::topic::broker::Broker;
use interdict_ingest::topic::metrics::TopicMetrics;
use interdict_ingest::topic::{Opening, Sharing, TopicEvent, TopicSource, open};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

/// Nothing for so long is a failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// How long one call may wait.
pub(crate) const WAIT: Duration = Duration::from_millis(100);

/// A broker under test.
pub(crate) trait Rig {
    fn broker(&self) -> Broker;
    /// Makes a topic with a name of its own.
    fn create(&self, partitions: u32) -> String;
    fn produce(&self, topic: &str, partition: u32, values: &[String]);
}

/// The rows' stream.
pub(crate) fn payments() -> Vec<Arc<Stream>> {
    let column = |name: &str, kind| Column { name: name.to_owned(), kind, sensitive: false };
    let columns = vec![column("id", ColumnType::Int), column("at", ColumnType::Timestamp)];
    let mut stream = Stream::of_columns("payments", columns, 0, Some(1));
    stream.partition_by = Some(0);
    vec![Arc::new(stream)]
}

/// A plain row.
pub(crate) fn row(id: u64) -> String {
    format!(r#"{{"id":{id},"at":"2025-06-15T15:06:40Z"}}"#)
}

pub(crate) fn config(broker: Broker, topic: &str) -> TopicConfig {
    TopicConfig {
        broker,
        topic: topic.to_owned(),
        group: None,
        format: Format::Json,
        stream: None,
        tables: Vec::new(),
        reading: Reading::default(),
        bursts: Bursts::Seen,
        // The mock cluster waits for nearly a session at every change of the group.
        session: Duration::from_secs(4),
    }
}

pub(crate) fn source(config: &TopicConfig, streams: &[Arc<Stream>], stop: &Stop) -> Box<dyn TopicSource> {
    watched(config, streams, stop, &TopicMetrics::default())
}

/// One that counts in `metrics`.
pub(crate) fn watched(
    config: &TopicConfig,
    streams: &[Arc<Stream>],
    stop: &Stop,
    metrics: &TopicMetrics,
) -> Box<dyn TopicSource> {
    open(&Opening {
        name: "payments",
        namespace: "test",
        config,
        streams,
        environment: &|_variable| None,
        metrics: metrics.of("payments"),
        stop: stop.clone(),
    })
    .unwrap()
}

/// What a store would hold: per partition the position and the ids in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Stored {
    pub(crate) positions: BTreeMap<u32, u64>,
    pub(crate) ids: BTreeMap<u32, Vec<i64>>,
    pub(crate) letters: Vec<(u32, u64, &'static str)>,
}

impl Stored {
    pub(crate) fn records(&self) -> usize {
        self.ids.values().map(Vec::len).sum::<usize>() + self.letters.len()
    }
}

/// A reader over a store that it may share.
pub(crate) struct Member {
    pub(crate) source: Box<dyn TopicSource>,
    pub(crate) incarnation: String,
    pub(crate) owned: Vec<u32>,
    pub(crate) batch: usize,
}

impl Member {
    pub(crate) fn join(mut source: Box<dyn TopicSource>) -> Self {
        let incarnation = source.incarnation().unwrap().expect("not stopped");
        if source.sharing() == Sharing::Told {
            let all: Vec<u32> = (0..source.partitions()).collect();
            source.assign(&all).unwrap();
        }
        Self { source, incarnation, owned: Vec::new(), batch: 500 }
    }

    /// Does what comes next; whether anything came.
    pub(crate) fn step(&mut self, stored: &mut Stored) -> bool {
        match self.source.next(self.batch, WAIT).unwrap() {
            None => false,
            Some(TopicEvent::Assigned(partitions)) => {
                for partition in partitions {
                    self.source.resume(partition, stored.positions.get(&partition).copied()).unwrap();
                    self.owned.push(partition);
                }
                self.owned.sort_unstable();
                true
            }
            Some(TopicEvent::Revoked(partitions)) => {
                self.owned.retain(|owned| !partitions.contains(owned));
                self.source.released(&partitions).unwrap();
                true
            }
            Some(TopicEvent::Delivery(delivery)) => {
                assert!(self.owned.contains(&delivery.partition), "{} is not read here", delivery.partition);
                let rows: usize = delivery.batches.iter().map(interdict_features::change::ChangeBatch::len).sum();
                let told = rows as u64 + delivery.dead.len() as u64 + delivery.skipped;
                assert_eq!(told, delivery.records, "rows + dead letters + skipped = records");
                let ids = stored.ids.entry(delivery.partition).or_default();
                for batch in &delivery.batches {
                    assert_eq!(batch.partition(), delivery.partition);
                    ids.extend((0..batch.len()).map(|at| batch.row(at).cells[0]));
                }
                let letter = |letter: &interdict_ingest::dead_letter::DeadLetter| {
                    (letter.partition, letter.position, letter.reason.code())
                };
                stored.letters.extend(delivery.dead.iter().map(letter));
                let earlier = stored.positions.insert(delivery.partition, delivery.position);
                assert!(earlier.is_none_or(|earlier| earlier < delivery.position), "positions grow");
                self.source.handle().confirm(delivery.partition, delivery.position);
                true
            }
        }
    }

    /// Works until `is_done` says so.
    pub(crate) fn work_until(&mut self, stored: &mut Stored, is_done: impl Fn(&Self, &Stored) -> bool) {
        let began = Instant::now();
        while !is_done(self, stored) {
            self.step(stored);
            assert!(began.elapsed() < PATIENCE, "{} records came, {:?} owned", stored.records(), self.owned);
        }
    }
}

/// What `registry` exports of the source under a name that begins so.
pub(crate) fn exported(registry: &Registry, name: &str) -> Option<f64> {
    let mut text = String::new();
    encode(&mut text, registry).unwrap();
    let start = format!("interdict_ingest_topic_{name}{{source=\"payments\"");
    text.lines().find_map(|line| line.strip_prefix(start.as_str())?.rsplit_once(' ')?.1.parse().ok())
}

/// Ids by partition: every partition has its own thousands of millions.
pub(crate) fn values(partition: u32, ids: std::ops::Range<u64>) -> Vec<String> {
    ids.map(|id| row(u64::from(partition) * 1_000_000_000 + id)).collect()
}

pub(crate) fn expected(partition: u32, ids: std::ops::Range<u64>) -> Vec<i64> {
    ids.map(|id| i64::from(partition) * 1_000_000_000 + i64::try_from(id).unwrap()).collect()
}
