use bytes::Bytes;
use interdict_features::change::{Change, ChangeBatch, Op, Version};
use interdict_features::config::ConfigFile;
use interdict_features::definition::Definitions;
use interdict_features::engine::{Evaluate, Plan};
use interdict_features::state::Readout;
use interdict_ingest::pipeline::{Limits, Pipeline};
use interdict_store::embedded::{EmbeddedOptions, EmbeddedStore};
use interdict_store::port::{Claim, Commit, OffsetMove};
use uuid::Uuid;

use super::*;

const DEFINITIONS: &str = r#"
[stream.payments]
id = "id"
time = "at"
partition_by = "customer"
columns = { id = "int64", at = "timestamp", customer = "int64" }
[entity.customer]
key = "customer"
[[group]]
name = "spend"
entity = "customer"
windows = ["1h"]
features = { count = "count()" }
"#;

const HOUR: i64 = 3_600_000_000;
/// A quarter past nine in the evening: what expires two hours later does so before midnight, and what comes three hours later after it.
const EVENING: i64 = 20_000 * 24 * HOUR + 21 * HOUR + HOUR / 4;
const SOURCE: &str = "payments";

/// Whoever reads one partition of payments.
struct Reader {
    partition: u32,
    plan: Arc<Plan>,
    store: Arc<EmbeddedStore>,
    pipeline: Pipeline<EmbeddedStore>,
    next: u64,
}

impl Reader {
    async fn new(partition: u32, store: &Arc<EmbeddedStore>) -> Self {
        let file = ConfigFile::parse("interdict.toml", DEFINITIONS).unwrap();
        let plan = Arc::new(Plan::compile(Arc::new(Definitions::read(&file, None).unwrap())));
        let limits = Limits { shards: 1, memory_bytes: usize::MAX };
        let mut pipeline = Pipeline::new(Arc::clone(&plan), Arc::clone(store), limits);
        pipeline.attach(SOURCE, Some("a topic")).await.unwrap();
        pipeline.let_go(SOURCE, &[1 - partition]);
        Self { partition, plan, store: Arc::clone(store), pipeline, next: 1 }
    }

    /// Applies and stores payments of `customers` at `time`; the features of the last one.
    async fn pay(&mut self, time: i64, customers: std::ops::Range<i64>) -> Vec<Readout> {
        let mut batch = ChangeBatch::new(Arc::clone(&self.plan.definitions.streams[0]), self.partition);
        for customer in customers {
            let position = self.next;
            let id = i64::from(self.partition) * 1_000_000 + position.cast_signed();
            let mut row = batch.begin();
            [id, time, customer].into_iter().enumerate().for_each(|(column, cell)| row.set_cell(column, cell));
            row.finish(Change { op: Op::Insert, version: Version::new(position), arrival: None, position });
            self.next += 1;
        }
        let output = self.pipeline.apply(&batch, Evaluate::Everything).await.unwrap();
        let vector = output.vector(output.vectors.last().unwrap().unwrap()).to_vec();
        self.pipeline.advance(SOURCE, self.partition, self.next - 1);
        let mut commit = Commit::default();
        self.pipeline.fill(&mut commit);
        self.store.commit(commit).await.unwrap();
        self.pipeline.stored();
        self.pipeline.forget();
        vector
    }
}

fn store() -> (tempfile::TempDir, Arc<EmbeddedStore>) {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(folder.path(), EmbeddedOptions::default()).unwrap();
    (folder, Arc::new(store))
}

fn by(every: Duration) -> Sweeping {
    Sweeping {
        sources: vec![SOURCE.to_owned()],
        keep: Keep::default(),
        decisions: Decisions::Others,
        every,
        idle: IDLE,
        truncated: Truncated::default(),
    }
}

/// One pass over the store; how much went.
async fn pass(store: &EmbeddedStore, clocks: &mut Clocks) -> u64 {
    let read = stored(store, &by(SWEEP).sources).await.unwrap();
    let now = clocks.instant(read, clock::instant(), IDLE).unwrap();
    store.expire(now).await.unwrap()
}

#[tokio::test]
async fn a_partition_that_is_behind_finds_what_its_windows_cover() {
    let mut vectors = Vec::new();
    for is_swept in [false, true] {
        let (_folder, store) = store();
        let (mut ahead, mut behind) = (Reader::new(0, &store).await, Reader::new(1, &store).await);
        behind.pay(EVENING - 24 * HOUR, 9..10).await;
        behind.pay(EVENING, 7..50).await;
        ahead.pay(EVENING + 3 * HOUR, 100..164).await;
        if is_swept {
            let mut clocks = Clocks::default();
            assert_eq!(pass(&store, &mut clocks).await, 1, "the state of the day before");
            assert_eq!(pass(&store, &mut clocks).await, 0);
        }
        vectors.push(behind.pay(EVENING + HOUR / 2, 7..8).await);
    }
    assert_eq!(vectors[0], vectors[1]);
}

#[tokio::test]
async fn whoever_sweeps_need_not_have_applied_anything() {
    let (_folder, store) = store();
    let mut reader = Reader::new(0, &store).await;
    reader.pay(EVENING, 1..40).await;
    reader.pay(EVENING + 48 * HOUR, 100..164).await;
    assert_eq!(store.states_now().unwrap().len(), 39 + 64);
    let stop = CancellationToken::new();
    let sweeping = tokio::spawn(sweep(Arc::clone(&store), by(Duration::from_millis(1)), stop.clone()));
    let is_swept = tokio::time::timeout(Duration::from_secs(60), async {
        while store.states_now().unwrap().len() > 64 {
            tokio::task::yield_now().await;
        }
    });
    is_swept.await.expect("what expired goes");
    stop.cancel();
    sweeping.await.unwrap().unwrap();
}

#[tokio::test]
async fn who_is_to_stop_leaves_the_rest_for_another_time() {
    const MANY: usize = 20_000;
    let (_folder, store) = store();
    let mut reader = Reader::new(0, &store).await;
    reader.pay(EVENING, 1..20_001).await;
    let (stop, later) = (CancellationToken::new(), Timestamp::from_micros(EVENING + 48 * HOUR));
    // Told in the midst of it.
    let (swept, ()) = tokio::join!(expire(&*store, later, &stop), async { stop.cancel() });
    swept.unwrap();
    let left = store.states_now().unwrap().len();
    assert!(left > MANY / 2, "{left} states are left");
    assert_eq!(expire(&*store, later, &stop).await.unwrap(), 0);
    assert_eq!(store.states_now().unwrap().len(), left);
    expire(&*store, later, &CancellationToken::new()).await.unwrap();
    assert_eq!(store.states_now().unwrap().len(), 0);
}

/// A clock of a partition: where it is, what it says, of how many rows.
fn clock_of(source: &str, partition: u32, hour: i64, rows: u64) -> ((String, u32), PartitionClock) {
    ((source.to_owned(), partition), PartitionClock { now: Timestamp::from_micros(hour * HOUR), rows })
}

#[test]
fn a_partition_that_gives_nothing_for_a_while_holds_nobody() {
    let began = clock::instant();
    let mut clocks = Clocks::default();
    let mut check = |hours: u64, read: &[((String, u32), PartitionClock)], expected: Option<i64>| {
        let now = began + Duration::from_secs(hours * 3_600);
        let instant = clocks.instant(read.to_vec(), now, IDLE);
        assert_eq!(instant, expected.map(|hour| Timestamp::from_micros(hour * HOUR)), "after {hours} hours");
    };
    check(0, &[], None);
    check(0, &[clock_of("input", 3, 90, 1)], Some(90));
    check(1, &[clock_of("a", 0, 50, 9), clock_of("a", 1, 20, 9), clock_of("input", 3, 10, 2)], Some(20));
    // Rows that come late do not move a clock, and it holds.
    check(5, &[clock_of("a", 0, 54, 10), clock_of("a", 1, 20, 10)], Some(20));
    check(10, &[clock_of("a", 0, 59, 11), clock_of("a", 1, 20, 10)], Some(20));
    check(12, &[clock_of("a", 0, 61, 12), clock_of("a", 1, 20, 10)], Some(61));
    // It comes back, and holds again.
    check(13, &[clock_of("a", 0, 62, 13), clock_of("a", 1, 21, 11)], Some(21));
    check(40, &[clock_of("a", 0, 62, 13), clock_of("a", 1, 21, 11)], Some(62));
}

#[tokio::test]
async fn a_log_of_decisions_that_nobody_reads_is_forgotten_and_no_other() {
    let (_folder, store) = store();
    let claim = |number: u64| Claim {
        id: Uuid::from_u64_pair(7, number),
        record: Bytes::from_static(b"{}"),
        entities: Vec::new(),
        intents: Vec::new(),
        lists: Vec::new(),
    };
    let decide = async |number: u64| {
        store.commit(Commit { claims: vec![claim(number)], ..Commit::default() }).await.unwrap();
    };
    let logged = async || store.read_log(LogName::DECISIONS, 0, 9).await.unwrap().len();
    decide(0).await;
    decide(1).await;
    let stop = CancellationToken::new();
    stop.cancel();
    sweep(Arc::clone(&store), by(SWEEP), stop).await.unwrap();
    assert_eq!(forget_decisions(&*store, 0).await.unwrap(), 2);
    assert_eq!(logged().await, 2, "another process may have made them");
    let stop = CancellationToken::new();
    let here = Sweeping { decisions: Decisions::Here, ..by(Duration::from_millis(1)) };
    let sweeping = tokio::spawn(sweep(Arc::clone(&store), here, stop.clone()));
    let is_empty = tokio::time::timeout(Duration::from_secs(60), async {
        while logged().await > 0 {
            tokio::task::yield_now().await;
        }
    });
    is_empty.await.unwrap();
    stop.cancel();
    sweeping.await.unwrap().unwrap();
    assert!(store.decision(claim(0).id).await.unwrap().is_some(), "it stands under its id");
    assert_eq!(store.log_next(LogName::DECISIONS).await.unwrap(), 2, "numbering goes on");
    // A monitor has worked here, and may come back.
    let written = OffsetMove { source: "monitor/decisions".to_owned(), partition: 0, from: None, to: 1 };
    store.commit(Commit { offsets: vec![written], ..Commit::default() }).await.unwrap();
    decide(2).await;
    forget_decisions(&*store, 3).await.unwrap();
    assert_eq!(logged().await, 1);
}
