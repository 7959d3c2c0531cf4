//! A topic of Kafka that records are produced to, idempotently and acknowledged by all in-sync replicas.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use interdict_store::error::Class;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};

use crate::topic::broker::KafkaBroker;
use crate::topic::error::TopicError;
use crate::topic::sink::{Produced, TopicSink};

use crate::topic::now;

#[cfg(feature = "postgres")]
use super::client::ANSWER;
use super::client::{meaning, settings};

/// How long a record may wait for its acknowledgement, in milliseconds.
const PATIENCE_MS: &str = "30000";
/// How long all records of one call may take: a little longer than one.
const FLUSH: Duration = Duration::from_secs(35);
/// How often it is asked whether to give up.
const LOOK: Duration = Duration::from_millis(100);

/// Produces to a topic.
pub(crate) struct KafkaSink {
    settings: ClientConfig,
    address: String,
    topic: String,
    /// Made anew after a failure: what is queued must not be sent behind what comes again.
    producer: Option<BaseProducer<Failures>>,
}

/// The first record that failed.
#[derive(Default)]
struct Failures(Mutex<Option<KafkaError>>);

impl ClientContext for Failures {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "kafka client");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka client");
        let is_refusal = matches!(
            error.rdkafka_error_code(),
            Some(Code::Authentication | Code::SaslAuthenticationFailed | Code::ClusterAuthorizationFailed)
        );
        if is_refusal {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    }
}

impl ProducerContext for Failures {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _message)) = result {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error.clone());
        }
    }
}

impl KafkaSink {
    /// A sink that connects when it is used.
    pub(crate) fn new(
        broker: &KafkaBroker,
        topic: &str,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, TopicError> {
        let mut settings = settings(broker, environment)?;
        settings
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "5")
            .set("message.timeout.ms", PATIENCE_MS)
            .set("allow.auto.create.topics", "false")
            // As every other client of Kafka: a key has one partition whoever produces it.
            .set("partitioner", "murmur2_random");
        Ok(Self { settings, address: broker.brokers.clone(), topic: topic.to_owned(), producer: None })
    }

    fn send(
        &self,
        producer: &BaseProducer<Failures>,
        records: &[Produced<'_>],
        gives_up: &dyn Fn() -> bool,
    ) -> Result<(), KafkaError> {
        for record in records {
            let headers = record
                .headers
                .iter()
                .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
            let mut message = BaseRecord::to(&self.topic).key(&record.key).payload(record.value).headers(headers);
            message.partition = record.partition.and_then(|partition| i32::try_from(partition).ok());
            while let Err((error, again)) = producer.send(message) {
                if error.rdkafka_error_code() != Some(Code::QueueFull) {
                    return Err(error);
                }
                producer.poll(Duration::from_millis(10));
                message = again;
            }
            producer.poll(Duration::ZERO);
        }
        let flushed = flush(producer, gives_up);
        if let Some(error) = producer.context().0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(error);
        }
        flushed
    }

    fn meaning(&self, error: &KafkaError) -> TopicError {
        let too_large = Some(Code::MessageSizeTooLarge);
        if error.rdkafka_error_code() == too_large {
            let why = format!("{error}; raise max.message.bytes of the topic");
            let (address, topic) = (self.address.clone(), self.topic.clone());
            return TopicError::Produce { address, topic, why, class: Class::Rejected };
        }
        match meaning(&self.address, &self.topic, error) {
            TopicError::Broker { address, why, class } => {
                TopicError::Produce { address, topic: self.topic.clone(), why, class }
            }
            other => other,
        }
    }
}

impl KafkaSink {
    /// The producer of the last call, or a new one.
    fn take_producer(&mut self) -> Result<BaseProducer<Failures>, TopicError> {
        match self.producer.take() {
            Some(producer) => Ok(producer),
            None => {
                let made = self.settings.create_with_context(Failures::default());
                made.map_err(|error| self.meaning(&error))
            }
        }
    }

    /// As [`TopicSink::produce`], but fails at once when `gives_up` says so while records wait for their acknowledgement.
    pub(crate) fn produce_unless(
        &mut self,
        records: &[Produced<'_>],
        gives_up: &dyn Fn() -> bool,
    ) -> Result<(), TopicError> {
        let producer = self.take_producer()?;
        self.send(&producer, records, gives_up).map_err(|error| {
            producer.purge(rdkafka::producer::PurgeConfig::default().queue().inflight());
            self.meaning(&error)
        })?;
        self.producer = Some(producer);
        Ok(())
    }

    /// How many partitions the topic has.
    #[cfg(feature = "postgres")]
    pub(crate) fn partitions(&mut self) -> Result<u32, TopicError> {
        let producer = self.take_producer()?;
        let found = producer.client().fetch_metadata(Some(&self.topic), ANSWER);
        if let Some(refusal) = producer.context().0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(self.meaning(&refusal));
        }
        let found = found.map_err(|error| self.meaning(&error))?;
        let topic = found.topics().first().filter(|topic| topic.error().is_none() && !topic.partitions().is_empty());
        let Some(topic) = topic else {
            return Err(TopicError::NoTopic { address: self.address.clone(), topic: self.topic.clone() });
        };
        self.producer = Some(producer);
        Ok(u32::try_from(topic.partitions().len()).unwrap_or(u32::MAX))
    }
}

/// Waits until everything is acknowledged or has failed.
fn flush(producer: &BaseProducer<Failures>, gives_up: &dyn Fn() -> bool) -> Result<(), KafkaError> {
    let began = now();
    loop {
        match producer.flush(LOOK) {
            Err(error)
                if error.rdkafka_error_code() == Some(Code::OperationTimedOut)
                    && began.elapsed() < FLUSH
                    && !gives_up() => {}
            flushed => return flushed,
        }
    }
}

impl TopicSink for KafkaSink {
    fn produce(&mut self, records: &[Produced<'_>]) -> Result<(), TopicError> {
        self.produce_unless(records, &|| false)
    }
}
