//! Leaving the group.
//!
//! Invariant: nobody waits for a broker that is gone. The group finds out by the end of the session.

use std::sync::mpsc::sync_channel;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::topic_partition_list::TopicPartitionList;

use super::KafkaSource;
use super::membership::Membership;

/// How long leaving may take: on a busy machine some seconds.
const CLOSE: Duration = Duration::from_secs(10);

impl Drop for KafkaSource {
    /// Leaves the group, and waits for it for [`CLOSE`]: the client would wait for ever for a broker that is gone.
    fn drop(&mut self) {
        let Some(consumer) = self.consumer.take() else { return };
        let (topic, (closed, is_closed)) = (self.topic.clone(), sync_channel(1));
        let closing = std::thread::Builder::new().name("kafka-close".to_owned()).spawn(move || {
            leave(&topic, &consumer);
            drop(consumer);
            let _nobody_waits_any_more = closed.send(());
        });
        if closing.is_ok() && is_closed.recv_timeout(CLOSE).is_err() {
            tracing::warn!(
                topic = self.topic,
                "the broker does not take leave; its group finds out by the end of the session"
            );
        }
    }
}

/// Gives everything back. What the group still wants is agreed to, or the consumer would wait for an answer for ever.
fn leave(topic: &str, consumer: &BaseConsumer<Membership>) {
    consumer.context().close();
    while consumer.context().next_wish().is_some() {}
    let answered = consumer.incremental_assign(&TopicPartitionList::new()).and_then(|()| consumer.assignment());
    if let Err(error) = answered.and_then(|assigned| consumer.incremental_unassign(&assigned)) {
        tracing::debug!(topic, %error, "the partitions were not given back one by one");
    }
}
