//! Filling a store with a history, by the pipeline that the stream goes through: the same states, the same row records.
//!
//! Invariant: no offset is stored: a source that starts later begins where it would have begun.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use interdict_features::change::ChangeBatch;
use interdict_features::engine::{Evaluate, Plan};
use interdict_ingest::pipeline::{Limits, Pipeline};
use interdict_store::online::OnlineStore;
use interdict_store::port::{Commit, Durability, LogName, Store as _};

use crate::run::clock;
use crate::run::filling::Filling;
use crate::run::system::open_store;
use crate::setup::{Setup, StoreSettings};

use super::{Loaded, Progress};

/// Rows applied at a time.
const BATCH_ROWS: usize = 8_192;
/// Rows between two commits into a store of this process.
const COMMIT_ROWS: usize = 262_144;
/// The same into a server, which others wait for meanwhile.
const COMMIT_ROWS_SHARED: usize = 8_192;

/// Whether a store that holds something already is filled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Live {
    Refused,
    Taken,
}

/// Refuses a store that holds something, unless that is wanted.
pub(super) fn refuse_live(setup: &Setup, live: Live) -> anyhow::Result<()> {
    let holds_something = |path: &Path| std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
    match &setup.store {
        StoreSettings::Embedded(settings) if live == Live::Refused && holds_something(&settings.path) => {
            bail!("the store at {} {HOLDS}", settings.path.display())
        }
        // That of a server is looked at when it is connected.
        _ => Ok(()),
    }
}

/// What is said of a store that is not empty.
const HOLDS: &str =
    "holds something already; with --fill-live the history is added to it, and rows it knows keep their newest version";

/// Whether decisions were made over the store, or changes of a configured source applied to it.
async fn is_in_use(setup: &Setup, store: &OnlineStore) -> anyhow::Result<bool> {
    if store.log_next(LogName::DECISIONS).await? > 0 {
        return Ok(true);
    }
    for source in &setup.sources {
        if !store.positions(&source.name).await?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Applies the history, then its labels, and stores what comes of it.
pub(super) fn fill(setup: &Setup, plan: &Plan, loaded: &Loaded, live: Live) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.context("no runtime for the store")?;
    let store = Arc::new(runtime.block_on(open_store(setup))?);
    let limits = Limits { shards: setup.engine.shards, memory_bytes: setup.engine.memory_bytes };
    let mut pipeline = Pipeline::new(Arc::new(plan.clone()), Arc::clone(&store), limits);
    pipeline.began(clock::now());
    let is_shared = !matches!(setup.store, StoreSettings::Embedded(_));
    let commit_rows = if is_shared { COMMIT_ROWS_SHARED } else { COMMIT_ROWS };
    let batches: Vec<&ChangeBatch> = loaded.events.batches().iter().chain(&loaded.reports).collect();
    let progress = Progress::begin("fill store", batches.len());
    runtime.block_on(async {
        let filling = Filling::begin(setup, &store).await?;
        let filled = async {
            if live == Live::Refused && is_in_use(setup, &store).await? {
                bail!("the store {HOLDS}");
            }
            let mut pending = 0;
            for batch in batches {
                for from in (0..batch.len()).step_by(BATCH_ROWS) {
                    let rows = batch.part(from..(from + BATCH_ROWS).min(batch.len()));
                    for part in rows.parts() {
                        pipeline.apply(&part, Evaluate::Nothing).await?;
                    }
                    pending += rows.len();
                    if pending >= commit_rows {
                        pending = 0;
                        commit(&mut pipeline, &store, &filling).await?;
                    }
                }
                progress.advance();
            }
            commit(&mut pipeline, &store, &filling).await
        };
        let filled = filled.await;
        filling.end().await;
        filled
    })?;
    progress.finish();
    Ok(())
}

async fn commit(pipeline: &mut Pipeline<OnlineStore>, store: &OnlineStore, filling: &Filling) -> anyhow::Result<()> {
    let mut commit = Commit { durability: Durability::Power, ..Commit::default() };
    pipeline.fill(&mut commit);
    filling.commit(store, commit).await?;
    pipeline.stored();
    Ok(())
}
