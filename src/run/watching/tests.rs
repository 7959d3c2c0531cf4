//! Monitors with folders of their own over one store, whoever dies when.

use std::collections::BTreeMap;
use std::ops::Range;

use interdict_features::decision::Outcome;
use interdict_monitor::config::MonitorConfig;
use interdict_monitor::log;
use interdict_monitor::metrics::Metrics;
use interdict_store::embedded::{EmbeddedOptions, EmbeddedStore};
use interdict_store::port::{Claim, Commit, LogName, OffsetMove, Store as _};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::super::clock;
use super::super::promises::tests::record;
use super::*;

struct Rig {
    folder: TempDir,
    runtime: Runtime,
    store: Arc<OnlineStore>,
}

impl Rig {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let store = EmbeddedStore::open(&folder.path().join("data"), EmbeddedOptions::default()).unwrap();
        Self { folder, runtime, store: Arc::new(OnlineStore::embedded(store)) }
    }

    /// Decisions, at the positions of their numbers.
    fn decide(&self, numbers: Range<u128>) {
        let claim = |number| {
            let record = record(number, Outcome::Review);
            let bytes = serde_json::to_vec(&record).unwrap().into();
            Claim {
                id: record.decision_id,
                record: bytes,
                entities: Vec::new(),
                intents: Vec::new(),
                lists: Vec::new(),
            }
        };
        let claims = numbers.map(claim).collect();
        self.runtime.block_on(self.store.commit(Commit { claims, ..Commit::default() })).unwrap();
    }

    fn monitor(&self, name: &str) -> Monitor {
        let config = MonitorConfig::at(self.folder.path().join(name));
        Monitor::open(config, None, Metrics::default()).unwrap().0
    }

    fn taking(&self, name: &str) -> Taking {
        self.runtime.block_on(Taking::open(self.monitor(name), Arc::clone(&self.store))).unwrap()
    }

    /// Takes and writes what there is; up to where decisions are written by then.
    fn write(taking: &mut Taking) -> u64 {
        for _ in 0..10 {
            while taking.take().unwrap() > 0 {}
            if let Some(written) = taking.publish(Publish::All).unwrap() {
                return written;
            }
        }
        panic!("it is refused for ever");
    }

    /// Writes all decisions, and dies before the store notes it.
    fn write_unnoted(&self, name: &str) {
        let mut monitor = self.monitor(name);
        let entries = self.runtime.block_on(self.store.read_log(LogName::DECISIONS, monitor.next_position(), 1_000));
        for (position, bytes) in entries.unwrap() {
            monitor.observe(position, &serde_json::from_slice(&bytes).unwrap(), clock::now()).unwrap();
        }
        monitor.flush(clock::now()).unwrap();
    }

    /// How many decisions are in each folder; together they are `0..count`, each once.
    fn check<const N: usize>(&self, names: [&str; N], count: u64) -> [usize; N] {
        let mut found = BTreeMap::new();
        let counts = names.map(|name| {
            let entries = log::read(&self.folder.path().join(name)).unwrap().map(Result::unwrap);
            let before = found.len();
            for entry in entries {
                assert_eq!(u128::from(entry.position), entry.record.decision_id.as_u128());
                assert!(found.insert(entry.position, name).is_none(), "{} is there twice: {found:?}", entry.position);
            }
            found.len() - before
        });
        assert_eq!(found.into_keys().collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
        counts
    }
}

#[test]
fn whoever_goes_on_in_another_folder_goes_on_behind_what_is_written() {
    let rig = Rig::new();
    rig.decide(0..30);
    assert_eq!(Rig::write(&mut rig.taking("a")), 30);
    rig.decide(30..50);
    assert_eq!(Rig::write(&mut rig.taking("b")), 50);
    rig.decide(50..60);
    let mut first = rig.taking("a");
    assert_eq!(Rig::write(&mut first), 60);
    rig.decide(60..70);
    assert_eq!(Rig::write(&mut first), 70);
    drop(first);
    assert_eq!(Rig::write(&mut rig.taking("b")), 70);
    assert_eq!(rig.check(["a", "b"], 70), [50, 20]);
}

#[test]
fn what_a_monitor_wrote_before_it_died_is_noted_when_its_folder_is_opened() {
    let rig = Rig::new();
    rig.decide(0..30);
    rig.write_unnoted("a");
    rig.decide(30..40);
    assert_eq!(Rig::write(&mut rig.taking("a")), 40);
    rig.write_unnoted("a");
    assert_eq!(Rig::write(&mut rig.taking("b")), 40);
    assert_eq!(rig.check(["a", "b"], 40), [40, 0]);
}

#[test]
fn what_another_one_wrote_meanwhile_is_taken_out_when_the_folder_is_opened() {
    let rig = Rig::new();
    rig.decide(0..30);
    assert_eq!(Rig::write(&mut rig.taking("a")), 30);
    rig.decide(30..50);
    rig.write_unnoted("a");
    let mut second = rig.taking("b");
    rig.decide(50..60);
    assert_eq!(Rig::write(&mut second), 60);
    rig.decide(60..65);
    assert_eq!(Rig::write(&mut rig.taking("a")), 65);
    assert_eq!(rig.check(["a", "b"], 65), [35, 30]);
}

#[test]
fn of_two_that_are_at_it_at_once_one_counts() {
    let rig = Rig::new();
    rig.decide(0..30);
    let (mut first, mut second) = (rig.taking("a"), rig.taking("b"));
    assert_eq!((first.take().unwrap(), second.take().unwrap()), (30, 30));
    assert_eq!(Rig::write(&mut second), 30);
    rig.decide(30..40);
    assert_eq!(first.publish(Publish::All).unwrap(), None, "it is written");
    assert_eq!(Rig::write(&mut first), 40);
    rig.decide(40..50);
    assert_eq!((first.take().unwrap(), Rig::write(&mut second)), (10, 50));
    assert_eq!(Rig::write(&mut first), 50);
    assert_eq!(rig.check(["a", "b"], 50), [10, 40]);
}

/// A Redis that fails over may lose what it noted last.
#[test]
fn a_note_that_the_store_has_lost_is_made_anew_or_left_to_who_goes_on() {
    let rig = Rig::new();
    rig.decide(0..40);
    Rig::write(&mut rig.taking("a"));
    rig.decide(40..50);
    let mut second = rig.taking("b");
    Rig::write(&mut second);
    rig.decide(50..60);
    Rig::write(&mut second);
    drop(second);
    let mut first = rig.taking("a");
    rig.decide(60..70);
    assert_eq!(first.take().unwrap(), 10);
    let other = format!("{}{}", written::POSITIONS, rig.monitor("b").log().folder());
    let back = |source: &str| OffsetMove { source: source.to_owned(), partition: 0, from: Some(59), to: 49 };
    let offsets = vec![back("monitor/decisions"), back(&other)];
    rig.runtime.block_on(rig.store.commit(Commit { offsets, ..Commit::default() })).unwrap();
    assert_eq!(Rig::write(&mut first), 70);
    assert_eq!(Rig::write(&mut rig.taking("b")), 70);
    assert_eq!(rig.check(["a", "b"], 70), [60, 10]);
}

#[test]
fn who_is_the_monitor_no_more_writes_nothing() {
    let rig = Rig::new();
    rig.decide(0..30);
    let (shown, until) = (Arc::default(), Until::stopped(&CancellationToken::new()));
    let produce = Produce::default();
    let started = start(rig.monitor("a"), &rig.store, Arc::default(), &shown, produce, until.clone());
    let thread = rig.runtime.block_on(started).unwrap();
    let is_taken = || shown.lock().unwrap().as_ref().is_some_and(|state: &MonitorState| state.unflushed_rows == 30);
    while !is_taken() {
        std::thread::yield_now();
    }
    until.lost.cancel();
    thread.join().unwrap().unwrap();
    until.stop.cancel();
    rig.check(["a"], 0);
    assert_eq!(Rig::write(&mut rig.taking("b")), 30);
    assert_eq!(rig.check(["a", "b"], 30), [0, 30]);
}
