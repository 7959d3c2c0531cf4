//! The reader of a topic: its partitions go on where the store left them, and are given back once they are stored.

use std::collections::BTreeSet;
use std::time::Duration;

use interdict_ingest::source::error::SourceError;
use interdict_ingest::source::stop::Stop;
use interdict_ingest::topic::{Sharing, TopicEvent, TopicSource};

use tokio::runtime::{Builder, Runtime};

use super::core::position_of;
use super::sources::{DELIVERY, Intaker};

/// How long to wait for records before looking whether to stop.
const WAIT: Duration = Duration::from_millis(100);

/// What the readers of a topic agree on.
pub(crate) trait Among: Send {
    /// Which topic it is: one without a mark gets one, and two processes that begin at once must not both give one. `None` once stopped.
    fn identify(&mut self, source: &mut dyn TopicSource) -> anyhow::Result<Option<String>>;

    /// The partitions to read from now on, of as many as the topic has; `None`: those of before. Asked where the broker shares none out.
    ///
    /// # Errors
    /// The process cannot go on.
    fn told(&mut self, partitions: u32) -> anyhow::Result<Option<Vec<u32>>>;

    /// Of what was told so far only these are read here, or are about to be: everything taken of the others is stored.
    fn keeps(&mut self, kept: BTreeSet<u32>);

    /// Reading ends, and what was taken is stored.
    fn end(&mut self);
}

/// For a process that reads the topic alone.
#[derive(Debug, Default)]
pub(crate) struct Alone {
    told: u32,
}

impl Among for Alone {
    fn identify(&mut self, source: &mut dyn TopicSource) -> anyhow::Result<Option<String>> {
        source.incarnation().map_err(|error: SourceError| error.into())
    }

    fn told(&mut self, partitions: u32) -> anyhow::Result<Option<Vec<u32>>> {
        let told = std::mem::replace(&mut self.told, partitions);
        Ok((told != partitions).then(|| (0..partitions).collect()))
    }

    fn keeps(&mut self, _kept: BTreeSet<u32>) {}

    fn end(&mut self) {}
}

/// A topic being read.
struct Reader<'a> {
    source: Box<dyn TopicSource>,
    among: Box<dyn Among>,
    intaker: &'a Intaker,
    /// Waits for the engine.
    runtime: Runtime,
    incarnation: String,
    /// What is to be read, where the broker does not say it.
    told: Vec<u32>,
    /// What is read.
    read: Vec<u32>,
}

/// Reads every partition that the group, or those who agree on them, leave to this process; all of them where it is alone.
pub(super) fn read(
    mut source: Box<dyn TopicSource>,
    mut among: Box<dyn Among>,
    intaker: &Intaker,
    stop: &Stop,
) -> anyhow::Result<()> {
    let Some(incarnation) = among.identify(source.as_mut())? else { return Ok(()) };
    let runtime = Builder::new_current_thread().enable_time().build()?;
    let mut reader = Reader { source, among, intaker, runtime, incarnation, told: Vec::new(), read: Vec::new() };
    while !stop.is_stopped() {
        reader.take_share()?;
        if !reader.step()? {
            break;
        }
    }
    // Others get them once the source is gone: what was taken of them is stored before. An engine that has ended has stored what it will.
    drop(intaker.release(reader.read));
    reader.among.end();
    Ok(())
}

impl Reader<'_> {
    /// Has the source read what was agreed on.
    fn take_share(&mut self) -> anyhow::Result<()> {
        if self.source.sharing() == Sharing::Group {
            return Ok(());
        }
        if let Some(told) = self.among.told(self.source.partitions())? {
            self.source.assign(&told)?;
            self.told = told;
            self.tell_kept();
        }
        Ok(())
    }

    fn tell_kept(&mut self) {
        self.among.keeps(self.told.iter().chain(&self.read).copied().collect());
    }

    /// Does what comes next; false when the engine has ended.
    fn step(&mut self) -> anyhow::Result<bool> {
        match self.source.next(DELIVERY, WAIT)? {
            None => {}
            Some(TopicEvent::Assigned(partitions)) => {
                self.read.extend_from_slice(&partitions);
                let (all, new) = (self.read.clone(), partitions.clone());
                let stored = self.intaker.attach_partitions(Some(self.incarnation.clone()), all, new)?;
                for partition in partitions {
                    self.source.resume(partition, position_of(&stored, partition))?;
                }
            }
            Some(TopicEvent::Revoked(partitions)) => {
                self.read.retain(|partition| !partitions.contains(partition));
                self.intaker.release(partitions.clone())?;
                self.source.released(&partitions)?;
                self.tell_kept();
            }
            Some(TopicEvent::Delivery(delivery)) => {
                let source = self.source.as_mut();
                return Ok(self.intaker.give_patiently(&self.runtime, delivery, || source.held_up()));
            }
        }
        Ok(true)
    }
}
