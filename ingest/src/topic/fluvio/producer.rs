//! A topic of Fluvio that records are produced to, acknowledged once they are committed.

use std::time::Duration;

use fluvio::{DeliverySemantic, Fluvio, Isolation, RetryPolicy, TopicProducerConfigBuilder, TopicProducerPool};
use tokio::runtime::Runtime;

use crate::topic::broker::FluvioBroker;
use crate::topic::error::TopicError;
use crate::topic::sink::{Produced, TopicSink};

use super::cluster::{meaning, settings};
use super::runtime;

/// Bytes of a batch: measured at 400,000 records a second.
const BATCH_BYTES: usize = 256 << 10;
/// How long a batch waits to be filled.
const LINGER: Duration = Duration::from_millis(2);
/// How long all records of one call may take.
const PATIENCE: Duration = Duration::from_secs(35);

/// Produces to a topic.
pub(in crate::topic) struct FluvioSink {
    broker: FluvioBroker,
    topic: String,
    producer: Option<TopicProducerPool>,
    /// Made where the sink is used. Dropped last.
    runtime: Option<Runtime>,
}

impl FluvioSink {
    /// A sink that connects when it is used.
    pub(in crate::topic) fn new(broker: &FluvioBroker, topic: &str) -> Self {
        Self { broker: broker.clone(), topic: topic.to_owned(), producer: None, runtime: None }
    }
}

impl Drop for FluvioSink {
    fn drop(&mut self) {
        drop(self.producer.take());
        if let Some(runtime) = self.runtime.take() {
            // It may be dropped where nothing may be waited for.
            runtime.shutdown_background();
        }
    }
}

async fn connect(broker: &FluvioBroker, topic: &str) -> anyhow::Result<TopicProducerPool> {
    let client = Fluvio::connect_with_config(&settings(broker)).await?;
    let config = TopicProducerConfigBuilder::default()
        .batch_size(BATCH_BYTES)
        .linger(LINGER)
        .isolation(Isolation::ReadCommitted)
        .delivery_semantic(DeliverySemantic::AtLeastOnce(RetryPolicy::default()))
        .build()?;
    client.topic_producer_with_config(topic, config).await
}

async fn send(producer: &TopicProducerPool, records: &[Produced<'_>]) -> anyhow::Result<()> {
    let mut sent = Vec::with_capacity(records.len());
    for record in records {
        sent.push(producer.send(record.key.as_str(), record.value).await?);
    }
    producer.flush().await?;
    for sent in sent {
        sent.wait().await?;
    }
    Ok(())
}

impl TopicSink for FluvioSink {
    fn produce(&mut self, records: &[Produced<'_>]) -> Result<(), TopicError> {
        let (broker, topic) = (&self.broker, &self.topic);
        let runtime = match self.runtime.take() {
            Some(runtime) => runtime,
            None => runtime(&broker.endpoint)?,
        };
        let runtime = self.runtime.insert(runtime);
        let known = self.producer.take();
        let work = async {
            let producer = match known {
                Some(producer) => producer,
                None => connect(broker, topic).await?,
            };
            send(&producer, records).await?;
            anyhow::Ok(producer)
        };
        let done = runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await });
        let done = done.unwrap_or_else(|_elapsed| Err(anyhow::anyhow!("no answer within {} s", PATIENCE.as_secs())));
        let producer = done.map_err(|error| meaning(&self.broker.endpoint, &self.topic, &error))?;
        self.producer = Some(producer);
        Ok(())
    }
}
