//! A sink over a store that makes commits and loses its answers.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use interdict_features::decision::EntityRef;
use interdict_features::time::Timestamp;
use interdict_ingest::topic::broker::{Broker, KafkaBroker, Tls};
use interdict_ingest::topic::sink::{SinkConfig, SinkMetrics};
use interdict_store::embedded::{EmbeddedOptions, EmbeddedStore};
use interdict_store::port::{
    Append, Committed, Fetched, Intent, ListEntry, LogName, Offset, OutboxPlace, Query, Registered, RegistryEntry,
    StoredDecision,
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::super::{Place, Produce};
use super::*;

/// A store whose answers to commits of positions may be lost. A commit that comes again as it was is answered, as the adapters do.
struct Losing {
    inner: EmbeddedStore,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    losses: usize,
    in_doubt: Vec<Commit>,
}

impl Losing {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

fn lost() -> StoreError {
    StoreError::Io { what: "a commit".to_owned(), source: std::io::ErrorKind::TimedOut.into() }
}

impl Store for Losing {
    async fn commit(&self, commit: Commit) -> Result<Committed, StoreError> {
        if commit.offsets.is_empty() {
            return self.inner.commit(commit).await;
        }
        let at = self.state().in_doubt.iter().position(|doubt| doubt.offsets == commit.offsets);
        if let Some(at) = at {
            self.state().in_doubt.remove(at);
            return Ok(Committed::default());
        }
        let committed = self.inner.commit(commit.clone()).await?;
        let mut state = self.state();
        if state.losses > 0 {
            state.losses -= 1;
            state.in_doubt.push(commit);
            return Err(lost());
        }
        Ok(committed)
    }

    async fn fetch(&self, query: &Query) -> Result<Fetched, StoreError> {
        self.inner.fetch(query).await
    }

    async fn offsets(&self, source: &str, incarnation: &str) -> Result<Vec<Offset>, StoreError> {
        self.inner.offsets(source, incarnation).await
    }

    async fn positions(&self, source: &str) -> Result<Vec<Offset>, StoreError> {
        self.inner.positions(source).await
    }

    async fn decision(&self, id: Uuid) -> Result<Option<StoredDecision>, StoreError> {
        self.inner.decision(id).await
    }

    async fn recent_decisions(&self, entity: &EntityRef, limit: usize) -> Result<Vec<Bytes>, StoreError> {
        self.inner.recent_decisions(entity, limit).await
    }

    async fn lists(&self) -> Result<Vec<ListEntry>, StoreError> {
        self.inner.lists().await
    }

    async fn outbox(
        &self,
        behind: Option<&OutboxPlace>,
        limit: usize,
    ) -> Result<Vec<(OutboxPlace, Intent)>, StoreError> {
        self.inner.outbox(behind, limit).await
    }

    async fn replicated(&self) -> Result<Replicated, StoreError> {
        self.inner.replicated().await
    }

    async fn work_waiting(&self) -> Result<u64, StoreError> {
        self.inner.work_waiting().await
    }

    async fn read_log(&self, log: LogName, position: u64, limit: usize) -> Result<Vec<(u64, Bytes)>, StoreError> {
        self.inner.read_log(log, position, limit).await
    }

    async fn log_next(&self, log: LogName) -> Result<u64, StoreError> {
        self.inner.log_next(log).await
    }

    async fn trim_log(&self, log: LogName, position: u64) -> Result<(), StoreError> {
        self.inner.trim_log(log, position).await
    }

    async fn expire(&self, now: Timestamp) -> Result<u64, StoreError> {
        self.inner.expire(now).await
    }

    async fn prune(
        &self,
        entity: &str,
        group: u64,
        is_stale: &(dyn Fn(&[u8]) -> bool + Sync),
    ) -> Result<u64, StoreError> {
        self.inner.prune(entity, group, is_stale).await
    }

    async fn register(&self, entry: RegistryEntry) -> Result<(), StoreError> {
        self.inner.register(entry).await
    }

    async fn registry(&self) -> Result<Registered, StoreError> {
        self.inner.registry().await
    }

    async fn set_alias(&self, alias: &str, version: &str) -> Result<(), StoreError> {
        self.inner.set_alias(alias, version).await
    }
}

/// A topic that holds what was produced.
#[derive(Clone, Default)]
struct Topic(Arc<Mutex<Vec<String>>>);

impl TopicSink for Topic {
    fn produce(&mut self, records: &[Produced<'_>]) -> Result<(), TopicError> {
        let values = records.iter().map(|record| String::from_utf8(record.value.to_vec()).unwrap());
        self.0.lock().unwrap().extend(values);
        Ok(())
    }
}

/// A sink of dead letters at work.
struct Bench {
    _folder: TempDir,
    runtime: tokio::runtime::Runtime,
    store: Arc<Losing>,
    topic: Topic,
    feeding: Feeding<Losing>,
}

impl Bench {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let inner = EmbeddedStore::open(folder.path(), EmbeddedOptions::default()).unwrap();
        let store = Arc::new(Losing { inner, state: Mutex::default() });
        let broker = Broker::Kafka(KafkaBroker { brokers: "none:1".to_owned(), tls: Tls::default(), login: None });
        let what = What::DeadLetters;
        let config = SinkConfig { name: "letters".to_owned(), what, broker, topic: "letters".to_owned() };
        let place = Place { what, offset: offset_name("letters"), next: AtomicU64::new(0) };
        let feeder = Feeder {
            config,
            produce: Produce(Arc::new(vec![place])),
            store: Arc::clone(&store),
            metrics: SinkMetrics::default().of("letters"),
            trims: Trims::Itself,
            met: Met::GoesOn,
        };
        let topic = Topic::default();
        let sink = Box::new(topic.clone());
        let feeding = Feeding::new(feeder, sink, None);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { _folder: folder, runtime, store, topic, feeding }
    }

    fn append(&self, entries: std::ops::Range<u64>) {
        let append = |entry: u64| Append { log: LogName::DEAD_LETTERS, bytes: Bytes::from(entry.to_string()) };
        let commit = Commit { appends: entries.map(append).collect(), ..Commit::default() };
        self.runtime.block_on(self.store.commit(commit)).unwrap();
    }

    fn turn(&mut self) -> Result<Option<usize>, StepError> {
        let handle = self.runtime.handle().clone();
        self.feeding.turn(&handle)
    }

    fn stored(&self) -> Option<u64> {
        position_of(&self.runtime.block_on(self.store.positions(&offset_name("letters"))).unwrap(), 0)
    }

    fn produced(&self) -> Vec<u64> {
        self.topic.0.lock().unwrap().iter().map(|entry| entry.parse().unwrap()).collect()
    }
}

#[test]
fn a_position_whose_commit_was_not_answered_is_committed_again_before_more_is_read() {
    let mut bench = Bench::new();
    bench.append(0..3);
    bench.store.state().losses = 1;
    let error = bench.turn().unwrap_err();
    assert!(matches!(&error, StepError::Store(error) if error.class() == Class::Transient), "{error}");
    assert_eq!(bench.stored(), Some(2), "it was made all the same");
    // More came meanwhile: the next commit is another one.
    bench.append(3..5);
    assert_eq!(bench.turn().unwrap(), Some(2), "the sink does not meet itself");
    assert_eq!((bench.stored(), bench.produced()), (Some(4), (0..5).collect()), "each once");
    assert_eq!(bench.runtime.block_on(bench.store.read_log(LogName::DEAD_LETTERS, 0, 9)).unwrap(), []);
    assert_eq!(bench.turn().unwrap(), Some(0));
}

#[test]
fn a_sink_that_finds_its_position_moved_goes_on_once_nobody_moves_it() {
    let mut bench = Bench::new();
    bench.append(0..6);
    let moved = |bench: &Bench, from: Option<u64>, to: u64| {
        let offsets = vec![OffsetMove { source: offset_name("letters"), partition: 0, from, to }];
        bench.runtime.block_on(bench.store.commit(Commit { offsets, ..Commit::default() })).unwrap();
    };
    moved(&bench, None, 1);
    let stop = CancellationToken::new();
    stop.cancel();
    let handle = bench.runtime.handle().clone();
    assert_eq!(bench.feeding.run(&handle, &Until::stopped(&stop)).unwrap(), End::Stopped);
    assert_eq!((bench.feeding.stored, bench.feeding.yields), (Some(1), true));
    moved(&bench, Some(1), 5);
    assert_eq!(bench.turn().unwrap(), None, "another one is at work");
    assert_eq!(bench.turn().unwrap(), None, "it has nothing to do");
    bench.append(6..8);
    assert_eq!(bench.turn().unwrap(), None, "this may have come just now");
    assert_eq!(bench.turn().unwrap(), Some(2), "it ceased");
    assert_eq!((bench.stored(), bench.produced()), (Some(7), vec![0, 1, 2, 3, 4, 5, 6, 7]));
}

#[test]
fn a_place_that_was_given_to_another_entry_is_produced_anew() {
    let mut bench = Bench::new();
    bench.append(0..3);
    bench.feeding.unconfirmed = Some((1, Bytes::from_static(b"lost")));
    assert_eq!(bench.turn().unwrap(), Some(3));
    assert_eq!((bench.stored(), bench.produced()), (Some(2), (0..3).collect()));
}
