//! The reader of a topic: its partitions go on where the store left them, and are given back once they are stored.

use std::time::Duration;

use interdict_ingest::source::stop::Stop;
use interdict_ingest::topic::{Sharing, TopicEvent, TopicSource};

use super::core::position_of;
use super::sources::{DELIVERY, Intaker};

/// How long to wait for records before looking whether to stop.
const WAIT: Duration = Duration::from_millis(100);

/// Reads every partition that the group leaves to this process, all of them where there is no group.
pub(super) fn read(mut source: Box<dyn TopicSource>, intaker: &Intaker, stop: &Stop) -> anyhow::Result<()> {
    let Some(incarnation) = source.incarnation()? else { return Ok(()) };
    if source.sharing() == Sharing::Told {
        let all: Vec<u32> = (0..source.partitions()).collect();
        source.assign(&all)?;
    }
    let mut read = Vec::new();
    while !stop.is_stopped() {
        match source.next(DELIVERY, WAIT)? {
            None => {}
            Some(TopicEvent::Assigned(partitions)) => {
                read.extend_from_slice(&partitions);
                let stored = intaker.attach(Some(incarnation.clone()), read.clone())?;
                for partition in partitions {
                    source.resume(partition, position_of(&stored, partition))?;
                }
            }
            Some(TopicEvent::Revoked(partitions)) => {
                read.retain(|partition| !partitions.contains(partition));
                intaker.release(partitions.clone())?;
                source.released(&partitions)?;
            }
            Some(TopicEvent::Delivery(delivery)) => {
                let is_taken = intaker.give(delivery);
                if !is_taken {
                    break;
                }
            }
        }
    }
    Ok(())
}
