//! `[[sink]]`: decisions, dead letters and what actions tell, produced to topics.
//!
//! A record's key is the event's id (of a dead letter `SOURCE/PARTITION/POSITION`), its value the JSON that the API and the file have.
//! Headers of Kafka: `decision_id` or `reason`, and `log_position`; Fluvio has no headers, and the value holds the decision's id.
//!
//! Invariant: when [`TopicSink::produce`] returns Ok every record is acknowledged by all in-sync replicas, in the order given per key.
//! After an error some may be there, and come again: at least once, told apart by `decision_id`, or by the key of a dead letter.

use std::path::Path;

use interdict_features::config::{ConfigFile, Section};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::source::config::topic::read_topic;

use super::broker::{self, Broker};
use super::error::TopicError;

/// A topic that something is produced to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SinkConfig {
    /// Its name: its position is kept under it.
    pub name: String,
    /// What is produced.
    pub what: What,
    /// The broker.
    pub broker: Broker,
    /// The topic.
    pub topic: String,
}

/// A topic that actions tell what they are for: `what = "actions"`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ActionTopic {
    /// Its name: actions name it.
    pub name: String,
    /// The broker.
    pub broker: Broker,
    /// The topic.
    pub topic: String,
}

/// Every `[[sink]]`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sinks {
    /// Those of the store's logs.
    pub logs: Vec<SinkConfig>,
    /// Those of actions.
    pub actions: Vec<ActionTopic>,
}

impl Sinks {
    fn names(&self) -> impl Iterator<Item = &str> {
        self.logs.iter().map(|sink| sink.name.as_str()).chain(self.actions.iter().map(|topic| topic.name.as_str()))
    }
}

/// What a sink produces of the store's logs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum What {
    /// Decision records, in the order they were claimed.
    Decisions,
    /// Dead letters.
    DeadLetters,
}

/// As `what` names it.
const NAMES: [(&str, Option<What>); 3] =
    [("decisions", Some(What::Decisions)), ("dead_letters", Some(What::DeadLetters)), ("actions", None)];

impl What {
    /// As `what` names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Decisions => "decisions",
            Self::DeadLetters => "dead_letters",
        }
    }
}

/// Reads every `[[sink]]` of `file`, noting every mistake in it; paths are taken from `folder`. Sinks with mistakes are left out.
#[must_use]
pub fn read(file: &ConfigFile, folder: &Path) -> Sinks {
    let mut sinks = Sinks::default();
    for section in file.array("sink") {
        let mistakes = file.problem_count();
        let (sink, span) = (read_one(&section, folder), section.span());
        section.finish();
        let Some((what, sink)) = sink.filter(|_| file.problem_count() == mistakes) else { continue };
        if sinks.names().any(|other| other == sink.name) {
            file.report(
                span,
                format!("two sinks are called '{}'", sink.name),
                "give each a name of its own: its position is kept under it",
            );
        }
        match what {
            None => sinks.actions.push(sink),
            Some(what) => {
                let ActionTopic { name, broker, topic } = sink;
                sinks.logs.push(SinkConfig { name, what, broker, topic });
            }
        }
    }
    sinks
}

fn read_one(section: &Section<'_>, folder: &Path) -> Option<(Option<What>, ActionTopic)> {
    section.require("name", "\"decisions\"");
    section.require("type", "\"kafka\"");
    section.require("what", "\"decisions\"");
    let name = section.text("name");
    let what = section.choice("what", &NAMES.map(|(name, _)| name)).map(|at| NAMES[at].1);
    let kind = section.choice("type", &broker::TYPES);
    let broker = kind.and_then(|kind| broker::read(section, kind)).map(|broker| broker.located(folder));
    let topic = read_topic(section);
    Some((what?, ActionTopic { name: name?, broker: broker?, topic: topic? }))
}

/// A record to be produced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Produced<'a> {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: &'a [u8],
    /// Beside it, where the broker has headers.
    pub headers: Vec<(&'static str, String)>,
    /// Where it goes; `None`: to the partition of its key.
    pub partition: Option<u32>,
}

/// Produces to a topic. Used from a thread of its own: every call may block.
pub trait TopicSink: Send {
    /// Produces records and waits until the broker has them. Connects where that is needed.
    ///
    /// # Errors
    /// Some may have been taken; give all of them again. Transient: later. Otherwise a person must act first.
    fn produce(&mut self, records: &[Produced<'_>]) -> Result<(), TopicError>;
}

/// Makes ready to produce to a topic; nothing is connected yet. `environment` gives the values of variables.
///
/// # Errors
/// Fatal: the password cannot be read, or the program was built without the broker.
#[cfg_attr(not(feature = "kafka"), expect(unused_variables, reason = "only Kafka has passwords"))]
pub fn open(
    broker: &Broker,
    topic: &str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Box<dyn TopicSink>, TopicError> {
    match broker {
        #[cfg(feature = "kafka")]
        Broker::Kafka(broker) => Ok(Box::new(super::kafka::producer::KafkaSink::new(broker, topic, environment)?)),
        #[cfg(not(feature = "kafka"))]
        Broker::Kafka(_) => Err(TopicError::NotBuilt { feature: "kafka" }),
        #[cfg(feature = "fluvio")]
        Broker::Fluvio(broker) => Ok(Box::new(super::fluvio::producer::FluvioSink::new(broker, topic))),
        #[cfg(not(feature = "fluvio"))]
        Broker::Fluvio(_) => Err(TopicError::NotBuilt { feature: "fluvio" }),
    }
}

/// Metrics of all sinks of a process; each has its name as label.
#[derive(Clone, Debug, Default)]
pub struct SinkMetrics {
    /// Records that the broker acknowledged.
    records: Family<SinkLabel, Counter>,
    failures: Family<SinkLabel, Counter>,
    lag: Family<SinkLabel, Gauge>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct SinkLabel {
    sink: String,
}

/// Metrics of one sink.
#[derive(Clone, Debug)]
pub struct OneSink {
    /// Records that the broker acknowledged.
    pub records: Counter,
    /// Attempts that failed.
    pub failures: Counter,
    /// Records that wait.
    pub lag: Gauge,
}

impl SinkMetrics {
    /// Metrics that `registry` shows.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let name = |name: &str| format!("interdict_ingest_sink_{name}");
        registry.register(name("records"), "Records that the broker acknowledged", metrics.records.clone());
        registry.register(name("failures"), "Attempts to produce that failed", metrics.failures.clone());
        registry.register(name("lag_records"), "Records that wait to be produced", metrics.lag.clone());
        metrics
    }

    /// Those of one sink.
    #[must_use]
    pub fn of(&self, sink: &str) -> OneSink {
        let label = SinkLabel { sink: sink.to_owned() };
        OneSink {
            records: self.records.get_or_create(&label).clone(),
            failures: self.failures.get_or_create(&label).clone(),
            lag: self.lag.get_or_create(&label).clone(),
        }
    }
}
