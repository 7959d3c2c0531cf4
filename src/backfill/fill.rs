//! Filling a store with a history, by the pipeline that the stream goes through: the same states, the same row records.
//!
//! Invariant: no offset is stored: a source that starts later begins where it would have begun.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use interdict_features::change::ChangeBatch;
use interdict_features::engine::{Evaluate, Plan};
use interdict_ingest::pipeline::{Limits, Pipeline};
use interdict_store::embedded::{EmbeddedOptions, EmbeddedStore};
use interdict_store::port::{Commit, Durability, Store as _};

use crate::run::clock;
use crate::setup::Setup;

use super::{Loaded, Progress};

/// Rows applied at a time.
const BATCH_ROWS: usize = 8_192;
/// Rows between two commits.
const COMMIT_ROWS: usize = 262_144;

/// Whether a store that holds something already is filled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Live {
    Refused,
    Taken,
}

/// Refuses a store that holds something, unless that is wanted.
pub(super) fn refuse_live(setup: &Setup, live: Live) -> anyhow::Result<()> {
    let path = &setup.store.path;
    let holds_something = std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
    if holds_something && live == Live::Refused {
        bail!(
            "the store at {} holds something already; with --fill-live the history is added to it, and rows it knows keep their newest version",
            path.display()
        );
    }
    Ok(())
}

/// Applies the history, then its labels, and stores what comes of it.
pub(super) fn fill(setup: &Setup, plan: &Plan, loaded: &Loaded) -> anyhow::Result<()> {
    let options =
        EmbeddedOptions { cache_bytes: setup.store.cache_bytes, outbox_capacity: setup.store.outbox_capacity };
    let store = Arc::new(EmbeddedStore::open(&setup.store.path, options)?);
    let limits = Limits { shards: setup.engine.shards, memory_bytes: setup.engine.memory_bytes };
    let mut pipeline = Pipeline::new(Arc::new(plan.clone()), Arc::clone(&store), limits);
    pipeline.began(clock::now());
    let runtime = tokio::runtime::Builder::new_current_thread().build().context("no runtime for the store")?;
    let batches: Vec<&ChangeBatch> = loaded.events.batches().iter().chain(&loaded.reports).collect();
    let progress = Progress::begin("fill store", batches.len());
    runtime.block_on(async {
        let mut pending = 0;
        for batch in batches {
            for from in (0..batch.len()).step_by(BATCH_ROWS) {
                let part = part(batch, from..(from + BATCH_ROWS).min(batch.len()));
                pipeline.apply(&part, Evaluate::Nothing).await?;
                pending += part.len();
                if pending >= COMMIT_ROWS {
                    pending = 0;
                    commit(&mut pipeline, &store).await?;
                }
            }
            progress.advance();
        }
        commit(&mut pipeline, &store).await
    })?;
    progress.finish();
    Ok(())
}

async fn commit(pipeline: &mut Pipeline<EmbeddedStore>, store: &EmbeddedStore) -> anyhow::Result<()> {
    let mut commit = Commit { durability: Durability::Power, ..Commit::default() };
    pipeline.fill(&mut commit);
    store.commit(commit).await?;
    pipeline.stored();
    Ok(())
}

fn part(batch: &ChangeBatch, rows: std::ops::Range<usize>) -> ChangeBatch {
    let mut part = ChangeBatch::new(Arc::clone(batch.stream()), batch.partition());
    part.reserve(rows.len());
    for row in rows {
        let (change, cells) = batch.get(row);
        part.push_row(cells, *change);
    }
    part
}
