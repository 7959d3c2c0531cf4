//! Which topic it is: Kafka's identity of a topic is out of the client's reach, so a topic gets a mark.
//!
//! The mark is a random text beside an offset that is committed for a consumer group of its own, `GROUP.identity`. A broker that
//! deletes a topic deletes the offsets that groups have in it, so that one made anew has no mark, and gets another. The mark is
//! committed again at every start and now and then: brokers forget offsets of groups that were silent for long
//! (`offsets.retention.minutes`, seven days unless configured).

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use uuid::Uuid;

use super::client::ANSWER;

/// The mark of `topic`, made where there is none, and kept from being forgotten.
pub(super) fn mark(settings: &ClientConfig, group: &str, topic: &str) -> KafkaResult<String> {
    let mut settings = settings.clone();
    settings.set("group.id", format!("{group}.identity")).set("enable.auto.commit", "false");
    let keeper: BaseConsumer = settings.create()?;
    let known = read(&keeper, topic)?;
    let mark = known.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
    let mut list = TopicPartitionList::new();
    let mut element = list.add_partition(topic, 0);
    element.set_offset(Offset::Offset(0))?;
    element.set_metadata(&mark);
    keeper.commit(&list, CommitMode::Sync)?;
    if known.is_some() {
        return Ok(mark);
    }
    // Of two that begin at once one comes second, and both keep its mark.
    Ok(read(&keeper, topic)?.unwrap_or(mark))
}

fn read(keeper: &BaseConsumer, topic: &str) -> KafkaResult<Option<String>> {
    let mut wanted = TopicPartitionList::new();
    wanted.add_partition(topic, 0);
    let committed = keeper.committed_offsets(wanted, ANSWER)?;
    let element = committed.find_partition(topic, 0);
    if let Some(element) = &element {
        element.error()?;
    }
    Ok(element.map(|element| element.metadata().to_owned()).filter(|mark| !mark.is_empty()))
}
