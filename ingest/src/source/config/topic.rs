//! `[source] type = "kafka"` and `type = "fluvio"`: which topic, and what its records are; `[source.republish]`: the topic through which the
//! changes of a database go on to any number of readers.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use interdict_features::config::Section;
use interdict_features::definition::{OnTruncate, Stream};

use crate::topic::broker::{self, Broker};

use super::postgres::TableOfStream;
use super::{Format, Reading};

/// A topic that changes are read from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicConfig {
    /// The broker.
    pub broker: Broker,
    /// The topic.
    pub topic: String,
    /// The consumer group of Kafka and the name of the offsets in Fluvio; `None`: one of this namespace and source.
    pub group: Option<String>,
    /// How records are written: [`Format::Json`] or [`Format::Debezium`].
    pub format: Format,
    /// The stream that rows belong to; `None` for Debezium that names its tables.
    pub stream: Option<String>,
    /// Which table feeds which stream, and no other table any; empty: Debezium's tables are called as the streams say.
    pub tables: Vec<TableOfStream>,
    /// How values that formats leave open are read.
    pub reading: Reading,
    /// Whether decisions must see everything before their event (DESIGN 3.5).
    pub bursts: Bursts,
    /// After how much silence the group takes a member of Kafka for dead and gives its partitions to others.
    pub session: Duration,
}

/// Whether every decision must see everything before its event in its partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bursts {
    /// It must: a topic of several partitions whose stream has no `partition_by` is refused.
    Seen,
    /// It need not.
    Missed,
}

impl TopicConfig {
    /// The configuration with its paths taken from `folder`, the one its file stands in.
    #[must_use]
    pub fn located(mut self, folder: &Path) -> Self {
        self.broker = self.broker.located(folder);
        self
    }

    /// The consumer group, or the name under which offsets are kept.
    #[must_use]
    pub fn group(&self, namespace: &str, source: &str) -> String {
        self.group.clone().unwrap_or_else(|| format!("interdict.{namespace}.{source}"))
    }
}

/// The work of a killed process moves within it. Brokers allow 6 seconds and more unless configured.
pub const SESSION: Duration = Duration::from_secs(10);
/// Shorter sessions end while a busy machine thinks of something else.
const SESSION_MIN: Duration = Duration::from_secs(1);
/// How long the client may be busy between two polls.
const SESSION_MAX: Duration = Duration::from_secs(300);

/// The longest name of a topic, by Kafka's rules.
const TOPIC_BYTES_MAX: usize = 249;

/// Reads the keys of a topic of the broker at `kind` in [`broker::TYPES`]; `None` where a mistake leaves no usable one.
pub(super) fn read(section: &Section<'_>, streams: &[Arc<Stream>], kind: usize) -> Option<TopicConfig> {
    let broker = broker::read(section, kind);
    let topic = read_topic(section);
    let group = section.text("group");
    section.require("format", "\"debezium\"");
    let formats = [Format::Json, Format::Debezium];
    let format = section.choice("format", &["json", "debezium"]).map(|at| formats[at]);
    let stream = super::read_stream(section, streams, format);
    let reading = super::read_reading(section, streams, format);
    let bursts = read_bursts(section);
    let session = if kind == 0 { read_session(section) } else { SESSION };
    let tables = Vec::new();
    Some(TopicConfig {
        broker: broker?,
        topic: topic?,
        group,
        format: format?,
        stream,
        tables,
        reading,
        bursts,
        session,
    })
}

/// Reads `[source.republish]` of a database whose `tables` feed `streams`: the topic as its readers have it.
pub(super) fn read_republish(
    section: &Section<'_>,
    streams: &[Arc<Stream>],
    tables: &[TableOfStream],
) -> Option<TopicConfig> {
    section.require("type", "\"kafka\"");
    let kind = section.choice("type", &broker::TYPES);
    if kind == Some(1) {
        section.report("type", "databases are republished to Kafka only", "write type = \"kafka\"");
    }
    let broker = broker::read(section, kind?);
    let topic = read_topic(section);
    let group = section.text("group");
    let (bursts, session) = (read_bursts(section), read_session(section));
    for stream in streams.iter().filter(|stream| stream.on_truncate == OnTruncate::Clear) {
        if tables.iter().any(|table| table.stream == stream.name) {
            section.file().report(
                section.span(),
                format!(
                    "stream '{}' has on_truncate = \"clear\", and nothing orders a truncation among partitions",
                    stream.name
                ),
                format!(
                    "write on_truncate = \"stop\" or \"ignore\" in [stream.{}], or capture without [source.republish]",
                    stream.name
                ),
            );
        }
    }
    let (format, reading) = (Format::Debezium, Reading::default());
    let (stream, tables) = (None, tables.to_vec());
    Some(TopicConfig { broker: broker?, topic: topic?, group, format, stream, tables, reading, bursts, session })
}

fn read_bursts(section: &Section<'_>) -> Bursts {
    if section.bool("bursts") == Some(false) { Bursts::Missed } else { Bursts::Seen }
}

fn read_session(section: &Section<'_>) -> Duration {
    let Some(span) = section.span_of_time("session") else { return SESSION };
    let session = Duration::from_micros(span.micros().unsigned_abs());
    if !(SESSION_MIN..=SESSION_MAX).contains(&session) {
        section.report("session", "a session lasts 1s to 5m", "write session = \"10s\"");
    }
    session
}

/// Reads the name of a topic.
pub fn read_topic(section: &Section<'_>) -> Option<String> {
    section.require("topic", "\"shop.public.transactions\"");
    let topic = section.text("topic")?;
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if topic.is_empty() || topic.len() > TOPIC_BYTES_MAX || !topic.bytes().all(is_letter) {
        section.report(
            "topic",
            format!("'{topic}' is no name for a topic"),
            format!("write 1 to {TOPIC_BYTES_MAX} letters, digits, dots, underscores and hyphens"),
        );
    }
    Some(topic)
}
