//! Produces what a database delivers to its topic of Kafka.

use interdict_features::time::Timestamp;

use crate::source::Delivery;
use crate::source::config::postgres::PostgresConfig;
use crate::topic::broker::Broker;
use crate::topic::error::TopicError;
use crate::topic::kafka::producer::KafkaSink;

use super::Envelopes;
use super::metrics::OneSource;

/// A topic that a database's changes go to. Used from a thread of its own: every call may block.
pub struct Republisher {
    envelopes: Envelopes,
    sink: KafkaSink,
    /// Asked for at the beginning, and again after every failure.
    partitions: Option<u32>,
    metrics: OneSource,
}

impl std::fmt::Debug for Republisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Republisher").field("envelopes", &self.envelopes).finish_non_exhaustive()
    }
}

impl Republisher {
    /// Makes the topic of the source called `source` ready; nothing is connected yet. `None` where `config`, paths located, names none.
    /// `environment` gives the values of variables.
    ///
    /// # Errors
    /// Fatal: the password cannot be read.
    pub fn open(
        source: &str,
        config: &PostgresConfig,
        environment: &dyn Fn(&str) -> Option<String>,
        metrics: OneSource,
    ) -> Result<Option<Self>, TopicError> {
        let Some(topic) = &config.republish else { return Ok(None) };
        let Broker::Kafka(broker) = &topic.broker else { return Err(TopicError::NotBuilt { feature: "kafka" }) };
        let sink = KafkaSink::new(broker, &topic.topic, environment)?;
        Ok(Some(Self { envelopes: Envelopes::new(source, config), sink, partitions: None, metrics }))
    }

    /// Produces every change of `delivery`, in its order per partition, and waits until all in-sync replicas have them, or until
    /// `gives_up` says so. `now` is when they are handed on.
    ///
    /// # Errors
    /// Some may have been taken; give all of them again. Transient: later. Otherwise a person must act first.
    pub fn publish(
        &mut self,
        delivery: &Delivery,
        now: Timestamp,
        gives_up: &dyn Fn() -> bool,
    ) -> Result<(), TopicError> {
        let published = self.try_publish(delivery, now, gives_up);
        match &published {
            Ok(records) => drop(self.metrics.records.inc_by(*records)),
            Err(_) => {
                self.partitions = None;
                self.metrics.failures.inc();
            }
        }
        published.map(drop)
    }

    fn try_publish(
        &mut self,
        delivery: &Delivery,
        now: Timestamp,
        gives_up: &dyn Fn() -> bool,
    ) -> Result<u64, TopicError> {
        let partitions = match self.partitions {
            Some(partitions) => partitions,
            None => *self.partitions.insert(self.sink.partitions()?),
        };
        let records = self.envelopes.records(delivery, partitions, now);
        if !records.is_empty() {
            self.sink.produce_unless(&records, gives_up)?;
        }
        Ok(records.len() as u64)
    }
}
