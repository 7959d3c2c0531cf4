//! Readers of a topic in memory, each with a runtime of its own, over a real Redis: they come, go, die and stand still, and every record is
//! stored once.

#[path = "../../../../tests/it/redis_server.rs"]
#[allow(dead_code, reason = "whole-system tests use the rest")]
mod redis_server;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread::JoinHandle as Thread;
use std::time::Duration;

use interdict_ingest::source::Delivery;
use interdict_ingest::source::error::SourceError;
use interdict_ingest::source::stop::Stop;
use interdict_ingest::topic::{PartitionLag, Sharing as By, TopicEvent, TopicHandle};
use interdict_store::port::{Commit, OffsetMove, Store as _};
use interdict_store::redis::RedisStore;
use interdict_store::redis::config::RedisConfig;
use tokio::sync::mpsc as tokio_mpsc;

use super::super::super::charge;
use super::super::super::core::{Intake, position_of};
use super::super::super::sources::Intaker;
use super::super::super::topics;
use super::super::charges::{self, Charges};
use super::*;
use redis_server::RedisServer;

const SOURCE: &str = "payments";
const LEASE: Duration = Duration::from_secs(1);
const PARTITIONS_MAX: usize = 6;
const PATIENCE: Duration = Duration::from_secs(60);

/// A topic in memory: how many records each partition has.
struct Topic {
    ends: Vec<AtomicU64>,
    /// How many partitions there are by now.
    partitions: AtomicU32,
}

/// One that reads it, as [`TopicSource`] has it.
struct Source {
    topic: Arc<Topic>,
    assigned: BTreeSet<u32>,
    events: VecDeque<TopicEvent>,
    next: BTreeMap<u32, u64>,
    stop: Stop,
}

impl TopicSource for Source {
    fn incarnation(&mut self) -> Result<Option<String>, SourceError> {
        Ok(Some("memory".to_owned()))
    }

    fn partitions(&self) -> u32 {
        self.topic.partitions.load(Ordering::Acquire)
    }

    fn sharing(&self) -> By {
        By::Told
    }

    fn assign(&mut self, partitions: &[u32]) -> Result<(), SourceError> {
        let wanted: BTreeSet<u32> = partitions.iter().copied().collect();
        let gone: Vec<u32> = self.assigned.difference(&wanted).copied().collect();
        let new: Vec<u32> = wanted.difference(&self.assigned).copied().collect();
        self.next.retain(|partition, _| wanted.contains(partition));
        self.events.extend((!gone.is_empty()).then_some(TopicEvent::Revoked(gone)));
        self.events.extend((!new.is_empty()).then_some(TopicEvent::Assigned(new)));
        self.assigned = wanted;
        Ok(())
    }

    fn next(&mut self, records_max: usize, _wait: Duration) -> Result<Option<TopicEvent>, SourceError> {
        if let Some(event) = self.events.pop_front() {
            return Ok(Some(event));
        }
        let topic = Arc::clone(&self.topic);
        let end = |partition: u32| topic.ends[usize::try_from(partition).unwrap()].load(Ordering::Acquire);
        let Some((&partition, next)) = self.next.iter_mut().find(|(partition, next)| **next < end(**partition)) else {
            let _is_stopped = self.stop.wait(Duration::from_millis(10));
            return Ok(None);
        };
        let records = (end(partition) - *next).min(records_max as u64 / 512);
        *next += records;
        let position = *next - 1;
        let (batches, dead, left) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Some(TopicEvent::Delivery(Delivery { batches, dead, skipped: records, records, partition, position, left })))
    }

    fn resume(&mut self, partition: u32, after: Option<u64>) -> Result<(), SourceError> {
        self.next.insert(partition, after.map_or(0, |after| after + 1));
        Ok(())
    }

    fn released(&mut self, _partitions: &[u32]) -> Result<(), SourceError> {
        Ok(())
    }

    fn held_up(&mut self) {}

    fn handle(&self) -> TopicHandle {
        TopicHandle::default()
    }

    fn lag(&self) -> Vec<PartitionLag> {
        Vec::new()
    }
}

/// What was stored: partition, first and last position of every commit that went through.
type Stored = Arc<Mutex<Vec<(u32, u64, u64)>>>;

/// A process: what it reads it stores, on one thread that also keeps its leases.
struct Worker {
    stop: Stop,
    holder: Uuid,
    runtime: Handle,
    reading: Thread<anyhow::Result<()>>,
    storing: Thread<anyhow::Result<()>>,
}

/// Everything that the tests are about.
struct Rig {
    redis: RedisServer,
    topic: Arc<Topic>,
    stored: Stored,
    runtime: tokio::runtime::Runtime,
    store: RedisStore,
}

fn config(redis: &RedisServer) -> RedisConfig {
    let short = Duration::from_millis(300);
    let config = RedisConfig::new("sharing", &[&redis.url()]).unwrap();
    RedisConfig { wait: short, connect_timeout: short, response_timeout: short, ..config }
}

/// Stores what a reader hands over, as an ingestor does.
async fn store_all(
    store: &RedisStore,
    stop: &Stop,
    mut intake: tokio_mpsc::Receiver<Intake>,
    stored: &Stored,
) -> anyhow::Result<()> {
    let (mut charges, mut positions) =
        (Charges::begin(charge::of_roles(store, stop, async |_| Ok(1)).await?), BTreeMap::new());
    while let Some(given) = intake.recv().await {
        match given {
            Intake::Attach { source, incarnation, new, reply, .. } => {
                charges.take(store, stop, &source, &new).await?;
                let offsets = store.offsets(&source, &incarnation.unwrap()).await?;
                positions.extend(new.into_iter().map(|partition| (partition, position_of(&offsets, partition))));
                let _reader_ended = reply.send(Ok(offsets));
            }
            Intake::Delivery { source, delivery, .. } => {
                let (partition, to) = (delivery.partition, delivery.position);
                let from = positions[&partition];
                let mut offsets = charges.of([(&source, partition)]);
                offsets.push(OffsetMove { source: source.to_string(), partition, from, to });
                let commit = Commit { offsets, ..Commit::default() };
                let told = "the store does not take a commit";
                let committed = super::super::super::patience::commit(store, stop, told, &commit).await;
                committed.map_err(charges::told)?;
                positions.insert(partition, Some(to));
                stored.lock().unwrap().push((partition, from.map_or(0, |from| from + 1), to));
            }
            Intake::Release { source, partitions, reply } => {
                charges.let_go(&source, &partitions);
                let _reader_ended = reply.send(());
            }
            Intake::Ended | Intake::Failed(_) => {}
        }
    }
    Ok(())
}

impl Rig {
    fn new(partitions: u32) -> Self {
        // A slow disk would make leases end.
        let redis = RedisServer::start_with(&["--appendfsync", "no"]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let store = runtime.block_on(RedisStore::connect(config(&redis))).unwrap();
        let topic = Topic {
            ends: (0..PARTITIONS_MAX).map(|_| AtomicU64::new(0)).collect(),
            partitions: AtomicU32::new(partitions),
        };
        let topic = Arc::new(topic);
        Self { redis, topic, stored: Stored::default(), runtime, store }
    }

    fn produce(&self) {
        let partitions = usize::try_from(self.topic.partitions.load(Ordering::Acquire)).unwrap();
        for end in &self.topic.ends[..partitions] {
            end.fetch_add(100, Ordering::AcqRel);
        }
    }

    fn start(&self) -> Worker {
        let (topic, stored, config) = (Arc::clone(&self.topic), Arc::clone(&self.stored), config(&self.redis));
        let (stop, member) = (Stop::default(), Uuid::new_v4());
        let (ready, begun) = mpsc::sync_channel(1);
        let stopped = stop.clone();
        let storing = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let store = Arc::new(RedisStore::connect(config).await.unwrap());
                let (intake, given) = tokio_mpsc::channel(4);
                let name = "topic".to_owned();
                let claimant = Claimant { store: Arc::clone(&store), name, holder: member, time_to_live: LEASE };
                let shared = Shared::new(&claimant, SOURCE, CancellationToken::new());
                ready.send((Intaker { source: SOURCE.into(), intake }, shared, Handle::current())).unwrap();
                store_all(&store, &stopped, given, &stored).await
            })
        });
        let (intaker, shared, runtime) = begun.recv().unwrap();
        let (holder, reads_until) = (shared.claimant.holder, stop.clone());
        let reading = std::thread::spawn(move || {
            let (assigned, events, next) = (BTreeSet::new(), VecDeque::new(), BTreeMap::new());
            let source = Source { topic, assigned, events, next, stop: reads_until.clone() };
            topics::read(Box::new(source), Box::new(shared), &intaker, &reads_until)
        });
        Worker { stop, holder, runtime, reading, storing }
    }

    /// How many partitions each reader holds.
    fn held(&self) -> BTreeMap<Uuid, usize> {
        let leases = self.runtime.block_on(self.store.leases("topic/payments/", None)).unwrap();
        let mut held = BTreeMap::new();
        for lease in leases {
            *held.entry(lease.holder).or_default() += usize::from(!lease.name.contains("reader"));
        }
        held
    }

    fn wait(&self, time: Duration) {
        self.runtime.block_on(async { tokio::time::sleep(time).await });
    }

    #[expect(clippy::disallowed_methods, reason = "a test ends in real time")]
    fn until<T>(&self, what: &str, mut found: impl FnMut() -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(found) = found() {
                return found;
            }
            assert!(began.elapsed() < PATIENCE, "{what} does not come: {:?}", self.held());
            self.wait(Duration::from_millis(5));
        }
    }

    /// Waits until the readers hold so many.
    fn share(&self, expected: &[(&Worker, usize)]) {
        let expected: BTreeMap<Uuid, usize> = expected.iter().map(|(worker, count)| (worker.holder, *count)).collect();
        self.until("the share", || (self.held() == expected).then_some(()));
    }

    /// Waits until the readers hold parts of these sizes, whoever which.
    fn shares(&self, sizes: &[usize]) {
        let sorted = |held: BTreeMap<Uuid, usize>| {
            let mut sizes: Vec<usize> = held.into_values().collect();
            sizes.sort_unstable();
            sizes
        };
        self.until("the shares", || (sorted(self.held()) == sizes).then_some(()));
    }

    /// Waits until everything is stored: each record once, in order.
    fn all_is_stored_once(&self) {
        let ends: Vec<u64> = self.topic.ends.iter().map(|end| end.load(Ordering::Acquire)).collect();
        let read = || {
            let stored = self.stored.lock().unwrap();
            // Who stored last may tell of it first.
            let next = |partition: u32| {
                let of_it = stored.iter().filter(|(at, ..)| *at == partition);
                let mut of_it: Vec<(u64, u64)> = of_it.map(|(_, first, last)| (*first, *last)).collect();
                of_it.sort_unstable();
                of_it.into_iter().fold(0, |next, (first, last)| {
                    assert!(first >= next, "{first} of partition {partition} is stored twice");
                    if first == next { last + 1 } else { next }
                })
            };
            let all: Vec<u64> = (0..u32::try_from(ends.len()).unwrap()).map(next).collect();
            (all == ends).then_some(())
        };
        self.until("the end", read);
    }
}

impl Worker {
    /// Ends as it does when it is told to; its leases are gone with it.
    fn end(self, rig: &Rig) {
        self.stop.stop();
        self.reading.join().unwrap().unwrap();
        assert!(!rig.held().contains_key(&self.holder), "the leases were given back");
        self.storing.join().unwrap().unwrap();
    }

    /// Stands still, leases and all, until what is returned is dropped.
    fn freeze(&self) -> mpsc::SyncSender<()> {
        let (gate, closed) = mpsc::sync_channel::<()>(0);
        self.runtime.spawn(async move { closed.recv().is_err() });
        gate
    }

    /// Waits until it has ended because it was taken for dead.
    fn ends_fenced(self) {
        let read = self.reading.join().unwrap();
        let stored = self.storing.join().unwrap();
        let errors: Vec<String> =
            [read, stored].into_iter().filter_map(Result::err).map(|error| crate::told::told(&error)).collect();
        assert!(errors.iter().any(|error| error.contains("of source 'payments' over")), "{errors:?}");
    }
}

#[test]
fn readers_come_and_go_and_share_what_there_is() {
    let rig = Rig::new(4);
    rig.produce();
    let first = rig.start();
    rig.share(&[(&first, 4)]);
    let second = rig.start();
    rig.share(&[(&first, 2), (&second, 2)]);
    rig.produce();
    // One more takes one; another finds one; those beyond stand by.
    let third = rig.start();
    rig.shares(&[1, 1, 2]);
    let rest = [rig.start(), rig.start()];
    rig.shares(&[0, 1, 1, 1, 1]);
    rig.produce();
    let holders: Vec<Uuid> = rig.held().into_keys().collect();
    for worker in [first, third] {
        worker.end(&rig);
        rig.produce();
    }
    rig.shares(&[1, 1, 2]);
    assert!(rig.held().keys().all(|holder| holders.contains(holder)));
    rig.all_is_stored_once();
    second.end(&rig);
    rig.shares(&[2, 2]);
    rig.produce();
    rig.all_is_stored_once();
    rest.into_iter().for_each(|worker| worker.end(&rig));
    assert_eq!(rig.held(), BTreeMap::new());
}

#[test]
fn who_dies_or_stands_still_is_replaced_and_ends_when_it_comes_back() {
    let rig = Rig::new(3);
    let (dies, sleeps, lasts) = (rig.start(), rig.start(), rig.start());
    rig.share(&[(&dies, 1), (&sleeps, 1), (&lasts, 1)]);
    rig.produce();
    std::mem::forget(dies.freeze());
    let gate = sleeps.freeze();
    rig.produce();
    rig.share(&[(&lasts, 3)]);
    rig.all_is_stored_once();
    drop(gate);
    sleeps.ends_fenced();
    let anew = rig.start();
    rig.shares(&[1, 2]);
    rig.produce();
    rig.all_is_stored_once();
    lasts.end(&rig);
    rig.share(&[(&anew, 3)]);
    anew.end(&rig);
}

#[test]
fn while_the_store_is_away_everybody_keeps_what_he_reads() {
    let rig = Rig::new(5);
    let (one, other) = (rig.start(), rig.start());
    rig.shares(&[2, 3]);
    let before = rig.held();
    let resume = rig.redis.pause();
    rig.wait(LEASE * 2);
    resume();
    // Whoever comes first finds the other one's leases ended.
    let held = || {
        let leases = rig.runtime.block_on(rig.store.leases("topic/payments/", None));
        leases.ok().filter(|leases| leases.len() == 7)
    };
    rig.until("the leases", held);
    rig.wait(LEASE * 2);
    assert_eq!(rig.held(), before);
    rig.produce();
    rig.all_is_stored_once();
    one.end(&rig);
    other.end(&rig);
}

#[test]
fn a_topic_that_gets_more_partitions_is_read_whole() {
    let rig = Rig::new(2);
    let workers = [rig.start(), rig.start()];
    rig.shares(&[1, 1]);
    rig.produce();
    rig.topic.partitions.store(5, Ordering::Release);
    rig.shares(&[2, 3]);
    rig.produce();
    rig.all_is_stored_once();
    workers.into_iter().for_each(|worker| worker.end(&rig));
}
