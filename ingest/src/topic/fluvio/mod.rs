//! A topic of Fluvio. There are no consumer groups: which partitions are read here is told from outside.
//!
//! Invariant: no offset of an assigned partition is left out (see [`place`]).

mod cluster;
mod place;
pub(super) mod producer;
mod reader;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use interdict_store::error::Class;
use tokio::runtime::Runtime;

use crate::clock::wall_clock;
use crate::source::error::SourceError;
use crate::source::stop::Stop;

use super::broker::FluvioBroker;
use super::error::TopicError;
use super::metrics::{Answer, SourceMetrics};
use super::records::TopicDecoder;
use super::{
    Opening, PartitionLag, REACH, RETRY, Sharing, TopicEvent, TopicHandle, TopicSource, judged_in_bursts, now,
    patiently,
};

use cluster::Cluster;
use place::{BYTES, Place};
use reader::{Patience, Reader};

/// How long one attempt may take: the client itself would try for minutes.
const ATTEMPT: Duration = Duration::from_secs(10);
/// After how much silence a partition's end is asked for.
const STALL: Duration = Duration::from_secs(5);
/// How often the ends of partitions are asked for to show the lag.
const SHOW: Duration = Duration::from_secs(2);

/// A topic of Fluvio.
pub(super) struct FluvioSource {
    broker: FluvioBroker,
    topic: String,
    group: String,
    /// The judged stream that may not miss bursts.
    bursts: Option<String>,
    decoder: TopicDecoder,
    metrics: SourceMetrics,
    stop: Stop,
    handle: TopicHandle,
    partitions: u32,
    assigned: BTreeSet<u32>,
    events: VecDeque<TopicEvent>,
    reader: Option<Reader<Cluster>>,
    ends: BTreeMap<u32, u64>,
    shown: Option<Instant>,
    /// Dropped last.
    runtime: Runtime,
}

impl std::fmt::Debug for FluvioSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FluvioSource").field("topic", &self.topic).field("group", &self.group).finish_non_exhaustive()
    }
}

impl FluvioSource {
    /// Makes a source ready; nothing is connected yet.
    ///
    /// # Errors
    /// Fatal: a stream is unknown, or no runtime can be made.
    pub(super) fn open(opening: &Opening<'_>, broker: &FluvioBroker) -> Result<Self, SourceError> {
        let config = opening.config;
        Ok(Self {
            broker: broker.clone(),
            topic: config.topic.clone(),
            group: config.group(opening.namespace, opening.name),
            bursts: judged_in_bursts(config, opening.streams),
            decoder: TopicDecoder::new(opening.name, config, opening.streams)?,
            metrics: opening.metrics.clone(),
            stop: opening.stop.clone(),
            handle: TopicHandle::default(),
            partitions: 0,
            assigned: BTreeSet::new(),
            events: VecDeque::new(),
            reader: None,
            ends: BTreeMap::new(),
            shown: None,
            runtime: runtime(&broker.endpoint).map_err(Box::new)?,
        })
    }

    /// Connects, and finds the topic and its mark; `None`: the topic holds no record yet that a mark could be kept at.
    async fn look(&mut self) -> Result<Option<String>, TopicError> {
        let mut cluster = Cluster::connect(&self.broker, &self.topic, &self.group).await?;
        self.has_partitions(cluster.partitions().await?)?;
        if cluster.mark(&self.group).await?.is_none() {
            let ends = cluster.ends().await?;
            let Some((partition, _, _)) = ends.into_iter().find(|(_, _, end)| *end > 0) else { return Ok(None) };
            cluster.give_mark(&self.group, partition).await?;
        }
        // Of two that begin at once both keep the mark that comes first by name.
        let mark = cluster.mark(&self.group).await?;
        let patience = Patience { stall: STALL, retry: RETRY };
        self.reader = Some(Reader::new(cluster, self.metrics.clone(), patience, self.stop.clone()));
        Ok(mark)
    }

    /// Notes how many partitions the topic has by now.
    fn has_partitions(&mut self, partitions: u32) -> Result<(), TopicError> {
        // What is not noted is told again by the next look.
        if let Some(stream) = self.bursts.clone().filter(|_| partitions > 1) {
            return Err(TopicError::Bursts { topic: self.topic.clone(), partitions, stream });
        }
        self.partitions = partitions;
        Ok(())
    }

    /// One attempt, bounded in time.
    fn attempt(&mut self) -> Result<Option<String>, TopicError> {
        let handle = self.runtime.handle().clone();
        let address = self.broker.endpoint.clone();
        handle.block_on(async {
            let looked = tokio::time::timeout(ATTEMPT, self.look()).await;
            looked.unwrap_or_else(|_elapsed| {
                let why = format!("no answer within {} seconds", ATTEMPT.as_secs());
                Err(TopicError::Unreachable { address, why })
            })
        })
    }

    fn reader(&mut self) -> Result<(&Runtime, &mut Reader<Cluster>), TopicError> {
        let address = &self.broker.endpoint;
        let missing = || TopicError::Broker {
            address: address.clone(),
            why: "not connected yet".to_owned(),
            class: Class::Fatal,
        };
        Ok((&self.runtime, self.reader.as_mut().ok_or_else(missing)?))
    }

    /// Keeps offsets in the cluster, shows the lag, and looks whether the topic has grown.
    fn show(&mut self) -> Result<(), TopicError> {
        if self.shown.is_some_and(|shown| shown.elapsed() < SHOW) {
            return Ok(());
        }
        self.shown = Some(now());
        let confirmed = self.handle.take();
        let (runtime, reader) = self.reader()?;
        let ends = runtime.block_on(async {
            for (partition, position) in confirmed {
                reader.keep(partition, position).await;
            }
            tokio::time::timeout(ATTEMPT, reader.feed.ends()).await
        });
        self.metrics.answered(if matches!(ends, Ok(Ok(_))) { Answer::Came } else { Answer::Missing });
        // The lag is for people; a cluster that does not answer is heard of when it is read.
        if let Ok(Ok(ends)) = ends {
            self.ends = ends.into_iter().map(|(partition, _, end)| (partition, end)).collect();
            let partitions = self.ends.keys().last().map_or(0, |last| last + 1);
            if partitions > self.partitions {
                tracing::warn!(
                    topic = self.topic,
                    partitions,
                    "the topic has more partitions now; keys that move to them are read in no order with what came before"
                );
                self.has_partitions(partitions)?;
            }
        }
        for lag in self.lag() {
            self.metrics.lag(&lag);
        }
        Ok(())
    }

    fn try_resume(&mut self, partition: u32, after: Option<u64>) -> Result<(), TopicError> {
        let topic = self.topic.clone();
        if !self.assigned.contains(&partition) {
            return Err(TopicError::Partition { topic, partition, why: "it is not assigned here" });
        }
        let (runtime, reader) = self.reader()?;
        let (first, end) = runtime.block_on(reader::Feed::bounds(&mut reader.feed, partition))?;
        let next = after.map_or(first, |after| after + 1);
        if next < first {
            return Err(TopicError::Deleted { topic, partition, position: next - 1, first });
        }
        // The controller hears of a partition's end a moment later than the records were read.
        if next > end && after.is_some() && !self.is_known_to_reach(partition, next)? {
            return Err(TopicError::Beyond { topic, partition, position: next - 1, end });
        }
        let (_, reader) = self.reader()?;
        reader.begin(partition, Place::at(next, BYTES), now());
        Ok(())
    }

    /// Waits a moment for the controller to hear that a partition reaches `next`.
    fn is_known_to_reach(&mut self, partition: u32, next: u64) -> Result<bool, TopicError> {
        let began = now();
        while began.elapsed() < ATTEMPT && !self.stop.wait(RETRY) {
            let (runtime, reader) = self.reader()?;
            let (_, end) = runtime.block_on(reader::Feed::bounds(&mut reader.feed, partition))?;
            if end >= next {
                return Ok(true);
            }
        }
        Ok(self.stop.is_stopped())
    }
}

/// A runtime for one client; the client's own work runs on threads of its own.
fn runtime(address: &str) -> Result<Runtime, TopicError> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|error| TopicError::Client { address: address.to_owned(), why: error.to_string() })
}

impl TopicSource for FluvioSource {
    fn incarnation(&mut self) -> Result<Option<String>, SourceError> {
        let mut began = now();
        let mut has_told = false;
        loop {
            match self.attempt() {
                Ok(Some(mark)) => return Ok(Some(format!("fluvio/{}/{mark}", self.topic))),
                Ok(None) => {
                    self.metrics.answered(Answer::Came);
                    if !std::mem::replace(&mut has_told, true) {
                        tracing::info!(
                            topic = self.topic,
                            "the topic holds no record yet; the first one is waited for"
                        );
                    }
                    began = now();
                }
                Err(error) if error.class() == Class::Transient && began.elapsed() < REACH => {
                    self.metrics.answered(Answer::Missing);
                    tracing::warn!(topic = self.topic, %error, "the cluster is tried again");
                }
                Err(error) => return Err(Box::new(error).into()),
            }
            if self.stop.wait(RETRY) {
                return Ok(None);
            }
        }
    }

    fn partitions(&self) -> u32 {
        self.partitions
    }

    fn sharing(&self) -> Sharing {
        Sharing::Told
    }

    fn assign(&mut self, partitions: &[u32]) -> Result<(), SourceError> {
        let wanted: BTreeSet<u32> = partitions.iter().copied().collect();
        if let Some(&partition) = wanted.iter().find(|partition| **partition >= self.partitions) {
            let (topic, why) = (self.topic.clone(), "the topic has no such partition");
            return Err(Box::new(TopicError::Partition { topic, partition, why }).into());
        }
        let gone: Vec<u32> = self.assigned.difference(&wanted).copied().collect();
        let new: Vec<u32> = wanted.difference(&self.assigned).copied().collect();
        if gone.is_empty() && new.is_empty() {
            return Ok(());
        }
        self.metrics.rebalances.inc();
        if let Some(reader) = &mut self.reader {
            gone.iter().for_each(|partition| reader.end(*partition));
        }
        // Of a partition that goes before anyone heard that it came nothing is said.
        let mut gone = gone;
        for event in &mut self.events {
            if let TopicEvent::Assigned(unheard) = event {
                gone.retain(|partition| !unheard.contains(partition));
                unheard.retain(|partition| wanted.contains(partition));
            }
        }
        self.events.retain(|event| !matches!(event, TopicEvent::Assigned(unheard) if unheard.is_empty()));
        self.assigned = wanted;
        self.events.extend((!gone.is_empty()).then_some(TopicEvent::Revoked(gone)));
        self.events.extend((!new.is_empty()).then_some(TopicEvent::Assigned(new)));
        Ok(())
    }

    fn next(&mut self, records_max: usize, wait: Duration) -> Result<Option<TopicEvent>, SourceError> {
        if self.stop.is_stopped() {
            return Ok(None);
        }
        if let Some(event) = self.events.pop_front() {
            return Ok(Some(event));
        }
        self.show().map_err(Box::new)?;
        let (runtime, Some(reader)) = (&self.runtime, &mut self.reader) else { return Ok(None) };
        let filled = runtime.block_on(reader.fill(&mut self.decoder, records_max.max(1), wait));
        if self.decoder.is_empty() {
            filled.map_err(Box::new)?;
            return Ok(None);
        }
        // What came before an error is delivered first; the error comes again.
        if let Err(error) = filled {
            tracing::debug!(topic = self.topic, %error, "records came before an error");
        }
        let delivery = self.decoder.take();
        self.metrics.delivered(&delivery);
        Ok(Some(TopicEvent::Delivery(delivery)))
    }

    fn resume(&mut self, partition: u32, after: Option<u64>) -> Result<(), SourceError> {
        let stop = self.stop.clone();
        patiently(&stop, || self.try_resume(partition, after)).map(Option::unwrap_or_default)
    }

    fn released(&mut self, _partitions: &[u32]) -> Result<(), SourceError> {
        Ok(())
    }

    fn held_up(&mut self) {
        if let Err(error) = self.show() {
            tracing::debug!(topic = self.topic, %error, "the lag cannot be shown");
        }
    }

    fn handle(&self) -> TopicHandle {
        self.handle.clone()
    }

    fn lag(&self) -> Vec<PartitionLag> {
        let Some(reader) = &self.reader else { return Vec::new() };
        let now = wall_clock();
        let of = |(number, partition): (&u32, &reader::Partition<_>)| {
            let end = self.ends.get(number).copied().unwrap_or(0);
            PartitionLag::of(*number, end.saturating_sub(partition.place.expected()), partition.newest, now)
        };
        reader.partitions.iter().map(of).collect()
    }
}
