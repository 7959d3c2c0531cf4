//! The pipeline over a store: what is dropped from memory comes back as it was, and what nothing can ask for any more goes.

use std::sync::Arc;

use interdict_features::change::{Change, ChangeBatch, Op, Version};
use interdict_features::engine::{Evaluate, Plan};
use interdict_features::state::Readout;
use interdict_features::time::{Span, Timestamp};
use interdict_ingest::pipeline::{Limits, Pipeline};
use interdict_store::embedded::{EmbeddedOptions, EmbeddedStore};
use interdict_store::error::StoreError;
use interdict_store::port::{Commit, Store as _};

use super::history::{DAY, Delivery, deliveries};
use super::side::{batch, plan};
use super::twin::DEFINITIONS;

struct Kept {
    folder: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    store: Arc<EmbeddedStore>,
    pipeline: Pipeline<EmbeddedStore>,
}

impl Kept {
    fn new(plan: &Arc<Plan>, memory_bytes: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(EmbeddedStore::open(folder.path(), EmbeddedOptions::default()).unwrap());
        let limits = Limits { shards: 2, memory_bytes };
        let pipeline = Pipeline::new(Arc::clone(plan), Arc::clone(&store), limits);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        Self { folder, runtime, store, pipeline }
    }

    fn apply(&mut self, batch: &ChangeBatch) {
        self.runtime.block_on(self.pipeline.apply(batch, Evaluate::Judged)).unwrap();
    }

    fn commit(&mut self) {
        let mut commit = Commit::default();
        self.pipeline.fill(&mut commit);
        self.runtime.block_on(self.store.commit(commit)).unwrap();
        self.pipeline.stored();
    }

    fn expire(&self, now: Timestamp) -> u64 {
        self.runtime.block_on(self.store.expire(now)).unwrap()
    }

    fn rows(&self) -> usize {
        self.store.rows_now().unwrap().len()
    }
}

/// One decision's part of the engine: judgement, instants, vector.
type Judged = (Option<u32>, Vec<i64>, Vec<Readout>);

fn judged(kept: &mut Kept, plan: &Plan, deliveries: &[Delivery]) -> Vec<Judged> {
    let mut judged = Vec::new();
    let entities = plan.definitions.entities.len();
    let runs = deliveries.chunk_by(|a, b| a.is_report() == b.is_report()).flat_map(|run| run.chunks(24));
    for run in runs {
        kept.apply(&batch(plan, run[0].is_report(), run.iter()));
        let output = kept.pipeline.output();
        for (change, place) in output.vectors.iter().enumerate().filter_map(|(at, place)| Some((at, (*place)?))) {
            let from = place as usize * entities;
            let as_of = output.as_of[from..from + entities].to_vec();
            judged.push((output.judgements[change], as_of, output.vector(place).to_vec()));
        }
        kept.commit();
    }
    judged
}

#[test]
fn memory_that_is_dropped_changes_neither_vectors_nor_states() {
    let folder = tempfile::tempdir().unwrap();
    let payments = super::payments(folder.path(), "--transactions 12000 --customers 200 --terminals 100");
    let deliveries = deliveries(&payments, 21);
    let plan = plan(DEFINITIONS);
    let (mut roomy, mut narrow) = (Kept::new(&plan, usize::MAX), Kept::new(&plan, 1));
    let expected = judged(&mut roomy, &plan, &deliveries);
    assert!(expected.len() > 11_000);
    assert_eq!(judged(&mut narrow, &plan, &deliveries), expected);
    assert!(narrow.pipeline.memory_bytes() > 1, "the bound was looked at and passed");
    assert_eq!(narrow.store.states_now().unwrap(), roomy.store.states_now().unwrap());
    assert_eq!(narrow.store.rows_now().unwrap(), roomy.store.rows_now().unwrap());
    drop((roomy.folder, narrow.folder));
}

/// Labels of `ids`, from a stream that says no time and a source that knows none.
fn labels(plan: &Plan, ids: std::ops::Range<i64>) -> ChangeBatch {
    let mut batch = ChangeBatch::new(Arc::clone(&plan.definitions.streams[1]), 0);
    for id in ids {
        let mut row = batch.begin();
        row.set_cell(0, id);
        row.set_cell(1, 1);
        let version = Version::new(id.unsigned_abs());
        row.finish(Change { op: Op::Insert, version, arrival: None, position: id.unsigned_abs() });
    }
    batch
}

fn payment(plan: &Plan, id: i64, time: i64) -> ChangeBatch {
    let mut batch = ChangeBatch::new(Arc::clone(&plan.definitions.streams[0]), 0);
    let mut row = batch.begin();
    [id, time, 1, 1, 100].into_iter().enumerate().for_each(|(column, cell)| row.set_cell(column, cell));
    let version = Version::new(id.unsigned_abs());
    row.finish(Change { op: Op::Insert, version, arrival: None, position: id.unsigned_abs() });
    batch
}

#[test]
fn labels_without_any_time_of_rows_that_never_come_are_forgotten() {
    let plan = plan(&DEFINITIONS.replace("time = \"reported_at\"\n", "").replace(", reported_at = \"timestamp\"", ""));
    let retention = plan.streams[0].retention.micros();
    let mut kept = Kept::new(&plan, usize::MAX);
    let began = 1_700_000_000_000_000;
    let after = |from: i64, span: i64| Timestamp::from_micros(from).plus(Span::from_micros(span));
    kept.pipeline.began(Timestamp::from_micros(began));

    // Before the first row they are of the time when the process began.
    kept.apply(&labels(&plan, 1..101));
    kept.commit();
    assert_eq!((kept.rows(), kept.expire(after(began, retention - DAY))), (100, 0));
    assert_eq!((kept.expire(after(began, retention + DAY)), kept.rows()), (100, 0));

    // From then on, of the time to which the rows have come. A label whose row comes after all is kept as long as its row.
    let now = began + 100 * DAY;
    // One row in another time does not move the clock; half of the newest 64 do.
    (400..464).for_each(|id| kept.apply(&payment(&plan, id, now)));
    kept.apply(&labels(&plan, 201..301));
    kept.commit();
    kept.apply(&payment(&plan, 201, now + 50 * DAY));
    kept.commit();
    assert_eq!((kept.rows(), kept.expire(after(now, retention - DAY))), (164, 0));
    kept.expire(after(now, retention + DAY));
    assert_eq!(kept.rows(), 1, "the row that came");
    kept.expire(after(now + 50 * DAY, retention + DAY));
    assert_eq!(kept.rows(), 0);
}

#[test]
fn what_was_applied_is_to_be_stored_also_where_no_position_moves() {
    let plan = plan(DEFINITIONS);
    let mut kept = Kept::new(&plan, usize::MAX);
    kept.runtime.block_on(kept.pipeline.attach("snapshot", Some("snapshot"))).unwrap();
    assert!(!kept.pipeline.is_ahead());
    kept.apply(&payment(&plan, 1, 1_000_000));
    kept.apply(&payment(&plan, 2, 2_000_000));
    assert!(kept.pipeline.is_ahead());
    assert_eq!((kept.pipeline.unstored(), kept.rows()), (2, 0));
    kept.commit();
    assert!(!kept.pipeline.is_ahead());
    assert_eq!((kept.pipeline.unstored(), kept.rows()), (0, 2));
}

#[test]
fn part_of_what_another_process_has_taken_over_is_not_stored() {
    let plan = plan(DEFINITIONS);
    let mut kept = Kept::new(&plan, usize::MAX);
    let attach = |kept: &mut Kept| kept.runtime.block_on(kept.pipeline.attach("bank", Some("bank"))).unwrap();
    attach(&mut kept);
    kept.apply(&payment(&plan, 1, 1_000_000));
    kept.pipeline.advance("bank", 0, 10);
    kept.commit();
    // Part of a snapshot, which leaves the position where it was.
    kept.apply(&payment(&plan, 2, 2_000_000));
    kept.pipeline.advance("bank", 0, 10);
    let limits = Limits { shards: 2, memory_bytes: usize::MAX };
    let other = Pipeline::new(Arc::clone(&plan), Arc::clone(&kept.store), limits);
    let overtaken = std::mem::replace(&mut kept.pipeline, other);
    attach(&mut kept);
    kept.apply(&payment(&plan, 3, 3_000_000));
    kept.pipeline.advance("bank", 0, 20);
    kept.commit();
    kept.pipeline = overtaken;
    let mut commit = Commit::default();
    kept.pipeline.fill(&mut commit);
    let refused = kept.runtime.block_on(kept.store.commit(commit)).unwrap_err();
    assert!(matches!(refused, StoreError::Fenced { stored: Some(20), .. }), "{refused}");
    assert_eq!(kept.rows(), 3, "payments 1 and 3, and the clock");
}
