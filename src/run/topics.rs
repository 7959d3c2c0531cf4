//! The reader of a topic: its partitions go on where the store left them, and are given back once they are stored.

use std::time::Duration;

use interdict_ingest::source::error::SourceError;
use interdict_ingest::source::stop::Stop;
use interdict_ingest::topic::{Sharing, TopicEvent, TopicSource};

use super::core::position_of;
use super::sources::{DELIVERY, Intaker};

/// How long to wait for records before looking whether to stop.
const WAIT: Duration = Duration::from_millis(100);

/// How a source learns which topic it reads: a topic without a mark gets one, and two processes that begin at once must not both give one.
pub(crate) type Identify = Box<dyn FnOnce(&mut dyn TopicSource) -> anyhow::Result<Option<String>> + Send>;

/// For a process that reads the topic alone.
pub(crate) fn identify_alone() -> Identify {
    Box::new(|source| source.incarnation().map_err(|error: SourceError| error.into()))
}

/// Reads every partition that the group leaves to this process, all of them where there is no group.
pub(super) fn read(
    mut source: Box<dyn TopicSource>,
    identify: Identify,
    intaker: &Intaker,
    stop: &Stop,
) -> anyhow::Result<()> {
    let Some(incarnation) = identify(source.as_mut())? else { return Ok(()) };
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
    // The group gives them to others once the source is gone: what was taken of them is stored before. An engine that has ended has
    // stored what it will.
    drop(intaker.release(read));
    Ok(())
}
